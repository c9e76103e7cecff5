"""Nodes at a quorum disk: elections, evictions, votes; on a disk of the test's own that anybody may cut off."""

from __future__ import annotations

import random

import pytest

from cman.qdisk.machine import MS, Kill, QdiskConfig, QdiskLog, QdiskMachine, Reboot, Stop, Votes, Write
from cman.qdisk.ondisk import SLOTS, NodeState, Status

GOOD = (1, 1)


class Room:
    """Machines that take turns; `ring`: who sees whom on the network."""

    def __init__(self, *nodeids: int, **config: object) -> None:
        self.config = QdiskConfig(**config)     # type: ignore[arg-type]
        self.disk: dict[int, Status | None] = {n: Status(n) for n in range(1, SLOTS + 1)}
        self.nodes: dict[int, QdiskMachine] = {}
        self.rings: dict[int, frozenset[int]] = {}
        self.gone: frozenset[int] = frozenset()
        self.scores: dict[int, tuple[int, int]] = {}
        self.votes: dict[int, bool] = {}
        self.killed: list[tuple[int, int]] = []
        self.rebooted: dict[int, str] = {}
        self.said: list[tuple[int, str]] = []
        self.time = 1000
        self.lives = 0
        for nodeid in nodeids:
            self.add(nodeid)

    def add(self, nodeid: int) -> None:
        self.lives += 1
        self.nodes[nodeid] = QdiskMachine(nodeid, self.config, 1000 + self.lives)
        self.votes[nodeid] = False

    def crash(self, nodeid: int) -> None:
        del self.nodes[nodeid]
        del self.votes[nodeid]

    @property
    def now_ns(self) -> int:
        return self.time * self.config.interval_ms * MS

    def lease_of(self) -> list[int]:
        """Who has the votes to give now."""
        return [n for n, m in self.nodes.items() if m.votes_until_ns() > self.now_ns]

    def ring_of(self, nodeid: int) -> frozenset[int]:
        return self.rings.get(nodeid, frozenset(self.nodes))

    def cycle(self, rng: random.Random | None = None, skip: frozenset[int] = frozenset()) -> None:
        """Each node once, in any order; those in `skip` are held up."""
        self.time += 1
        order = sorted(self.nodes)
        if rng is not None:
            rng.shuffle(order)
        for nodeid in order:
            if nodeid in self.nodes and nodeid not in skip:
                self.turn(nodeid)
        assert len(self.lease_of()) <= 1, f"{self.lease_of()} have the votes at the same time"

    def turn(self, nodeid: int) -> None:
        machine, now_ns = self.nodes[nodeid], self.now_ns
        for effect in machine.cycle(dict(self.disk), self.scores.get(nodeid, GOOD), self.ring_of(nodeid), self.gone,
                                    self.time, now_ns):
            match effect:
                case Write(status):
                    self.disk[status.nodeid] = status
                    if status.nodeid == nodeid and status.state is not NodeState.EVICT:
                        machine.wrote(now_ns)
                case Votes(ours):
                    self.votes[nodeid] = ours
                case Kill(victim):
                    self.killed.append((nodeid, victim))
                case Reboot(why) | Stop(why):
                    self.rebooted[nodeid] = why
                    self.crash(nodeid)
                    return
                case QdiskLog(text):
                    self.said.append((nodeid, text))

    def run(self, cycles: int) -> None:
        for _ in range(cycles):
            self.cycle()

    def master(self) -> int:
        masters = {m.master for m in self.nodes.values()}
        assert len(masters) == 1, masters
        return masters.pop()


@pytest.fixture
def room() -> Room:
    made = Room(1, 2, 3, 4)
    made.run(30)
    assert made.master() == 1
    assert made.votes == dict.fromkeys((1, 2, 3, 4), True)
    return made


def test_the_lowest_becomes_master_and_says_who_counts(room: Room) -> None:
    assert room.disk[1] is not None
    assert room.disk[1].state is NodeState.MASTER
    assert room.disk[1].master_mask == frozenset({1, 2, 3, 4})
    assert {n: room.disk[n].state for n in (2, 3, 4)} == dict.fromkeys((2, 3, 4), NodeState.RUN)    # type: ignore
    assert (1, "Assuming master role") in room.said
    assert (3, "Node 1 is the master") in room.said


def test_one_alone(room: Room) -> None:
    made = Room(3)
    made.run(30)
    assert (made.master(), made.votes) == (3, {3: True})


def test_who_does_not_write_is_evicted_and_killed(room: Room) -> None:
    room.crash(4)
    room.run(12)
    assert (1, 4) in room.killed
    assert room.disk[4] is not None
    assert (room.disk[4].state, room.disk[4].written_by) == (NodeState.EVICT, 1)
    assert room.killed == [(1, 4)], "once"
    room.run(20)
    assert room.killed == [(1, 4)]
    assert room.disk[1] is not None
    assert room.disk[1].master_mask == frozenset({1, 2, 3})


def test_a_node_that_was_held_up_finds_its_eviction_and_reboots(room: Room) -> None:
    for _ in range(14):
        room.cycle(skip=frozenset({3}))
    room.cycle()
    assert room.rebooted == {3: "evicted by node 1 through the quorum disk"}
    room.add(3)
    room.run(30)
    assert room.votes == dict.fromkeys((1, 2, 3, 4), True)


def test_the_undead_is_evicted_again(room: Room) -> None:
    frozen = room.nodes[3]
    room.crash(3)
    room.run(14)
    room.disk[3] = Status(3, 3, 1, NodeState.RUN, frozen.incarnation)       # a write that was on its way for long
    room.cycle()
    room.disk[3] = Status(3, 3, 2, NodeState.RUN, frozen.incarnation)
    room.cycle()
    assert (1, "Node 3 is undead.") in room.said
    assert room.disk[3].state is NodeState.EVICT
    assert room.killed.count((1, 3)) >= 2


def test_the_master_dies(room: Room) -> None:
    """By the disk alone it takes tko cycles, and then an election."""
    room.crash(1)
    room.run(11)
    assert room.nodes[2].master == 0
    room.run(15)
    assert room.master() == 2
    assert room.votes == dict.fromkeys((2, 3, 4), True)


def test_the_master_was_fenced(room: Room) -> None:
    """Nobody waits for tko: the votes do not come late for the others."""
    room.crash(1)
    room.gone = frozenset({1})
    cycles = 0
    while room.nodes[2].state is not NodeState.MASTER:
        room.cycle()
        cycles += 1
        assert cycles < 20
    assert cycles <= room.config.cycles_master + 2
    room.gone = frozenset()
    room.add(1)
    room.run(30)
    assert room.master() == 2, "a master is not unseated"
    assert room.votes == dict.fromkeys((1, 2, 3, 4), True)


def test_of_a_partition_the_masters_side_has_the_votes(room: Room) -> None:
    room.rings = {1: frozenset({1, 2}), 2: frozenset({1, 2}), 3: frozenset({3, 4}), 4: frozenset({3, 4})}
    room.run(3)
    assert room.votes == {1: True, 2: True, 3: False, 4: False}
    room.rings = {}
    room.run(3)
    assert room.votes == dict.fromkeys((1, 2, 3, 4), True)


def test_a_score_that_is_too_low(room: Room) -> None:
    room.scores = {2: (0, 2)}
    room.run(1)
    assert room.rebooted == {2: "score 0 of 2, 1 are required"}
    made = Room(1, 2, reboot=False, min_score=3)
    made.scores = {1: (3, 4), 2: (3, 4)}
    made.run(30)
    assert made.master() == 1
    made.scores = {1: (2, 4), 2: (3, 4)}
    made.run(2)
    assert made.votes[1] is False
    made.run(30)
    assert made.nodes[2].state is NodeState.MASTER, "the first one's block says NONE, so nobody waits for it"
    assert made.votes == {1: False, 2: True}
    made.scores = {}
    made.scores = {1: (3, 4), 2: (3, 4)}
    made.run(30)
    assert made.votes == {1: True, 2: True}


def test_leaving_in_order_evicts_nobody(room: Room) -> None:
    room.disk[4] = room.nodes[4].leave(room.time)
    room.crash(4)
    room.run(20)
    assert room.killed == []
    assert (1, "Node 4 shutdown") in room.said


def test_blocks_that_cannot_be_read_give_no_votes(room: Room) -> None:
    room.votes = dict.fromkeys(room.votes, False)
    kept, room.disk[9] = room.disk[9], None
    room.run(5)
    assert not any(room.votes.values()), "what is not certain is not told"
    room.disk[9] = kept
    room.run(1)
    assert all(room.votes.values())


def test_errors_without_end() -> None:
    made = Room(1, max_error_cycles=5)
    made.disk[7] = None
    made.run(4)
    assert made.rebooted == {}
    made.run(1)
    assert made.rebooted == {1: "the quorum disk had errors in 5 cycles running"}


def test_a_short_lease_brings_a_new_master_before_the_old_one_is_dead() -> None:
    """quorum_dev_poll of two cycles: the successor waits for that, and not for tko."""
    made = Room(1, 2, 3, tko=20, tko_up=2, master_wait=3, poll_ms=2000)
    made.run(30)
    assert made.master() == 1
    made.crash(1)
    made.run(2 + 2 + 5)
    assert made.nodes[2].state is NodeState.MASTER
    assert (2, "Node 1 DOWN") not in made.said, "dead it is later"
    made.run(20)
    assert (2, "Node 1 DOWN") in made.said


def test_a_master_that_was_held_up_gives_way() -> None:
    made = Room(1, 2, 3, tko=20, tko_up=2, master_wait=3, poll_ms=2000)
    made.run(30)
    old = made.nodes[1]
    for _ in range(10):
        made.cycle(skip=frozenset({1}))
    assert made.nodes[2].state is NodeState.MASTER
    assert old.votes_until_ns() <= made.now_ns, "its word has run out"
    made.cycle()
    assert old.state is NodeState.RUN
    assert (1, "No longer master: the last block was written too long ago") in made.said
    made.run(5)
    assert made.master() == 2, "the new one stays"


def test_a_write_that_comes_late_gives_nobody_the_votes() -> None:
    """The master's block lands after another one has become master."""
    made = Room(1, 2, tko=20, tko_up=2, master_wait=3, poll_ms=2000)
    made.run(30)
    late = made.disk[1]
    assert late is not None
    for _ in range(10):
        made.cycle(skip=frozenset({1}))
    made.disk[1] = Status(1, 1, 5, NodeState.MASTER, late.incarnation, mask=late.mask, master_mask=late.master_mask)
    made.cycle(skip=frozenset({1}))         # checks that no two have the votes
    made.run(20)
    assert len(made.lease_of()) == 1


def test_ids_without_a_place() -> None:
    with pytest.raises(ValueError, match="node 17 has no place"):
        QdiskMachine(17, QdiskConfig(), 1)
    with pytest.raises(ValueError, match="tko 1"):
        QdiskConfig(tko=1)


@pytest.mark.parametrize("_", range(40))
def test_random_histories(_: int, rng: random.Random) -> None:
    """Crashes, fencing, delays, returns: never two masters (see cycle), and in peace one, with votes for all."""
    made = Room(*rng.sample(range(1, 7), rng.randrange(2, 6)), tko=rng.randrange(4, 11))
    for _step in range(40):
        act = rng.random()
        if act < 0.15 and len(made.nodes) > 1:
            gone = rng.choice(sorted(made.nodes))
            made.crash(gone)
            if rng.random() < 0.5:
                made.gone |= {gone}
        elif act < 0.4:
            back = rng.randrange(1, 7)
            if back not in made.nodes:
                made.gone -= {back}
                made.add(back)
        for _cycle in range(rng.randrange(1, 25)):
            late = frozenset(n for n in made.nodes if rng.random() < 0.1)
            made.cycle(rng, late)
    made.run(60)
    if made.nodes:
        assert made.master() in made.nodes
        assert all(made.votes.values()), made.votes
