"""Notices when nothing moves any more, says where everybody sleeps, and frees them by aborting the connection.

A process of its own: a thread would stand still with its interpreter when a page fault waits for the daemon.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from interop.commands import connection, daemons, process_state

STALL_S = 60.0
REPORT_BYTES = 20_000


def threads(pid: int) -> Iterable[str]:
    """One line per thread: state, what it waits for in the kernel, the kernel's stack if root may see it."""
    for task in sorted(Path(f"/proc/{pid}/task").iterdir()):
        with contextlib.suppress(OSError):
            stack = " < ".join(line.split()[-1].split("+")[0]
                               for line in (task / "stack").read_text().splitlines()[:8])
            yield f"  {pid}/{task.name} {(task / 'comm').read_text().strip()} " \
                  f"{process_state(pid)} {(task / 'wchan').read_text()}: {stack}"


def descendants(pid: int) -> list[int]:
    """The process and all below it."""
    out = [pid]
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                out += descendants(int(child))
    return out


class Guard:
    """Watches the process that makes it and its children, until closed. `tick` says that there is progress."""

    def __init__(self, mount_point: Path, stall_s: float = STALL_S) -> None:
        self.mount_point, self.stall_s = mount_point, stall_s
        receive, self.fd = os.pipe()
        os.set_blocking(self.fd, False)
        owner = os.getpid()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.fd)
            status = 1
            try:
                status = self._watch(receive, owner)
            finally:
                os._exit(status)
        os.close(receive)

    def __enter__(self) -> Guard:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        os.close(self.fd)
        _, status = os.waitpid(self.pid, 0)
        if status:
            raise AssertionError(f"nothing moved for {self.stall_s} s: the connection was aborted")

    def tick(self) -> None:
        """Cheap; any process that inherited the guard may call it."""
        with contextlib.suppress(BlockingIOError):
            os.write(self.fd, b".")

    def _watch(self, receive: int, owner: int) -> int:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        poller = select.poll()
        poller.register(receive, select.POLLIN | select.POLLHUP)
        while poller.poll(self.stall_s * 1000):
            if not os.read(receive, 65536):
                return 0
        self._free(owner)
        # Keep aborting (a later mount may hang too) until the owner is through. Whom that does not free waits for
        # something else, another process of the test or a lock that the kernel keeps.
        while not poller.poll(self.stall_s * 1000) or os.read(receive, 65536):
            if not poller.poll(0):
                self._free(owner)
                for pid in descendants(owner):
                    if pid not in (owner, os.getpid()):
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
        return 1

    def _free(self, owner: int) -> None:
        pids = [p for p in descendants(owner) if p != os.getpid()] + daemons(self.mount_point)
        report = "\n".join(line for pid in pids for line in threads(pid))
        print(f"HANG: nothing moved for {self.stall_s} s\n{report[:REPORT_BYTES]}", file=sys.stderr, flush=True)
        where = connection(self.mount_point)
        if where is not None:
            with contextlib.suppress(OSError):
                (where / "abort").write_text("1")
