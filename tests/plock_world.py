"""A cluster of fcntl locks in one thread: the machines and the compiled tables, an ordered group, processes, deaths.

Everything is drawn from one seed. Checked all the time: what processes believe to hold never conflicts, not even with
what processes of a node believe that was cut off and has not been fenced. In the end: nobody waits for ever, and all
members have the same tables.
"""

from __future__ import annotations

import errno
import fcntl
import random
from collections import deque
from dataclasses import dataclass, field, replace

from gfs2py.engine._plock import Callers, FileLocks
from gfs2py.lock_dlm.plock import Plocks
from gfs2py.lock_dlm.plock_table import OWN_AFTER
from gfs2py.lock_dlm.plock_wire import Kind, Request, View
from gfs2py.lock_dlm.ranges import Lock, Member, Ranges

SPAN = 8                        # bytes of a file that are locked


@dataclass
class Configuration:
    view: View
    members: tuple[Member, ...]
    joined: tuple[Member, ...]
    left: tuple[tuple[Member, bool], ...]


@dataclass
class Message:
    sender: Member
    data: bytes
    late: bool = False


@dataclass
class Asked:
    """What a process waits for."""

    unique: int
    inode: int
    kind: int
    start: int
    end: int
    wait: bool
    interrupted: bool = False
    before: list[Lock] = field(default_factory=list)    # what it had in the file


@dataclass
class Process:
    owner: int
    asked: Asked | None = None


@dataclass
class Node:
    me: Member
    locks: FileLocks
    callers: Callers
    machine: Plocks
    processes: list[Process]
    inbox: deque[Configuration | Message] = field(default_factory=deque)
    outbox: deque[bytes] = field(default_factory=deque)


class World:
    """Nodes that come and go. `files`: how many; rng: everything that is chosen."""

    def __init__(self, rng: random.Random, *, nodes: int, files: int = 3, processes: int = 3) -> None:
        self.rng, self.files, self.per_node = rng, files, processes
        self.nodes: dict[Member, Node] = {}
        self.zombies: dict[Member, Node] = {}       # cut off, and not fenced
        self.belief: dict[int, Ranges] = {}
        self.unique = self.views = 0
        self.grants = self.deadlocks = self.interrupted = 0
        self.next_pid = 1
        self.own_after = rng.choice((1, 2, 4, OWN_AFTER))
        for number in range(1, nodes + 1):
            self.join(number)

    # -- the group

    def tell(self, joined: tuple[Member, ...], left: tuple[tuple[Member, bool], ...]) -> None:
        self.views += 1
        members = tuple(sorted(self.nodes))
        for node in self.nodes.values():
            node.inbox.append(Configuration((self.views, 1, 0), members, joined, left))

    def join(self, number: int) -> None:
        me = (number, self.next_pid)
        self.next_pid += 1
        locks = FileLocks()
        processes = [Process(owner) for owner in range(1, self.per_node + 1)]
        self.nodes[me] = Node(me, locks, Callers(locks), Plocks(me, locks), processes)
        self.nodes[me].machine.table.own_after = self.own_after
        self.tell((me,), ())

    def order(self, node: Node, *, late: bool = False) -> None:
        data = node.outbox.popleft()
        for other in self.nodes.values():
            other.inbox.append(Message(node.me, data, late))

    def leave(self, node: Node) -> None:
        """In order: its processes have gone, all it had to say has been said."""
        self.service(node)
        while node.outbox:
            self.order(node)
        del self.nodes[node.me]
        self.tell((), ((node.me, True),))

    def cut_off(self, node: Node) -> None:
        """Lost: some of what was said last only it has heard, and some of what others said comes late."""
        del self.nodes[node.me]
        self.zombies[node.me] = node
        for _ in range(self.rng.randrange(3)):
            if node.outbox:
                node.inbox.append(Message(node.me, node.outbox.popleft()))
        for other in self.nodes.values():
            # What it has not looked at yet may have come in the transitional configuration.
            tail = list(other.inbox)
            first = self.rng.randrange(len(tail) + 1)
            if all(isinstance(m, Message) for m in tail[first:]):
                for m in tail[first:]:
                    assert isinstance(m, Message)
                    m = Message(m.sender, m.data, True)
                    other.inbox[first] = m
                    first += 1
        for _ in range(self.rng.randrange(3)):
            speakers = [n for n in self.nodes.values() if n.outbox]
            if speakers:
                self.order(self.rng.choice(speakers), late=True)
        self.tell((), ((node.me, False),))

    def fence(self, me: Member) -> None:
        del self.zombies[me]
        for ranges in self.belief.values():
            ranges.drop(lambda held: held.member == me)

    def deliver(self, node: Node) -> None:
        event = node.inbox.popleft()
        if isinstance(event, Configuration):
            node.machine.configuration(event.view, event.members, event.joined, event.left)
        else:
            node.machine.delivered(event.sender, event.data, late=event.late)
        self.speak(node)
        self.wake(node)

    def recovered(self, node: Node) -> None:
        if node.machine.departed and not self.zombies:
            node.machine.recovered()
            self.speak(node)

    def service(self, node: Node) -> None:
        for kind, number, inode, owner, fh, pid, write, start, end, wait in node.locks.drain():
            node.machine.request(Request(number, Kind(kind), inode, owner, fh, pid, write, start, end, wait))
        if self.rng.random() < 0.2:
            node.machine.release(node.locks.idle(0, 2))
        self.speak(node)

    def speak(self, node: Node) -> None:
        while (data := node.machine.message()) is not None:
            node.outbox.append(data)

    # -- processes

    def lock_of(self, node: Node, p: Process, a: Asked) -> Lock:
        return Lock(node.me, p.owner, p.owner, 1, a.kind == fcntl.F_WRLCK, a.start, a.end)

    def run(self, node: Node, p: Process, *, interrupted: bool = False) -> None:
        """One run of what the process asks for."""
        a = p.asked
        assert a is not None
        result = node.callers.set(a.unique, a.inode, p.owner, a.kind, a.start, a.end, fh=p.owner, pid=p.owner,
                                  sleep=a.wait, interrupted=interrupted)
        if result == Callers.PARK:
            return
        p.asked = None
        ranges = self.belief.setdefault(a.inode, Ranges())
        if result != 0:
            ranges.drop(lambda held: held.member == node.me and held.owner == p.owner)
            for held in a.before:
                ranges.set(held)
        if result == 0:
            self.grants += 1
            want = self.lock_of(node, p, a)
            assert (other := ranges.conflict(want)) is None, f"{want} was granted beside {other}"
            ranges.set(want)
        elif result == -errno.EDEADLK:
            self.deadlocks += 1
            self.let_go(node, p)
        elif result == -errno.EINTR:
            assert a.interrupted
            self.interrupted += 1
        else:
            assert result == -errno.EAGAIN, result
            assert not a.wait, "a lock that was to be waited for is refused"

    def weaken(self, node: Node, p: Process, a: Asked) -> None:
        """Who asks for a read lock where it has a write lock may have lost that before it hears of it."""
        ranges = self.belief.setdefault(a.inode, Ranges())
        a.before = [held for held in ranges.locks if held.member == node.me and held.owner == p.owner]
        for held in a.before:
            if held.write and a.kind == fcntl.F_RDLCK and held.start <= a.end and a.start <= held.end:
                ranges.set(replace(held, write=False, start=max(held.start, a.start), end=min(held.end, a.end)))

    def let_go(self, node: Node, p: Process) -> None:
        """All its locks."""
        for inode in range(1, self.files + 1):
            self.belief.setdefault(inode, Ranges()).drop(
                lambda held: held.member == node.me and held.owner == p.owner)
            if self.rng.random() < 0.5:
                node.callers.close(inode, p.owner)
            else:
                node.callers.release(inode, p.owner)

    def unlock(self, node: Node, p: Process, inode: int, start: int, end: int) -> None:
        gone = Lock(node.me, p.owner, p.owner, 1, False, start, end)
        self.belief.setdefault(inode, Ranges()).unset(gone)
        self.unique += 2
        assert node.callers.set(self.unique, inode, p.owner, fcntl.F_UNLCK, start, end, fh=p.owner) == 0

    def wake(self, node: Node) -> None:
        while woken := node.callers.woken():
            for unique in woken:
                for p in node.processes:
                    if p.asked is not None and p.asked.unique == unique:
                        self.run(node, p)

    def act(self, node: Node) -> None:
        """A process of this node does something."""
        p = self.rng.choice(node.processes)
        if p.asked is not None:
            if self.rng.random() < 0.05 and not p.asked.interrupted:
                p.asked.interrupted = True
                self.run(node, p, interrupted=True)
        elif self.rng.random() < 0.1:
            self.let_go(node, p)
        else:
            inode = self.rng.randrange(1, self.files + 1)
            start = self.rng.randrange(SPAN)
            end = self.rng.randrange(start, SPAN)
            if self.rng.random() < 0.45:
                self.unlock(node, p, inode, start, end)
            else:
                self.unique += 2
                p.asked = Asked(self.unique, inode, self.rng.choice((fcntl.F_RDLCK, fcntl.F_WRLCK)), start, end,
                                self.rng.random() < 0.7)
                self.weaken(node, p, p.asked)
                self.run(node, p)
        self.wake(node)

    # -- runs

    def step(self, trouble: float) -> None:
        everybody = [*self.nodes.values(), *self.zombies.values()]
        node = self.rng.choice(everybody)
        what = self.rng.random()
        if what < trouble:
            self.trouble()
        elif what < 0.35:
            self.act(node)
        elif what < 0.55:
            self.service(node)
        elif what < 0.75:
            if node.outbox and node.me in self.nodes:
                self.order(node)
        elif node.inbox:
            self.deliver(node)
        if node.me in self.nodes and self.rng.random() < 0.2:
            self.recovered(node)

    def trouble(self) -> None:
        what = self.rng.random()
        if what < 0.3 and self.zombies:
            self.fence(self.rng.choice(sorted(self.zombies)))
        elif what < 0.6 and len(self.nodes) < 5:
            self.join(self.rng.randrange(1, 6) if self.rng.random() < 0.1 else self.next_pid)
        elif what < 0.8 and len(self.nodes) > 1:
            self.cut_off(self.nodes[self.rng.choice(sorted(self.nodes))])
        elif len(self.nodes) > 1:
            node = self.nodes[self.rng.choice(sorted(self.nodes))]
            if all(p.asked is None for p in node.processes) and node.machine.knows:
                for p in node.processes:
                    self.let_go(node, p)
                self.leave(node)

    def turn(self) -> bool:
        """Every node does what it can; whether there was anything to say or to hear."""
        busy = False
        for node in list(self.nodes.values()):
            self.service(node)
            while node.outbox:
                self.order(node)
                busy = True
            while node.inbox:
                self.deliver(node)
                busy = True
        return busy

    def settle(self) -> None:
        """No more trouble; whoever can gives its locks back, until nobody waits for anything."""
        for me in sorted(self.zombies):
            self.fence(me)
        for _ in range(100000):
            for node in list(self.nodes.values()):
                self.recovered(node)
            if self.turn():
                continue
            waiting = [p for node in self.nodes.values() for p in node.processes if p.asked is not None]
            free = [(node, p) for node in self.nodes.values() for p in node.processes
                    if p.asked is None and any(held.member == node.me and held.owner == p.owner
                                               for r in self.belief.values() for held in r.locks)]
            if not free:
                assert not waiting, f"{len(waiting)} processes wait for ever: {waiting[0]}"
                return
            self.let_go(*free[0])
            self.wake(free[0][0])
        raise AssertionError("it does not come to rest")

    def same(self) -> None:
        """All members have the same tables, and nothing is left in them."""
        tables = [node.machine.table.snapshot() for node in self.nodes.values()]
        assert all(node.machine.knows for node in self.nodes.values())
        assert all(table == tables[0] for table in tables)
        for node in self.nodes.values():
            counts = node.machine.counts()
            assert counts["locks"] == counts["waiters"] == counts["moving"] == counts["frozen"] == 0, counts
            told = node.locks.statistics()
            assert told["locks"] == told["waiting"] == 0, told
