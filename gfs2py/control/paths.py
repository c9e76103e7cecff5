"""Where control sockets are: one per mount, named by the mount's device number, in a directory that is root's."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

DIRECTORY = Path("/run/gfs2")
_NAME = re.compile(r"gfs2d-(\d{1,4})\.(\d{1,8})\.sock")


def socket_path(device: int, directory: Path = DIRECTORY) -> Path:
    """The socket of the mount whose st_dev is `device`."""
    return directory / f"gfs2d-{os.major(device)}.{os.minor(device)}.sock"


def sockets(directory: Path = DIRECTORY) -> list[tuple[int, Path]]:
    """(device, path) of all sockets that are there, living and dead, in order of their devices."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    found = []
    for name in names:
        if match := _NAME.fullmatch(name):
            found.append((os.makedev(int(match[1]), int(match[2])), directory / name))
    return sorted(found)


def make_directory(directory: Path = DIRECTORY) -> None:
    """Make it, or check that it is ours alone. Raises PermissionError."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    state = os.lstat(directory)
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.geteuid():
        raise PermissionError(1, "not a directory of this user", os.fspath(directory))
    if stat.S_IMODE(state.st_mode) & 0o077:
        os.chmod(directory, 0o700)
