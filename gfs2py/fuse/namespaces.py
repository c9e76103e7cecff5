"""Who keeps a superblock alive that was unmounted here: other mount namespaces that have a copy of the mount."""

from __future__ import annotations

import os

from gfs2py.errors import ignored
from gfs2py.fuse.control import MountEntry

NAMED_MAX = 8       # processes of one namespace that are looked at by name


class Namespace:
    """A mount namespace that has the mount, and the processes in it that could be seen."""

    __slots__ = ("inode", "mount_point", "pids")

    def __init__(self, inode: int, mount_point: str) -> None:
        self.inode = inode
        self.mount_point = mount_point
        self.pids: list[int] = []

    def __str__(self) -> str:
        named = ", ".join(f"{pid} ({_comm(pid)})" for pid in self.pids[:NAMED_MAX])
        more = len(self.pids) - NAMED_MAX
        rest = f" and {more} more" if more > 0 else ""
        return f"mnt:[{self.inode}], mounted on {self.mount_point}, pid {named}{rest}"


def _comm(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", errors="replace") as f:
            return f.read().rstrip("\n")
    except OSError:
        return "ended"


def _mounted_there(pid: int, device: int) -> str | None:
    """Where the process's namespace has a superblock mounted."""
    with ignored(OSError), open(f"/proc/{pid}/mountinfo", errors="surrogateescape") as f:
        for line in f:
            entry = MountEntry(line.rstrip("\n"))
            if entry.device == device:
                return entry.mount_point
    return None


def holders(device: int) -> list[Namespace]:
    """The namespaces of living processes, but for our own, in which the superblock `device` is mounted."""
    own = os.stat("/proc/self/ns/mnt").st_ino
    seen: dict[int, Namespace | None] = {own: None}
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
        try:
            inode = os.stat(f"/proc/{pid}/ns/mnt").st_ino
        except OSError:
            continue
        if inode not in seen:
            where = _mounted_there(pid, device)
            seen[inode] = Namespace(inode, where) if where is not None else None
        if (found := seen[inode]) is not None:
            found.pids.append(pid)
    return [one for one in seen.values() if one is not None]
