"""A mount that has withdrawn leaves its lockspace as if its process had died; and what kernel nodes do instead.

From the moment of a withdraw nothing of the mount reaches the disk any more, except what had been handed to the device
before (docs/design/withdraw.md). When that is through, and the kernel has given back what it cached under the mount's
locks, the promise of a dead process holds: it will not write, and nobody reads what it remembers. Then the group of the
lockspace sees this member go without a word, and the order that follows is that of any death: locking stops, the lock
manager recovers, one survivor replays the journal, and only then the locks are given to others.

If what was handed to the device does not come back, nobody can say that it will not be written later. Then the locks
stand, and this node is taken out of the cluster, so that the others fence it.

Kernel nodes withdraw otherwise (fs/gfs2/util.c, signal_our_withdraw, kernel 6.1): they stay members, let go the lock of
their journal, and ask for the live lock (NONDISK, number 1), which everybody holds PR, EX, without waiting for it. Who
is asked tries all journals whose lock can be had.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from dlm.core.packets import LockMode
from dlm.locks import Lock, Lockspace
from gfs2py.lock_dlm.mounting import lock_name

LIVE_NUMBER = 1
_NONDISK = 1
LOOK_S = 0.01
DRAIN_LIMIT_S = 10.0        # for operations that were handed to the device; then this node is to be fenced
CACHES_LIMIT_S = 5.0        # for what the kernel caches; reading it would be stale, but harms nobody else


class Withdrawn(Protocol):
    """A mount that has withdrawn, or may."""

    @property
    def withdrawn(self) -> str | None: ...
    def passing(self) -> int: ...
    def take_back(self) -> None: ...
    def giving_back(self) -> int: ...


async def settle(fs: Withdrawn, say: Callable[[str], object], stuck: Callable[[], Awaitable[None]]) -> None:
    """Until nothing of a withdrawn mount can reach the disk. `stuck` is called when that takes too long."""
    say(f"withdrawn: {fs.withdrawn}")
    with trio.move_on_after(DRAIN_LIMIT_S) as patience:
        await _until_none(fs.passing)
    if patience.cancelled_caught:
        say(f"{fs.passing()} operations do not come back from the device: nobody can say that they will not be "
            "written. The locks stand until this node is fenced")
        await stuck()
        await _until_none(fs.passing)
    with trio.move_on_after(CACHES_LIMIT_S) as patience:
        await trio.to_thread.run_sync(fs.take_back, abandon_on_cancel=True)
        await _until_none(fs.giving_back)
    if patience.cancelled_caught:
        say("the kernel does not give back all that it has cached")


async def _until_none(count: Callable[[], int]) -> None:
    while count():  # noqa: ASYNC110  threads that know nothing of trio
        await trio.sleep(LOOK_S)


class LiveLock:
    """Held by everybody; whoever withdraws while it stays a member asks for it."""

    def __init__(self, say: Callable[[str], object]) -> None:
        self._say = say
        self._wanted = trio.Event()
        self._lock: Lock | None = None

    async def begin(self, space: Lockspace) -> None:
        self._lock = await space.lock(lock_name(_NONDISK, LIVE_NUMBER), LockMode.PR,
                                      on_blocking=lambda _: self._wanted.set())

    async def run(self, journals: int, own: int, replay: Callable[[int], Awaitable[bool]]) -> None:
        """Until cancelled. replay(jid): False where another node has the journal."""
        while True:
            await self._wanted.wait()
            self._wanted = trio.Event()
            self._say("a node has withdrawn: looking for its journal")
            for jid in range(journals):
                if jid != own:
                    await replay(jid)
