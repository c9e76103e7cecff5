"""A cgroup for each node, where the machine lets us: to freeze a node as a whole.

Only version 2, whose frozen processes can still be killed. Without it freezing falls back to SIGSTOP.
Source: Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time

PREFIX = "gfs2py-lab-"
KILL_WAIT_S = 5.0
POLL_S = 0.005


def hierarchy() -> str:
    """Where cgroup 2 is mounted and may be written; empty when nowhere."""
    with open("/proc/self/mountinfo") as f:
        for line in f:
            left, _, right = line.partition(" - ")
            if right.startswith("cgroup2 "):
                place = left.split()[4]
                if os.access(place, os.W_OK) and os.path.exists(f"{place}/cgroup.procs"):
                    return place
    return ""


def path_of(instance: str, node: str = "") -> str:
    """Where a node's group is; empty when there are no groups here."""
    top = hierarchy()
    if not top:
        return ""
    return f"{top}/{PREFIX}{instance}" + (f"/{node}" if node else "")


def make(path: str) -> bool:
    """False when groups cannot be made here."""
    if not path:
        return False
    try:
        os.makedirs(path, exist_ok=True)
    except OSError:
        return False
    return os.path.exists(f"{path}/cgroup.freeze")


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def add(path: str, pid: int) -> None:
    _write(f"{path}/cgroup.procs", str(pid))


def freeze(path: str, frozen: bool) -> None:
    _write(f"{path}/cgroup.freeze", "1" if frozen else "0")


def is_frozen(path: str) -> bool:
    """Whether every process of the group has stopped; one that waits in the kernel stops when it comes out."""
    with open(f"{path}/cgroup.events") as f:
        return "frozen 1" in f.read().splitlines()


def remove(path: str) -> None:
    """Kill what is in the group and those below it, and take them away. Nothing when they are not there.

    Raises OSError (EBUSY) when a process does not die.
    """
    if not path or not os.path.isdir(path):
        return
    with contextlib.suppress(OSError):
        _write(f"{path}/cgroup.kill", "1")
    deadline = time.monotonic() + KILL_WAIT_S
    for folder, _, _ in os.walk(path, topdown=False):
        while True:
            try:
                os.rmdir(folder)
                break
            except FileNotFoundError:
                break
            except OSError as e:
                if e.errno != errno.EBUSY or time.monotonic() > deadline:
                    raise
                time.sleep(POLL_S)
