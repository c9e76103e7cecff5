"""Groups: joins, leaves and messages in order, why members go, merges, limits, nonsense."""

from __future__ import annotations

import struct
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cman import cpg
from cman.cpg import CpgError, CpgMachine, GroupChange, GroupEffect, GroupMessage, GroupWritable, Member, Reason
from cman.totem import ConfigChange, Deliver, Kind, RingId, Trace, Writable


class Ring:
    """What totem does, without totem: one order for all members, and rings that come and go."""

    def __init__(self) -> None:
        self.machines: dict[int, CpgMachine] = {}
        self.queues: dict[int, deque[bytes]] = {}
        self.seq = 0
        self.ring_of: dict[int, RingId] = {}
        self.members_of: dict[int, tuple[int, ...]] = {}
        self.full = False

    def node(self, me: int) -> CpgMachine:
        queue: deque[bytes] = deque()

        def submit(payload: bytes, now_ns: int) -> bool:
            if not self.full:
                queue.append(payload)
            return not self.full
        self.machines[me], self.queues[me] = CpgMachine(me, submit), queue
        self.ring_of[me], self.members_of[me] = RingId(0, me), (me,)
        self.change((me,))
        return self.machines[me]

    def change(self, members: tuple[int, ...], stale: tuple[int, ...] = ()) -> None:
        """A new ring; stale nodes do not hear of it."""
        self.seq += 1
        new = RingId(self.seq, members[0])
        old = {n: (self.ring_of[n], self.members_of[n]) for n in members}
        for me in members:
            mates = tuple(n for n in members if old[n][0] == old[me][0])
            left = tuple(n for n in old[me][1] if n not in mates)
            self.ring_of[me], self.members_of[me] = new, members
            self.machines[me].totem(ConfigChange(Kind.TRANSITIONAL, new, mates, (), left), 0)
            self.machines[me].totem(ConfigChange(Kind.REGULAR, new, members,
                                                 tuple(n for n in members if n not in mates), left), 0)

    def step(self, me: int) -> None:
        """Send what node me gave totem first."""
        payload = self.queues[me].popleft()
        for other in self.members_of[me]:
            self.machines[other].totem(Deliver(me, payload, self.ring_of[me], 1), 0)

    def settle(self) -> None:
        while any(self.queues.values()):
            for me, queue in self.queues.items():
                if queue:
                    self.step(me)

    def effects(self, me: int) -> list[GroupEffect]:
        return self.machines[me].effects()


@pytest.fixture
def ring() -> Ring:
    """Nodes 1, 2, 3 in one ring; process 10 of node 1 and 20 of node 2 are in group g."""
    ring = Ring()
    for me in (1, 2, 3):
        ring.node(me)
    ring.change((1, 2, 3))
    ring.settle()
    ring.machines[1].join("g", 10, 0)
    ring.settle()
    ring.machines[2].join("g", 20, 0)
    ring.settle()
    return ring


A, B, C = Member(1, 10), Member(2, 20), Member(3, 30)


def views(effects: list[GroupEffect]) -> list[tuple[Member, ...]]:
    return [e.members for e in effects if isinstance(e, GroupChange)]


def heard(effects: list[GroupEffect]) -> list[tuple[Member, bytes]]:
    return [(e.sender, e.payload) for e in effects if isinstance(e, GroupMessage)]


def test_joining_is_seen_by_all_members(ring: Ring) -> None:
    assert views(ring.effects(1)) == [(A,), (A, B)]
    change = ring.effects(2)[-1]
    assert isinstance(change, GroupChange)
    assert (change.joined, change.left, change.to) == (((B, Reason.JOIN),), (), (20,))
    assert ring.effects(3) == []
    assert ring.machines[3].groups() == {"g": (A, B)}


def test_messages_reach_the_members_in_order(ring: Ring) -> None:
    for number in range(3):
        assert ring.machines[1].mcast("g", 10, b"a%d" % number, 0)
        assert ring.machines[2].mcast("g", 20, b"b%d" % number, 0)
    ring.settle()
    got = heard(ring.effects(1))
    assert got == heard(ring.effects(2))
    assert [p for s, p in got if s == A] == [b"a0", b"a1", b"a2"]
    assert heard(ring.effects(3)) == []


def test_reasons(ring: Ring) -> None:
    ring.machines[3].join("g", 30, 0)
    ring.settle()
    ring.effects(1)
    ring.machines[3].leave("g", 30, 0)
    ring.settle()
    ring.machines[2].process_gone(20, 0)
    ring.settle()
    left = [e.left for e in ring.effects(1) if isinstance(e, GroupChange)]
    assert left == [((C, Reason.LEAVE),), ((B, Reason.PROCDOWN),)]
    assert [e.to for e in ring.effects(3) if isinstance(e, GroupChange)][-1] == (30,)


def test_a_dead_node_takes_its_processes_along(ring: Ring) -> None:
    ring.effects(1)
    ring.change((1, 3))
    (change,) = ring.effects(1)
    assert isinstance(change, GroupChange)
    assert (change.members, change.left) == ((A,), ((B, Reason.NODEDOWN),))


def test_merge(ring: Ring) -> None:
    ring.change((1,))
    ring.change((2, 3))
    ring.machines[3].join("g", 30, 0)
    ring.settle()
    for me in (1, 2, 3):
        ring.effects(me)
    ring.change((1, 2, 3))
    assert not ring.machines[1].synced
    assert ring.effects(1) == []
    ring.settle()
    (change,) = ring.effects(1)
    assert isinstance(change, GroupChange)
    assert change.joined == ((B, Reason.NODEUP), (C, Reason.NODEUP))
    assert views(ring.effects(2)) == [(A, B, C)]
    assert ring.machines[1].groups() == ring.machines[2].groups() == ring.machines[3].groups()


def test_what_was_sent_before_a_merge_stays_on_its_side(ring: Ring) -> None:
    ring.change((1,))
    ring.change((2, 3))
    ring.machines[1].mcast("g", 10, b"mine", 0)
    ring.machines[2].mcast("g", 20, b"theirs", 0)
    ring.change((1, 2, 3))
    ring.machines[1].mcast("g", 10, b"later", 0)
    for me in (1, 2, 3):
        ring.effects(me)
    ring.settle()
    assert heard(ring.effects(1)) == [(A, b"mine"), (A, b"later")]
    assert heard(ring.effects(2)) == [(B, b"theirs"), (A, b"later")]


def test_a_join_under_way_is_not_lost_in_a_merge(ring: Ring) -> None:
    ring.change((1,))
    ring.change((2, 3))
    ring.machines[2].join("h", 20, 0)
    ring.machines[2].leave("g", 20, 0)
    ring.change((1, 2, 3))
    ring.settle()
    assert ring.machines[1].groups() == ring.machines[2].groups() == {"g": (A,), "h": (B,)}


def test_a_restarted_node_comes_without_its_processes(ring: Ring) -> None:
    ring.effects(1)
    ring.node(2)
    ring.change((1, 2, 3))
    ring.settle()
    assert views(ring.effects(1)) == [(A,)]
    assert ring.machines[2].groups() == {"g": (A,)}


def test_views_are_named_alike(ring: Ring) -> None:
    names = [[(e.ring_id, e.place, e.members) for e in ring.effects(me) if isinstance(e, GroupChange)]
             for me in (1, 2)]
    assert names[0][-1] == names[1][-1]


def test_flow_control(ring: Ring) -> None:
    ring.full = True
    machine = ring.machines[1]
    sent = 0
    while machine.mcast("g", 10, b"x", 0):
        sent += 1
    assert sent == cpg.OUTBOX_MAX
    ring.full = False
    machine.totem(Writable(), 0)
    assert GroupWritable() in machine.effects()
    assert machine.mcast("g", 10, b"x", 0)


@pytest.mark.parametrize(("call", "text"), [
    (lambda m: m.join("g", 10, 0), "already"), (lambda m: m.join("", 10, 0), "0 bytes"),
    (lambda m: m.join("x" * 200, 10, 0), "200 bytes"), (lambda m: m.join("g", -1, 0), "32-bit"),
    (lambda m: m.leave("g", 11, 0), "not in group"), (lambda m: m.mcast("h", 10, b"", 0), "not in group"),
    (lambda m: m.mcast("g", 10, bytes(1 << 20), 0), "at most")])
def test_nonsense_calls(ring: Ring, call: object, text: str) -> None:
    with pytest.raises(CpgError, match=text):
        call(ring.machines[1])  # type: ignore[operator]


def test_memberships_are_bounded(ring: Ring) -> None:
    for number in range(cpg.LOCAL_MEMBERS_MAX):
        ring.machines[3].join(f"g{number}", 1, 0)
    with pytest.raises(CpgError, match="memberships"):
        ring.machines[3].join("one more", 1, 0)


@given(st.binary(max_size=60))
def test_garbage_changes_nothing(payload: bytes) -> None:
    ring = Ring()
    ring.node(1)
    ring.machines[1].join("g", 10, 0)
    ring.settle()
    before = ring.machines[1].groups()
    ring.effects(1)
    # The types that mean something are tried with what cannot be meant.
    if payload[:1] not in (b"\x01", b"\x02", b"\x03"):
        ring.machines[1].totem(Deliver(1, payload, ring.ring_of[1], 1), 0)
        assert ring.machines[1].groups() == before
        assert all(isinstance(e, Trace) for e in ring.effects(1))


@pytest.mark.parametrize("payload", [
    b"\x01", cpg.HEAD.pack(1, 5, 0, 200) + b"short", cpg.HEAD.pack(9, 5, 0, 1) + b"g",
    cpg.HEAD.pack(1, 5, 0, 1) + b"\xff", cpg.LIST.pack(4, 1, 5, 3), struct.pack(">B", 4)])
def test_cut_payloads(ring: Ring, payload: bytes) -> None:
    ring.change((1, 2))
    before = ring.machines[1].groups()
    ring.effects(1)
    ring.machines[1].totem(Deliver(2, payload, ring.ring_of[1], 1), 0)
    assert ring.machines[1].groups() == before
    assert all(isinstance(e, Trace) for e in ring.effects(1))


def test_what_comes_after_a_loss_is_marked(ring: Ring) -> None:
    """Between the two configurations of totem, where a member of the group is lost and only there."""
    ring.machines[3].join("h", 30, 0)
    ring.settle()
    ring.effects(1)
    one = ring.machines[1]
    ring.machines[2].mcast("g", 20, b"early", 0)
    ring.step(2)
    old = ring.ring_of[1]
    one.totem(ConfigChange(Kind.TRANSITIONAL, RingId(99, 1), (1, 2), (), (3,)), 0)
    ring.machines[2].mcast("g", 20, b"no member lost", 0)
    one.totem(Deliver(2, ring.queues[2].popleft(), old, 1), 0)
    one.totem(ConfigChange(Kind.TRANSITIONAL, RingId(99, 1), (1,), (), (2,)), 0)
    one.mcast("g", 10, b"late", 0)
    one.totem(Deliver(1, ring.queues[1].popleft(), old, 1), 0)
    one.totem(ConfigChange(Kind.REGULAR, RingId(99, 1), (1,), (), (2, 3)), 0)
    one.mcast("g", 10, b"new", 0)
    one.totem(Deliver(1, ring.queues[1].popleft(), RingId(99, 1), 2), 0)
    assert [(e.payload, e.late) for e in ring.effects(1) if isinstance(e, GroupMessage)] == [
        (b"early", False), (b"no member lost", False), (b"late", True), (b"new", False)]
