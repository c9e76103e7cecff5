"""The connection as the kernel shows it: who is mounted where, aborting, tuning read-ahead.

Source: Documentation/filesystems/fuse.rst (fusectl), /sys/class/bdi.
"""

from __future__ import annotations

import os

from gfs2py.errors import ignored
from gfs2py.fuse import _mount

MNT_DETACH = 2
CONTROL = "/sys/fs/fuse/connections"
READ_AHEAD_KB = 4096
MAX_DIRTY_RATIO_PERCENT = 100


class MountEntry:
    """A line of mountinfo."""

    __slots__ = ("device", "fs_type", "mount_id", "mount_point", "source")

    def __init__(self, line: str) -> None:
        left, _, right = line.partition(" - ")
        first, last = left.split(), right.split()
        major, _, minor = first[2].partition(":")
        self.mount_id = int(first[0])
        self.device = os.makedev(int(major), int(minor))
        self.mount_point = _unescape(first[4])
        self.fs_type = last[0]
        self.source = _unescape(last[1])


def _unescape(text: str) -> str:
    """mountinfo writes blank, tab, newline and backslash as octal."""
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, char)
    return text


def mounts() -> list[MountEntry]:
    """All mounts of this mount namespace, in order."""
    with open("/proc/self/mountinfo", errors="surrogateescape") as f:
        return [MountEntry(line.rstrip("\n")) for line in f]


def find_mount(mount_point: str) -> MountEntry | None:
    """The topmost mount on a directory. Does not touch the file system on it: a dead one would hang."""
    parent, name = os.path.split(os.path.abspath(mount_point))
    real = os.path.join(os.path.realpath(parent), name)
    found = None
    for entry in mounts():
        if entry.mount_point == real:
            found = entry
    return found


def connection_number(device: int) -> int:
    """The name of the connection in fusectl: the kernel's own device number (12 bits major, 20 minor)."""
    return os.major(device) << 20 | os.minor(device)


class _ControlDirectory:
    """The connection's directory; fusectl is mounted privately for the moment where it is not mounted."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._private = ""

    def __enter__(self) -> str:
        if os.path.isdir(f"{CONTROL}/{self._number}"):
            return f"{CONTROL}/{self._number}"
        import tempfile

        self._private = tempfile.mkdtemp(prefix="fusectl-")
        try:
            _mount.mount(b"fusectl", self._private.encode(), b"fusectl", 0, b"")
        except BaseException:
            os.rmdir(self._private)
            raise
        return f"{self._private}/{self._number}"

    def __exit__(self, *_: object) -> None:
        if self._private:
            try:
                _mount.umount(self._private.encode(), MNT_DETACH)
            finally:
                os.rmdir(self._private)


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def abort_connection(number: int) -> bool:
    """Fail every request of a connection, now and later: nobody waits for it. False if it is gone."""
    with _ControlDirectory(number) as directory:
        try:
            _write(f"{directory}/abort", "1")
        except OSError:
            return False
    return True


def requests_waiting(number: int) -> int:
    """How many requests of the connection are not answered; 0 when it is gone."""
    with _ControlDirectory(number) as directory:
        try:
            with open(f"{directory}/waiting") as f:
                return int(f.read())
        except OSError:
            return 0


def tune(device: int, block: bool) -> None:
    """Raise what the kernel allows a FUSE mount: read-ahead, and the share of dirty pages (1 % else)."""
    directory = f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}{'-fuseblk' if block else ''}"
    for name, value in (("read_ahead_kb", READ_AHEAD_KB), ("strict_limit", 0),
                        ("max_ratio", MAX_DIRTY_RATIO_PERCENT)):
        with ignored(OSError):      # an older kernel, or /sys read-only: slower, not wrong
            _write(f"{directory}/{name}", str(value))
