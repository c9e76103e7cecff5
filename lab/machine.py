"""One machine of the room: booting it, its end, freezing it. Runs inside the room, as parent of the node's pid 1."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from lab import cgroups, network, remains, rootfs, syscalls, throttle
from lab.errors import LabError
from lab.place import Place, stat_fields
from lab.topology import Node, Topology

BOOT_TIMEOUT_S = 60.0
FREEZE_TIMEOUT_S = 2.0
POLL_S = 0.005
LINE_BYTES_MAX = 4096

Runner = Callable[[list[str], str], Awaitable[None]]


class Lines:
    """Text lines over a socket to pid 1."""

    def __init__(self, end: socket.socket) -> None:
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(end))
        self._buffer = b""

    async def say(self, text: str) -> None:
        await self._stream.send_all(text.encode() + b"\n")

    async def line(self) -> str:
        """An empty line at the end. A line that is too long is cut."""
        while b"\n" not in self._buffer and len(self._buffer) < LINE_BYTES_MAX:
            try:
                piece = await self._stream.receive_some(LINE_BYTES_MAX)
            except trio.BrokenResourceError:
                return ""
            if not piece:
                return ""
            self._buffer += piece
        found, _, self._buffer = self._buffer.partition(b"\n")
        return found.decode(errors="replace")

    async def aclose(self) -> None:
        await self._stream.aclose()


class Machine:
    """A node or the storage host: power, pid 1, cgroup."""

    def __init__(self, node: Node, place: Place, room: Topology, spec: rootfs.Spec, run: Runner) -> None:
        self.node = node
        self.place = place
        self.room = room
        self.power = False
        self.state = "off"
        self.frozen = False
        self.boots = 0
        self.ended_by = 0               # the signal that its last pid 1 ended by
        self.lock = trio.Lock()
        self._spec = spec
        self._run = run
        self._process: subprocess.Popen[bytes] | None = None
        self._group = ""
        self._lines: Lines | None = None

    def status(self) -> dict[str, object]:
        return {"name": self.node.name, "address": self.node.address, "nodeid": self.node.nodeid,
                "plug": self.node.plug, "power": "on" if self.power else "off",
                "state": "frozen" if self.frozen else self.state, "boots": self.boots}

    def pid(self) -> int:
        """Of its pid 1, as the room counts. Raises LabError when the machine is not running."""
        if self._process is None:
            raise LabError(f"{self.node.name} is {self.state}")
        return self._process.pid

    @property
    def crashed(self) -> bool:
        """It hangs, under power."""
        return self.power and self.state.startswith("crashed")

    @property
    def group(self) -> str:
        """Its cgroup's directory; empty without one."""
        return self._group

    # -- boot

    async def boot(self) -> None:
        """Power on and wait until it is up. Raises LabError; the machine is off then."""
        self.power, self.state = True, "booting"
        ours, theirs = socket.socketpair()
        lines = Lines(ours)
        try:
            with theirs, trio.fail_after(BOOT_TIMEOUT_S):
                self._start(theirs)
                theirs.close()
                await self._greet(lines)
        except trio.TooSlowError:
            await self.kill()
            raise LabError(f"{self.node.name} did not come up in {BOOT_TIMEOUT_S:.0f} s") from None
        except (LabError, OSError):
            await self.kill()
            raise
        self.state = "up"
        self.boots += 1
        self._lines = lines

    def _start(self, end: socket.socket) -> None:
        """Pid 1 in a new pid namespace. No thread may start in between: hence all in one go."""
        command = [sys.executable, "-IS", str(Path(__file__).with_name("start.py")), "init", self.node.name]
        own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        try:
            with open(self.place.node(self.node.name) / "console.log", "ab") as console:
                syscalls.unshare(syscalls.CLONE_NEWPID)
                try:
                    self._process = subprocess.Popen(command, stdin=end.fileno(), stdout=console, stderr=console,
                                                     start_new_session=True)
                finally:
                    syscalls.setns(own, syscalls.CLONE_NEWPID)
        finally:
            os.close(own)
        group = cgroups.path_of(self.place.name, self.node.name) if self.room.cgroups else ""
        if cgroups.make(group):
            cgroups.add(group, self._process.pid)
            self._group = group

    async def _greet(self, lines: Lines) -> None:
        await lines.say(json.dumps(self._spec))
        while (line := await lines.line()) != "ready":
            if line == "unshared":
                await self._run(["ip", "-batch", "-"], network.cable_batch(self.room, self.node, self.pid()))
                await lines.say("network")
            elif line.startswith("failed"):
                raise LabError(f"{self.node.name}: {line.removeprefix('failed').strip()}")
            else:
                raise LabError(f"{self.node.name} ended while it booted: see "
                               f"{self.place.node(self.node.name) / 'console.log'}")

    async def watch(self) -> str:
        """Until its pid 1 ends or says why it is about to; what it said, empty when it was killed."""
        lines = self._lines
        if lines is None:
            return ""
        try:
            return await lines.line()
        finally:
            await lines.aclose()

    # -- end

    async def kill(self) -> None:
        """Pull the plug: every process is gone when this returns. Raises LabError when one stays."""
        process = self._process
        if process is not None:
            # Before the kill, which reaps it if it is dead already: a number may belong to somebody else then.
            fd = os.pidfd_open(process.pid)
            try:
                pids = self._pids()
                # Looked up while there is somebody whose mounts can be read.
                foreign = remains.host_fuse()
                connections = [c for c in remains.fuse_connections(pids) if c not in foreign]
                process.kill()
                throttle.lift(self._loops())        # who waits for a disk that hangs dies when it is served
                await self._dead(fd, pids, connections)
            finally:
                os.close(fd)
            self.ended_by = -min(0, process.wait())
            self._process = None
            if self._group:
                cgroups.freeze(self._group, False)
        self.frozen = False
        self.power, self.state = False, "off"
        await self._unplug()

    async def _unplug(self) -> None:
        """The cable goes with the node's namespace too, a little later: it must be gone before the next one comes."""
        port = network.port(self.room, self.node.name)
        while port in (name for _, name in socket.if_nameindex()):
            try:
                await self._run(["ip", "-batch", "-"], network.unplug_batch(self.room, self.node))
            except LabError:
                if port in (name for _, name in socket.if_nameindex()):
                    raise

    def _loops(self) -> list[int]:
        """The numbers of its loop devices."""
        try:
            found = json.loads((self.place.path / "loops.json").read_text())
        except (OSError, ValueError):
            return []
        return [int(n) for n in found.get(self.node.name, {}).values()]

    def _pids(self) -> list[int]:
        try:
            return remains.pids_below(os.stat(f"/proc/{self.pid()}/ns/pid").st_ino)
        except OSError:
            return []

    async def _dead(self, fd: int, pids: list[int], connections: list[int]) -> None:
        """The kernel lets pid 1 go only after all others: then nothing of the node runs any more.

        A FUSE daemon whose end takes its mount namespace along may wait for an answer from itself: hence the abort.
        """
        with trio.move_on_after(remains.FUSE_PATIENCE_S) as patience:
            await trio.lowlevel.wait_readable(fd)
        if not patience.cancelled_caught:
            return
        remains.abort_fuse(connections)
        with trio.move_on_after(remains.DEATH_TIMEOUT_S) as patience:
            await trio.lowlevel.wait_readable(fd)
        if patience.cancelled_caught:
            raise LabError(f"{self.node.name}: killed, but processes of it stay: "
                           + ", ".join(str(p) for p in pids if remains.alive(p)))

    # -- freeze

    async def freeze(self, frozen: bool) -> None:
        """Stop all of it where it is, or let it go on; time passes meanwhile. Raises LabError."""
        self.pid()
        if self._group:
            cgroups.freeze(self._group, frozen)
            with trio.move_on_after(FREEZE_TIMEOUT_S):
                # What waits in the kernel for a frozen FUSE daemon stops when it is answered: never. Good enough.
                while cgroups.is_frozen(self._group) != frozen and not self._only_waiters():  # noqa: ASYNC110
                    await trio.sleep(POLL_S)
        else:
            await self._stop_all(frozen)
        self.frozen = frozen

    def _only_waiters(self) -> bool:
        """Whether whoever still runs sits in an uninterruptible wait."""
        return all(_process_state(pid) in "DZXtT" for pid in self._pids())

    async def _stop_all(self, frozen: bool) -> None:
        """Again and again until no process is left that was not stopped: they may be forking."""
        number = signal.SIGSTOP if frozen else signal.SIGCONT
        with trio.move_on_after(FREEZE_TIMEOUT_S):
            while True:
                left = [pid for pid in self._pids() if (_process_state(pid) not in "TDZX") == frozen]
                if not frozen:
                    left = [pid for pid in left if _process_state(pid) == "T"]
                if not left:
                    return
                for pid in left:
                    try:
                        os.kill(pid, number)
                    except ProcessLookupError:
                        continue
                await trio.sleep(POLL_S)


def _process_state(pid: int) -> str:
    fields = stat_fields(pid)
    return fields[0] if fields else "X"
