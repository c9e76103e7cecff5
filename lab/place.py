"""Where a room keeps its things on the host, who may touch them, and which rooms there are.

    BASE/NAME/          one directory for everything, of root alone; removed as a whole
        keeper          the keeper's pid and start time, then those of the room's pid 1
        topology.json   what the room was built from
        control         socket of the room
        room.log        what the room did
        disks/          images of the shared disk
        nodes/NODE/     /etc, /var, /root and /srv of a node, and its console.log
        shared/         /lab on every node
    BASE/NAME.lock      held by whoever builds or removes the room
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lab.errors import LabError

BASE_VARIABLE = "GFS2PY_LAB_DIR"
# Not below /run, which may be mounted noexec and live in memory: the disks lie here too.
DEFAULT_BASE = "/var/tmp/gfs2py-lab"
DEFAULT_NAME = "lab"
SOCKET_PATH_BYTES_MAX = 107


@dataclass(frozen=True, slots=True)
class Process:
    """A process that cannot be mistaken for a later one with the same number."""

    pid: int
    start_ticks: int

    def alive(self) -> bool:
        """False also for a zombie: it holds nothing any more."""
        fields = stat_fields(self.pid)
        return bool(fields) and int(fields[19]) == self.start_ticks and fields[0] not in "ZX"


def stat_fields(pid: int) -> list[str]:
    """/proc/PID/stat after the name: state first. Empty when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def process(pid: int) -> Process:
    """Raises LabError when it has ended."""
    fields = stat_fields(pid)
    if not fields:
        raise LabError(f"process {pid} has ended already")
    return Process(pid, int(fields[19]))


class Place:
    """The directory of one room."""

    def __init__(self, name: str = DEFAULT_NAME, base: str = "") -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,40}", name) or name.endswith(".lock"):
            raise LabError(f"{name!r} is no name for a room: letters, digits, - _ . and at most 41 of them")
        self.name = name
        self.base = Path(base or os.environ.get(BASE_VARIABLE) or DEFAULT_BASE)
        self.path = self.base / name
        if len(os.fsencode(self.control)) > SOCKET_PATH_BYTES_MAX:
            raise LabError(f"{self.control}: too long for a socket; set {BASE_VARIABLE} to a shorter directory")

    @property
    def control(self) -> Path:
        return self.path / "control"

    @property
    def disks(self) -> Path:
        return self.path / "disks"

    @property
    def shared(self) -> Path:
        return self.path / "shared"

    def node(self, name: str) -> Path:
        return self.path / "nodes" / name

    def exists(self) -> bool:
        return self.path.exists()

    def make_base(self) -> None:
        """Raises LabError when somebody else could meddle with what root keeps there."""
        try:
            self.base.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as e:
            raise LabError(f"cannot make {self.base}: {e.strerror}") from None
        found = self.base.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise LabError(f"{self.base} must be a directory that only root may write")

    @contextlib.contextmanager
    def locked(self, *, wait: bool = True) -> Iterator[None]:
        """Alone with this room. Raises LabError when not waiting and somebody else is at it.

        The file is removed with the room; whoever waited for it then holds a lock on nothing and tries again.
        """
        path = self.base / f"{self.name}.lock"
        while True:
            self.make_base()
            try:
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                if path.exists() and os.path.samestat(os.fstat(fd), path.stat()):
                    break
            except BlockingIOError:
                os.close(fd)
                raise LabError(f"another lab command is at work on room {self.name}") from None
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)
        try:
            yield
        finally:
            if not self.path.exists():
                path.unlink()
                with contextlib.suppress(OSError):
                    self.base.rmdir()           # not empty: there are other rooms
            os.close(fd)

    def record(self, *processes: Process) -> None:
        """Write down who the keeper is, and the room's pid 1; at once or not at all."""
        text = "".join(f"{p.pid} {p.start_ticks}\n" for p in processes)
        new = self.path / "keeper.new"
        new.write_text(text)
        new.rename(self.path / "keeper")

    def processes(self) -> list[Process]:
        """Keeper and room as written down, if they live."""
        try:
            lines = (self.path / "keeper").read_text().splitlines()
        except OSError:
            return []
        found = [Process(int(pid), int(start)) for pid, start in (line.split() for line in lines)]
        return [p for p in found if p.alive()]


def rooms(base: str = "") -> list[Place]:
    """All rooms that left something, in order of their names."""
    top = Place(base=base).base
    if not top.is_dir():
        return []
    names = sorted({p.name.removesuffix(".lock") for p in top.iterdir()})
    return [Place(name, base) for name in names]
