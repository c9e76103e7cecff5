"""What the tests of the space code share: formatted devices in memory, groups read back from the disk."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from gfs2py.block._memory import MemoryDevice, Snapshot
from gfs2py.engine._spacelab import SpaceLab
from gfs2py.mkfs.make import make_fs
from gfs2py.mkfs.options import MkfsOptions

MIB = 1 << 20
FILE, DIRECTORY = 0o100644, 0o040755
FREE, USED, UNLINKED, DINODE = range(4)


@functools.cache
def formatted(size_mib: int = 128, bsize: int = 4096, rgsize_mib: int = 32, jsize_mib: int = 8) -> Snapshot:
    dev = MemoryDevice(size_mib * MIB)
    make_fs(dev, MkfsOptions(bsize=bsize, lockproto="lock_nolock", jsize_mb=jsize_mib, rgsize_mb=rgsize_mib))
    return dev.snapshot()


def fresh(size_mib: int = 128, bsize: int = 4096, rgsize_mib: int = 32) -> MemoryDevice:
    """A device of the test's own with an empty file system on it."""
    return MemoryDevice.from_snapshot(formatted(size_mib, bsize, rgsize_mib))


@contextmanager
def laboratory(dev: MemoryDevice | None = None, *, quota: bool = False) -> Iterator[SpaceLab]:
    """A SpaceLab that is closed at the end: cleanly, or just stopped when the test failed."""
    lab = SpaceLab(dev if dev is not None else fresh(), quota=quota)
    try:
        yield lab
    except BaseException:
        lab.close(crash=True)
        raise
    lab.close()


def total_free(lab: SpaceLab) -> int:
    return lab.statfs(slow=True)[1]


def blocks_of(runs: list[tuple[int, int]]) -> list[int]:
    return [blk + i for blk, n in runs for i in range(n)]


def states_on_disk(dev: MemoryDevice, group: dict[str, int], bsize: int) -> list[int]:
    """The state of every data block of a group as its bitmap blocks say."""
    bits = b""
    for i in range(group["length"]):
        block = dev.read((group["addr"] + i) * bsize, bsize)
        bits += block[24:] if i else block[128:]
    bits = bits[: group["bitbytes"]]
    return [(byte >> shift) & 3 for byte in bits for shift in (0, 2, 4, 6)]


def check_groups_on_disk(dev: MemoryDevice, groups: list[dict[str, int]], bsize: int) -> None:
    """Headers say what their bitmaps say, and their checksums are right."""
    for group in groups:
        head = dev.read(group["addr"] * bsize, 512)[:128]
        states = states_on_disk(dev, group, bsize)
        assert int.from_bytes(head[28:32]) == states.count(FREE)
        assert int.from_bytes(head[32:36]) == states.count(UNLINKED) + states.count(DINODE)
        crc = int.from_bytes(head[64:68])
        assert crc == zlib.crc32(head[:64] + bytes(4) + head[68:])
