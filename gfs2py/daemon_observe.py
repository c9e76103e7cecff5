"""What gfs2d tells of itself: its control socket, and a line in the log for a request that takes far too long.

All of it is one thread, started a moment after the mount is live, so that nothing waits for its modules to load. What
it asks of the session and the file system are counters, read under the GIL without a lock of theirs: it can answer
while they hang.
"""

from __future__ import annotations

import os
import resource
import threading
import time
from typing import TYPE_CHECKING, Any

from gfs2py.daemon_log import log
from gfs2py.stats import waiting_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from gfs2py.control.protocol import Arguments
    from gfs2py.control.server import ControlServer
    from gfs2py.fuse._ops import FileSystemHandle
    from gfs2py.fuse._session import Session

LOOK_INTERVAL_S = 5.0
STOP_LIMIT_S = 5.0
TAKEN_RETRY_S, TAKEN_LIMIT_S = 0.1, 30.0
SLOW_NS = 30 * 10**9            # a request this old gets a line in the log
_AGE_MAX_MS = 10**9
# It waits for another process to give up a lock, as long as that likes.
_PATIENT = frozenset({"SETLKW"})


class SlowRequests:
    """Remembers which slow requests have been told of: each is told once, and again when it is twice as old."""

    def __init__(self, limit_ns: int = SLOW_NS) -> None:
        self._limit_ns = limit_ns
        self._told: dict[int, int] = {}

    def look(self, requests: list[dict[str, Any]]) -> list[str]:
        """Lines to log for the requests under way now."""
        lines, told = [], {}
        for one in requests:
            if one["age_ns"] < self._limit_ns or one["opcode"] in _PATIENT:
                continue
            before = self._told.get(one["unique"], 0)
            if one["age_ns"] >= 2 * before:
                lines.append(f"slow request opcode={one['opcode']} inode={one['node']} pid={one['pid']} "
                             f"age={one['age_ns'] / 1e9:.0f}s {one['state']} "
                             f"waits for {waiting_text(one['waits_for'])}")
                before = one["age_ns"]
            told[one["unique"]] = before
        self._told = told
        return lines


class Observer:
    """The control socket's operations on one mount, and the look for slow requests."""

    def __init__(self, session: Session, handle: FileSystemHandle, identity: dict[str, Any],
                 more: Callable[[], dict[str, Any]] = dict) -> None:
        """more: statistics that only some file systems have."""
        self._session, self._handle, self._identity, self._more = session, handle, identity, more
        self._since = time.monotonic()
        self._slow = SlowRequests()
        self._server: ControlServer | None = None
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gfs2d-control", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def files_at(self, path: str) -> None:
        """The control files are there."""
        self._identity["files"] = path

    def _run(self) -> None:
        from gfs2py.control.server import SocketTaken  # here, because it takes longer than the mount

        deadline = time.monotonic() + TAKEN_LIMIT_S
        while not self._stopped.is_set():
            try:
                self._open()
                break
            except SocketTaken as e:
                # The last daemon of a mount with this device number is on its way out.
                if time.monotonic() > deadline:
                    log.warning(f"no control socket path={e.filename}: {e.strerror}")
                    return
                self._stopped.wait(TAKEN_RETRY_S)
            except OSError as e:
                log.warning(f"no control socket path={e.filename}: {e.strerror}")
                return
        if self._server is not None:
            self._server.run()

    def _open(self) -> None:
        from gfs2py.control.paths import make_directory, socket_path
        from gfs2py.control.server import ControlServer

        path = socket_path(self._identity["device"])
        make_directory(path.parent)
        with self._lock:
            if not self._stopped.is_set():
                self._server = ControlServer(path, {
                    "identity": self._tell_identity, "statistics": self._tell_statistics,
                    "in-flight": self._tell_in_flight, "describe": self._tell_description,
                }, every=self.look, every_s=LOOK_INTERVAL_S)

    def stop(self, wait: bool = True) -> None:
        """Take the socket away and end the thread; idempotent."""
        with self._lock:
            self._stopped.set()
            if self._server is not None:
                self._server.stop()
        if wait and self._thread.ident is not None:
            self._thread.join(STOP_LIMIT_S)

    def look(self) -> None:
        """Log what has been under way for too long."""
        if self._session.oldest_request_ns() >= SLOW_NS:
            for line in self._slow.look(self._session.in_flight(SLOW_NS)):
                log.warning(line)

    # -- operations

    def _tell_identity(self, _: Arguments) -> dict[str, Any]:
        return {**self._identity, "pid": os.getpid(),
                "table": self._handle.describe().get("locktable") or self._handle.label}

    def _tell_statistics(self, _: Arguments) -> dict[str, Any]:
        session = self._session.statistics()
        requests = session.pop("opcodes")
        return {"uptime_s": time.monotonic() - self._since, "requests": requests, "session": session,
                "engine": self._handle.statistics(), "latencies": self._handle.latencies(),
                "process": process_statistics(), **self._more()}

    def _tell_in_flight(self, arguments: Arguments) -> dict[str, Any]:
        from gfs2py.control.protocol import number

        age_ms = number(arguments, "min_age_ms", 0, 0, _AGE_MAX_MS)
        return {"requests": self._session.in_flight(age_ms * 10**6), "background": self._handle.background()}

    def _tell_description(self, arguments: Arguments) -> dict[str, Any]:
        return {**self._tell_identity(arguments), **self._handle.describe()}


def process_statistics() -> dict[str, Any]:
    """Memory and processor time of this process."""
    with open("/proc/self/statm") as f:
        pages = f.read().split()
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {"rss_bytes": int(pages[1]) * resource.getpagesize(), "rss_max_bytes": used.ru_maxrss << 10,
            "user_s": used.ru_utime, "system_s": used.ru_stime,
            "voluntary_switches": used.ru_nvcsw, "involuntary_switches": used.ru_nivcsw}
