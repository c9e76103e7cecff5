"""The connection as the kernel shows it: who is mounted where, aborting, tuning read-ahead.

Source: Documentation/filesystems/fuse.rst (fusectl), /sys/class/bdi.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gfs2py.fuse import _mount

MNT_DETACH = 2
CONTROL = Path("/sys/fs/fuse/connections")
READ_AHEAD_KB = 4096
MAX_DIRTY_RATIO_PERCENT = 100


@dataclass(frozen=True, slots=True)
class MountEntry:
    """A line of mountinfo."""

    mount_id: int
    device: int
    mount_point: str
    fs_type: str
    source: str


def _unescape(text: str) -> str:
    """mountinfo writes blank, tab, newline and backslash as octal."""
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, char)
    return text


def mounts() -> list[MountEntry]:
    """All mounts of this mount namespace, in order."""
    out = []
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        left, _, right = line.partition(" - ")
        first, last = left.split(), right.split()
        major, _, minor = first[2].partition(":")
        out.append(MountEntry(int(first[0]), os.makedev(int(major), int(minor)), _unescape(first[4]), last[0],
                              _unescape(last[1])))
    return out


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


@contextlib.contextmanager
def _control_directory(number: int) -> Iterator[Path]:
    """The connection's directory; fusectl is mounted privately for the moment where it is not mounted."""
    if (CONTROL / str(number)).is_dir():
        yield CONTROL / str(number)
        return
    private = tempfile.mkdtemp(prefix="fusectl-")
    try:
        _mount.mount(b"fusectl", private.encode(), b"fusectl", 0, b"")
        try:
            yield Path(private) / str(number)
        finally:
            _mount.umount(private.encode(), MNT_DETACH)
    finally:
        os.rmdir(private)


def abort_connection(number: int) -> bool:
    """Fail every request of a connection, now and later: nobody waits for it. False if it is gone."""
    with _control_directory(number) as directory:
        try:
            (directory / "abort").write_text("1")
        except OSError:
            return False
    return True


def requests_waiting(number: int) -> int:
    """How many requests of the connection are not answered; 0 when it is gone."""
    with _control_directory(number) as directory:
        try:
            return int((directory / "waiting").read_text())
        except OSError:
            return 0


def tune(device: int, block: bool) -> None:
    """Raise what the kernel allows a FUSE mount: read-ahead, and the share of dirty pages (1 % else)."""
    directory = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}{'-fuseblk' if block else ''}")
    for name, value in (("read_ahead_kb", READ_AHEAD_KB), ("strict_limit", 0),
                        ("max_ratio", MAX_DIRTY_RATIO_PERCENT)):
        with contextlib.suppress(OSError):      # an older kernel, or /sys read-only: slower, not wrong
            (directory / name).write_text(str(value))
