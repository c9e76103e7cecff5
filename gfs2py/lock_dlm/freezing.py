"""Freezing a shared file system on all its nodes: nobody writes, nothing is left in a journal.

One lock of the lockspace, type NONDISK, number 2, asks and agrees:

    PR    by everybody who has it mounted and may write
    EX    by the node that freezes; asking for it is the order to the others

Who freezes stops its own mount, lets PR go and asks for EX. Whoever is in the way of that stops its mount, too (the
operations under way end, all is committed and written in place, a header says that the journal is clean), lets PR go,
and asks for it again at once: the answer is the thaw. So when EX is granted, nobody writes. A node that froze and dies
loses its EX with the lock manager's recovery, and the others go on by themselves.

With EX held the heads of all journals are looked at. One that is not clean belongs to a node that died: the file system
is thawed, so that it can be replayed, and frozen again.

Replays write, too. So a replay and the step into a freeze exclude each other (`writing`), and while it is frozen only
journals that need none are called replayed.

Source for the behaviour: fs/gfs2/super.c (gfs2_freeze_super, gfs2_lock_fs_check_clean, gfs2_freeze_func), glops.c
(freeze_go_callback), kernel 6.1. Unlike there PR is asked for as a new lock, never by a conversion from NL: that could
overtake the request for EX, unless flagged, and a new one never does.
"""

from __future__ import annotations

import enum
import errno
from collections.abc import Callable
from functools import partial
from typing import Protocol

import trio

from dlm.core.packets import LockMode
from dlm.locks import Lock, Lockspace, WouldBlock
from gfs2py.lock_dlm.mounting import lock_name

FREEZE_NUMBER = 2
_NONDISK = 1
LIMIT_S = 120.0         # for all nodes to stand still; after that the freeze is given up
AGAIN_S = 0.5           # for the replay of a journal that was not clean


class Freezable(Protocol):
    """One mount, as it is frozen. The methods are called in threads; they raise OSError."""

    def freeze_here(self) -> None: ...
    def thaw_here(self) -> None: ...
    def dirty_journals(self) -> list[int]: ...


class State(enum.Enum):
    THAWED = "thawed"
    FREEZING = "freezing"       # this node freezes, and waits for the others
    FROZEN = "frozen"           # by this node
    YIELDED = "yielded"         # by another, or about to be


class FreezeControl:
    """One mount's part in it. All methods belong to trio's thread."""

    def __init__(self, say: Callable[[str], object]) -> None:
        self.state = State.THAWED
        self.writing = trio.Lock()
        self._say = say
        self._space: Lockspace | None = None
        self._lock: Lock | None = None
        self._fs: Freezable | None = None
        self._wanted = trio.Event()
        self._turn = trio.Lock()                # one change of the state at a time

    async def begin(self, space: Lockspace) -> None:
        """Before anything is written: waits while others have frozen it."""
        self._space = space
        try:
            self._lock = await self._ask(LockMode.PR, nowait=True)
        except WouldBlock:
            self._say("the file system is frozen by another node: waiting for the thaw (gfs2_tool unfreeze there)")
            self._lock = await self._ask(LockMode.PR)

    async def _ask(self, mode: LockMode, nowait: bool = False) -> Lock:
        assert self._space is not None
        return await self._space.lock(lock_name(_NONDISK, FREEZE_NUMBER), mode, nowait=nowait,
                                      on_blocking=lambda _: self._wanted.set())

    async def run(self, fs: Freezable) -> None:
        """Obey others until cancelled; from here on this node may freeze, too."""
        self._fs = fs
        while True:
            await self._wanted.wait()
            self._wanted = trio.Event()
            async with self._turn:
                if self.state is State.THAWED:
                    await self._yield(fs)

    async def _stand_still(self, fs: Freezable) -> None:
        async with self.writing:
            await trio.to_thread.run_sync(fs.freeze_here)

    async def _yield(self, fs: Freezable) -> None:
        """Another node wants EX."""
        self.state = State.YIELDED
        try:
            await self._stand_still(fs)
        except OSError as e:
            # A mount that has withdrawn or ends: the lock goes with it.
            self._say(f"not frozen: {e.strerror}")
            self.state = State.THAWED
            return
        self._say("frozen by another node")
        await self._back(fs)
        self._say("thawed")

    async def _back(self, fs: Freezable) -> None:
        """What is held goes; once nobody freezes any more, the mount goes on."""
        assert self._lock is not None
        await self._lock.unlock()
        self._lock = await self._ask(LockMode.PR)
        await trio.to_thread.run_sync(fs.thaw_here)
        self.state = State.THAWED

    # -- this node

    async def freeze(self, limit_s: float = LIMIT_S) -> None:
        """Raises OSError: EBUSY (frozen already), ETIMEDOUT (a node does not stand still), EIO."""
        fs = self._fs
        if fs is None:
            raise OSError(errno.EAGAIN, "the mount is not through yet")
        if self.state is not State.THAWED:
            raise OSError(errno.EBUSY, "the file system is frozen already")
        with trio.move_on_after(limit_s):
            async with self._turn:
                if self.state is not State.THAWED:
                    raise OSError(errno.EBUSY, "the file system is frozen already")
                await self._freeze(fs)
            return
        raise OSError(errno.ETIMEDOUT, f"not all nodes stood still within {limit_s:g} s")

    async def _freeze(self, fs: Freezable) -> None:
        assert self._lock is not None
        self.state = State.FREEZING
        try:
            while True:
                await self._stand_still(fs)
                await self._lock.unlock()
                self._lock = await self._ask(LockMode.EX)
                dirty = await trio.to_thread.run_sync(fs.dirty_journals)
                if not dirty:
                    break
                self._say(f"freezing waits for the replay of journal {', '.join(map(str, dirty))}")
                await self._back(fs)
                self.state = State.FREEZING
                await trio.sleep(AGAIN_S)
        except BaseException:
            self._say("freezing was given up")
            with trio.CancelScope(shield=True):
                await self._back(fs)
            raise
        self.state = State.FROZEN
        self._say("frozen on all nodes, all journals are empty")

    async def thaw(self) -> None:
        """Raises OSError EINVAL when it is not this node that has frozen it. Waits when another node wants to."""
        self._must_be_ours()
        async with self._turn:
            self._must_be_ours()
            assert self._fs is not None
            await self._back(self._fs)
            self._say("thawed")

    def _must_be_ours(self) -> None:
        if self.state is not State.FROZEN:
            raise OSError(errno.EINVAL, "the file system was not frozen on this node" if self.state is State.YIELDED
                          else "the file system is not frozen")

    async def replay(self, jid: int, replay: Callable[[int], bool]) -> bool:
        """Run a replay, unless it is frozen: then True only if the journal needs none."""
        async with self.writing:
            if self.state is State.THAWED or self._fs is None:
                return await trio.to_thread.run_sync(partial(replay, jid))
            return jid not in await trio.to_thread.run_sync(self._fs.dirty_journals)
