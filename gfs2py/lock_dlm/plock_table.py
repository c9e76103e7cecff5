"""fcntl locks of one file system, the state that all its nodes have alike: whose file is whose, and who waits. Pure.

Everything that happens comes here at the same place of one order on every node, so all tables are the same. A file is

    unknown     nobody has locked it: the first one who wants to owns its table from then on
    owned       its owner decides by itself and tells nobody; the others know just whose it is
    moving      another node wants something of it: requests wait here until the owner has handed its locks over
    shared      everybody has its locks, each request is decided everywhere at its place in the order

A shared file goes to a node that has asked OWN_AFTER times in a row while nobody else has a lock in it or waits for
one. So a file that one node uses costs no message, whatever was before, and one that several use costs one per request.

Nobody waits for a lock in an owned file while there is a shared one (the owner hands such a file over): any circle of
processes that wait for each other can be seen here, whatever the nodes they are on, and the last one gets EDEADLK.

Source for the idea of ownership: dlm_controld's plock_ownership; how it is passed on is our own.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from gfs2py.lock_dlm.plock_wire import (
    Kind,
    PlockError,
    Release,
    Request,
    State,
    array,
    number,
    plain_lock,
    plain_request,
    state_items,
    take_lock,
    take_request,
)
from gfs2py.lock_dlm.ranges import Lock, Member, Ranges

OWN_AFTER = 16                  # requests in a row before a shared file has an owner again
LOCKS_PER_INODE_MAX = 16384     # of all nodes; the compiled table of an owner has the same limit
WAITERS_PER_INODE_MAX = 4096
QUEUE_MAX = 16384               # requests that wait for a file's hand-over
IDLE_MAX = 1024                 # shared files without a lock that are remembered
SEARCH_MAX = 20000              # steps of a search for a circle; a wait whose circle is larger is let in


class Local(Protocol):
    """This node's side: the table of the files it owns, and its processes that wait."""

    def own(self, inode: int, locks: list[Lock]) -> None:
        """From here on this node decides on the file; these are its locks in it."""

    def apply(self, request: Request) -> None:
        """A request of this node for a file that it owns by now; who waits for it is answered there."""

    def take(self, inode: int) -> list[tuple[int, int, int, bool, int, int]]:
        """From here on it does not decide any more. What is granted: owner, fh, pid, write, start, end."""

    def answer(self, number: int, error: int, lock: Lock | None) -> None:
        """To who waits for this request: 0 or an errno; for GET the lock in the way, or None."""

    def done(self, inode: int) -> None:
        """A request of this node for the file has come to its place, once for each that was sent."""

    def forget(self, inode: int) -> None:
        """This node has nothing in the file, which others may use."""

    def sharing(self, on: bool) -> None:
        """Whether any file is shared."""


@dataclass(slots=True)
class Shared:
    """A shared file."""

    ranges: Ranges = field(default_factory=Ranges)
    waiters: list[tuple[Member, Request]] = field(default_factory=list)
    last: Member | None = None      # who asked last, and how often in a row
    streak: int = 0

    def quiet(self) -> bool:
        return not self.ranges.locks and not self.waiters


@dataclass(slots=True)
class Moving:
    """A file whose owner has been asked for it."""

    queue: list[tuple[Member, Request]] = field(default_factory=list)


class PlockTable:
    """See above. `out` is what this node has to say to all."""

    def __init__(self, me: Member, local: Local) -> None:
        self.me, self.local = me, local
        self.own_after = OWN_AFTER      # the same on all nodes
        self.out: list[State | Release] = []
        self.owned: dict[int, Member] = {}
        self.moving: dict[int, Moving] = {}
        self.parts: dict[int, list[Lock]] = {}          # of hand-overs whose last part has not come
        self.shared: dict[int, Shared] = {}
        self.idle: dict[int, None] = {}                 # shared, but nobody is in there; the longest first
        self._waits: dict[tuple[Member, int], dict[tuple[int, int], Lock]] = {}
        self._sharing = False

    # -- what this node does

    def release(self, inodes: Iterable[int]) -> None:
        """Owned files without locks that this node's table has forgotten already."""
        ours = [inode for inode in inodes if self.owned.get(inode) == self.me]
        if ours:
            self.out.append(Release(tuple(ours)))

    # -- what all do alike

    def apply(self, sender: Member, item: Request | State | Release) -> None:
        """The next one in the order. Raises PlockError where the sender broke the rules; nothing has changed then."""
        match item:
            case Request():
                self._request(sender, item)
            case State():
                self._state(sender, item)
            case Release():
                for inode in item.inodes:
                    if self.owned.get(inode) == sender and inode not in self.moving:
                        del self.owned[inode]
        self._tell()

    def _tell(self) -> None:
        on = bool(self.moving) or len(self.shared) > len(self.idle)
        if on != self._sharing:
            self._sharing = on
            self.local.sharing(on)

    def _request(self, sender: Member, r: Request) -> None:
        owner = self.owned.get(r.inode)
        moving = self.moving.get(r.inode)
        if moving is not None or (owner is not None and owner != sender):
            self._queue(sender, r)
            return
        if r.kind is Kind.HAND_OVER:
            if owner == sender:
                self._move(r.inode)
            self._done(sender, r)
            return
        if owner is None and r.inode not in self.shared and r.kind is Kind.SET:
            owner = self.owned[r.inode] = sender
            if sender == self.me:
                self.local.own(r.inode, [])
        if owner is None:
            self._decide(sender, r)
        elif sender == self.me:
            self.local.apply(r)
            self.local.done(r.inode)

    def _move(self, inode: int) -> None:
        """From here on requests for an owned file wait for its hand-over."""
        self.moving[inode] = Moving()
        if self.owned[inode] == self.me:
            locks = [Lock(self.me, *fields) for fields in self.local.take(inode)]
            self.out.extend(state_items(inode, locks))

    def _queue(self, sender: Member, r: Request) -> None:
        if r.inode not in self.moving:
            self._move(r.inode)
        queue = self.moving[r.inode].queue
        if r.kind is Kind.HAND_OVER:
            self._done(sender, r)
        elif r.kind is Kind.CANCEL:
            for at, (who, waiting) in enumerate(queue):
                if who == sender and waiting.number == r.number and waiting.kind is Kind.SET:
                    del queue[at]
                    self._answer(sender, waiting, errno.EINTR)
                    self._done(sender, waiting)
                    break
            self._done(sender, r)
        elif len(queue) >= QUEUE_MAX and r.number:
            self._answer(sender, r, errno.ENOLCK)
            self._done(sender, r)
        else:
            queue.append((sender, r))

    def _state(self, sender: Member, item: State) -> None:
        if self.owned.get(item.inode) != sender or item.inode not in self.moving:
            raise PlockError(f"file {item.inode} is handed over by node {sender[0]}, which was not asked for it")
        parts = self.parts.setdefault(item.inode, [])
        if len(parts) + len(item.locks) > 2 * LOCKS_PER_INODE_MAX:
            raise PlockError(f"file {item.inode} is handed over with more than {LOCKS_PER_INODE_MAX} locks")
        parts.extend(item.locks)
        if item.last:
            self._become_shared(item.inode, self.parts.pop(item.inode))

    def _become_shared(self, inode: int, locks: list[Lock]) -> None:
        del self.owned[inode]
        moving = self.moving.pop(inode, None)
        self.shared[inode] = Shared(Ranges(locks))
        if not any(lock.member == self.me for lock in locks):
            self.local.forget(inode)
        for sender, r in moving.queue if moving is not None else []:
            # The first ones may have made somebody its owner.
            self._request(sender, r)
        self._settle(inode)

    def _decide(self, sender: Member, r: Request) -> None:
        """A request for a shared or an unknown file."""
        file = self.shared.get(r.inode)
        if file is None:
            file = Shared()         # unknown: nothing is there to give up or to find
        file.streak = file.streak + 1 if file.last == sender else 1
        file.last = sender
        want = r.lock(sender)
        match r.kind:
            case Kind.SET:
                self._set(file, sender, r, want)
            case Kind.GET:
                self._answer(sender, r, 0, file.ranges.conflict(want))
            case Kind.CANCEL:
                self._cancel(file, sender, r)
            case Kind.UNSET:
                file.ranges.unset(want)
                self._answer(sender, r, 0)
            case Kind.OWNER:
                file.ranges.drop(lambda held: held.same_owner(want))
                self._answer(sender, r, 0)
            case Kind.FH:
                file.ranges.drop(lambda held: held.member == sender and held.fh == r.fh)
                self._answer(sender, r, 0)
        self._wake(file)
        self._done(sender, r)
        self._settle(r.inode)

    def _set(self, file: Shared, sender: Member, r: Request, want: Lock) -> None:
        if file.ranges.conflict(want) is None:
            if len(file.ranges) >= LOCKS_PER_INODE_MAX:
                self._answer(sender, r, errno.ENOLCK)
            else:
                file.ranges.set(want)
                self._answer(sender, r, 0)
        elif not r.wait:
            self._answer(sender, r, errno.EAGAIN)
        elif len(file.waiters) >= WAITERS_PER_INODE_MAX:
            self._answer(sender, r, errno.ENOLCK)
        elif self._circle(file, want):
            self._answer(sender, r, errno.EDEADLK)
        else:
            file.waiters.append((sender, r))
            self._waits.setdefault((sender, r.owner), {})[(r.inode, r.number)] = want

    def _cancel(self, file: Shared, sender: Member, r: Request) -> None:
        for who, waiting in file.waiters:
            if who == sender and waiting.number == r.number:
                self._unwait(file, who, waiting)
                self._answer(sender, waiting, errno.EINTR)
                return

    def _unwait(self, file: Shared, who: Member, waiting: Request) -> None:
        file.waiters.remove((who, waiting))
        waits = self._waits[(who, waiting.owner)]
        del waits[(waiting.inode, waiting.number)]
        if not waits:
            del self._waits[(who, waiting.owner)]

    def _wake(self, file: Shared) -> None:
        """Grants to those who wait, in the order in which they came, until nobody can have what he wants."""
        again = bool(file.waiters)
        while again:
            again = False
            for who, r in list(file.waiters):
                want = r.lock(who)
                if file.ranges.conflict(want) is None:
                    self._unwait(file, who, r)
                    if len(file.ranges) >= LOCKS_PER_INODE_MAX:
                        self._answer(who, r, errno.ENOLCK)
                        continue
                    file.ranges.set(want)
                    self._answer(who, r, 0)
                    again = True        # a write lock may have become a read lock

    def _circle(self, file: Shared, want: Lock) -> bool:
        """Whether somebody in the way of `want`, or in the way of those, waits for its owner."""
        todo, seen = [(file.ranges, want)], {(want.member, want.owner)}
        for _ in range(SEARCH_MAX):
            if not todo:
                return False
            ranges, wanted = todo.pop()
            for held in ranges.conflicts(wanted):
                who = (held.member, held.owner)
                for (inode, _), waiting in self._waits.get(who, {}).items():
                    other = self.shared[inode].ranges
                    if any(h.same_owner(want) for h in other.conflicts(waiting)):
                        return True
                    if who not in seen:
                        todo.append((other, waiting))
                seen.add(who)
        return False

    def _settle(self, inode: int) -> None:
        """After something has happened to a shared file: it may get an owner, or be of no interest."""
        file = self.shared.get(inode)
        if file is None:
            return
        if file.quiet():
            if inode not in self.idle:
                self.idle[inode] = None
        else:
            self.idle.pop(inode, None)
        sole = file.last
        if (sole is not None and file.streak >= self.own_after and not file.waiters
                and all(lock.member == sole for lock in file.ranges.locks)):
            del self.shared[inode]
            self.idle.pop(inode, None)
            self.owned[inode] = sole
            if sole == self.me:
                self.local.own(inode, file.ranges.locks)
        elif len(self.idle) > IDLE_MAX:
            oldest = next(iter(self.idle))
            del self.idle[oldest], self.shared[oldest]

    def _answer(self, sender: Member, r: Request, error: int, lock: Lock | None = None) -> None:
        if sender == self.me and r.number:
            if lock is not None and lock.member != self.me:
                lock = replace(lock, pid=0)         # a number that means nothing here
            self.local.answer(r.number, error, lock)

    def _done(self, sender: Member, r: Request) -> None:
        if sender != self.me:
            return
        self.local.done(r.inode)
        file = self.shared.get(r.inode)
        if self.owned.get(r.inode) != self.me and (
                file is None or (not any(lock.member == self.me for lock in file.ranges.locks)
                and not any(who == self.me for who, _ in file.waiters))):
            self.local.forget(r.inode)

    # -- members that are gone

    def drop(self, gone: Iterable[Member]) -> None:
        """Nothing of these members counts from here on."""
        dead = frozenset(gone)
        for inode, moving in list(self.moving.items()):
            moving.queue = [(who, r) for who, r in moving.queue if who not in dead]
            if self.owned[inode] in dead:
                self.parts.pop(inode, None)
                self._become_shared(inode, [])
        for inode, owner in list(self.owned.items()):
            if owner in dead:
                del self.owned[inode]
                self.parts.pop(inode, None)
        for inode, file in list(self.shared.items()):
            for who, r in list(file.waiters):
                if who in dead:
                    self._unwait(file, who, r)
            file.ranges.drop(lambda held: held.member in dead)
            if file.last in dead:
                file.last, file.streak = None, 0
            self._wake(file)
            self._settle(inode)
        self._tell()

    # -- for those who come later

    def snapshot(self) -> list[Any]:
        """Everything, as plain values."""
        def locks_of(locks: list[Lock]) -> list[Any]:
            return [[*lock.member, *plain_lock(lock)] for lock in locks]

        def requests_of(waiting: list[tuple[Member, Request]]) -> list[Any]:
            return [[*who, *plain_request(r)] for who, r in waiting]

        return [
            [[inode, *who] for inode, who in self.owned.items()],
            [[inode, requests_of(moving.queue)] for inode, moving in self.moving.items()],
            [[inode, locks_of(locks)] for inode, locks in self.parts.items()],
            [[inode, list(file.last) if file.last is not None else [], file.streak, locks_of(file.ranges.locks),
              requests_of(file.waiters)] for inode, file in self.shared.items()],
            list(self.idle),
        ]

    def install(self, told: Any) -> None:
        """What snapshot() gave at another node. Raises PlockError."""
        def member(a: object, b: object) -> Member:
            return number(a), number(b)

        def locks_of(told: object) -> list[Lock]:
            return [take_lock(rest, member(a, b)) for a, b, *rest in array(told)]

        def requests_of(told: object) -> list[tuple[Member, Request]]:
            return [(member(a, b), take_request(rest)) for a, b, *rest in array(told)]

        owned, moving, parts, shared, idle = array(told, 5)
        try:
            self.owned = {number(inode): member(a, b) for inode, a, b in owned}
            self.moving = {number(inode): Moving(requests_of(queue)) for inode, queue in moving}
            self.parts = {number(inode): locks_of(locks) for inode, locks in parts}
            self.shared, self._waits = {}, {}
            for inode, last, streak, locks, waiters in shared:
                file = Shared(Ranges(locks_of(locks)), requests_of(waiters), member(*last) if last else None,
                              number(streak))
                self.shared[number(inode)] = file
                for who, r in file.waiters:
                    self._waits.setdefault((who, r.owner), {})[(r.inode, r.number)] = r.lock(who)
            self.idle = {number(inode): None for inode in idle}
        except (TypeError, ValueError):
            raise PlockError("the state of the locks is not of the form agreed on") from None
        self._tell()

    def waiting(self) -> list[tuple[Request, list[Lock], Member | None]]:
        """For people: requests of this node that wait in files which are not its own, the locks in their way, or the
        node that is asked to hand the file over."""
        found: list[tuple[Request, list[Lock], Member | None]] = []
        for file in list(self.shared.values()):
            found += [(r, file.ranges.conflicts(r.lock(who)), None) for who, r in list(file.waiters) if who == self.me]
        for inode, moving in list(self.moving.items()):
            found += [(r, [], self.owned.get(inode)) for who, r in list(moving.queue)
                      if who == self.me and r.kind is Kind.SET]
        return found

    def wanted(self) -> list[tuple[int, list[Lock]]]:
        """For people: this node's locks that somebody waits for."""
        found = []
        for inode, file in list(self.shared.items()):
            ahead = [lock for lock in file.ranges.locks if lock.member == self.me
                     and any(lock.conflicts(r.lock(who)) for who, r in file.waiters)]
            if ahead:
                found.append((inode, ahead))
        return found

    def counts(self) -> dict[str, int]:
        """For people: files by state, locks and waiters of the shared ones."""
        return {"owned": sum(who == self.me for who in self.owned.values()), "owned_by_others":
                sum(who != self.me for who in self.owned.values()), "moving": len(self.moving),
                "shared": len(self.shared) - len(self.idle), "idle": len(self.idle),
                "locks": sum(len(file.ranges) for file in self.shared.values()),
                "waiters": sum(len(file.waiters) for file in self.shared.values())}
