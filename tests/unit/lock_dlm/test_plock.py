"""fcntl locks among nodes, step by step: what costs a message, who hears what, what a death does, what is refused."""

from __future__ import annotations

import errno
import fcntl
import random

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gfs2py.lock_dlm.plock import Plocks
from gfs2py.lock_dlm.plock_table import LOCKS_PER_INODE_MAX, OWN_AFTER, PlockTable
from gfs2py.lock_dlm.plock_wire import VERSION, Kind, PlockError, Request, decode, encode, join
from gfs2py.lock_dlm.ranges import Lock, Member, Ranges
from plock_world import Callers, Message, Node, World

PARK, READ, WRITE, UNLOCK = Callers.PARK, fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK


class Bench(World):
    """Nodes 1 to n that do what a test says; `run` lets everything through that is under way."""

    def __init__(self, nodes: int) -> None:
        super().__init__(random.Random(1), nodes=0, processes=0)
        self.own_after = OWN_AFTER
        for number in range(1, nodes + 1):
            self.join(number)
        self.messages = 0
        self.run_all()
        self.messages = 0

    def order(self, node: Node, *, late: bool = False) -> None:
        self.messages += 1
        super().order(node, late=late)

    def service(self, node: Node) -> None:
        for kind, number, inode, owner, fh, pid, write, start, end, wait in node.locks.drain():
            node.machine.request(Request(number, Kind(kind), inode, owner, fh, pid, write, start, end, wait))
        self.speak(node)

    def run_all(self) -> None:
        while self.turn():
            pass

    def wake(self, node: Node) -> None:
        pass                    # the tests run parked requests again by themselves

    def ask(self, number: int, kind: int, start: int, end: int, *, owner: int = 1, inode: int = 7,
            wait: bool = False) -> tuple[int, int]:
        """(unique, result) of a request on node `number`, with its answer if it comes by itself."""
        self.unique += 2
        unique = self.unique
        return unique, self.again(number, unique, kind, start, end, owner=owner, inode=inode, wait=wait)

    def again(self, number: int, unique: int, kind: int, start: int, end: int, *, owner: int = 1, inode: int = 7,
              wait: bool = False, interrupted: bool = False) -> int:
        callers = self.at(number).callers
        result = callers.set(unique, inode, owner, kind, start, end, pid=100 + owner, sleep=wait,
                             interrupted=interrupted)
        self.run_all()
        if result == PARK and unique in callers.woken():
            return callers.set(unique, inode, owner, kind, start, end, pid=100 + owner, sleep=wait)
        return result

    def query(self, number: int, kind: int, start: int, end: int, *, owner: int = 1, inode: int = 7) -> object:
        self.unique += 2
        callers = self.at(number).callers
        result = callers.get(self.unique, inode, owner, kind, start, end)
        if result == PARK:
            self.run_all()
            result = callers.get(self.unique, inode, owner, kind, start, end)
        return result

    def at(self, number: int) -> Node:
        return next(node for node in self.nodes.values() if node.me[0] == number)


def test_a_file_of_one_node_costs_one_message() -> None:
    bench = Bench(3)
    for _ in range(50):
        assert bench.ask(1, WRITE, 0, 9)[1] == 0
        assert bench.ask(1, UNLOCK, 0, 9)[1] == 0
    assert bench.messages == 1
    assert bench.at(1).locks.statistics()["owned"] == 1


def test_two_nodes_and_back_to_one() -> None:
    """Handed over when another one asks; owned again when one has asked often enough alone."""
    bench = Bench(2)
    assert bench.ask(1, WRITE, 0, 9)[1] == 0
    assert bench.ask(2, READ, 5, 5)[1] == -errno.EAGAIN
    assert bench.ask(2, READ, 10, 10)[1] == 0
    assert bench.ask(1, UNLOCK, 5, 9)[1] == 0
    assert bench.ask(2, WRITE, 5, 9)[1] == 0
    assert bench.ask(2, UNLOCK, 0, 99)[1] == 0
    for _ in range(OWN_AFTER):
        assert bench.ask(1, WRITE, 20, 29)[1] == 0
    before = bench.messages
    assert bench.ask(1, WRITE, 30, 39)[1] == 0
    assert bench.messages == before
    assert bench.ask(2, WRITE, 39, 39)[1] == -errno.EAGAIN
    bench.at(1).callers.close(7, 1)
    assert bench.ask(2, WRITE, 39, 39)[1] == 0


def test_waiters_get_it_in_order() -> None:
    bench = Bench(3)
    assert bench.ask(1, WRITE, 0, 0)[1] == 0
    first, result = bench.ask(2, WRITE, 0, 0, wait=True)
    assert result == PARK
    second, result = bench.ask(3, WRITE, 0, 0, wait=True)
    assert result == PARK
    bench.ask(1, UNLOCK, 0, 0)
    assert bench.at(2).callers.woken() == [first]
    assert bench.again(2, first, WRITE, 0, 0, wait=True) == 0
    assert bench.at(3).callers.woken() == []
    bench.ask(2, UNLOCK, 0, 0)
    assert bench.again(3, second, WRITE, 0, 0, wait=True) == 0


def test_query() -> None:
    """Another node's process has no number that means anything here."""
    bench = Bench(2)
    bench.ask(1, WRITE, 3, 5)
    assert bench.query(1, READ, 0, 9, owner=2) == (WRITE, 3, 5, 101)
    assert bench.query(2, READ, 0, 9) == (WRITE, 3, 5, 0)
    assert bench.query(1, READ, 0, 9, owner=2) == (WRITE, 3, 5, 101)
    assert bench.query(2, READ, 6, 9)[0] == UNLOCK      # type: ignore[index]


def test_a_circle_over_nodes_and_files() -> None:
    """The one who would close it is refused; three processes, three files, two of them waiting for the next."""
    bench = Bench(3)
    for n in (1, 2, 3):
        assert bench.ask(n, WRITE, 0, 0, inode=n)[1] == 0
    waiting, result = bench.ask(1, WRITE, 0, 0, inode=2, wait=True)
    assert result == PARK
    assert bench.ask(2, WRITE, 0, 0, inode=3, wait=True)[1] == PARK
    assert bench.ask(3, WRITE, 0, 0, inode=1, wait=True)[1] == -errno.EDEADLK
    # A signal takes the first one out: then there is no circle.
    assert bench.again(1, waiting, WRITE, 0, 0, inode=2, wait=True, interrupted=True) == -errno.EINTR
    assert bench.ask(3, WRITE, 0, 0, inode=1, wait=True)[1] == PARK


def test_a_circle_on_one_node_with_a_file_that_is_shared() -> None:
    """Its half is in the owned file, its other half in the shared one."""
    bench = Bench(2)
    assert bench.ask(1, WRITE, 0, 0, owner=1, inode=1)[1] == 0
    assert bench.ask(2, WRITE, 9, 9, owner=1, inode=2)[1] == 0
    assert bench.ask(1, WRITE, 0, 0, owner=2, inode=2)[1] == 0
    assert bench.ask(1, WRITE, 0, 0, owner=2, inode=1, wait=True)[1] == PARK
    assert bench.ask(1, WRITE, 0, 0, owner=1, inode=2, wait=True)[1] == -errno.EDEADLK


def test_a_signal_comes_after_the_grant() -> None:
    """Whoever has the lock by then keeps it: the answer is 0, not EINTR."""
    bench = Bench(2)
    bench.ask(1, WRITE, 0, 0)
    waiting, result = bench.ask(2, WRITE, 0, 0, wait=True)
    assert result == PARK
    two = bench.at(2).callers
    bench.at(1).callers.close(7, 1)
    assert two.set(waiting, 7, 1, WRITE, 0, 0, sleep=True, interrupted=True) == PARK     # the unlock is under way
    bench.run_all()
    assert two.set(waiting, 7, 1, WRITE, 0, 0, sleep=True) == 0
    # Nobody waits any more (the mount ends): what is granted all the same is given back.
    waiting, _ = bench.ask(1, WRITE, 0, 0, wait=True)
    one = bench.at(1).callers
    assert one.set(waiting, 7, 1, WRITE, 0, 0, sleep=True, interrupted=True) == PARK
    assert one.set(waiting, 7, 1, WRITE, 0, 0, sleep=True, interrupted=True) == -errno.EINTR
    bench.run_all()
    bench.ask(2, UNLOCK, 0, 0)
    assert bench.ask(2, WRITE, 0, 0)[1] == 0


def test_a_dead_nodes_locks_stand_until_all_mounts_are_through() -> None:
    bench = Bench(3)
    assert bench.ask(3, WRITE, 0, 0)[1] == 0
    assert bench.ask(1, WRITE, 1, 1)[1] == 0
    waiting, result = bench.ask(1, WRITE, 0, 0, wait=True)
    assert result == PARK
    bench.cut_off(bench.at(3))
    bench.run_all()
    other, result = bench.ask(2, WRITE, 0, 0)
    assert result == PARK           # not even refused: nobody can say
    bench.at(1).machine.recovered()
    bench.run_all()
    assert bench.at(1).callers.woken() == []
    bench.at(2).machine.recovered()
    bench.speak(bench.at(2))
    bench.speak(bench.at(1))
    bench.run_all()
    assert bench.at(1).callers.woken() == [waiting]
    assert bench.again(1, waiting, WRITE, 0, 0, wait=True) == 0
    assert bench.again(2, other, WRITE, 0, 0) == -errno.EAGAIN


def test_a_lost_node_has_heard_what_nobody_else_has() -> None:
    """Its last request, granted to itself alone; what another one asked behind it must wait for the fence."""
    bench = Bench(3)
    one, two, three = (bench.at(n) for n in (1, 2, 3))
    assert bench.ask(1, WRITE, 1, 1)[1] == bench.ask(2, WRITE, 2, 2)[1] == 0
    assert three.callers.set(800, 7, 1, WRITE, 0, 0) == PARK
    bench.service(three)
    three.inbox.append(Message(three.me, three.outbox.popleft()))
    bench.deliver(three)
    assert three.callers.woken() == [800]
    assert three.callers.set(800, 7, 1, WRITE, 0, 0) == 0
    assert two.callers.set(802, 7, 1, WRITE, 0, 0) == PARK
    bench.service(two)
    del bench.nodes[three.me]
    bench.order(two, late=True)
    bench.tell((), ((three.me, False),))
    bench.run_all()
    assert two.callers.woken() == []
    one.machine.recovered()
    two.machine.recovered()
    for node in (one, two):
        bench.speak(node)
    bench.run_all()
    assert two.callers.woken() == [802]
    assert two.callers.set(802, 7, 1, WRITE, 0, 0) == 0


def test_an_older_unlock_does_not_undo_a_newer_lock() -> None:
    """The file becomes ours while an unlock of ours is on its way: who wants a lock is held until it has come."""
    bench = Bench(2)
    one, two = bench.at(1), bench.at(2)
    for node in (one, two):
        node.machine.table.own_after = 3
    assert bench.ask(1, WRITE, 0, 0)[1] == bench.ask(2, WRITE, 9, 9)[1] == 0
    assert bench.ask(2, UNLOCK, 9, 9)[1] == 0
    assert bench.ask(1, WRITE, 1, 1)[1] == bench.ask(1, WRITE, 2, 2)[1] == 0
    assert one.locks.statistics()["owned"] == 0
    # The third one in a row, and the unlock behind it.
    assert one.callers.set(800, 7, 1, WRITE, 3, 3) == PARK
    assert one.callers.set(802, 7, 1, UNLOCK, 0, 9) == 0
    bench.service(one)
    while one.outbox:
        bench.order(one)
    message = one.inbox.popleft()
    assert isinstance(message, Message)
    first, *rest = decode(message.data, one.me)
    one.machine.delivered(one.me, join([encode(first)]))
    assert one.locks.statistics()["owned"] == 1
    assert one.callers.set(804, 7, 1, WRITE, 5, 5) == PARK      # it would be lost
    one.machine.delivered(one.me, join([encode(item) for item in rest]))
    assert 804 in one.callers.woken()
    assert one.callers.set(804, 7, 1, WRITE, 5, 5) == 0
    two.inbox.clear()
    assert one.callers.get(806, 7, 2, WRITE, 0, 9) == (WRITE, 5, 5, 0)


def test_a_newcomer_knows_everything() -> None:
    bench = Bench(2)
    bench.ask(1, WRITE, 0, 0)
    bench.ask(2, WRITE, 1, 1)
    waiting, _ = bench.ask(2, WRITE, 0, 0, wait=True)
    bench.join(3)
    bench.run_all()
    assert bench.ask(3, WRITE, 0, 0)[1] == -errno.EAGAIN
    assert bench.ask(3, WRITE, 2, 2)[1] == 0
    tables = [node.machine.table.snapshot() for node in bench.nodes.values()]
    assert tables[0] == tables[1] == tables[2]
    bench.ask(1, UNLOCK, 0, 0)
    assert bench.again(2, waiting, WRITE, 0, 0, wait=True) == 0


def test_too_many_locks() -> None:
    """An owner's table and the shared one have the same limit; what is there stays."""
    bench = Bench(2)
    assert bench.ask(1, WRITE, 0, 0)[1] == 0
    for i in range(1, LOCKS_PER_INODE_MAX):
        assert bench.at(1).callers.set(2, 7, 1, WRITE, 2 * i, 2 * i) == 0
    assert bench.ask(1, WRITE, 10 ** 6, 10 ** 6)[1] == -errno.ENOLCK
    assert bench.ask(2, WRITE, 0, 0)[1] == -errno.EAGAIN
    assert bench.ask(2, WRITE, 10 ** 6, 10 ** 6)[1] == -errno.ENOLCK
    bench.at(1).callers.close(7, 1)
    assert bench.ask(2, WRITE, 0, 10 ** 6)[1] == 0


def test_the_cluster_is_lost() -> None:
    bench = Bench(2)
    bench.ask(1, WRITE, 0, 0)
    waiting, _ = bench.ask(2, WRITE, 0, 0, wait=True)
    two = bench.at(2)
    two.locks.fail(errno.EIO)
    assert waiting in two.callers.woken()
    assert two.callers.set(waiting, 7, 1, WRITE, 0, 0, sleep=True) == -errno.EIO
    assert two.callers.set(900, 8, 1, WRITE, 0, 0) == -errno.EIO
    assert two.callers.set(902, 7, 1, UNLOCK, 0, 0) == 0


@pytest.mark.parametrize("data", [
    b"", b"\xc1", msgpack.packb([]), msgpack.packb([VERSION + 1]), msgpack.packb([VERSION, ["x"]]),
    msgpack.packb([VERSION, ["q", 1]]), msgpack.packb([VERSION, ["q", 1, 99, 1, 0, 0, 0, 0, 0, 0, 0]]),
    msgpack.packb([VERSION, ["q", 1, 1, 1, 0, 0, 0, 0, 5, 4, 0]]), msgpack.packb([VERSION, ["s", 1, 1, [[1] * 5]]]),
    msgpack.packb([VERSION, ["r", [1, 2]]]), msgpack.packb([VERSION, ["q", -1, 1, 1, 0, 0, 0, 0, 0, 0, 0]]),
])
def test_nonsense_is_refused(data: bytes) -> None:
    with pytest.raises(PlockError):
        decode(data, (1, 1))


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    try:
        items = decode(data, (1, 1))
    except PlockError:
        return
    assert decode(join([encode(item) for item in items]), (1, 1)) == items if items else True


def test_a_state_that_was_not_asked_for() -> None:
    """A member that breaks the rules changes nothing."""
    bench = Bench(2)
    bench.ask(1, WRITE, 0, 0)
    before = bench.at(1).machine.table.snapshot()
    with pytest.raises(PlockError, match="not asked"):
        bench.at(1).machine.delivered((2, 2), join([encode(s) for s in _states()]))
    assert bench.at(1).machine.table.snapshot() == before


def _states() -> list[object]:
    from gfs2py.lock_dlm.plock_wire import state_items
    return list(state_items(7, []))     # type: ignore[arg-type]


lock = st.tuples(st.integers(1, 3), st.booleans(), st.booleans(), st.integers(0, 11), st.integers(0, 11))


@settings(max_examples=200)
@given(st.lists(lock, max_size=30))
def test_ranges(steps: list[tuple[int, bool, bool, int, int]]) -> None:
    """Against one owner-to-kind map per byte."""
    ranges, model = Ranges(), [dict[int, bool]() for _ in range(12)]
    for owner, gives_up, write, a, b in steps:
        want = Lock((1, 1), owner, 0, 0, write, min(a, b), max(a, b))
        at = model[want.start:want.end + 1]
        if gives_up:
            ranges.unset(want)
        blocked = any(who != owner and (write or kind) for byte in at for who, kind in byte.items())
        if not gives_up:
            assert (ranges.conflict(want) is not None) == blocked
        if blocked and not gives_up:
            continue
        for byte in at:
            byte.pop(owner, None)
            if not gives_up:
                byte[owner] = write
        if not gives_up:
            ranges.set(want)
        told = [dict[int, bool]() for _ in range(12)]
        for held in ranges.locks:
            for byte in told[held.start:held.end + 1]:
                assert held.owner not in byte
                byte[held.owner] = held.write
        assert told == model


def _found(seed: int) -> bool:
    """Whether some worlds show that something is wrong."""
    for n in range(400):
        rng = random.Random(f"{seed} planted {n}")
        world = World(rng, nodes=3, files=2, processes=3)
        trouble = rng.choice((0.002, 0.05))
        try:
            for _ in range(600):
                world.step(trouble)
            world.settle()
            world.same()
        except (AssertionError, PlockError):
            return True
    return False


def _drop_at_once(self: Plocks, member: Member, in_order: bool) -> None:
    if self.knows:
        self.table.drop((member,))
        self._flush()


@pytest.mark.parametrize(("where", "name", "bug"), [
    (Plocks, "_gone", _drop_at_once), (PlockTable, "_circle", lambda self, file, want: False),
    (PlockTable, "_wake", lambda self, file: None),
], ids=["locks of the dead dropped before they are fenced", "circles not seen", "waiters not woken"])
def test_planted_bugs_are_found(seed: int, monkeypatch: pytest.MonkeyPatch, where: type, name: str,
                                bug: object) -> None:
    monkeypatch.setattr(where, name, bug)
    assert _found(seed)
