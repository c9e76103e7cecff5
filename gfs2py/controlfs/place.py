"""Where the control files of a mount are: /run/gfs2/TABLE, and what happens to those that a dead daemon left.

A daemon holds a lock on /run/gfs2/.TABLE.lock for as long as the directory is its own. So whoever comes next learns
without touching the files, which could hang, whether they are a living daemon's.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from gfs2py.control.paths import DIRECTORY, make_directory
from gfs2py.errors import ignored
from gfs2py.fuse import _mount, control

FS_TYPE = "fuse.gfs2control"
_NAME_CHARS_MAX = 200


def folder_name(table: str) -> str:
    """A lock table as a name in the directory; a slash becomes _ as in the kernel's own directories."""
    name = table.replace("/", "_")[:_NAME_CHARS_MAX]
    return f"_{name}" if not name or name.startswith((".", "gfs2d-")) else name


def take_away(path: str) -> None:
    """Abort and unmount the control files that are there, whoever uses them, and remove the directory."""
    while (entry := control.find_mount(path)) is not None and entry.fs_type == FS_TYPE:
        with ignored(OSError):
            control.abort_connection(control.connection_number(entry.device))
        try:
            _mount.umount(os.fsencode(path), control.MNT_DETACH)
        except OSError:
            return
    with ignored(OSError):
        os.rmdir(path)


class Place:
    """A directory that is this process's own until give_back()."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    def give_back(self) -> None:
        """Idempotent; does not wait for anybody."""
        if self._lock >= 0:
            take_away(os.fspath(self.path))
            with ignored(OSError):
                _lock_file(self.path).unlink()
            os.close(self._lock)
            self._lock = -1


def _lock_file(path: Path) -> Path:
    return path.parent / f".{path.name}.lock"


def _lock(path: Path) -> int:
    """A descriptor that holds the lock of a directory, -1: somebody living has it. Raises OSError."""
    while True:
        fd = os.open(_lock_file(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return -1
        # Its last owner may have removed the file after we opened it.
        with ignored(FileNotFoundError):
            if os.stat(_lock_file(path)).st_ino == os.fstat(fd).st_ino:
                return fd
        os.close(fd)


def choose(table: str, device: int, directory: Path = DIRECTORY) -> Place:
    """A directory to mount on, made and empty. Raises OSError.

    TABLE, or TABLE.MAJOR.MINOR while a living mount of the same table has that: copies of one image do.
    """
    make_directory(directory)
    name = folder_name(table)
    for path in (directory / name, directory / f"{name}.{os.major(device)}.{os.minor(device)}"):
        lock = _lock(path)
        if lock >= 0:
            take_away(os.fspath(path))
            path.mkdir(mode=0o700, exist_ok=True)
            return Place(path, lock)
    raise OSError(errno.EEXIST, "another mount has it", os.fspath(path))


def clear(path: Path) -> bool:
    """Take away what a dead daemon left there; False while somebody living has it. Raises OSError."""
    lock = _lock(path)
    if lock < 0:
        return False
    Place(path, lock).give_back()
    return True


def sweep(directory: Path = DIRECTORY) -> None:
    """Take away what daemons left that are dead, and whose watchdogs are. Touches no file of the living."""
    for entry in control.mounts():
        path = Path(entry.mount_point)
        if entry.fs_type != FS_TYPE or path.parent != directory:
            continue
        with ignored(OSError):
            clear(path)
