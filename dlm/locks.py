"""Locks for async programs: acquire, convert, release, lock values, blocking calls; errors with an errno.

A Lockspace here wraps the machine of dlm.core: operations are tasks that wait, `trio` cancellation takes them back.
What is granted at once (the resource is mastered here, or the conversion is one down) returns without a turn of the
event loop. docs/dlm-library.md shows how to use it.

Cancelling: a request that is cancelled is taken back at its master. When the grant was faster, a new lock is released
again and a conversion stays done (`mode` tells); in each case the caller gets trio.Cancelled, and nothing is left
behind.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import AsyncIterator, Callable, Collection, Generator, Sequence
from types import TracebackType
from typing import Protocol, Self

import trio

from dlm import deadlock
from dlm.core._lockspace import Lockspace as Machine
from dlm.core.errors import DlmError
from dlm.core.events import (
    Bast,
    Cast,
    Event,
    Node,
    RecoverDone,
    RecoverFailed,
    RecoverPrep,
    RecoverSlot,
    ResourceDump,
    Statistics,
)
from dlm.core.packets import ECANCEL, EUNLOCK, Flag, LockMode, StatusFlag

# Recovery asks again and again; while it runs its clock is looked at this often.
RECOVERY_TICK_S = 0.01
RUNNING_TICK_S = 5.0
NO_FLAGS = Flag(0)
# The answer to a cancel that came too late tells nobody; it takes a round trip.
CANCEL_RETRY_S = 0.001

RecoveryEvent = RecoverPrep | RecoverSlot | RecoverDone | RecoverFailed
OnBlocking = Callable[[LockMode], object]


class WouldBlock(DlmError, BlockingIOError):
    """EAGAIN: the lock is not free and `nowait` was asked for."""


class Deadlock(DlmError):
    """EDEADLK: this operation and others wait for each other, and it was chosen to give way.

    Two conversions of one resource, or transactions in a circle over any resources and nodes.
    """


class Withdrawn(DlmError):
    """ECANCELED: another task has taken this conversion back by Lock.cancel."""


class Closed(DlmError):
    """ESHUTDOWN: the lockspace has been left, or its member has failed."""


def refusal(status: int, what: str) -> DlmError:
    """The exception for a completion with -errno."""
    code = errno.ECANCELED if status == -ECANCEL else -status
    kind = {errno.EAGAIN: WouldBlock, errno.EDEADLK: Deadlock, errno.ECANCELED: Withdrawn}.get(code, DlmError)
    return kind(code, f"{what}: {os.strerror(code)}")


class _Wait:
    """An operation of one lock that is under way."""

    __slots__ = ("cast", "done", "serial")

    def __init__(self, serial: int) -> None:
        self.cast: Cast | None = None
        self.done = trio.Event()
        self.serial = serial


class Lock:
    """One granted lock. `mode` is what is granted; LockMode.IV once it is released.

    `value` is the lock value as it was when this lock was last granted (None without `lvb`), `value_valid` whether it
    is the last one written: it may have been lost with a node that failed.
    """

    def __init__(self, space: Lockspace, name: bytes, mode: LockMode, on_blocking: OnBlocking | None,
                 lvb: bool, transaction: Transaction | None = None) -> None:
        self.name, self.mode, self.transaction = name, mode, transaction
        self.lkid = 0
        self.value: bytes | None = None
        self.value_valid = True
        self.on_blocking = on_blocking
        self._space = space
        self._lvb = lvb
        self.cancelled = False          # a cancel was sent, and no operation was begun since
        self.unlocking = False
        self._asked: LockMode | None = None
        self._news = trio.Event()

    def __repr__(self) -> str:
        return f"<Lock {self.name!r} {self.mode.name} {self.lkid:#x}>"

    async def convert(self, mode: LockMode, *, nowait: bool = False, value: bytes | None = None,
                      flags: Flag = NO_FLAGS) -> None:
        """Change the granted mode; `value` is written when that goes down from PW or EX.

        flags: more of Flag, such as QUECVT (behind others that wait) or CONVDEADLK (give up the granted mode for a
        moment rather than fail with Deadlock). Raises WouldBlock, Deadlock, Closed, DlmError (EBUSY: an operation on
        this lock is under way); the lock is then what it was before.
        """
        space = self._space
        space.check()
        await trio.lowlevel.checkpoint_if_cancelled()
        flags |= (Flag.NOQUEUE if nowait else NO_FLAGS) | (Flag.VALBLK if self._lvb else NO_FLAGS)
        await self._begin(lambda: space.machine.convert(self.lkid, mode, flags, value=value, bast=True))
        cast = await space.outcome(self)
        if cast.status:
            raise refusal(cast.status, f"convert {self.name!r} to {mode.name}")

    def cancel(self) -> None:
        """Take back the conversion that another task waits for (DLM_LKF_CANCEL).

        That task gets Withdrawn and the lock is what it was, unless the outcome was faster. Without a conversion under
        way nothing happens. Requests for new locks are taken back by trio's cancellation. Raises Closed.
        """
        self._space.check()
        self._space.withdraw(self)

    async def unlock(self, value: bytes | None = None) -> None:
        """Release it; `value` is written if PW or EX is held. Cannot be cancelled. Raises Closed, DlmError (EBUSY)."""
        if self.mode is LockMode.IV:
            return
        space = self._space
        space.check()
        with trio.CancelScope(shield=True):
            await self._begin(lambda: space.machine.unlock(self.lkid, Flag.VALBLK if value is not None else NO_FLAGS,
                                                           value=value))
            self.unlocking = True
            cast = await space.outcome(self)
            self.unlocking = False
        if cast.status != -EUNLOCK:
            raise refusal(cast.status, f"unlock {self.name!r}")

    async def _begin(self, operation: Callable[[], None]) -> None:
        """Start an operation. After a cancel that came too late its own answer may still be on the way."""
        while True:
            try:
                operation()
            except DlmError as e:
                if e.errno != errno.EBUSY or not self.cancelled:
                    raise
                await trio.sleep(CANCEL_RETRY_S)
                self._space.check()
            else:
                self.cancelled = False
                return

    async def wait_blocking(self) -> LockMode:
        """Wait until this lock is in the way of a request; for which mode. Each request is told once."""
        while self._asked is None:
            if self.mode is LockMode.IV:
                raise Closed(errno.ESHUTDOWN, f"{self.name!r} is released")
            await self._news.wait()
        asked, self._asked = self._asked, None
        return asked

    def granted(self, cast: Cast) -> None:
        """For the lockspace: what a completion says."""
        self.mode = LockMode(cast.mode)
        if cast.value is not None and not cast.status:
            self.value = cast.value
            self.value_valid = not cast.flags & StatusFlag.VALNOTVALID
        if self.mode is LockMode.IV:
            if self.transaction is not None:
                self.transaction.locks.pop(self.lkid, None)
            self.wake()

    def blocked(self, mode: LockMode) -> None:
        """For the lockspace: somebody wants `mode`."""
        if self.on_blocking is not None:
            self.on_blocking(mode)
        else:
            self._asked = mode if self._asked is None else max(self._asked, mode)
            self.wake()

    def wake(self) -> None:
        self._news.set()
        self._news = trio.Event()


class _Acquire:
    """What `Lockspace.lock` returns: `await` it for a Lock, or use it in `async with` to have it released."""

    __slots__ = ("_ask", "_lock")

    def __init__(self, ask: Callable[[], Generator[object, object, Lock]]) -> None:
        self._ask = ask
        self._lock: Lock | None = None

    def __await__(self) -> Generator[object, object, Lock]:
        return self._ask()

    async def __aenter__(self) -> Lock:
        self._lock = await self
        return self._lock

    async def __aexit__(self, kind: type[BaseException] | None, value: BaseException | None,
                        trace: TracebackType | None) -> None:
        assert self._lock is not None
        with contextlib.suppress(Closed):       # what is left has no locks any more
            await self._lock.unlock()


class Transaction:
    """Locks that belong together; made by `Lockspace.transaction`. At the end of the block those left are released.

    Transactions that wait for each other in a circle, on any nodes, are found within seconds: the operation that the
    youngest of them waits with raises Deadlock. Its program lets go of what it has, usually by leaving the block,
    and tries once more with `again()`. Locks without a transaction are in nobody's circle.
    """

    def __init__(self, space: Lockspace, born_ns: int, number: int) -> None:
        self.party = deadlock.Party(born_ns, space.machine.our_nodeid, number)
        self.locks: dict[int, Lock] = {}
        self._space = space

    def lock(self, name: str | bytes, mode: LockMode, *, nowait: bool = False, lvb: bool = False,
             on_blocking: OnBlocking | None = None, flags: Flag = NO_FLAGS) -> _Acquire:
        """As Lockspace.lock, with the same arguments."""
        return self._space.lock(name, mode, nowait=nowait, lvb=lvb, on_blocking=on_blocking, flags=flags,
                                transaction=self)

    def again(self) -> Transaction:
        """A new one of the same age: who is a victim now and then is the oldest some day, and no victim any more."""
        return self._space.transaction(born_ns=self.party.born_ns)

    async def release(self) -> None:
        """Release all its locks, the last first."""
        for lock in reversed(list(self.locks.values())):
            with contextlib.suppress(Closed):       # what is left has no locks any more
                await lock.unlock()
        self.locks.clear()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, value: BaseException | None,
                        trace: TracebackType | None) -> None:
        with trio.CancelScope(shield=True):
            await self.release()


class Control(Protocol):
    """Who decides on the members, as tools look at it."""

    history: list[str]
    failed: str

    def waits_for(self) -> list[int]: ...


class Lockspace:
    """Named locks shared by the members; made by dlm.node or dlm.control. All methods belong to trio's thread.

    on_event: called with what recovery tells (RecoverPrep, RecoverSlot, RecoverDone, RecoverFailed), in order.
    """

    def __init__(self, machine: Machine, on_event: Callable[[RecoveryEvent], object] | None = None, *,
                 deadlock_after_s: float = deadlock.AFTER_NS / 1e9) -> None:
        self.machine = machine
        self.name = machine.name
        self.on_event = on_event
        self.generation = 0
        self.slots: dict[int, int] = {}         # node id: slot, from 1
        self.control: Control | None = None
        self.event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.say: Callable[[bytes], object] | None = None       # to all members, about deadlocks
        self.on_deadlock: Callable[[str], object] | None = None
        self.detector = deadlock.Detector(machine.our_nodeid, self, int(deadlock_after_s * 1e9))
        self._serials = 0
        self._transactions = 0
        self._waits: dict[int, _Wait] = {}
        self._locks: dict[int, Lock] = {}
        self._closed: str | None = None
        self._state = trio.Event()              # replaced at each recovery event
        self._tick = trio.Event()

    # ------------------------------------------------------------------ locks

    def lock(self, name: str | bytes, mode: LockMode, *, nowait: bool = False, lvb: bool = False,
             on_blocking: OnBlocking | None = None, flags: Flag = NO_FLAGS,
             transaction: Transaction | None = None) -> _Acquire:
        """Ask for a lock: `lk = await ls.lock("a", LockMode.EX)` or `async with ls.lock(...) as lk`.

        name: up to 64 bytes. nowait: WouldBlock instead of waiting. lvb: with the resource's lock value. on_blocking:
        called with the mode that somebody else wants when this lock is in the way; without it see
        Lock.wait_blocking. Raises WouldBlock, Deadlock, Closed, DlmError.
        """
        raw = name.encode() if isinstance(name, str) else name
        flags |= (Flag.NOQUEUE if nowait else NO_FLAGS) | (Flag.VALBLK if lvb else NO_FLAGS)
        lock = Lock(self, raw, LockMode.IV, on_blocking, lvb, transaction)
        return _Acquire(lambda: self._acquire(lock, mode, flags, transaction).__await__())

    def transaction(self, *, born_ns: int | None = None) -> Transaction:
        """Locks that are looked after for deadlocks: `async with space.transaction() as t: await t.lock("a", ...)`.

        born_ns: its age, by the wall clock; now, if not given. The youngest of those in a deadlock is the victim.
        """
        self._transactions += 1
        return Transaction(self, time.time_ns() if born_ns is None else born_ns, self._transactions)

    async def _acquire(self, lock: Lock, mode: LockMode, flags: Flag, transaction: Transaction | None) -> Lock:
        self.check()
        await trio.lowlevel.checkpoint_if_cancelled()
        lock.lkid = self.machine.lock(lock.name, mode, flags)
        self._locks[lock.lkid] = lock
        try:
            cast = await self.outcome(lock)
        except trio.Cancelled:
            if lock.mode is not LockMode.IV:
                await lock.unlock()             # the grant was faster; unlock cannot be cancelled
            raise
        if cast.status:
            raise refusal(cast.status, f"lock {lock.name!r} {mode.name}")
        if transaction is not None:
            transaction.locks[lock.lkid] = lock
        return lock

    async def outcome(self, lock: Lock) -> Cast:
        """Wait for the completion of the operation that was just begun on this lock; for Lock and Lockspace only."""
        self._serials += 1
        wait = self._waits[lock.lkid] = _Wait(self._serials)
        self.drain()
        if wait.cast is None:
            if lock.transaction is not None:
                self.detector.begins(lock.transaction.party, lock.lkid, wait.serial, time.monotonic_ns())
                self._turn()
            try:
                await wait.done.wait()
            except trio.Cancelled:
                if wait.cast is None:
                    lock.cancelled = True
                    with contextlib.suppress(DlmError):     # the outcome is on its way already
                        self.machine.cancel(lock.lkid)
                    self.drain()
                with trio.CancelScope(shield=True):
                    while wait.cast is None and self._closed is None:
                        await wait.done.wait()
                raise
            finally:
                self.detector.ends(wait.serial)
        if wait.cast is None:
            self.check()
            raise AssertionError("an operation ended without an outcome")
        return wait.cast

    def withdraw(self, lock: Lock) -> None:
        """For Lock.cancel."""
        wait = self._waits.get(lock.lkid)
        if wait is not None and wait.cast is None and not lock.unlocking:
            lock.cancelled = True
            with contextlib.suppress(DlmError):     # the outcome is on its way already
                self.machine.cancel(lock.lkid)
            self.drain()

    # ------------------------------------------------------------------ deadlocks

    def owner(self, lkid: int) -> deadlock.Party | None:
        """For the detector: the transaction of one of our locks."""
        lock = self._locks.get(lkid)
        return lock.transaction.party if lock is not None and lock.transaction is not None else None

    def place(self, lkid: int) -> tuple[int, int] | None:
        """For the detector: where one of our locks waits."""
        return self.machine.place(lkid)

    def blockers(self, node: int, lkid: int) -> list[tuple[int, int]]:
        """For the detector: what that node's lock waits for, which is mastered here."""
        return self.machine.blockers(node, lkid)

    def heard(self, data: bytes) -> None:
        """A message of the members about deadlocks. Raises ControlError."""
        self.detector.delivered(data)
        self._detected()

    def _detected(self) -> None:
        for effect in self.detector.effects():
            match effect:
                case deadlock.Say():
                    if self.say is not None:
                        self.say(effect.data)
                case deadlock.Cancel():
                    self._give_way(effect)

    def _give_way(self, what: deadlock.Cancel) -> None:
        wait = self._waits.get(what.lkid)
        if wait is None or wait.serial != what.serial or wait.cast is not None:
            return
        lock = self._locks[what.lkid]
        if self.on_deadlock is not None:
            self.on_deadlock(f"deadlock of transactions on nodes {list(what.nodes)}: {lock!r} gives way")
        lock.cancelled = True
        with contextlib.suppress(DlmError):         # the outcome is on its way already
            self.machine.cancel(what.lkid, deadlock=True)
        self.drain()

    # ------------------------------------------------------------------ what the machine tells

    def drain(self) -> None:
        """Hand out everything that the machine has told."""
        for event in self.machine.take_events():
            self._dispatch(event)

    def _dispatch(self, event: Event) -> None:
        match event:
            case Cast():
                lock = self._locks.get(event.lkid)
                if lock is not None:
                    lock.granted(event)
                    if event.mode == LockMode.IV:
                        del self._locks[event.lkid]
                wait = self._waits.pop(event.lkid, None)
                if wait is not None:
                    wait.cast = event
                    wait.done.set()
            case Bast():
                lock = self._locks.get(event.lkid)
                if lock is not None:
                    lock.blocked(LockMode(event.mode))
            case _:
                if isinstance(event, RecoverDone):
                    self.generation = event.generation
                    self.slots = {s.nodeid: s.slot for s in event.slots}
                if self.on_event is not None:
                    self.on_event(event)
                self._state.set()
                self._state = trio.Event()

    async def run(self) -> None:
        """The lockspace's task: events and time. Ends with `close`."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._timers)
            with contextlib.suppress(trio.ClosedResourceError):
                while self._closed is None:
                    with contextlib.suppress(BlockingIOError):
                        os.eventfd_read(self.event_fd)
                    self.drain()
                    await trio.lowlevel.wait_readable(self.event_fd)
            nursery.cancel_scope.cancel()

    async def _timers(self) -> None:
        while True:
            now_ns = time.monotonic_ns()
            self.machine.handle_timer(now_ns)
            self.detector.handle_timer(now_ns)
            self._detected()
            due_ns = min((t for t in (self.machine.next_timer(), self.detector.next_timer()) if t is not None),
                         default=None)
            # During recovery a reader's thread may bring the next question nearer; while it is stopped nothing is due.
            limit_s = RUNNING_TICK_S if self.machine.running or self.machine.phase == "stopped" else RECOVERY_TICK_S
            if due_ns is not None:
                limit_s = min(limit_s, max(0.001, (due_ns - now_ns) / 1e9))
            tick = self._tick
            with trio.move_on_after(limit_s):
                await tick.wait()

    # ------------------------------------------------------------------ membership

    def stop(self) -> None:
        """Grant nothing from here on; before every change of the members."""
        self.machine.stop()
        self.drain()

    def start(self, nodes: Sequence[Node], *, left: Collection[int] = ()) -> None:
        """Recover with these members, when all of them have stopped. Raises DlmError."""
        self.machine.start(nodes, time.monotonic_ns(), left=left)
        self._turn()
        self.drain()

    def _turn(self) -> None:
        """The next timer may be nearer than it was."""
        self._tick.set()
        self._tick = trio.Event()

    async def wait_running(self) -> None:
        """Wait until recovery is through. Raises Closed, DlmError when it failed."""
        while not self.machine.running:
            self.check()
            if self.machine.broken:
                raise DlmError(self.machine.broken, f"lockspace {self.name}: {os.strerror(self.machine.broken)}")
            await self._state.wait()

    async def wait_closed(self) -> None:
        """Wait until it has been left or lost; `check` then says why."""
        while self._closed is None:
            await self._state.wait()

    def check(self) -> None:
        """Raises Closed when it is."""
        if self._closed is not None:
            raise Closed(errno.ESHUTDOWN, f"lockspace {self.name}: {self._closed}")

    def close(self, why: str = "left") -> None:
        """Everything that waits gets Closed; the locks are gone with the membership."""
        if self._closed is not None:
            return
        self._closed = why
        for wait in list(self._waits.values()):
            wait.done.set()
        self._waits.clear()
        for lock in self._locks.values():
            lock.mode = LockMode.IV
            lock.wake()
        self._locks.clear()
        self._state.set()
        trio.lowlevel.notify_closing(self.event_fd)
        os.close(self.event_fd)

    # ------------------------------------------------------------------ to look at

    def dump(self) -> list[ResourceDump]:
        return self.machine.dump()

    def statistics(self) -> Statistics:
        return self.machine.statistics()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, value: BaseException | None,
                        trace: TracebackType | None) -> None:
        self.close()


async def blocking(lock: Lock) -> AsyncIterator[LockMode]:
    """All requests that this lock is in the way of, until it is released; for `async for`."""
    while True:
        try:
            yield await lock.wait_blocking()
        except Closed:
            return


__all__ = ["ECANCEL", "Closed", "Deadlock", "Flag", "Lock", "LockMode", "Lockspace", "Transaction", "Withdrawn",
           "WouldBlock", "blocking"]
