"""The quorum disk as a file: sectors past every cache, and finding the disk of a label."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cman.qdisk.ondisk import (
    SECTOR_BYTES_MIN,
    SLOTS,
    Header,
    QdiskError,
    block_bytes,
    disk_bytes,
    offset_of,
    unpack_header,
)

_BLKSSZGET = 0x1268
_DEPTH_MAX = 4


class Disk:
    """An open quorum disk; one thread at a time. Raises OSError."""

    def __init__(self, path: Path | str, *, write: bool = True) -> None:
        self.path = os.fspath(path)
        flags = (os.O_RDWR | os.O_SYNC if write else os.O_RDONLY) | os.O_CLOEXEC
        try:
            self._fd = os.open(self.path, flags | os.O_DIRECT)
        except OSError as e:
            if e.errno != errno.EINVAL:         # a file system without direct I/O: nobody shares that
                raise
            self._fd = os.open(self.path, flags)
        try:
            self.sector_bytes = _sector_bytes(self._fd)
            self.size = os.lseek(self._fd, 0, os.SEEK_END)
            # Page-aligned, as direct I/O wants it.
            self._buffer = mmap.mmap(-1, max(self.sector_bytes, mmap.PAGESIZE))
            self._wide = mmap.mmap(-1, SLOTS * block_bytes(self.sector_bytes))
        except BaseException:
            os.close(self._fd)
            raise

    def check_size(self) -> None:
        """Raises QdiskError when there is no room for all blocks."""
        if self.size < disk_bytes(self.sector_bytes):
            raise QdiskError(f"{self.path} has {self.size} bytes: a quorum disk needs {disk_bytes(self.sector_bytes)}")

    def read_at(self, offset: int) -> bytes:
        view = memoryview(self._buffer)[:self.sector_bytes]
        try:
            got = os.preadv(self._fd, [view], offset)
        finally:
            view.release()
        if got != self.sector_bytes:
            raise OSError(errno.EIO, f"{got} bytes at {offset}, wanted {self.sector_bytes}", self.path)
        return bytes(self._buffer[:self.sector_bytes])

    def write_at(self, offset: int, data: bytes) -> None:
        assert len(data) == self.sector_bytes
        self._buffer[:len(data)] = data
        view = memoryview(self._buffer)[:len(data)]
        try:
            put = os.pwritev(self._fd, [view], offset)
        finally:
            view.release()
        if put != len(data):
            raise OSError(errno.EIO, f"{put} of {len(data)} bytes written at {offset}", self.path)

    def read_block(self, nodeid: int) -> bytes:
        return self.read_at(offset_of(nodeid, self.sector_bytes))

    def write_block(self, nodeid: int, data: bytes) -> None:
        self.write_at(offset_of(nodeid, self.sector_bytes), data)

    def read_all(self) -> dict[int, bytes]:
        """All nodes' blocks by one call; where that fails, those that can be read one by one."""
        step = block_bytes(self.sector_bytes)
        view = memoryview(self._wide)
        try:
            got = os.preadv(self._fd, [view], step)
        except OSError:
            got = 0
        finally:
            view.release()
        if got == len(self._wide):
            return {n: bytes(self._wide[(n - 1) * step:(n - 1) * step + self.sector_bytes])
                    for n in range(1, SLOTS + 1)}
        found: dict[int, bytes] = {}
        error: OSError | None = None
        for nodeid in range(1, SLOTS + 1):
            try:
                found[nodeid] = self.read_block(nodeid)
            except OSError as e:
                error = e
        if error is not None and not found:
            raise error
        return found

    def header(self) -> Header:
        """Raises QdiskError, OSError."""
        return unpack_header(self.read_block(0))

    def close(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> Disk:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _sector_bytes(fd: int) -> int:
    if not stat.S_ISBLK(os.fstat(fd).st_mode):
        return SECTOR_BYTES_MIN
    told = fcntl.ioctl(fd, _BLKSSZGET, struct.pack("i", 0))
    return max(SECTOR_BYTES_MIN, int(struct.unpack("i", told)[0]))


@dataclass(frozen=True, slots=True)
class Found:
    """A quorum disk and all names of it, the plainest last. kernel_sector_bytes: what the kernel says now."""

    paths: tuple[str, ...]
    header: Header
    kernel_sector_bytes: int


def _block_devices(folder: Path, depth: int = 0) -> Iterator[tuple[int, str]]:
    try:
        entries = sorted(os.scandir(folder), key=lambda e: e.name)
    except OSError:
        return
    for entry in entries:
        try:
            if entry.is_dir(follow_symlinks=False):
                if depth < _DEPTH_MAX:
                    yield from _block_devices(Path(entry.path), depth + 1)
            elif stat.S_ISBLK((found := entry.stat()).st_mode):
                yield found.st_rdev, entry.path
        except OSError:
            continue


def scan(folder: Path = Path("/dev")) -> list[Found]:
    """Every quorum disk below a folder of devices; what cannot be read is none."""
    names: dict[int, list[str]] = {}
    for device, path in _block_devices(folder):
        names.setdefault(device, []).append(path)
    found = []
    for paths in names.values():
        paths.sort(key=lambda p: (not os.path.islink(p), -len(p), p))
        try:
            with Disk(paths[-1], write=False) as disk:
                found.append(Found(tuple(paths), disk.header(), disk.sector_bytes))
        except (OSError, QdiskError):
            continue
    return sorted(found, key=lambda f: f.paths[-1])


def find(label: str, preferred: str = "", folder: Path = Path("/dev")) -> str:
    """The device with this label. Raises QdiskError when there is none, or when there are several disks.

    The preferred one is taken if it has the label. Several devices may be paths to one disk: their headers are the
    same. Then a loop device is taken only when there is nothing else.
    """
    found = [f for f in scan(folder) if f.header.label == label]
    if any(preferred in f.paths for f in found):
        return preferred
    if not found:
        raise QdiskError(f"no device has the label {label!r}")
    if any(f.header != found[0].header for f in found):
        raise QdiskError(f"more than one disk has the label {label!r}: {', '.join(f.paths[-1] for f in found)}; "
                         "say which by device")
    return min((f.paths[-1] for f in found), key=lambda path: ("/loop" in path, path))
