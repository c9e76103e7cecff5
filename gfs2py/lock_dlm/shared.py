"""The cluster's side of one mount: lockspace, seat, and the replay of others' journals; in a thread of its own.

trio lives in that thread; the mount's main thread asks for what it needs and waits. The thread's end, whatever the
cause, ends the mount's right to the disk: `lost` is called unless stop() was.

    start()       cman asked, lockspace joined, control and mounted locks: the seat
    (the file system is mounted with the seat's journal; the first one replays all)
    mounted()     the first one lets others come; from here on journals of the dead are replayed
    freeze(), unfreeze()
    stop()        after the file system is closed: the lockspace is left

A mount that withdraws, or cannot be closed in order, leaves the lockspace as a dead process does (withdrawing.py).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import trio

from cman.client import Cman, CmanError, open_cman
from dlm.control import Control, join
from dlm.core.events import ResourceDump
from dlm.locks import Lockspace
from gfs2py.engine._plock import FileLocks
from gfs2py.errors import MountError
from gfs2py.lock_dlm._manager import DlmLocks
from gfs2py.lock_dlm.freezing import LIMIT_S as FREEZE_LIMIT_S
from gfs2py.lock_dlm.freezing import Freezable, FreezeControl, State
from gfs2py.lock_dlm.mounting import MountControl, Seat
from gfs2py.lock_dlm.withdrawing import LiveLock, Withdrawn, settle

TYPE_CHECKING = False
if TYPE_CHECKING:       # what is not loaded here shortens every mount
    from gfs2py.lock_dlm.plock_service import PlockService
    from gfs2py.lock_dlm.plock_wire import View
    from gfs2py.lock_dlm.ranges import Member

STOP_LIMIT_S = 15.0
WHY_LIMIT_S = 3.0
OTHERS_LIMIT_S = 20.0           # for the replay of a journal by others while we mount
# What a replay came to, in the words of lock_dlm's recover_status (LM_RD_*).
GAVE_UP, SUCCESS = 308, 309
LEAVE_LIMIT_S = 5.0

# From the waits and holds of fcntl locks to what the mount itself says of who waits for what (controlfs.waits).
Look = Callable[[list[dict[str, Any]], list[dict[str, Any]]], Mapping[str, Any]]


def split_table(table: str) -> tuple[str, str]:
    """Cluster and file system of a lock table. Raises MountError."""
    cluster, colon, name = table.partition(":")
    if not colon or not cluster or not name:
        raise MountError(errno.EINVAL, f"lock table {table!r} is not of the form CLUSTER:FILESYSTEM")
    return cluster, name


class _LockManagersLog(logging.Handler):
    """What the lock manager logs goes into the mount's log, as the kernel's goes into the kernel's."""

    def __init__(self, log: Callable[[str], object]) -> None:
        super().__init__(logging.INFO)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log(f"dlm: {record.getMessage()}")


class FileSystem(Freezable, Withdrawn, Protocol):
    """The mounted file system, as its place in the cluster needs it."""

    @property
    def journals(self) -> int: ...
    @property
    def withdraw_fd(self) -> int: ...
    @property
    def file_locks(self) -> FileLocks | None: ...
    def replay(self, jid: int) -> bool: ...


class _Grants:
    """The glocks, once there are any to hold back."""

    def __init__(self) -> None:
        self.locks: DlmLocks | None = None

    def block(self) -> None:
        if self.locks is not None:
            self.locks.block()

    def unblock(self) -> int:
        return self.locks.unblock() if self.locks is not None else 0


class SharedMount:
    """One mount's place in its cluster.

    log: called with single lines by the cluster's thread. narrate: with the same, only while start() waits. lost: see
    above.
    """

    def __init__(self, table: str, *, spectator: bool, log: Callable[[str], object], narrate: Callable[[str], object],
                 lost: Callable[[str], object]) -> None:
        self.cluster, self.name = split_table(table)
        self.seat: Seat | None = None
        self._log, self._narrate, self._lost = log, narrate, lost
        self._grants = _Grants()
        self._control = MountControl(self._grants, spectator=spectator, say=self._say)
        self._control.on_settled = self._settled
        self._freezing = FreezeControl(self._say)
        self._live_lock = LiveLock(self._say)
        self._fs: FileSystem | None = None
        self._told_fd = -1                      # readable when it has withdrawn
        self._dead = False                      # it goes without a word
        self._replay: Callable[[int], bool] | None = None
        self._file_locks: FileLocks | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._ready = threading.Event()         # a seat, or a failure
        self._failure: BaseException | None = None
        self._space: Lockspace | None = None
        self._replayed = (-1, 0)                # the last journal, and what came of it
        self._stopping = False
        self._cman: Cman | None = None
        self._file_lock_service: PlockService | None = None
        self._look: Look | None = None
        self._stage_since_s = 0.0
        self._replays: dict[int, tuple[bool, float]] = {}       # journal -> whether we are at it, since when
        self._waiting_since: dict[int, float] = {}      # journal -> when it was first left to others
        self._mounted, self._stop = trio.Event(), trio.Event()
        self._through = threading.Event()       # the first one's word is out
        self._thread = threading.Thread(target=self._run, name="gfs2d-cluster", daemon=True)

    @property
    def locks(self) -> DlmLocks:
        assert self._grants.locks is not None
        return self._grants.locks

    # -- the mount's main thread

    def start(self) -> Seat:
        """Join and wait for the seat. Raises MountError with one line; nothing is left of it then."""
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._as_error(self._failure)
        assert self.seat is not None
        return self.seat

    def mounted(self, fs: FileSystem) -> None:
        """The file system is up. Its methods are called in threads. Raises MountError."""
        self._fs, self._replay, self._file_locks = fs, fs.replay, fs.file_locks
        self._told_fd = os.dup(fs.withdraw_fd)
        self._tell(self._mounted.set)
        self._through.wait()
        if self._failure is not None:
            raise self._as_error(self._failure)

    def state(self) -> dict[str, Any]:
        """For people: this node's place, and whether its locks wait for a recovery. From any thread."""
        space, locks = self._space, self._grants.locks
        return {"lockspace": self.name, "nodeid": space.machine.our_nodeid if space is not None else 0,
                "first": int(self.seat is not None and self.seat.first), "first_done": int(self._through.is_set()),
                "blocked": int(locks is not None and locks.blocked), "recover_done": self._replayed[0],
                "recover_status": self._replayed[1], "frozen": self._freezing.state.value,
                "gone": int(self._dead)}

    def contended(self) -> list[ResourceDump]:
        """The resources at which two locks meet or somebody waits, as this node knows them. From any thread."""
        return self._space.machine.dump(contended=True) if self._space is not None else []

    def explain_with(self, look: Look) -> None:
        """What to ask the mount itself when somebody wants to know what it waits for. From any thread."""
        self._look = look

    def why(self) -> str:
        """What is blocked on this node and why, in lines. From any thread but the cluster's, which is asked, too."""
        from cman.ask import Asker  # when somebody asks for the first time
        from cman.explain import findings_of, lines

        try:
            with Asker(limit_s=WHY_LIMIT_S) as cman:
                found = findings_of(cman.ask("why"))
        except CmanError as e:
            return f"This node's cman cannot be asked: {e}\n"
        return "".join(line + "\n" for line in lines(found))

    def freeze(self, limit_s: float = FREEZE_LIMIT_S) -> None:
        """On all nodes; returns when everybody stands still. From another thread than the cluster's. Raises OSError."""
        self._ask_cluster(self._freezing.freeze, limit_s)

    def unfreeze(self) -> None:
        """Raises OSError: EINVAL when it was not this node that froze."""
        self._ask_cluster(self._freezing.thaw)

    def unfreeze_at_end(self) -> None:
        """Before a mount ends that has frozen the file system."""
        if self._freezing.state is State.FROZEN:
            with contextlib.suppress(OSError):
                self.unfreeze()

    def _ask_cluster(self, act: Callable[..., Awaitable[None]], *arguments: object) -> None:
        try:
            trio.from_thread.run(act, *arguments, trio_token=self._token)
        except (trio.RunFinishedError, trio.Cancelled):
            raise OSError(errno.EIO, "this mount has left the cluster") from None

    def stop(self, *, dead: bool = False) -> None:
        """Leave. The locks must be given back already; a dead mount's stand until others have replayed its journal."""
        self._stopping = True
        if dead:
            self._dead = True
        self._tell(self._stop.set)
        if self._thread.is_alive():
            self._thread.join(STOP_LIMIT_S)

    def _tell(self, what: Callable[[], None]) -> None:
        try:
            if self._token is not None:
                self._token.run_sync_soon(what)
        except trio.RunFinishedError:
            pass

    def _as_error(self, e: BaseException) -> MountError:
        if isinstance(e, MountError):
            return e
        if isinstance(e, OSError):
            return MountError(e.errno or errno.EIO, e.strerror or str(e))
        return MountError(errno.EIO, str(e))

    # -- the cluster's thread: what it tells of itself

    def _settled(self) -> None:
        """All deaths are dealt with, and the glocks go on; fcntl locks when the other nodes are as far."""
        self._replays.clear()
        self._report("journal")
        if self._file_lock_service is not None:
            self._file_lock_service.look()
            if self._file_lock_service.machine.frozen:
                return
        self._report("resume")

    def _thawed(self) -> None:
        self._report("resume")

    def _report(self, phase: str) -> None:
        control = self._space.control if self._space is not None else None
        if self._cman is not None and isinstance(control, Control):
            self._cman.report(f"dlm:{self.name}", control.started_view, phase, True)

    async def _facts(self) -> dict[str, Any]:
        """What this mount waits for, as cman.explain has it. A mount must not end because somebody wanted to know."""
        space, service, look = self._space, self._file_lock_service, self._look
        control = space.control if space is not None else None
        waits: list[dict[str, Any]] = []
        holds: list[dict[str, Any]] = []
        if service is not None:
            from gfs2py.lock_dlm.facts import plock_holds, plock_waits  # when somebody asks for the first time

            waits, holds = plock_waits(service.machine), plock_holds(service.machine)
        seen: Mapping[str, Any] = {}
        if look is not None:
            try:
                seen = await trio.to_thread.run_sync(look, waits, holds)
            except Exception as e:
                self._log(f"what this mount waits for cannot be told: {type(e).__name__}: {e}")
        mount = {"table": f"{self.cluster}:{self.name}", "mount_point": "", "waits": waits, "holds": holds, **seen,
                 **self._mount_facts(seen.get("percent"))}
        running = space is not None and space.machine.running
        return {"spaces": [control.state(running)] if isinstance(control, Control) else [], "mounts": [mount]}

    def _mount_facts(self, percent: tuple[int, int] | None) -> dict[str, Any]:
        now_s, locks = trio.current_time(), self._grants.locks
        stage = "mounted" if self._through.is_set() else "joining" if self.seat is None else "mounting"
        journals = [{"jid": jid, "ours": ours, "for_ms": round((now_s - since_s) * 1000),
                     "percent": percent[1] if percent is not None and percent[0] == jid else None}
                    for jid, (ours, since_s) in sorted(self._replays.items())]
        service = self._file_lock_service
        return {"stage": stage, "stage_ms": round((now_s - self._stage_since_s) * 1000),
                "joining": self._control.waits_for, "first": self.seat is not None and self.seat.first,
                "blocked": locks is not None and bool(locks.blocked), "journals": journals,
                "plocks_wait": service.machine.waits_for() if service is not None and service.machine.frozen else []}

    # -- the cluster's thread

    def _say(self, line: str) -> None:
        self._log(line)
        if not self._ready.is_set():
            self._narrate(line)

    def _note(self, text: str) -> None:
        """Of the lockspace's history, what somebody who waits wants to know."""
        if text.startswith("waits for") and not self._ready.is_set():
            self._narrate(f"lockspace {self.name} {text}")

    def _run(self) -> None:
        logger, handler = logging.getLogger("dlm"), _LockManagersLog(self._log)
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
        try:
            trio.run(self._main)
        except BaseException as e:
            while isinstance(e, BaseExceptionGroup):
                e = e.exceptions[0]
            self._failure = e
            if self.seat is not None and not self._stopping:
                self._lost(str(self._failure))
        logger.removeHandler(handler)
        if self._file_locks is not None:
            self._file_locks.fail(errno.EIO)
        if self._told_fd >= 0:
            os.close(self._told_fd)
            self._told_fd = -1
        self._ready.set()
        self._through.set()

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._stage_since_s = trio.current_time()
        async with open_cman() as cman:
            self._cman = cman
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(cman.explain, self._facts)
                    await self._in_cluster(cman)
                    nursery.cancel_scope.cancel()
            except BaseExceptionGroup as found:
                if len(found.exceptions) == 1:
                    raise found.exceptions[0] from None
                raise

    async def _in_cluster(self, cman: Cman) -> None:
        await self._check(cman)
        self._say(f"joining lockspace {self.name}")
        async with (join(cman, self.name, on_event=self._control.on_event, on_note=self._note, last=False) as space,
                    cman.register(f"gfs2:{self.name}")):
            await self._live(cman, space)

    async def _check(self, cman: Cman) -> None:
        cluster = await cman.cluster()
        if cluster.name != self.cluster:
            raise MountError(errno.EINVAL, f"the file system belongs to cluster {self.cluster}, this node to "
                                           f"{cluster.name} (lock table {self.cluster}:{self.name})")

    async def _live(self, cman: Cman, space: Lockspace) -> None:
        self._grants.locks = DlmLocks(space.machine)
        self._space = space
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._until_stopped, space, nursery.cancel_scope)
            self.seat = await self._control.join(space)
            self._say(f"lockspace {self.name} joined: jid={self.seat.jid}:id={space.machine.our_nodeid}:"
                      f"first={int(self.seat.first)}")
            if not self.seat.first:
                # From here on: who comes or dies while we mount makes the lock manager recover, grants are kept back
                # meanwhile, and the mount needs grants to get any further.
                nursery.start_soon(self._control.run, self._replay_in_thread)
            await self._freezing.begin(space)
            await self._live_lock.begin(space)
            self._ready.set()
            await self._mounted.wait()
            if self.seat.first:
                await self._control.first_done()
                nursery.start_soon(self._control.run, self._replay_in_thread)
            self._through.set()
            if self._file_locks is not None:
                nursery.start_soon(self._serve_file_locks, cman, space, self._file_locks)
            if self._fs is not None:
                nursery.start_soon(self._freezing.run, self._fs)
                nursery.start_soon(self._live_lock.run, self._fs.journals, self.seat.jid, self._replay_in_thread)
                nursery.start_soon(self._watch_over, cman, self._fs)
            await trio.sleep_forever()

    async def _serve_file_locks(self, cman: Cman, space: Lockspace, locks: FileLocks) -> None:
        from gfs2py.lock_dlm.plock_service import PlockService  # after the mount

        group = await cman.join(f"gfs2:locks:{self.name}")

        def through(dead: Mapping[Member, View]) -> bool:
            control = space.control
            return (isinstance(control, Control) and control.machine is not None
                    and control.machine.phase == "running" and self._control.settled
                    and not any(control.still_has(*member, view) for member, view in dead.items()))

        service = PlockService(locks, group, through, self._thawed)
        self._file_lock_service = service
        try:
            await service.run()
        finally:
            self._file_lock_service = None
            # Of a dead mount the others drop the locks when its journal has been replayed.
            with trio.move_on_after(LEAVE_LIMIT_S, shield=True), contextlib.suppress(CmanError):
                if not self._dead:
                    await group.leave()

    async def _until_stopped(self, space: Lockspace, scope: trio.CancelScope) -> None:
        await self._stop.wait()
        if self._dead and isinstance(space.control, Control):
            space.control.forsaken = True
        if self._dead or self._freezing.state is not State.THAWED:
            # Taking back a request waits for the other nodes, which may wait for this one.
            space.close("this mount ends")
        scope.cancel()

    async def _watch_over(self, cman: Cman, fs: FileSystem) -> None:
        """A withdraw ends this mount's part in the cluster, in the order that keeps the others' data whole."""
        await trio.lowlevel.wait_readable(self._told_fd)

        async def fence() -> None:
            # Without a word: the others find this node lost, and fence it.
            await cman.ask("kill", node=(await cman.cluster()).node_name)

        await settle(fs, self._say, fence)
        self._say(f"leaving lockspace {self.name}: nothing of this mount reaches the disk any more, whoever else has "
                  "it mounted replays its journal")
        self._dead = self._stopping = True
        self._stop.set()

    async def _replay_in_thread(self, jid: int) -> bool:
        if self._replay is None:
            self._leave_to_others(jid)
            return False
        self._replays[jid] = (True, self._replays.get(jid, (True, trio.current_time()))[1])
        done = await self._freezing.replay(jid, self._replay)
        if done:
            self._replays.pop(jid, None)
        else:
            self._replays[jid] = (False, self._replays[jid][1])
        self._replayed = (jid, SUCCESS if done else GAVE_UP)
        return done

    def _leave_to_others(self, jid: int) -> None:
        """A node died while this one mounts: who has the file system mounted replays its journal. Raises MountError
        when nobody does."""
        now = trio.current_time()
        since = self._waiting_since.setdefault(jid, now)
        if since == now:
            self._say(f"jid={jid}: waiting for another node to replay it")
        if now - since > OTHERS_LIMIT_S:
            raise MountError(errno.EAGAIN, f"a node died while this one was mounting, and nobody else replays its "
                                           f"journal (jid={jid}): mount again")


