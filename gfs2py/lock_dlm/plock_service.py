"""fcntl locks of one mount: between the compiled tables, the machine and the group. Decides nothing; trio's thread.

Requests that workers queue are sent to the group, many in one message when they come fast; what the group delivers goes
to the machine, whose answers wake the processes that wait.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Protocol

import trio

from cman import client
from cman.client import Reason
from gfs2py.engine._plock import FileLocks
from gfs2py.lock_dlm.plock import Plocks
from gfs2py.lock_dlm.plock_wire import Kind, PlockError, Request, View
from gfs2py.lock_dlm.ranges import Member

log = logging.getLogger("gfs2py.lock_dlm")

OWNED_MAX = 8192                # files without locks whose tables this node keeps
IDLE_BATCH = 256                # of those, given back at a time


class GroupPort(Protocol):
    """What is needed of a group; cman.client.Group is one."""

    me: client.Member

    async def mcast(self, data: bytes) -> None: ...
    async def next(self) -> client.Event: ...


class PlockService:
    """One mount's part. through(dead): whether the mount is through with these, of which each went in that view of the
    group; look() asks again. on_thaw: called when all are, and requests that were held back are done."""

    def __init__(self, locks: FileLocks, group: GroupPort, through: Callable[[Mapping[Member, View]], bool],
                 on_thaw: Callable[[], object] = lambda: None) -> None:
        self.locks, self.group = locks, group
        self.machine = Plocks((group.me.node, group.me.pid), locks)
        self._through, self._on_thaw = through, on_thaw
        self._gone: dict[Member, View] = {}     # who departed when
        self._said = trio.Event()

    async def run(self) -> None:
        """Until cancelled. Raises CmanError when cman ends."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._speak)
            nursery.start_soon(self._listen)
            await self._events()

    def look(self) -> None:
        """The mount may be through with those who are gone."""
        if self.machine.departed and self._through(self._gone):
            self.machine.recovered()
            self._said.set()

    async def _events(self) -> None:
        while True:
            event = await self.group.next()
            frozen = self.machine.frozen
            if isinstance(event, client.Configuration):
                self._configuration(event)
            else:
                try:
                    self.machine.delivered((event.sender.node, event.sender.pid), event.data, late=event.late)
                except PlockError as e:
                    log.error("file locks: a message of node %d is dropped: %s", event.sender.node, e)
            if frozen and not self.machine.frozen:
                self._on_thaw()
            self.look()
            self._said.set()

    def _configuration(self, event: client.Configuration) -> None:
        self.machine.configuration(
            event.view, [(m.node, m.pid) for m in event.members], [(m.node, m.pid) for m, _ in event.joined],
            [((m.node, m.pid), reason is Reason.LEAVE) for m, reason in event.left])
        gone = {**self._gone, **{(m.node, m.pid): event.view for m, _ in event.left}}
        self._gone = {member: gone[member] for member in self.machine.departed}
        for member, reason in event.left:
            if reason is not Reason.LEAVE:
                log.info("file locks: held until the mount is through with node %d", member.node)

    async def _listen(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self.locks.event_fd)
            for kind, number, inode, owner, fh, pid, write, start, end, wait in self.locks.drain():
                self.machine.request(Request(number, Kind(kind), inode, owner, fh, pid, write, start, end, wait))
            unused = self.locks.idle(OWNED_MAX, IDLE_BATCH)
            if unused:
                self.machine.release(unused)
            self._said.set()

    async def _speak(self) -> None:
        while True:
            while (message := self.machine.message()) is not None:
                await self.group.mcast(message)
            await self._said.wait()
            self._said = trio.Event()
