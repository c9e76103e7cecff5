"""The quorum disk's votes in the ring: the master's word in agreed order, and NodeMachines that hear it."""

from __future__ import annotations

import pytest
from guide_conf import changed
from node_net import MS, Net

from cman.ccs.load import Config, load
from cman.qdisk.votes import DiskVotes

S = 1000 * MS


def with_disk() -> Config:
    """The guide's: four nodes with a vote each, the disk has two."""
    return load(changed())


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> Net:
    monkeypatch.setattr("node_net.config", lambda version=35: with_disk())
    made = Net(1, 2, 3, 4)
    made.run(8000)
    assert made.numbers() == {(4, 6, 4, True)}
    return made


def word(net: Net, nodeid: int, ms: int) -> None:
    net.nodes[nodeid].disk_word(net.now + ms * MS, net.now)
    net.drain(nodeid)
    net.run(50)


def fence(net: Net, by: int, victim: int) -> None:
    net.control(by, t="fenced", node=victim, by="test")


def test_the_masters_word_counts_everywhere_and_runs_out(net: Net) -> None:
    word(net, 1, 3000)
    assert net.numbers() == {(6, 6, 4, True)}
    assert [n.nodes({})[0].state for n in net.nodes.values()] == ["M"] * 4
    assert [n.nodes({})[0].nodeid for n in net.nodes.values()] == [0] * 4
    assert all(n.cluster(1, [0], "", {}).disk_votes == 2 for n in net.nodes.values())
    net.run(2000)
    word(net, 1, 3000)
    net.run(2000)
    assert net.numbers() == {(6, 6, 4, True)}, "said again in time"
    net.run(2000)
    assert net.numbers() == {(4, 6, 4, True)}, "not said again"
    assert [n.nodes({})[0].state for n in net.nodes.values()] == ["X"] * 4


def test_the_master_takes_its_word_back(net: Net) -> None:
    word(net, 2, 3000)
    word(net, 2, 0)
    assert net.numbers() == {(4, 6, 4, True)}
    net.nodes[2].disk_word(0, net.now)
    assert net.nodes[2].effects() == [], "it is said once"


def test_three_die_one_after_another_and_the_last_goes_on(net: Net) -> None:
    """The guide's numbers; each of the others is fenced before the next one dies."""
    word(net, 4, 3_600_000)
    seen = []
    for victim in (1, 2, 3):
        del net.nodes[victim]
        net.run(4000)
        assert all(n.quorum.quorate for n in net.nodes.values())
        fence(net, 4, victim)
        seen.append(*net.numbers())
    assert seen == [(5, 6, 3, True), (4, 6, 3, True), (3, 6, 2, True)]


def test_without_the_disk_the_last_one_does_not() -> None:
    net = Net(1, 2, 3, 4)
    net.run(8000)
    for victim in (1, 2, 3):
        del net.nodes[victim]
        net.run(4000)
        if net.nodes[4].quorum.quorate:
            fence(net, 4, victim)
    assert not net.nodes[4].quorum.quorate


def test_of_a_partition_the_side_with_the_master_has_the_votes(net: Net) -> None:
    word(net, 3, 3_600_000)
    net.apart = {3, 4}
    net.run(4000)
    assert {n: m.quorum.quorate for n, m in net.nodes.items()} == {1: False, 2: False, 3: True, 4: True}
    assert not net.nodes[1].disk.ours
    net.apart = set()
    net.run(8000)
    assert net.numbers() == {(6, 6, 4, True)}


def test_a_ring_that_loses_the_master_waits_for_the_next_one(net: Net) -> None:
    word(net, 1, 3_600_000)
    del net.nodes[1]
    net.run(4000)
    assert net.numbers() == {(3, 6, 4, False)}
    word(net, 2, 3000)
    assert net.numbers() == {(5, 6, 4, True)}


def test_who_comes_hears_it_at_once(net: Net) -> None:
    word(net, 1, 3_600_000)
    del net.nodes[2]
    net.run(4000)
    net.add(2, seq=net.stored[2])
    net.run(3000)
    assert {n.disk.holder for n in net.nodes.values()} == {1}
    assert net.nodes[2].quorum.total_votes == 6


@pytest.mark.parametrize("ms", [-1, 3_600_001, "x", None, 1.5, True])
def test_nonsense_changes_nothing(net: Net, ms: object) -> None:
    net.control(1, t="qdisk", view=net.nodes[1].members and net.nodes[1].cluster(1, [], "", {}).generation, ms=ms)
    assert net.numbers() == {(4, 6, 4, True)}


def test_a_gap_ends_it() -> None:
    """A master that was away and is back is not believed what it said before."""
    votes = DiskVotes(2)
    votes.heard(1, 1000, 0)
    votes.ring((1, 2), ())
    assert votes.ours
    votes.ring((1, 2), (1,))
    assert not votes.ours
    votes.heard(1, 1000, 0)
    votes.heard(3, 0, 0)
    assert votes.ours, "who does not have it cannot take it back"
    assert votes.next_timer() == 1 * S
    assert not votes.late(S - 1)
    assert votes.late(S)
