"""Lockspaces that talk through a network in memory, and clients that use them as the rules allow.

Packets keep their order between two nodes and nowhere else. Whoever drives the net decides, packet by packet, what
arrives next; everything else follows from that and from the clients' choices, so a list of choices is a run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from dlm.core._lockspace import Lockspace
from dlm.core.errors import DlmError
from dlm.core.events import Bast, Cast, Event, Node, RecoverDone, RecoverFailed, RecoverPrep
from dlm.core.packets import ECANCEL, EUNLOCK, Flag, LockMode, StatusFlag

GROUP = 0x1092
COMPATIBLE = {
    LockMode.NL: "NL CR CW PR PW EX", LockMode.CR: "NL CR CW PR PW", LockMode.CW: "NL CR CW", LockMode.PR: "NL CR PR",
    LockMode.PW: "NL CR", LockMode.EX: "NL"}
ENOENT, EAGAIN, EBUSY, EDEADLK = 2, 11, 16, 35
UNWRITTEN = b"\0" * 32


def compatible(a: int, b: int) -> bool:
    return LockMode(b).name in COMPATIBLE[LockMode(a)].split()


@dataclass
class Lock:
    """A lock as its owner sees it. `holds`: the mode whose rights it may rely on, None before the first grant."""

    node: int
    lkid: int
    name: bytes
    wants: int
    flags: int
    holds: int | None = None
    before: int | None = None
    pending: str = "request"
    # The value before that of the conversion under way; nobody else can write until that has ended.
    old_value: bytes | None = None
    basts: list[int] = field(default_factory=list)


class Broken(AssertionError):
    """A rule of locking does not hold."""


class Net:
    """Nodes, links between them, the control that stops and starts them, and what the clients know."""

    def __init__(self) -> None:
        self.nodes: dict[int, Lockspace] = {}
        self.links: dict[tuple[int, int], deque[bytes]] = {}
        self.locks: dict[tuple[int, int], Lock] = {}
        self.comm_seq: dict[int, int] = {}
        self.members: set[int] = set()
        self.now_ns = 0
        self.values: dict[bytes, bytes] = {}
        self.unsure: dict[bytes, set[bytes]] = {}
        self.recovering: set[int] = set()
        self.trace: list[str] = []
        self.filter: Callable[[int, int, bytes], bytes | None] | None = None
        self.counts: dict[str, int] = {}

    def count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    # ---- network

    def add(self, nodeid: int) -> None:
        self.comm_seq[nodeid] = self.comm_seq.get(nodeid, 0) + 1
        self.nodes[nodeid] = Lockspace("test", nodeid, GROUP, rcom_seq=self.comm_seq[nodeid] << 32)
        self.recovering.add(nodeid)

    def flush(self) -> None:
        """Moves output to the links, and tells the clients what happened."""
        for me, ls in list(self.nodes.items()):
            for to, packet in ls.take_output():
                self.links.setdefault((me, to), deque()).append(packet)
            for event in ls.take_events():
                self.event(me, event)
            if ls.broken:
                raise Broken(f"node {me}: errno {ls.broken}")

    def busy_links(self) -> list[tuple[int, int]]:
        return sorted(k for k, q in self.links.items() if q)

    def deliver(self, link: tuple[int, int]) -> None:
        packet: bytes | None = self.links[link].popleft()
        me, to = link
        if self.filter is not None and packet is not None:
            packet = self.filter(me, to, packet)
        if to in self.nodes and packet is not None:
            self.nodes[to].receive(me, packet, self.now_ns)
        self.flush()

    def tick(self) -> bool:
        """Lets time pass to the next timer of recovery; whether there was one."""
        due = [t for ls in self.nodes.values() if not ls.running and (t := ls.next_timer()) is not None]
        if not due:
            return False
        self.now_ns = max(self.now_ns, min(due))
        for ls in self.nodes.values():
            ls.handle_timer(self.now_ns)
        self.flush()
        return True

    def settle(self, choose: Callable[[list[tuple[int, int]]], tuple[int, int]] | None = None,
               steps_max: int = 200_000) -> None:
        """Delivers everything; ends when nothing is under way any more."""
        for _ in range(steps_max):
            links = self.busy_links()
            if links:
                self.deliver(choose(links) if choose else links[0])
            elif not self.tick():
                return
        raise Broken(f"no end of messages: {self.busy_links()} {[ls.phase for ls in self.nodes.values()]}")

    # ---- control

    def stop(self, nodeid: int) -> None:
        self.nodes[nodeid].stop()
        self.recovering.add(nodeid)
        self.flush()

    def start(self, nodeid: int, members: set[int]) -> None:
        nodes = [Node(n, 1, self.comm_seq[n]) for n in sorted(members)]
        self.nodes[nodeid].start(nodes, self.now_ns)
        self.flush()

    def crash(self, nodeid: int) -> None:
        """The node is gone, and so are its locks; what it sent may still arrive, unless the driver drops it."""
        del self.nodes[nodeid]
        self.recovering.discard(nodeid)
        for link in self.links:
            if link[1] == nodeid:
                self.links[link].clear()
        for key in [k for k in self.locks if k[0] == nodeid]:
            del self.locks[key]

    def drop_from(self, nodeid: int) -> None:
        for link in self.links:
            if link[0] == nodeid:
                self.links[link].clear()

    def change(self, members: set[int]) -> None:
        """A whole membership change: all stop, then all start."""
        self.members = set(members)
        for n in sorted(members):
            self.stop(n)
        for n in sorted(members):
            self.start(n, members)

    # ---- clients

    def lock(self, node: int, name: bytes, mode: int, flags: int = 0) -> Lock:
        lkid = self.nodes[node].lock(name, mode, flags | Flag.VALBLK, value=UNWRITTEN)
        lock = Lock(node, lkid, name, mode, flags)
        self.locks[node, lkid] = lock
        self.flush()
        return lock

    def next_value(self) -> bytes:
        self.count("write")
        return b"%032d" % self.counts["write"]

    def convert(self, lock: Lock, mode: int, flags: int = 0) -> bool:
        """False if the engine says that it makes no sense now."""
        assert lock.holds is not None
        saved = (lock.wants, lock.flags, lock.pending, lock.holds, lock.before)
        middle = {lock.holds, mode} == {LockMode.PR, LockMode.CW}
        writes = lock.holds >= LockMode.PW and not (lock.holds == LockMode.PW and mode == LockMode.EX)
        value = self.next_value() if writes else UNWRITTEN
        lock.wants, lock.flags, lock.pending, lock.before = mode, flags, "convert", lock.holds
        # The rights of the old mode end, or may end, here; those of the new one begin with the completion.
        if flags & Flag.CONVDEADLK:
            lock.holds = LockMode.NL
        elif middle:
            # Should its master die, recovery may leave it with nothing in between.
            lock.holds = LockMode.NL
        else:
            lock.holds = min(lock.holds, mode)
        try:
            self.nodes[lock.node].convert(lock.lkid, mode, flags | Flag.VALBLK, value=value)
        except DlmError:
            lock.wants, lock.flags, lock.pending, lock.holds, lock.before = saved
            return False
        lock.old_value = self.values.get(lock.name, UNWRITTEN) if writes else None
        if writes:
            self.values[lock.name] = value
        self.flush()
        return True

    def unlock(self, lock: Lock) -> bool:
        """Of a granted lock; a holder that may write does. False while the answer to a cancel is on the way."""
        assert lock.holds is not None
        value = self.next_value() if lock.holds >= LockMode.PW else None
        try:
            self.nodes[lock.node].unlock(lock.lkid, Flag.VALBLK if value else 0, value=value)
        except DlmError as error:
            if error.errno != EBUSY:
                raise
            return False
        if value is not None:
            self.values[lock.name] = value
        lock.pending, lock.holds = "unlock", LockMode.NL
        self.flush()
        return True

    def cancel(self, lock: Lock) -> None:
        self.try_unlock(lock, Flag.CANCEL)

    def force_unlock(self, lock: Lock) -> None:
        """Whatever its state."""
        if self.try_unlock(lock, Flag.FORCEUNLOCK) and lock.pending:
            lock.pending = "unlock"
            lock.holds = None if lock.holds is None else LockMode.NL
        self.flush()

    def try_unlock(self, lock: Lock, flags: int) -> bool:
        """False if the lock has ended already and its completion is on the way."""
        try:
            self.nodes[lock.node].unlock(lock.lkid, flags)
        except DlmError as error:
            if error.errno != ENOENT:
                raise
            return False
        if flags == Flag.CANCEL:
            self.flush()
        return True

    # ---- what clients are told

    def event(self, node: int, event: Event) -> None:
        if isinstance(event, Cast | Bast) and node in self.recovering:
            raise Broken(f"node {node}: {event} before recovery was done")
        if isinstance(event, Cast):
            self.cast(node, event)
        elif isinstance(event, Bast):
            self.count("bast")
            self.locks[node, event.lkid].basts.append(event.mode)
        elif isinstance(event, RecoverPrep):
            self.recovering.add(node)
        elif isinstance(event, RecoverDone):
            self.count("recovered")
            self.recovering.discard(node)
        elif isinstance(event, RecoverFailed):
            raise Broken(f"node {node}: recovery failed: {event}")

    def cast(self, node: int, cast: Cast) -> None:
        lock = self.locks.get((node, cast.lkid))
        if lock is None or not lock.pending:
            raise Broken(f"node {node}: a completion that nobody waits for: {cast} {lock}")
        self.count(f"cast {cast.status}")
        if cast.status == 0:
            self.granted(lock, cast)
            return
        if cast.status not in (-EUNLOCK, -ECANCEL, -EAGAIN, -EDEADLK):
            raise Broken(f"{lock}: {cast}")
        if cast.status == -EAGAIN and not lock.flags & Flag.NOQUEUE:
            raise Broken(f"{lock}: EAGAIN without NOQUEUE")
        if cast.status == -EUNLOCK and lock.pending != "unlock":
            raise Broken(f"{lock}: unlocked, and was not to be")
        if cast.mode == LockMode.IV:
            del self.locks[node, cast.lkid]
            return
        if cast.status == -EUNLOCK or lock.before is None:
            raise Broken(f"{lock}: {cast} with a mode")
        if lock.pending == "convert":
            middle = {lock.wants, lock.before} == {LockMode.PR, LockMode.CW}
            back = [lock.before, *([LockMode.NL] if middle or lock.flags & Flag.CONVDEADLK else [])]
            if cast.mode not in back and {cast.mode, lock.before} != {LockMode.PR, LockMode.CW}:
                raise Broken(f"{lock}: back at {LockMode(cast.mode).name}")
            lock.pending, lock.holds = "", cast.mode
            if lock.old_value is not None:
                # It stands in the holder's buffer, from which recovery may take it, or not.
                self.unsure[lock.name] = {self.values[lock.name], lock.old_value}
                self.values[lock.name] = lock.old_value
            self.check_compatible(lock)

    def granted(self, lock: Lock, cast: Cast) -> None:
        alternatives = {lock.wants}
        alternatives |= {LockMode.PR} if lock.flags & Flag.ALTPR else set()
        alternatives |= {LockMode.CW} if lock.flags & Flag.ALTCW else set()
        if cast.mode not in alternatives:
            raise Broken(f"{lock}: granted {LockMode(cast.mode).name}")
        was = lock.holds
        if lock.pending != "unlock":
            lock.pending = ""
            lock.holds = cast.mode
        lock.basts = []
        if cast.flags & StatusFlag.VALNOTVALID and cast.mode >= LockMode.PW and cast.value is not None:
            # Nobody else is left to know better: a forced unlock will write this back.
            self.values[lock.name] = cast.value
        if lock.pending != "unlock" and cast.mode >= LockMode.CW and (was is None or was < LockMode.PW):
            self.check_value(lock, cast)
        self.check_compatible(lock)

    def check_value(self, lock: Lock, cast: Cast) -> None:
        """CR goes along with PW: what it reads may be changing."""
        if cast.flags & StatusFlag.VALNOTVALID:
            self.count("value invalid")
            return
        assert cast.value is not None
        want = self.values.get(lock.name, UNWRITTEN)
        if cast.value not in (want, UNWRITTEN) and not (
                want in (unsure := self.unsure.get(lock.name, set())) and cast.value in unsure):
            raise Broken(f"{lock}: read {cast.value!r}, last written was {want!r}")
        if cast.value == want != UNWRITTEN:
            self.count("value read")

    # ---- what holds when nothing is under way

    def check_quiet(self) -> None:
        """Masters agree with each other and with the owners; whoever waits does so for a reason, and holders know."""
        holders: dict[bytes, set[int]] = {}
        copies: dict[tuple[int, int], tuple[int, int, str]] = {}
        for me, ls in self.nodes.items():
            if not ls.running:
                raise Broken(f"node {me} is still at {ls.phase}")
            if (stats := ls.statistics()).waiting or stats.queued_messages:
                raise Broken(f"node {me} waits for replies that nobody sends: {stats} {ls.dump()}")
            for r in ls.dump():
                for lock in r.locks:
                    holders.setdefault(r.name, set()).add(r.master)
                    if lock.kind == "master":
                        copies[lock.nodeid, lock.remid] = (lock.grmode, lock.rqmode, lock.queue)
        for name, masters in holders.items():
            if len(masters) != 1:
                raise Broken(f"{name!r} has masters {masters}")
        for me, ls in self.nodes.items():
            for r in ls.dump():
                for lock in r.locks:
                    if lock.kind == "process":
                        here = (lock.grmode, lock.rqmode, lock.queue)
                        there = copies.pop((me, lock.lkid), None)
                        # The owner hears of its demotion when the conversion ends; of what recovery made of one between
                        # PR and CW too.
                        unsure = here[0] == LockMode.IV or lock.exflags & Flag.CONVDEADLK
                        if there is None or there[1:] != here[1:] or (there != here and not unsure):
                            raise Broken(f"node {me}: {lock}, its master says {there}")
        if copies:
            raise Broken(f"copies of locks that nobody has: {copies}")
        for own in self.locks.values():
            self.check_reason(own)

    def check_reason(self, lock: Lock) -> None:
        if not lock.pending:
            return
        others = [x for x in self.locks.values() if x.name == lock.name and x is not lock]
        blockers = [x for x in others if x.holds is not None and not x.pending and not compatible(x.holds, lock.wants)]
        if not blockers and not any(x.pending for x in others):
            raise Broken(f"nothing is in the way of {lock}")
        for x in blockers:
            if not any(not compatible(x.holds or 0, mode) for mode in x.basts):
                raise Broken(f"{x} does not know that it is in the way of {lock}")

    def drain(self) -> None:
        """Everybody lets go, until nobody is left; then nothing may be."""
        while self.locks:
            n = len(self.locks)
            for lock in [x for x in self.locks.values() if not x.pending]:
                self.unlock(lock)
            self.settle()
            self.check_quiet()
            if len(self.locks) == n:
                raise Broken(f"nobody gets any further: {self.locks}")
        for _ in range(3):
            self.now_ns += 11 * 10**9
            for ls in self.nodes.values():
                ls.handle_timer(self.now_ns)
            self.flush()
            self.settle()
        for me, ls in self.nodes.items():
            stats = ls.statistics()
            if stats.locks or stats.resources or stats.tossed or stats.waiting or ls.dump():
                raise Broken(f"node {me}: something is left: {stats} {ls.dump()}")

    def check_compatible(self, lock: Lock) -> None:
        for other in self.locks.values():
            if other is lock or other.name != lock.name or other.holds is None or lock.holds is None:
                continue
            if not compatible(lock.holds, other.holds):
                raise Broken(f"both granted: {lock} and {other}")
