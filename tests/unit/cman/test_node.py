"""NodeMachines on a small network of our own: joining, control in one order, leaving, what status shows."""

from __future__ import annotations

import random

import pytest
from guide_conf import changed
from hypothesis import given, settings
from hypothesis import strategies as st
from node_net import MS, Net, config

from cman import cpg
from cman.ccs import spread
from cman.ccs.load import load
from cman.node import State


@pytest.fixture
def net() -> Net:
    made = Net(1, 2, 3, 4)
    made.run(3000)
    assert all(n.state is State.MEMBER and n.members == (1, 2, 3, 4) for n in made.nodes.values())
    return made


def test_joining_ends_in_one_membership(net: Net) -> None:
    assert net.numbers() == {(4, 4, 3, True)}
    status = net.nodes[4].cluster(1, [0], "239.192.221.146", {4: "192.168.12.230"})
    assert (status.state, status.members, status.config_version) == ("Cluster-Member", [1, 2, 3, 4], 35)
    assert (status.node_name, status.nodeid, status.addresses) == ("web1", 4, ["192.168.12.230"])
    rows = net.nodes[1].nodes({4: "192.168.12.230"})
    assert [(r.name, r.state, r.votes) for r in rows] == [
        ("web2", "M", 1), ("Mysql1", "M", 1), ("Mysql2", "M", 1), ("web1", "M", 1)]
    assert all(r.joined_s >= 1_000_000 and r.incarnation > 0 for r in rows)


def test_a_clean_leave_is_no_loss(net: Net) -> None:
    net.control(4, t="leave", remove=False)
    net.run(2000)
    assert net.ended == {4: ""}
    assert net.numbers() == {(3, 4, 2, True)}
    assert "Member 4 shutting down" in net.logs(1)
    row = net.nodes[1].nodes({})[3]
    assert (row.state, row.left_reason, row.joined_s) == ("X", "left", 0)
    net.control(3, t="leave", remove=False)
    net.run(2000)
    assert net.numbers() == {(2, 4, 2, True)}


def test_a_lost_node_counts_until_it_is_fenced(net: Net) -> None:
    for victim in (4, 3):
        del net.nodes[victim]
        net.run(3000)
    assert net.numbers() == {(2, 4, 3, False)}
    assert net.nodes[1].nodes({})[3].left_reason == "lost"
    net.control(2, t="fenced", node=4, by="fence_wti")
    assert net.numbers() == {(2, 4, 2, True)}
    row = net.nodes[1].nodes({})[3]
    assert (row.fenced_by, row.fenced_s >= 1_000_000) == ("fence_wti", True)
    # A newcomer counts as those do who were here.
    net.add(4)
    net.run(3000)
    assert net.numbers() == {(3, 4, 3, True)}
    assert net.nodes[1].nodes({})[3].fenced_s == 0, "it is a new life"


def test_votes_set_by_hand_reach_those_who_come(net: Net) -> None:
    net.control(1, t="votes", node=2, votes=5)
    assert net.numbers() == {(8, 8, 5, True)}
    net.control(4, t="leave", remove=False)
    net.run(2000)
    net.add(4)
    net.run(3000)
    assert net.numbers() == {(8, 8, 5, True)}


@pytest.mark.parametrize("side", [{4}, {1, 2}, {2, 3, 4}])
def test_who_was_away_with_state_has_to_start_anew(net: Net, side: set[int]) -> None:
    for node in net.nodes.values():
        node.dirty = True
        node.join_group("locks", 1, net.now)
    net.run(300)
    net.apart = side
    net.run(3000)
    quorate = {n for n, node in net.nodes.items() if node.quorum.quorate}
    assert quorate in (set(), side, {1, 2, 3, 4} - side)
    for told in net.told.values():
        told.clear()
    net.apart = set()
    net.run(3000)
    # Of two halves neither was quorate: one of them goes on, the same in the eyes of all.
    stays = quorate or ({1, 2} if 1 in net.nodes else {3, 4})
    assert set(net.nodes) == stays
    assert all("start it anew" in why for why in net.ended.values())
    for nodeid in stays:
        came = [m.node for e in net.told[nodeid] if isinstance(e, cpg.GroupChange) for m, _ in e.joined]
        assert came == [], "no group has seen those again"


def test_who_was_away_without_state_comes_back(net: Net) -> None:
    net.apart = {4}
    net.run(3000)
    net.apart = set()
    net.run(3000)
    assert "node web1 lost" in net.logs(1)
    # One that was only held up is in its old ring when the others' ring comes by: they left, and are back.
    held = net.nodes.pop(4)
    net.run(3000)
    net.nodes[4] = held
    net.run(3000)
    assert {f"node {name} lost" for name in ("web2", "Mysql1", "Mysql2")} <= set(net.logs(4))
    assert net.numbers() == {(4, 4, 3, True)}
    assert not net.ended


@pytest.mark.parametrize("dirty", [False, True])
def test_who_was_away_is_unconfirmed_until_it_has_ended(net: Net, dirty: bool) -> None:
    """Its fencing was waited for: nobody may take it for dead, or for clean, while it still has its state."""
    net.nodes[4].dirty = dirty
    net.apart = {4}
    net.run(3000)
    assert net.nodes[1].quorum.unconfirmed == (4,)
    net.apart = set()
    for _ in range(3000):
        net.run(1)
        if dirty and 4 in net.nodes:
            assert net.nodes[1].quorum.unconfirmed == (4,), net.now
    assert (4 in net.ended) == dirty
    assert net.nodes[1].quorum.unconfirmed == ((4,) if dirty else ())


def test_kill_ends_only_the_victim(net: Net) -> None:
    net.control(1, t="kill", node=3)
    net.run(3000)
    assert net.ended == {3: "killed on request of web2"}
    assert net.nodes[1].members == (1, 2, 4)
    assert net.nodes[1].nodes({})[2].left_reason == "killed"
    assert 3 in net.nodes[1].quorum.unconfirmed, "who was killed is not known to be dead"


def test_groups_and_their_order(net: Net) -> None:
    for nodeid in net.nodes:
        net.nodes[nodeid].join_group("g", 7, net.now)
        net.drain(nodeid)
    net.run(300)
    for i in range(30):
        nodeid = 1 + i % 4
        assert net.nodes[nodeid].mcast("g", 7, bytes([i]), net.now)
        net.drain(nodeid)
    net.run(500)
    seen = [[(e.sender, e.payload) for e in net.told[n] if isinstance(e, cpg.GroupMessage)] for n in (1, 2, 3, 4)]
    assert seen[1:] == seen[:1] * 3
    assert len(seen[0]) == 30
    net.nodes[2].process_gone(7, net.now)
    net.drain(2)
    net.run(300)
    last = [e for e in net.told[1] if isinstance(e, cpg.GroupChange)][-1]
    assert last.left == ((cpg.Member(2, 7), cpg.Reason.PROCDOWN),)


def test_an_update_changes_votes_and_nodes_everywhere(net: Net) -> None:
    newer = load(changed(('config_version="35"', 'config_version="36"'), ('expected_votes="6"', ""),
                         ('nodeid="4" votes="1"', 'nodeid="4" votes="3"'),
                         ('tko="10" votes="2"', 'tko="10" votes="0"')))
    number = net.nodes[2].propose(newer, net.now)
    net.drain(2)
    net.run(500)
    assert spread.Finished(number, 35, 36, {}, "") in net.told[2]
    assert {n.config.version for n in net.nodes.values()} == {36}
    assert net.numbers() == {(6, 6, 4, True)}


@settings(max_examples=40, derandomize=True)
@given(st.randoms(use_true_random=False))
def test_any_history_ends_in_one_cluster(rnd: random.Random) -> None:
    """Crashes, starts, splits, leaves, votes, updates, fencing in any order; healed, all that live are one cluster."""
    net, version, history = Net(1, 2, 3, 4), 35, []
    net.run(2500)
    for _ in range(rnd.randrange(1, 12)):
        nodeid, living = rnd.randrange(1, 5), sorted(net.nodes)
        what = rnd.choice(["crash", "start", "split", "heal", "leave", "votes", "update", "dirty", "fenced"])
        history.append((net.now // MS, what, nodeid))
        match what:
            case "crash" if len(living) > 1:
                net.nodes.pop(nodeid, None)
            case "start" if nodeid not in net.nodes:
                net.add(nodeid, rnd.choice([35, version]), seq=net.stored.get(nodeid, 0))
            case "split":
                net.apart = set(rnd.sample((1, 2, 3, 4), rnd.randrange(1, 3)))
            case "heal":
                net.apart = set()
            case "leave" if nodeid in net.nodes and len(living) > 1:
                net.control(nodeid, t="leave", remove=False)
            case "votes" if nodeid in net.nodes:
                net.control(nodeid, t="votes", node=rnd.randrange(1, 5), votes=rnd.randrange(1, 4))
            case "update" if nodeid in net.nodes and net.nodes[nodeid].spread.established:
                if not net.nodes[nodeid].spread.synced or not net.nodes[nodeid].quorum.quorate:
                    continue
                version += 1
                net.nodes[nodeid].propose(config(version), net.now)
                net.drain(nodeid)
            case "dirty" if nodeid in net.nodes:
                net.nodes[nodeid].dirty = True
            case "fenced" if living and nodeid not in net.nodes:
                net.control(living[0], t="fenced", node=nodeid, by="test")
        net.run(rnd.choice([1, 50, 600, 2500]))
    net.apart = set()
    net.run(8000)
    living = tuple(sorted(net.nodes))
    assert living, history
    for node in net.nodes.values():
        assert (node.members, node.state, node.spread.synced) == (living, State.MEMBER, True), (node.me, history)
    assert len({n.config.digest for n in net.nodes.values()}) == 1, history
    assert len(net.numbers()) == 1, (net.numbers(), history)
    assert len({n.groups.synced for n in net.nodes.values()}) == 1, history


def test_control_that_makes_no_sense_is_logged_and_does_nothing(net: Net) -> None:
    before = net.numbers()
    for message in ({"t": "votes", "node": 1, "votes": -1}, {"t": "votes", "node": "x", "votes": 1}, {"t": "kill"},
                    {"t": "expected", "votes": 10**9}, {"t": "state", "view": 1, "votes": 3}, {"t": ["list"]}, {}):
        net.control(2, **message)
    assert net.numbers() == before
    assert len(net.nodes) == 4
    assert sum("cannot be read" in line for line in net.logs(1)) >= 5
    net.nodes[1]._send(b"?unknown", net.now)
    net.drain(1)
    net.run(300)
    assert any("unknown kind" in line for line in net.logs(3))
