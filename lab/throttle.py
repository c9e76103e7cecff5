"""A disk path that hangs: a node's loop device is throttled to a byte per second, so that what is asked of it waits.

Processes wait in the kernel as they do for a SAN that does not answer, and SIGKILL does not wake them. Only the groups
in which the room's processes are get the limit; the loop device's own work on its image has none. A limit stays with
the device's number, so whoever ends a process that waits, or gives the device away, lifts it.
Source: Documentation/admin-guide/cgroup-v1/blkio-controller.rst, cgroup-v2.rst (io.max).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from lab.errors import LabError

LOOP_MAJOR = 7
_V1 = ("blkio.throttle.read_bps_device", "blkio.throttle.write_bps_device")
_V2 = "io.max"


def _hierarchies() -> Iterator[tuple[str, str]]:
    """Mount points that may limit I/O, and the controller's name in /proc/PID/cgroup (empty: version 2)."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        kind, _, rest = right.partition(" ")
        if kind == "cgroup" and "blkio" in rest.split()[-1].split(","):
            yield left.split()[4], "blkio"
        elif kind == "cgroup2":
            yield left.split()[4], ""


def _group(pid: int | str, controller: str) -> str:
    """A process's group in a hierarchy."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return path
    return ""


def _files(pids: Iterable[int]) -> Iterator[Path]:
    """Where a limit for these processes has to be written; nothing where I/O cannot be limited."""
    seen: set[Path] = set()
    for place, controller in _hierarchies():
        for pid in pids:
            folder = Path(place + _group(pid, controller))
            names = _V1 if controller else (_V2,)
            for path in (folder / name for name in names):
                if path not in seen and path.exists():
                    seen.add(path)
                    yield path


def _every_file() -> Iterator[Path]:
    for place, controller in _hierarchies():
        for folder, _, names in os.walk(place):
            yield from (Path(folder) / n for n in (_V1 if controller else (_V2,)) if n in names)


def hang(numbers: Iterable[int], pids: Iterable[int]) -> None:
    """What these processes ask of these loop devices waits from now on. Raises LabError."""
    files = list(_files(list(pids)))
    if not files:
        raise LabError("this machine cannot limit the I/O of processes: no cgroup of theirs has "
                       f"{_V1[0]} or {_V2}")
    for number in numbers:
        for path in files:
            device = f"{LOOP_MAJOR}:{number}"
            path.write_text(f"{device} rbps=1 wbps=1" if path.name == _V2 else f"{device} 1")


def lift(numbers: Iterable[int]) -> None:
    """No limit any more, wherever there is one; what waits goes on."""
    wanted = {f"{LOOP_MAJOR}:{number}" for number in numbers}
    if not wanted:
        return
    for path in list(_every_file()):
        try:
            found = wanted & {line.split()[0] for line in path.read_text().splitlines() if line.strip()}
            for device in sorted(found):
                path.write_text(f"{device} rbps=max wbps=max" if path.name == _V2 else f"{device} 0")
        except OSError:
            continue                    # the group went away, and its limits with it


def hanging(numbers: Iterable[int]) -> bool:
    """Whether one of these loop devices has a limit."""
    wanted = {f"{LOOP_MAJOR}:{number}" for number in numbers}
    for path in list(_every_file()):
        try:
            if wanted & {line.split()[0] for line in path.read_text().splitlines() if line.strip()}:
                return True
        except OSError:
            continue
    return False
