"""A user of locks as the file system is one: glocks that are kept, asked back, flushed, invalidated and let go.

Each name is a register on the shared disk. Reading needs PR, writing EX; what was written stays in the cache, dirty,
until it is synced or the lock goes. A blocking call is honoured after a minimum hold; until then operations are served,
then the gate closes, dirty data go to the disk, the cache is dropped, and the lock goes down with the version as its
value. What each step did is told to `World`, which knows all nodes.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from dlm.core._lockspace import Lockspace
from dlm.core.errors import DlmError
from dlm.core.events import Bast, Cast, Event, RecoverDone, RecoverPrep
from dlm.core.packets import ECANCEL, EUNLOCK, Flag, LockMode, StatusFlag

ENOENT, EBUSY, EDEADLK = 2, 16, 35
RETRY_NS = 1_000_000
IV, NL, PR, EX = LockMode.IV, LockMode.NL, LockMode.PR, LockMode.EX
OPS_MAX = 16
UNWRITTEN = bytes(32)


class World(Protocol):
    """What sees all nodes: the disk and the checker."""

    def rights(self, me: int, name: bytes, mode: int) -> None: ...
    def read_disk(self, name: bytes) -> int: ...
    def read(self, me: int, name: bytes, version: int) -> None: ...
    def write(self, me: int, name: bytes, base: int) -> int: ...
    def flush(self, me: int, name: bytes, version: int) -> None: ...
    def value(self, me: int, name: bytes, version: int) -> None: ...
    def recovers(self, me: int, failed: tuple[int, ...]) -> None: ...


@dataclass
class Glock:
    """One name. `mode`: the rights that this node relies on; `busy`: an operation of the engine is under way."""

    name: bytes
    lkid: int = 0
    mode: int = IV
    busy: str = ""
    ops: deque[str] = field(default_factory=deque)
    demote: int | None = None
    # Refused as busy, because the answer to a late cancel is still to come: once again.
    again: Callable[[], None] | None = None
    cached: int | None = None
    dirty: bool = False


class Glocks:
    """All glocks of one node. hold_ns: the longest minimum hold; it is drawn for each."""

    def __init__(self, space: Lockspace, me: int, world: World, rng: random.Random, hold_ns: int) -> None:
        self.space, self.me, self.world = space, me, world
        self.glocks: dict[bytes, Glock] = {}
        self.by_id: dict[int, Glock] = {}
        self.served = self.deadlocks = self.void = self.basts = 0
        self.recovering = True
        self.stopped = False
        self._rng = rng
        self._hold_ns = hold_ns
        self._timers: dict[bytes, int] = {}
        self._now_ns = 0

    # Operations

    def submit(self, name: bytes, op: str, now_ns: int) -> bool:
        """op: "read", "write" or "sync"; False if there are too many."""
        gl = self.glocks.setdefault(name, Glock(name))
        if self.stopped or len(gl.ops) >= OPS_MAX:
            return False
        gl.ops.append(op)
        self._run(gl, now_ns)
        return True

    def cancel(self, name: bytes) -> None:
        """The oldest operation is given up, if it waits for the lock."""
        gl = self.glocks.get(name)
        if gl is not None and gl.busy == "up" and gl.ops and gl.again is None and not self.stopped:
            gl.ops.popleft()
            try:
                self.space.cancel(gl.lkid)
            except DlmError as error:
                # Granted or gone already, and the completion is on its way.
                if error.errno != ENOENT:
                    raise

    def release(self, now_ns: int) -> None:
        """Give everything back."""
        for gl in self.glocks.values():
            if gl.lkid and not gl.busy:
                self._down(gl, IV)

    def stop(self, now_ns: int) -> None:
        """This node leaves: no rights are relied on any more."""
        self.stopped = True
        for gl in self.glocks.values():
            self._settle(gl, NL)

    def pending(self) -> list[Glock]:
        return [gl for gl in self.glocks.values() if gl.ops or gl.busy or gl.demote is not None]

    # Rights

    def _run(self, gl: Glock, now_ns: int) -> None:
        """Serve what can be served; ask for the lock that the next operation needs."""
        self._now_ns = now_ns
        if gl.busy or self.stopped:
            return
        while gl.ops:
            need = EX if gl.ops[0] == "write" else PR
            if gl.mode < need:
                # What others asked for goes first.
                if gl.demote is None or gl.mode <= NL:
                    self._up(gl, need)
                return
            self._serve(gl, gl.ops.popleft())

    def _serve(self, gl: Glock, op: str) -> None:
        self.served += 1
        if gl.cached is None:
            gl.cached = self.world.read_disk(gl.name)
        if op == "read":
            self.world.read(self.me, gl.name, gl.cached)
        elif op == "write":
            gl.cached = self.world.write(self.me, gl.name, gl.cached)
            gl.dirty = True
        else:
            self._flush(gl)

    def _flush(self, gl: Glock) -> None:
        if gl.dirty and gl.cached is not None:
            self.world.flush(self.me, gl.name, gl.cached)
        gl.dirty = False

    def _settle(self, gl: Glock, mode: int) -> None:
        """Before the rights go down to `mode`: nothing dirty, nothing cached that they do not cover."""
        self._flush(gl)
        if mode < PR:
            gl.cached = None
        if gl.mode > mode:
            gl.mode = mode
            self.world.rights(self.me, gl.name, mode)

    def _up(self, gl: Glock, need: int) -> None:
        flags = Flag.VALBLK
        gl.busy = "up"
        if not gl.lkid:
            gl.lkid = self.space.lock(gl.name, need, flags, value=UNWRITTEN)
            self.by_id[gl.lkid] = gl
            return
        choice = self._rng.random()
        if choice < 0.3:
            flags |= Flag.QUECVT
        elif choice < 0.5:
            # It may be taken away for a moment; and another way than holding PR and asking for EX.
            flags |= Flag.CONVDEADLK
            self._settle(gl, NL)
        self._convert(gl, need, flags)

    def _convert(self, gl: Glock, mode: int, flags: Flag, value: bytes = UNWRITTEN) -> None:
        self._try(gl, lambda: self.space.convert(gl.lkid, mode, flags, value=value))

    def _try(self, gl: Glock, operation: Callable[[], None]) -> None:
        try:
            operation()
        except DlmError as error:
            if error.errno != EBUSY:
                raise
            gl.again = lambda: self._try(gl, operation)
            self._timers[gl.name] = self._now_ns + RETRY_NS

    def _down(self, gl: Glock, mode: int) -> None:
        """The gate: flush, invalidate, then let the lock go (IV: all of it)."""
        held, version = gl.mode, gl.cached
        self._settle(gl, max(mode, NL))
        gl.busy = "down"
        value = None
        if held == EX:
            version = version if version is not None else self.world.read_disk(gl.name)
            value = b"%032d" % version
        if mode == IV:
            self._try(gl, lambda: self.space.unlock(gl.lkid, Flag.VALBLK if value is not None else 0, value=value))
        else:
            self._convert(gl, mode, Flag.VALBLK, value if value is not None else UNWRITTEN)

    # What the engine says

    def starting(self, failed: tuple[int, ...]) -> None:
        self.world.recovers(self.me, failed)

    def event(self, event: Event, now_ns: int) -> None:
        if isinstance(event, Cast | Bast):
            assert not self.recovering, f"{event} before recovery was done"
            gl = self.by_id[event.lkid]
            if self.stopped:
                return
            if isinstance(event, Bast):
                self._bast(gl, event.mode, now_ns)
            else:
                self._cast(gl, event, now_ns)
        elif isinstance(event, RecoverPrep):
            self.recovering = True
        elif isinstance(event, RecoverDone):
            self.recovering = False

    def _bast(self, gl: Glock, wanted: int, now_ns: int) -> None:
        self.basts += 1
        target = PR if wanted == PR else NL
        gl.demote = target if gl.demote is None else min(gl.demote, target)
        if gl.name not in self._timers:
            self._timers[gl.name] = now_ns + self._hold()

    def _hold(self) -> int:
        return int(self._rng.random() * self._hold_ns)

    def _cast(self, gl: Glock, cast: Cast, now_ns: int) -> None:
        was, gl.busy = gl.busy, ""
        if cast.mode == IV:
            del self.by_id[gl.lkid]
            gl.lkid, gl.mode, gl.demote = 0, IV, None
        if cast.status == 0 and was == "up":
            self._granted(gl, cast)
        elif cast.status == -EDEADLK:
            self.deadlocks += 1
            self._down(gl, NL)
            return
        elif cast.status == -ECANCEL and gl.lkid and gl.mode != cast.mode:
            # Demoted on the way by recovery, or back at what was given up for the time being.
            self._settle(gl, min(gl.mode, cast.mode))
            gl.mode = cast.mode
            self.world.rights(self.me, gl.name, cast.mode)
        else:
            assert cast.status in (0, -EUNLOCK, -ECANCEL), cast
        self._run(gl, now_ns)
        if gl.demote is not None and not gl.busy and gl.name not in self._timers:
            self._timers[gl.name] = now_ns + self._hold()

    def _granted(self, gl: Glock, cast: Cast) -> None:
        assert cast.value is not None
        if cast.flags & StatusFlag.VALNOTVALID:
            self.void += 1
        elif cast.value != UNWRITTEN:
            self.world.value(self.me, gl.name, int(cast.value))
        gl.cached = None
        gl.mode = cast.mode
        self.world.rights(self.me, gl.name, cast.mode)

    # Time

    def handle_timer(self, now_ns: int) -> None:
        self._now_ns = now_ns
        for name in [n for n, due in self._timers.items() if now_ns >= due]:
            gl = self.glocks[name]
            del self._timers[name]
            if gl.again is not None and not self.stopped:
                again, gl.again = gl.again, None
                again()
            if gl.busy or self.stopped:
                # What is under way ends first.
                continue
            target, gl.demote = gl.demote, None
            if target is not None and gl.lkid and gl.mode > target:
                # Until here everything was served under the old lock.
                self._down(gl, target)
            else:
                self._run(gl, now_ns)

    def next_timer(self) -> int | None:
        return min(self._timers.values(), default=None)
