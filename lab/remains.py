"""Taking a room away, whatever state it is in and whoever died in the middle of what.

The kernel does most of it: keeper dead -> the room's pid 1 is killed -> every process in its pid namespace is killed
-> the mount and network namespaces go with them, and all mounts, bridges, cables in them. What it does not take
away by itself: loop devices, cgroups, files, and processes that wait for a FUSE daemon that waits for itself.
Every step here looks at what is there, so it can be repeated after any interruption.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import time
from pathlib import Path

from gfs2py.fuse import control as fuse
from lab import cgroups, loops, syscalls, throttle
from lab.errors import LabError
from lab.place import Place, Process, stat_fields

# So long a killed process may take before somebody must be waiting for FUSE.
FUSE_PATIENCE_S = 1.0
DEATH_TIMEOUT_S = 20.0
POLL_S = 0.005
FUSE_TYPES = ("fuse", "fuseblk", "fuse.", "fuseblk.")


def _namespace(pid: int, kind: str) -> int:
    """Its inode; 0 when the process is gone."""
    try:
        return os.stat(f"/proc/{pid}/ns/{kind}").st_ino
    except OSError:
        return 0


def _is_below(pid: int, top: int) -> bool:
    """Whether the process lives in the pid namespace `top` or one below it."""
    try:
        fd = os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    while True:
        try:
            if os.fstat(fd).st_ino == top:
                return True
            above = syscalls.parent_namespace(fd)
        except OSError:
            return False
        finally:
            os.close(fd)
        fd = above


def pids_below(top: int) -> list[int]:
    """All processes in a pid namespace, by its inode, and below."""
    return [pid for pid in sorted(int(n) for n in os.listdir("/proc") if n.isdigit()) if _is_below(pid, top)]


def fuse_connections(pids: list[int], not_in: int = 0) -> list[int]:
    """The FUSE connections that these processes have mounted, by their numbers in fusectl.

    Mount namespace `not_in` (the host's) is left out: its mounts are not the room's.
    """
    seen: set[int] = {0, not_in}
    found: list[int] = []
    for pid in pids:
        namespace = _namespace(pid, "mnt")
        if namespace in seen:
            continue
        try:
            text = Path(f"/proc/{pid}/mountinfo").read_text(errors="surrogateescape")
        except OSError:
            continue
        seen.add(namespace)
        for line in text.splitlines():
            entry = fuse.MountEntry(line)
            if entry.fs_type in FUSE_TYPES[:2] or entry.fs_type.startswith(FUSE_TYPES[2:]):
                found.append(fuse.connection_number(entry.device))
    return sorted(set(found))


def abort_fuse(numbers: list[int]) -> int:
    """Fail what waits for these connections; how many there still were."""
    return sum(fuse.abort_connection(number) for number in numbers)


def host_fuse() -> list[int]:
    """Connections that the host itself has mounted; a namespace copied from it shows them too."""
    return fuse_connections([os.getpid()])


def _signal(process: Process, number: int) -> None:
    """By a pidfd, and only if it is still the same process."""
    try:
        fd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        if process.alive():
            signal.pidfd_send_signal(fd, number)
    except ProcessLookupError:
        pass
    finally:
        os.close(fd)


def _describe(pid: int) -> str:
    name = "?"
    with contextlib.suppress(OSError):
        name = Path(f"/proc/{pid}/comm").read_text().strip()
    return f"{pid} ({name}, state {(stat_fields(pid) or ['gone'])[0]})"


def _room_namespace(processes: list[Process]) -> int:
    """The inode of the room's pid namespace, from its pid 1 or from the keeper that made it; 0 when there is none."""
    own = os.stat("/proc/self/ns/pid").st_ino
    for process in reversed(processes):
        for kind in ("pid", "pid_for_children"):
            if (found := _namespace(process.pid, kind)) not in (0, own):
                return found
    return 0


def kill_room(place: Place) -> None:
    """Kill keeper and room and wait for the last process. Raises LabError naming those that do not die."""
    processes = [p for p in place.processes() if p.pid != os.getpid()]     # the keeper itself may be who cleans
    top = _room_namespace(processes)
    pids = pids_below(top) if top else []
    foreign = host_fuse()
    connections = [c for c in fuse_connections(pids) if c not in foreign]
    throttle.lift(loops.below(str(place.disks)))        # who waits for such a disk could not be killed
    # The room first: were the keeper first, the room would die of that and be reaped by nobody we wait for.
    for process in reversed(processes):
        _signal(process, signal.SIGKILL)
    start = time.monotonic()
    aborted = False
    while any(p.alive() for p in processes) or (top and any(alive(pid) for pid in pids_below(top))):
        waited = time.monotonic() - start
        if waited > FUSE_PATIENCE_S and not aborted:
            left = [c for c in fuse_connections(pids_below(top)) if c not in foreign]
            abort_fuse(sorted({*connections, *left}))
            aborted = True
        if waited > DEATH_TIMEOUT_S:
            stuck = [p.pid for p in processes if p.alive()] + [p for p in pids_below(top) if alive(p)]
            raise LabError(f"room {place.name}: killed, but still there after {DEATH_TIMEOUT_S:.0f} s: "
                           + ", ".join(_describe(p) for p in stuck[:5]))
        time.sleep(POLL_S)


def alive(pid: int) -> bool:
    """Not a zombie: those wait for a parent of somebody else's."""
    fields = stat_fields(pid)
    return bool(fields) and fields[0] not in "ZX"


def release_kernel_objects(place: Place) -> None:
    """Cgroups and loop devices. Raises OSError."""
    cgroups.remove(cgroups.path_of(place.name))
    throttle.lift(loops.below(str(place.disks)))
    for number in loops.below(str(place.disks)):
        loops.detach(number)


def _unmount_below(path: Path) -> None:
    """What is mounted below a directory in this very namespace: never by us, but a removal must not walk into it."""
    inside = [e.mount_point for e in fuse.mounts() if e.mount_point.startswith(f"{path}/")]
    for mount_point in reversed(inside):
        syscalls.umount(mount_point, syscalls.MNT_DETACH)


def remove_files(place: Place, *, keep_disks: bool = False) -> None:
    """The room's directory. Raises OSError."""
    if not place.exists():
        return
    _unmount_below(place.path)
    for entry in sorted(place.path.iterdir()):
        if entry == place.disks and keep_disks:
            continue
        if entry.is_dir() and not entry.is_symlink():
            _remove_tree(entry)
        else:
            entry.unlink()
    if not keep_disks:
        place.path.rmdir()


def room_pids(place: Place) -> set[int]:
    """Every process of a room that is up, its keeper included."""
    processes = place.processes()
    top = _room_namespace(processes)
    return {p.pid for p in processes} | (set(pids_below(top)) if top else set())


def left_behind(place: Place, pids: set[int]) -> list[str]:
    """What is still there of a room that should be gone; `pids` were its processes."""
    found = [f"process {pid}" for pid in sorted(pids) if alive(pid)]
    found += [f"/dev/loop{n} on {image}" for n, image in loops.below(str(place.path)).items()]
    for path in (str(place.path), str(place.base / f"{place.name}.lock"), cgroups.path_of(place.name)):
        found += [path] if path and os.path.exists(path) else []
    found += [f"mount {line}" for line in Path("/proc/self/mountinfo").read_text().splitlines()
              if str(place.path) in line]
    # A network or mount namespace lives as long as a process is in it, or a file bound over it: the latter is a mount.
    return found


def _remove_tree(path: Path) -> None:
    """Whoever still writes there is being killed just now: a directory that filled again is emptied again."""
    deadline = time.monotonic() + FUSE_PATIENCE_S
    while True:
        try:
            shutil.rmtree(path)
            return
        except FileNotFoundError:
            if not path.exists():
                return
        except OSError as e:
            if e.errno != errno.ENOTEMPTY or time.monotonic() > deadline:
                raise
        time.sleep(POLL_S)


def clean(place: Place, *, keep_disks: bool = False) -> None:
    """All of it; the caller holds the room's lock. Raises LabError, OSError."""
    kill_room(place)
    release_kernel_objects(place)
    remove_files(place, keep_disks=keep_disks)
