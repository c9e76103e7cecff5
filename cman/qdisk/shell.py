"""The quorum disk's hands: reads and writes the disk for cman.qdisk.machine, in tasks of the daemon.

Every system call on the disk is made by a thread of its own, one at a time. A disk path that hangs keeps that thread
in the kernel and nobody else: the ring goes on, the lease of our word as master runs out, the others see our block
stand still. The log says how long it has hung and when the others will evict us.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TypeVar, TypeVarTuple

import trio

from cman.ccs.load import Config
from cman.node import NodeMachine
from cman.qdisk.disk import Disk, find
from cman.qdisk.heuristics import Heuristics
from cman.qdisk.machine import Effect, Kill, QdiskLog, QdiskMachine, Reboot, Stop, Votes, Write
from cman.qdisk.ondisk import SLOTS, NodeState, QdiskError, Status, pack_status, unpack_status
from cman.qdisk.settings import QdiskSettings, settings_of
from cman.quorum import Standing
from cman.views import HeuristicView, QdiskView

log = logging.getLogger("cman.QDISK")

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

LEAVE_LIMIT_S = 3.0
FIND_AGAIN_S = 1.0
REALTIME_PRIORITY = 9           # one below the ring's


class Owner(Protocol):
    """The daemon, as the shell sees it."""

    node: NodeMachine

    def now(self) -> int: ...                               # monotonic ns

    def pump(self) -> None: ...                             # do the machine's effects

    def reboot(self, why: str) -> None: ...                 # this node must not go on

    def end(self, why: str) -> None: ...                    # cman must not go on


class Medium(Protocol):
    """A disk, or a test's. Raises OSError."""

    path: str
    sector_bytes: int

    def read_all(self) -> Mapping[int, bytes]: ...          # the blocks that could be read

    def write_block(self, nodeid: int, data: bytes) -> None: ...

    def close(self) -> None: ...


def open_disk(settings: QdiskSettings) -> Disk:
    """By label or by name. Raises QdiskError, OSError."""
    path = find(settings.label, settings.device) if settings.label else settings.device
    disk = Disk(path)
    try:
        disk.check_size()
        disk.header()
    except BaseException:
        disk.close()
        raise
    return disk


class QuorumDisk:
    """This node's part in the quorum disk, if the configuration has one."""

    def __init__(self, owner: Owner, opener: Callable[[QdiskSettings], Medium] = open_disk,
                 incarnation: Callable[[], int] = lambda: random.SystemRandom().getrandbits(62) + 1) -> None:
        self._owner, self._open, self._incarnation = owner, opener, incarnation
        self._settings = settings_of(owner.node.config)
        self._restart = trio.CancelScope()
        # The thread may be used by one at a time, also after it was given up in a hanging call.
        self._thread = trio.CapacityLimiter(1)
        self._ready = trio.Event()
        self._busy: tuple[str, float] | None = None         # system call, since when
        self._cycle_began: float | None = None
        self._hang_told = False
        self._trouble = ""
        self._timestamp = 0
        self._machine: QdiskMachine | None = None
        self._medium: Medium | None = None
        self._heuristics = Heuristics(())

    def ready(self) -> None:
        """This node is a member."""
        self._ready.set()

    def configured(self, config: Config) -> None:
        """A new configuration: begins, ends or begins anew if the part about the disk is another one."""
        settings = settings_of(config)
        if settings != self._settings:
            self._settings = settings
            log.info("the settings of the quorum disk have changed" if settings else "there is no quorum disk any more")
            self._restart.cancel()

    def view(self) -> QdiskView:
        """For people and programs."""
        settings, machine = self._settings, self._machine
        score, score_max = self._heuristics.score()
        hung_s = int(trio.current_time() - self._busy[1]) if self._busy is not None and self._hang_told else 0
        least = (settings.machine.min_score if settings else 0) or (score_max + 1) // 2
        return QdiskView(
            settings is not None, self._medium.path if self._medium else settings.device if settings else "",
            settings.label if settings else "", machine.state.name.lower() if machine else "none",
            machine.master if machine else 0, score, score_max, least, self._owner.node.disk.ours,
            sorted(n for n, s in machine.nodes.items() if s.runs) if machine else [], hung_s, self._trouble,
            [HeuristicView(s.heuristic.program, s.heuristic.score, s.up, s.misses, s.says)
             for s in self._heuristics.standings])

    async def run(self) -> None:
        """Until cancelled."""
        await self._ready.wait()
        while True:
            self._restart = trio.CancelScope()
            with self._restart:
                if self._settings is None:
                    await trio.sleep_forever()
                else:
                    await self._session(self._settings)
            await self._end_session()

    async def leave(self) -> None:
        """This node goes in order: its block says so."""
        machine, medium = self._machine, self._medium
        if machine is None or medium is None:
            return
        self._machine = None
        status = machine.leave(self._next_timestamp())
        with trio.CancelScope(deadline=trio.current_time() + LEAVE_LIMIT_S, shield=True), \
                suppress(OSError):
            await self._in_thread("write", medium.write_block, self._owner.node.me,
                                  pack_status(status, medium.sector_bytes))

    # One life with one disk

    async def _session(self, settings: QdiskSettings) -> None:
        medium = await self._find(settings)
        self._medium, self._owner.node.disk_name = medium, medium.path
        self._heuristics = Heuristics(settings.heuristics)
        machine = self._machine = QdiskMachine(self._owner.node.me, settings.machine, self._incarnation())
        log.info("quorum disk %s, label %r: interval %g s, tko %d", medium.path, settings.label, settings.interval_s,
                 settings.machine.tko)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._heuristics.run)
            nursery.start_soon(self._watch, settings)
            while True:
                began = self._cycle_began = trio.current_time()
                await self._cycle(settings, machine, medium)
                self._cycle_began = None
                await trio.sleep_until(max(began + settings.interval_s, trio.current_time()))

    async def _end_session(self) -> None:
        """What the disk gave is given back."""
        await self.leave()
        medium, self._medium = self._medium, None
        self._heuristics = Heuristics(())
        self._owner.node.disk_word(0, self._owner.now())
        self._owner.pump()
        if medium is not None:
            with trio.move_on_after(LEAVE_LIMIT_S):
                await self._in_thread("close", medium.close)

    async def _find(self, settings: QdiskSettings) -> Medium:
        told = ""
        while True:
            try:
                return await self._in_thread("open", self._open, settings)
            except (OSError, QdiskError) as e:
                self._trouble = f"{settings.device}: {e.strerror}" if isinstance(e, OSError) else str(e)
            if told != self._trouble:
                told = self._trouble
                log.error("Unable to find the quorum disk %s: %s", settings.label or settings.device, told)
            if settings.stop_cman:
                self._owner.end(f"the quorum disk is not to be found (stop_cman): {self._trouble}")
                await trio.sleep_forever()
            await trio.sleep(max(settings.interval_s, FIND_AGAIN_S))

    async def _cycle(self, settings: QdiskSettings, machine: QdiskMachine, medium: Medium) -> None:
        """Read all, decide, write. Errors of the disk are told once, until it is well again."""
        owner, node, began_ns = self._owner, self._owner.node, self._owner.now()
        trouble = ""
        try:
            found = await self._in_thread("read", medium.read_all)
        except OSError as e:
            found, trouble = {}, f"read: {e.strerror or e}"
        blocks, damage = _statuses(found)
        trouble = trouble or damage
        # Who went in order says so on the disk as well, and is not evicted.
        gone = [n for n, s in node.quorum.standing.items() if s is Standing.OUT and not node.roster.said_goodbye(n)]
        effects = machine.cycle(blocks, self._heuristics.score(), node.members, gone, self._next_timestamp(), began_ns)
        for effect in effects:
            if isinstance(effect, Write):
                try:
                    await self._in_thread("write", medium.write_block, effect.status.nodeid,
                                          pack_status(effect.status, medium.sector_bytes))
                except OSError as e:
                    trouble = f"write: {e.strerror or e}"
                    if effect.status.nodeid == node.me and not damage:
                        effects = [*effects, *machine.failed()]
                else:
                    if effect.status.nodeid == node.me:
                        machine.wrote(began_ns)
        self._tell(trouble, medium)
        node.disk_word(machine.votes_until_ns(), owner.now())
        self._do(effects, node)
        if settings.status_file:
            with suppress(OSError):
                await self._in_thread("status_file", _replace, Path(settings.status_file), self._status_text(machine))
        owner.pump()

    def _do(self, effects: Sequence[Effect], node: NodeMachine) -> None:
        for effect in effects:
            match effect:
                case QdiskLog(text, warning):
                    log.log(logging.WARNING if warning else logging.INFO, "%s", text)
                case Kill(nodeid):
                    if nodeid in node.members:
                        node.control(self._owner.now(), t="kill", node=nodeid)
                case Reboot(why):
                    self._owner.reboot(why)
                case Stop(why):
                    self._owner.end(why)
                case Votes() | Write():
                    pass                # Votes: what we say as master counts, not what anybody reads

    def _tell(self, trouble: str, medium: Medium) -> None:
        if trouble and trouble != self._trouble:
            log.error("quorum disk %s: %s", medium.path, trouble)
        elif self._trouble and not trouble:
            log.info("quorum disk %s: it can be read and written again", medium.path)
        self._trouble = trouble

    def _next_timestamp(self) -> int:
        """Seconds since the epoch as with qdiskd, but each another one, whatever the interval."""
        self._timestamp = max(self._timestamp + 1, int(time.time()))
        return self._timestamp

    # The thread

    async def _in_thread(self, what: str, call: Callable[[*Ts], T], *arguments: *Ts) -> T:
        def urgent() -> T:
            with suppress(OSError):
                if os.sched_getscheduler(os.getpid()) == os.SCHED_RR | os.SCHED_RESET_ON_FORK:
                    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(REALTIME_PRIORITY))
            return call(*arguments)

        self._busy = what, trio.current_time()
        try:
            return await trio.to_thread.run_sync(urgent, abandon_on_cancel=True, limiter=self._thread)
        finally:
            self._busy = None
            if self._hang_told:
                self._hang_told = False
                log.warning("qdiskd: %s (system call) has come back", what)

    async def _watch(self, settings: QdiskSettings) -> None:
        """Says when a call hangs, and does what the file says about it."""
        limit_s = settings.limit_s
        while True:
            await trio.sleep(min(settings.interval_s, limit_s / 8))
            now = trio.current_time()
            if self._busy is not None and now - self._busy[1] >= limit_s / 2 and not self._hang_told:
                what, since = self._busy
                self._hang_told = True
                log.warning("qdiskd: %s (system call) has hung for %d seconds", what, now - since)
                log.warning("In %d more seconds, we will be evicted", max(0, since + limit_s - now))
            if settings.io_timeout and self._busy is not None and now - self._busy[1] > limit_s:
                self._owner.end(f"{self._busy[0]} of the quorum disk has hung for {limit_s:g} s (io_timeout)")
                return
            if settings.paranoid and self._cycle_began is not None and now - self._cycle_began > limit_s:
                self._owner.reboot(f"a cycle of the quorum disk takes longer than {limit_s:g} s (paranoid)")
                return

    def _status_text(self, machine: QdiskMachine) -> str:
        """The lines of qdiskd's status file."""
        (score, most), view = self._heuristics.score(), self.view()
        initializing = " ".join(str(n) for n, s in machine.nodes.items() if s.last.state is NodeState.INIT)
        state = machine.state.name.capitalize()
        counted = machine.counted
        return (f"Time Stamp: {time.ctime()}\nNode ID: {machine.me}\nScore: {score}/{most} (Minimum required = "
                f"{view.score_needed})\nCurrent state: {'Running' if state == 'Run' else state}\nInitializing Set: {{ "
                f"{initializing} }}\nVisible Set: {{ {' '.join(map(str, sorted({*view.visible, machine.me})))} }}\n"
                f"Master Node ID: {machine.master or 'None'}\n"
                f"Quorate Set: {{ {' '.join(map(str, sorted(counted)))} }}\n")


def _statuses(found: Mapping[int, bytes]) -> tuple[dict[int, Status | None], str]:
    """Each node's block, None where it is not readable; and what is wrong with the first such."""
    blocks: dict[int, Status | None] = {}
    damage = "" if len(found) >= SLOTS else f"{SLOTS - len(found)} of {SLOTS} blocks cannot be read"
    for nodeid in range(1, SLOTS + 1):
        try:
            blocks[nodeid] = unpack_status(found[nodeid], nodeid) if nodeid in found else None
        except QdiskError as e:
            blocks[nodeid], damage = None, damage or str(e)
    return blocks, damage


def _replace(path: Path, text: str) -> None:
    made = path.with_name(f"{path.name}.new")
    made.write_text(text)
    made.replace(path)
