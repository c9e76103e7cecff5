"""What is wrong with the network, on paper: pairs, faults and the rules for nftables."""

from __future__ import annotations

import json

import pytest

from lab.errors import LabError
from lab.network import Faults, between, everyone, nft_rules, node_batch, port
from lab.topology import SWITCH, guide_topology

ROOM = guide_topology()


def test_pairs_between_groups() -> None:
    assert between([["a"], ["b", "c"]]) == [("a", "b"), ("b", "a"), ("a", "c"), ("c", "a")]
    assert between([["a"], ["b"]], one_way=True) == [("a", "b")]
    assert len(between([["a"], ["b"], ["c"]])) == 6
    with pytest.raises(LabError, match="a is in two groups"):
        between([["a", "b"], ["a"]])


def test_faults_come_and_go() -> None:
    faults = Faults().cut([("a", "b")]).lose([("b", "a")], 10).delay([("a", "c")], 5)
    assert faults
    assert faults.as_json() == {"cut": [["a", "b"]], "loss_percent": [["b", "a", 10]], "delay_ms": [["a", "c", 5]]}
    assert not faults.heal()
    assert faults.heal([("a", "b"), ("b", "a")]).as_json() == {"cut": [], "loss_percent": [],
                                                               "delay_ms": [["a", "c", 5]]}
    assert not Faults().lose([("a", "b")], 10).lose([("a", "b")], 0)


@pytest.mark.parametrize("percent", [-1, 101])
def test_wrong_loss(percent: float) -> None:
    with pytest.raises(LabError, match="from 0 to 100"):
        Faults().lose([("a", "b")], percent)


def test_wrong_delay() -> None:
    with pytest.raises(LabError, match="from 0 to 10000"):
        Faults().delay([("a", "b")], 10001)


def test_ports_have_names_that_a_kernel_takes() -> None:
    names = [port(ROOM, name) for name in everyone(ROOM)]
    assert len(set(names)) == len(names)
    assert max(map(len, names)) <= 15
    assert SWITCH in everyone(ROOM)
    with pytest.raises(LabError, match="no machine web9"):
        port(ROOM, "web9")


def test_rules_replace_the_table_as_a_whole() -> None:
    faults = Faults().cut([("web1", "web2")]).lose([("web2", "web1"), ("web1", "web2")], 12.5)
    commands = nft_rules(ROOM, faults)["nftables"]
    assert isinstance(commands, list)
    assert [next(iter(c)) for c in commands[:5]] == ["add", "delete", "add", "add", "add"]
    rules = [c["add"]["rule"] for c in commands[5:]]
    # What is cut needs no loss as well.
    assert [r["comment"] for r in rules] == ["web1 to web2", "web2 to web1"]
    assert '"right": 1250' in json.dumps(rules[1])
    assert all(r["expr"][-1] == {"drop": None} for r in rules)
    assert len(nft_rules(ROOM, Faults())["nftables"]) == 5  # type: ignore[arg-type]


def test_a_nodes_own_side() -> None:
    assert "addr add 192.168.12.230/24" in node_batch(ROOM.nodes[0])
