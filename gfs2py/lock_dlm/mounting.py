"""Joining and staying: who mounts first, which journal is whose, who replays the journals of the dead.

Two locks of the lockspace beside those of glocks (type NONDISK, numbers 4 and 5):

    mounted   PR by everybody who has mounted, EX by the first one while it replays all journals
    control   held only for a moment, EX, to read and write its value (generations.py)

Source for the behaviour: fs/gfs2/lock_dlm.c (control_mount and the comments at the file's head), kernel 6.1. Unlike
there nothing is polled with a fixed delay: what a wait is for is told by an event, or looked at again soon.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import trio

from dlm.core.errors import DlmError
from dlm.core.events import RecoverDone, RecoverFailed, RecoverPrep, RecoverSlot
from dlm.core.packets import LockMode
from dlm.locks import Lock, Lockspace, RecoveryEvent, WouldBlock
from gfs2py.lock_dlm.generations import DISABLED, ControlValue, Generations

CONTROL_NUMBER, MOUNTED_NUMBER = 4, 5
_NONDISK = 1
# Others need a moment to take note of a new member; looked at again after that long, and less often as time goes by.
RETRY_MIN_S, RETRY_MAX_S = 0.02, 0.5
_FIRST = "waiting for the control lock: another node is mounting, perhaps as the first"
# Another node is busy with the journal: most are replayed in milliseconds. The same way, up to so long.
BUSY_MAX_S = 0.2


def lock_name(kind: int, number: int) -> bytes:
    """The name of a glock's lock: 24 columns."""
    return b"%8x%16x" % (kind, number)


class Grants(Protocol):
    """The glocks' side: grants wait while a death is being dealt with."""

    def block(self) -> None: ...
    def unblock(self) -> int: ...


class MountRefused(DlmError):
    """This node may not mount; the text says why."""


@dataclass(frozen=True, slots=True)
class Seat:
    """What this node got: its journal, and whether it is the first and has to replay all of them."""

    jid: int
    first: bool


class MountControl:
    """One mount's part in the agreement. `on_event` goes to the Lockspace; all methods belong to trio's thread.

    say: called with one line when something is waited for or done.
    """

    def __init__(self, grants: Grants, *, spectator: bool = False, say: Callable[[str], object]) -> None:
        self.known = Generations()
        self.jid = -1
        self._grants = grants
        self._spectator = spectator
        self._say = say
        self._space: Lockspace | None = None
        self._failed: RecoverFailed | None = None
        self._mounted = self._first = False
        self._control: Lock | None = None
        self._member: Lock | None = None        # the mounted lock
        self._kick = trio.Event()
        self._told = ""
        self.waits_for = ""                     # while joining, for people
        self._dealt_with = -1                   # the last generation whose deaths are
        self.on_settled: Callable[[], object] = lambda: None

    # -- from the lockspace

    def on_event(self, event: RecoveryEvent) -> None:
        """In the order of the events. A stop is told before any grant of the recovery can come."""
        match event:
            case RecoverPrep():
                self.known.stopped()
                if self._mounted and not self._first:
                    self._grants.block()
            case RecoverSlot():
                if event.slot > 0:
                    self.known.died(event.slot - 1)
                    self._say(f"jid={event.slot - 1}: node {event.nodeid} is gone")
            case RecoverDone():
                self.known.recovered(event.generation)
                if self.jid < 0:
                    self.jid = event.our_slot - 1
                self._failed = None
                self._wake()
            case RecoverFailed():
                self._failed = event
                self._wake()

    @property
    def settled(self) -> bool:
        """Whether all deaths that the lockspace knows of are dealt with."""
        return not self.known.recovering and self._dealt_with == self.known.started

    def _wake(self) -> None:
        self._kick.set()
        self._kick = trio.Event()

    # -- joining

    async def join(self, space: Lockspace) -> Seat:
        """Wait until this node may use the file system. Raises MountRefused, DlmError.

        The first one holds both locks until first_done(). Cancelling leaves nothing but the two locks at NL.
        """
        self._space = space
        self._grants.block()
        await space.wait_running()
        self._control = await space.lock(lock_name(_NONDISK, CONTROL_NUMBER), LockMode.NL, lvb=True)
        self._member = await space.lock(lock_name(_NONDISK, MOUNTED_NUMBER), LockMode.NL)
        delay_s = RETRY_MIN_S
        while (why := await self._try()) is not None:
            self.waits_for = why
            self._tell(why)
            kick = self._kick
            with trio.move_on_after(delay_s):
                await kick.wait()
            delay_s = min(delay_s * 1.5, RETRY_MAX_S)
        self._mounted, self.waits_for = True, ""
        self._grants.unblock()
        return Seat(self.jid, self._first)

    async def _try(self) -> str | None:
        """None when this node is in; else what it has to wait for."""
        assert self._control is not None
        assert self._member is not None
        try:
            self.waits_for = self.waits_for or _FIRST
            await self._control.convert(LockMode.EX)
            value = ControlValue.unpack(self._control.value)
            if value.generation == DISABLED:
                raise MountRefused(errno.EINVAL, "mounts of this file system are disabled (control lock)")
            if not self._spectator and await self._be_first():
                self._first = True
                self._say(f"first mounter, control generation {value.generation}")
                return None
            await self._member.convert(LockMode.PR)
            why = self.known.why_not_yet(value)
            if why is None:
                self.known.forget()
            else:
                # Not mounted yet: whoever comes may be the first.
                await self._member.convert(LockMode.NL)
            return why
        finally:
            if not self._first:
                await self._give_back()

    async def _be_first(self) -> bool:
        assert self._member is not None
        try:
            await self._member.convert(LockMode.EX, nowait=True)
        except WouldBlock:
            return False
        return True

    def _tell(self, why: str) -> None:
        if why != self._told:
            self._told = why
            self._say(why)

    async def first_done(self) -> None:
        """The first one has replayed all journals: others may come."""
        assert self._first
        assert self._control is not None
        assert self._member is not None
        # Whoever died until now had not mounted: nothing of it is in a journal.
        while self.known.recovering:
            await self._kick.wait()
        self._first = False
        self.known.forget()
        await self._member.convert(LockMode.PR)
        await self._control.convert(LockMode.NL, value=ControlValue(self.known.started).pack())

    # -- staying

    async def run(self, replay: Callable[[int], Awaitable[bool]]) -> None:
        """Deal with deaths until cancelled. `replay(jid)`: False when another node is at it.

        Raises DlmError when the lockspace has failed.
        """
        delay_s = RETRY_MIN_S
        while True:
            if self._failed is not None:
                raise DlmError(self._failed.errno, f"recovery of the lockspace failed at node {self._failed.nodeid}")
            if self.known.recovering or self.known.started == self._dealt_with:
                await self._kick.wait()
                continue
            generation = self.known.started
            jids = await self._look()
            if jids is None:
                continue
            if not jids:
                delay_s = RETRY_MIN_S
                self._dealt_with = generation
                if self.settled:
                    self._grants.unblock()
                    self._say(f"recover generation {generation} done")
                    self.on_settled()
                continue
            busy = False
            for jid in jids:
                death = self.known.deaths.get(jid)
                if await replay(jid):
                    self.known.is_replayed(jid, death)
                else:
                    busy = True
            if busy:
                kick = self._kick
                with trio.move_on_after(delay_s):
                    await kick.wait()
                delay_s = min(delay_s * 1.5, BUSY_MAX_S)

    async def _look(self) -> tuple[int, ...] | None:
        """The journals to replay; None when another recovery came in between."""
        assert self._control is not None
        control, step = self._control, None
        before = (self.known.blocked_at, self.known.started)
        try:
            await control.convert(LockMode.EX)
            if (self.known.blocked_at, self.known.started) == before:
                step = self.known.look(ControlValue.unpack(control.value))
        finally:
            await self._give_back(None if step is None else step.write)
        return None if step is None else step.replay

    async def _give_back(self, write: ControlValue | None = None) -> None:
        """The control lock down to NL. A cancelled conversion may have been granted all the same."""
        assert self._control is not None
        if self._control.mode is LockMode.EX:
            with trio.CancelScope(shield=True):
                await self._control.convert(LockMode.NL, value=None if write is None else write.pack())
