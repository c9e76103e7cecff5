"""Single cases of the lock engine, each small enough to follow by hand."""

from __future__ import annotations

import pytest

from dlm.core import _wire
from dlm.core._lockspace import Lockspace
from dlm.core.errors import DlmError
from dlm.core.events import Bast, Cast, Event, Node, RecoverDone, RecoverFailed, RecoverPrep, RecoverSlot
from dlm.core.packets import ECANCEL, EUNLOCK, Flag, LockMode, Slot, StatusFlag

NL, CR, PR, PW, EX = LockMode.NL, LockMode.CR, LockMode.PR, LockMode.PW, LockMode.EX
GROUP = 7


class Cluster:
    """Nodes whose packets all arrive at once."""

    def __init__(self, *nodeids: int, **more: int) -> None:
        self.nodes = {n: Lockspace("test", n, GROUP, **more) for n in nodeids}
        self.now = 0

    def change(self, *members: int) -> None:
        for n in members:
            self.nodes[n].stop()
        for n in members:
            self.nodes[n].start([Node(m) for m in members], self.now)
        self.pump()

    def pump(self) -> None:
        while True:
            moved = [(me, to, p) for me, ls in self.nodes.items() for to, p in ls.take_output()]
            for me, to, packet in moved:
                if to in self.nodes:
                    self.nodes[to].receive(me, packet, self.now)
            if not moved:
                due = [t for ls in self.nodes.values() if not ls.running and (t := ls.next_timer()) is not None]
                if not due or min(due) > self.now + 10**9:
                    return
                self.now = min(due)
                for ls in self.nodes.values():
                    ls.handle_timer(self.now)

    def events(self, node: int) -> list[Event]:
        return self.nodes[node].take_events()


def alone() -> Lockspace:
    cluster = Cluster(1)
    cluster.change(1)
    cluster.events(1)
    return cluster.nodes[1]


def casts(events: list[Event]) -> list[tuple[int, int, int]]:
    return [(e.lkid, e.status, e.mode) for e in events if isinstance(e, Cast)]


def test_a_lock_of_ones_own_is_granted_at_once() -> None:
    ls = alone()
    a = ls.lock(b"r", EX, cookie=77)
    assert ls.take_events() == [Cast(a, 77, 0, 0, EX, None)]
    assert ls.take_output() == []
    b = ls.lock(b"r", PR)
    assert ls.take_events() == [Bast(a, 77, PR)]
    ls.convert(a, NL)
    assert casts(ls.take_events()) == [(a, 0, NL), (b, 0, PR)]
    ls.unlock(a)
    ls.unlock(b)
    assert casts(ls.take_events()) == [(a, -EUNLOCK, -1), (b, -EUNLOCK, -1)]
    assert ls.statistics().locks == 0


def test_what_is_refused() -> None:
    ls = alone()
    for name, mode, flags in ((b"", EX, 0), (b"x" * 65, EX, 0), (b"r", 6, 0), (b"r", -1, 0), (b"r", EX, Flag.CONVERT),
                              (b"r", EX, Flag.EXPEDITE), (b"r", EX, Flag.CANCEL), (b"r", EX, Flag.QUECVT)):
        with pytest.raises(DlmError, match=r"\[Errno 22\]"):
            ls.lock(name, mode, flags)
    with pytest.raises(ValueError, match="a value of 3 bytes"):
        ls.lock(b"r", EX, value=b"abc")
    a = ls.lock(b"r", EX)
    b = ls.lock(b"r", PR)
    with pytest.raises(DlmError, match=r"\[Errno 16\]"):
        ls.convert(b, NL)
    with pytest.raises(DlmError, match=r"\[Errno 16\]"):
        ls.unlock(b)
    with pytest.raises(DlmError, match=r"\[Errno 2\]"):
        ls.unlock(b + 1000)
    with pytest.raises(DlmError, match=r"\[Errno 22\]"):
        ls.unlock(a, Flag.NOQUEUE)
    ls.lock(b"r", EX, Flag.NOQUEUE)
    assert [e.status for e in ls.take_events() if isinstance(e, Cast)] == [0, -11]
    for arguments in ({"lvblen": 12}, {"lvblen": 0}, {"lvblen": 1024}):
        with pytest.raises(ValueError, match="lock value block"):
            Lockspace("x", 1, 1, **arguments)
    with pytest.raises(DlmError):
        ls.start([Node(1)], 0)


def test_operations_wait_while_locking_is_stopped() -> None:
    ls = alone()
    a = ls.lock(b"r", EX)
    ls.take_events()
    ls.stop()
    ls.convert(a, PR)
    b = ls.lock(b"r", PR)
    c = ls.lock(b"s", EX)
    d = ls.lock(b"t", EX)
    ls.cancel(c)
    ls.unlock(d, Flag.FORCEUNLOCK)
    with pytest.raises(DlmError, match=r"\[Errno 16\]"):
        ls.unlock(a)
    assert ls.take_events() == [RecoverPrep()]
    ls.start([Node(1)], 1)
    events = ls.take_events()
    assert isinstance(events[0], RecoverDone)
    assert casts(events) == [(c, -ECANCEL, -1), (d, -EUNLOCK, -1), (a, 0, PR), (b, 0, PR)]


def test_two_completions_of_one_lock_each_have_their_mode() -> None:
    """A conversion is cancelled, then the lock given up, all of it before locking goes on."""
    ls = alone()
    a = ls.lock(b"r", EX)
    ls.take_events()
    ls.stop()
    ls.convert(a, PW)
    ls.cancel(a)
    ls.unlock(a, Flag.FORCEUNLOCK)
    ls.start([Node(1)], 1)
    assert casts(ls.take_events()) == [(a, -ECANCEL, EX), (a, -EUNLOCK, -1)]


def test_giving_up_while_the_master_is_asked_for() -> None:
    """The directory node dies with the question; those behind the one that gave up must not wait for its answer."""
    cluster = Cluster(1, 2)
    cluster.change(1, 2)
    ours = cluster.nodes[2]
    cluster.events(2)
    # With two members of equal weight this bit of the hash chooses the directory node.
    name = next(b"n%d" % i for i in range(100) if not _wire.name_hash(b"n%d" % i) >> 16 & 1)
    del cluster.nodes[1]
    first, second = ours.lock(name, EX), ours.lock(name, EX)
    ours.cancel(first)
    cluster.change(2)
    events = cluster.events(2)
    assert casts(events) == [(first, -ECANCEL, -1), (second, 0, EX)]
    third = ours.lock(name, NL)
    assert casts(ours.take_events()) == [(third, 0, NL)]
    ours.unlock(second)
    ours.unlock(third)
    cluster.now += 11 * 10**9
    ours.handle_timer(cluster.now)
    assert ours.dump() == []


def test_the_answer_to_a_cancel_that_came_too_late_is_not_that_of_the_next() -> None:
    cluster = Cluster(1, 2)
    cluster.change(1, 2)
    one, two = cluster.nodes[1], cluster.nodes[2]
    names = [b"r%d" % i for i in range(50)]
    for name in names:                          # so that node 2 is the master
        two.lock(name, CR)
    cluster.pump()
    name = next(r.name for r in two.dump() if r.master == 2 and r.directory == 2)
    lkid = one.lock(name, CR)
    cluster.pump()
    cluster.events(1)
    one.convert(lkid, PR)
    one.cancel(lkid)
    packets = [p for _, p in one.take_output()]
    assert len(packets) == 2
    for packet in packets:
        two.receive(1, packet, 0)
    granted, too_late = [p for _, p in two.take_output()]
    one.receive(2, granted, 0)
    assert casts(cluster.events(1)) == [(lkid, 0, PR)]
    one.convert(lkid, PW)
    one.cancel(lkid)
    one.receive(2, too_late, 0)
    cluster.pump()
    assert casts(cluster.events(1)) == [(lkid, 0, PW)]
    one.unlock(lkid)
    cluster.pump()
    assert casts(cluster.events(1)) == [(lkid, -EUNLOCK, -1)]


def test_who_made_way_goes_on_when_a_holder_comes_first() -> None:
    """A conversion from NL lets a request go first that waits for a holder, who then wants more, and waits, too."""
    ls = alone()
    holder, small, request = ls.lock(b"r", PW), ls.lock(b"r", NL), ls.lock(b"r", PW)
    ls.convert(small, CR, Flag.QUECVT)
    assert casts(ls.take_events()) == [(holder, 0, PW), (small, 0, NL)]
    ls.convert(holder, EX, Flag.QUECVT)
    events = ls.take_events()
    assert casts(events) == [(small, 0, CR)]
    assert Bast(small, 0, EX) in events
    ls.unlock(small)
    assert casts(ls.take_events()) == [(small, -EUNLOCK, -1), (holder, 0, EX)]
    ls.unlock(holder)
    assert casts(ls.take_events()) == [(holder, -EUNLOCK, -1), (request, 0, PW)]


def test_who_made_way_goes_on_when_another_request_comes_first() -> None:
    ls = alone()
    holder, small, request = ls.lock(b"r", PW), ls.lock(b"r", NL), ls.lock(b"r", PW)
    ls.convert(small, CR, Flag.QUECVT)
    assert casts(ls.take_events()) == [(holder, 0, PW), (small, 0, NL)]
    first = ls.lock(b"r", EX, Flag.HEADQUE)
    assert casts(ls.take_events()) == [(small, 0, CR)]
    ls.unlock(small)
    ls.unlock(holder)
    ls.unlock(first)
    assert casts(ls.take_events())[2:] == [(first, 0, EX), (first, -EUNLOCK, -1), (request, 0, PW)]


def test_at_the_head_of_the_queue_it_waits_for_nobody_behind_it() -> None:
    ls = alone()
    a, b = ls.lock(b"r", PR), ls.lock(b"r", EX)
    ls.take_events()
    c = ls.lock(b"r", PR, Flag.HEADQUE)
    assert casts(ls.take_events()) == [(c, 0, PR)]
    ls.unlock(a)
    ls.unlock(c)
    assert casts(ls.take_events())[2:] == [(b, 0, EX)]


def test_slots_stay_and_are_given_again() -> None:
    cluster = Cluster(1, 2, 3)
    cluster.change(2, 3)
    assert [e for e in cluster.events(3) if isinstance(e, RecoverDone)] == [RecoverDone(1, 2, (Slot(2, 1), Slot(3, 2)))]
    cluster.change(1, 2, 3)
    assert cluster.events(1)[-1] == RecoverDone(2, 3, (Slot(1, 3), Slot(2, 1), Slot(3, 2)))
    cluster.events(2)
    cluster.nodes[2].stop()
    cluster.nodes[1].stop()
    del cluster.nodes[3]
    for n in (1, 2):
        cluster.nodes[n].start([Node(1), Node(2)], cluster.now, left=[3] if n == 1 else ())
    cluster.pump()
    assert cluster.events(1)[1:] == [RecoverDone(3, 3, (Slot(1, 3), Slot(2, 1)))]
    assert cluster.events(2)[1:] == [RecoverSlot(3, 2), RecoverDone(3, 1, (Slot(1, 3), Slot(2, 1)))]


def test_an_unanswered_question_goes_again_soon_and_then_less_often() -> None:
    """A node that joins may refuse the first connection; the kernel's five seconds would pass before the next word."""
    cluster = Cluster(1, 2)
    ours = cluster.nodes[1]
    ours.stop()
    ours.start([Node(1), Node(2)], cluster.now)
    assert len(ours.take_output()) == 1
    waits_ms = []
    for _ in range(9):
        due = ours.next_timer()
        assert due is not None
        waits_ms.append((due - cluster.now) // 10**6)
        ours.handle_timer(due - 1)
        assert ours.take_output() == []
        cluster.now = due
        ours.handle_timer(cluster.now)
        assert len(ours.take_output()) == 1
    assert waits_ms == [100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000]
    cluster.nodes[2].stop()
    cluster.nodes[2].start([Node(1), Node(2)], cluster.now)
    cluster.pump()
    assert ours.running
    assert cluster.nodes[2].running


def test_nodes_of_different_configuration_do_not_recover() -> None:
    cluster = Cluster(1)
    cluster.nodes[2] = Lockspace("test", 2, GROUP, lvblen=64)
    cluster.change(1, 2)
    assert cluster.events(1) == [RecoverFailed(71, 2)]
    assert cluster.nodes[1].phase == "failed"


def test_the_value_of_a_writer_that_died_is_void() -> None:
    cluster = Cluster(1, 2)
    cluster.change(1, 2)
    one, two = cluster.nodes[1], cluster.nodes[2]
    keep = one.lock(b"value", NL, Flag.VALBLK)
    cluster.pump()
    writer = two.lock(b"value", EX, value=b"w" * 32)
    cluster.pump()
    two.convert(writer, PR, value=b"v" * 32)
    one.convert(keep, PR, Flag.VALBLK)
    cluster.pump()
    assert [(e.value, e.flags) for e in cluster.events(1) if isinstance(e, Cast)][-1] == (b"v" * 32, 0)
    one.convert(keep, NL)
    cluster.pump()
    two.convert(writer, EX, Flag.VALBLK)
    cluster.pump()
    del cluster.nodes[2]
    cluster.change(1)
    one.convert(keep, PR, Flag.VALBLK)
    assert [e.flags for e in cluster.events(1) if isinstance(e, Cast)][-1] == StatusFlag.VALNOTVALID
