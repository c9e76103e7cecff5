"""The watchdog: a small process that outlives gfs2d and cleans up after it.

If the daemon dies, or its main thread gives no sign for `watchdog` seconds while requests wait, the
connection is aborted through fusectl (so that nobody stays in uninterruptible sleep) and the dead mount
point is taken away lazily. It is forked before the daemon opens anything, so it holds neither the device
nor /dev/fuse.
"""

import os
import select
import time

from gfs2py.errors import ignored
from gfs2py.fuse import _mount, control

BEAT_INTERVAL_S = 5.0
CHECK_INTERVAL_S = 2.0
DEATH_WAIT_S = 2.0
_SIGKILL_BIT = 1 << (_mount.SIGKILL - 1)


class _Watched:
    """Whom to watch, and what has been heard of it."""

    __slots__ = ("device", "files", "limit_s", "mount_point", "pid", "said_goodbye")

    def __init__(self, pid: int, limit_s: int) -> None:
        self.pid = pid
        self.limit_s = limit_s
        self.device = 0
        self.files = ""
        self.mount_point = ""
        self.said_goodbye = False


class Watchdog:
    """The daemon's end: started early, told of the mount, fed with beats, dismissed at the end."""

    def __init__(self, limit_s: int) -> None:
        receive, self._send = os.pipe2(os.O_CLOEXEC)
        self._next_beat = 0.0
        daemon = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                _watch_process(receive, _Watched(daemon, limit_s))
            finally:
                os._exit(0)
        os.close(receive)
        os.set_blocking(self._send, False)

    def _say(self, text: str) -> None:
        with ignored(OSError):      # without a watchdog the mount goes on all the same
            os.write(self._send, os.fsencode(text) + b"\0")

    def mounted(self, device: int, mount_point: str) -> None:
        self._say(f"m{device}:{mount_point}")

    def files(self, path: str) -> None:
        """Where the control files are."""
        self._say(f"c{path}")

    def beat(self) -> None:
        """Sign of life; cheap enough for every turn of the main loop."""
        now = time.monotonic()
        if now >= self._next_beat:
            self._next_beat = now + BEAT_INTERVAL_S
            self._say("b")

    def dismiss(self) -> None:
        """The mount ended in order."""
        self._say("q")
        os.close(self._send)
        with ignored(ChildProcessError):
            os.waitpid(self.pid, 0)


def _watch_process(receive: int, watched: _Watched) -> None:
    os.setsid()
    for number in (_mount.SIGTERM, _mount.SIGINT, _mount.SIGHUP, _mount.SIGPIPE):
        _mount.ignore_signal(number)
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.dup2(receive, 3)
    os.closerange(4, 1 << 16)
    _mount.set_process_name(b"gfs2d-watchdog")
    _mount.set_process_title([b"gfs2d-watchdog", str(watched.pid).encode()])
    os.chdir("/")
    _watch(3, watched)


def _watch(receive: int, watched: _Watched) -> None:
    last_beat = time.monotonic()
    rest = b""
    while True:
        if select.select([receive], [], [], CHECK_INTERVAL_S)[0]:
            data = os.read(receive, 65536)
            if not data:
                if not watched.said_goodbye:
                    _clean_up(watched)
                return
            last_beat = time.monotonic()
            *messages, rest = (rest + data).split(b"\0")
            for message in messages:
                _hear(watched, message)
        elif not watched.said_goodbye and (_is_dying(watched.pid) or _is_hung(watched, last_beat)):
            _clean_up(watched)
            return


def _hear(watched: _Watched, message: bytes) -> None:
    if message[:1] == b"m":
        device, _, mount_point = message[1:].partition(b":")
        watched.device = int(device)
        watched.mount_point = os.fsdecode(mount_point)
    elif message[:1] == b"c":
        watched.files = os.fsdecode(message[1:])
    elif message == b"q":
        watched.said_goodbye = True


def _status(pid: int) -> dict[str, str]:
    try:
        with open(f"/proc/{pid}/status") as f:
            return {name: value.strip() for name, _, value in (line.partition(":") for line in f)}
    except OSError:
        return {}


def _is_dying(pid: int) -> bool:
    """Killed, but a thread sits in the kernel: then descriptors stay open and no end of file comes."""
    status = _status(pid)
    pending = int(status.get("SigPnd", "0"), 16) | int(status.get("ShdPnd", "0"), 16)
    return not status or status["State"][0] in "ZX" or bool(pending & _SIGKILL_BIT)


def _is_hung(watched: _Watched, last_beat: float) -> bool:
    if not watched.limit_s or not watched.device or time.monotonic() - last_beat < watched.limit_s:
        return False
    if _status(watched.pid).get("State", "R")[0] in "Tt":       # stopped by somebody, a debugger for instance
        return False
    return control.requests_waiting(control.connection_number(watched.device)) > 0


def _clean_up(watched: _Watched) -> None:
    if not watched.mount_point:
        return
    with ignored(OSError):
        control.abort_connection(control.connection_number(watched.device))
    with ignored(OSError):
        os.kill(watched.pid, _mount.SIGKILL)
    with ignored(OSError):
        from gfs2py.control.paths import socket_path  # when it is needed, long after the fork

        socket_path(watched.device).unlink(missing_ok=True)
    for entry in reversed(control.mounts()):
        if entry.device == watched.device:
            with ignored(OSError):
                _mount.umount(os.fsencode(entry.mount_point), control.MNT_DETACH)
    with ignored(OSError):
        _clear_files(watched.files)


def _clear_files(path: str) -> None:
    """The control files; not those of a new mount of the same table, if that is there already."""
    if not path:
        return
    from pathlib import Path

    from gfs2py.controlfs.place import clear

    limit = time.monotonic() + DEATH_WAIT_S
    while not clear(Path(path)) and time.monotonic() < limit:
        time.sleep(0.05)        # the daemon we killed is still dying
