"""What punching and truncating leave on disk: just the blocks outside the range, no indirect block more.

512-byte blocks: 35 pointers in the dinode, 61 in an indirect block, so that a few levels are small enough to
see every edge.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from gfs2py.block import MemoryDevice, Snapshot
from gfs2py.edit.reader import Reader
from gfs2py.engine.volume import Volume
from gfs2py.fsck import check
from gfs2py.mkfs.make import make_fs
from gfs2py.mkfs.options import MkfsOptions
from gfs2py.ondisk import constants as c

BSIZE, DIPTRS, INPTRS = 512, 35, 61
LEAVES = 4
BLOCKS = LEAVES * INPTRS
KEEP, PUNCH = 1, 2
FS_IOC_SETFLAGS, FS_JOURNAL_DATA_FL = 0x40086602, 0x4000


@dataclass(frozen=True)
class Shape:
    """What a file maps."""

    size: int
    height: int
    blocks: int
    data: frozenset[int]
    indirect: frozenset[tuple[int, int]]  # (height of what hangs below it, index)
    flags: int


def shape(device: MemoryDevice, path: str = "f") -> Shape:
    r = Reader(device)
    inode = r.path(path)
    data = frozenset(lblk for lblk, _ in r.data_blocks(inode))
    ind = frozenset((inode.height - level, i) for level in range(1, inode.height)
                    for i, _ in r.tree_level(inode, level))
    return Shape(inode.size, inode.height, inode.number("di_blocks"), data, ind, inode.number("di_flags"))


def expected_indirect(data: frozenset[int], height: int) -> frozenset[tuple[int, int]]:
    """The indirect blocks that these data blocks need."""
    return frozenset((h, lblk // INPTRS**h) for lblk in data for h in range(1, height))


def assert_clean(device: MemoryDevice) -> None:
    report = check(device)
    assert report.findings == []


@pytest.fixture(scope="module")
def empty() -> Snapshot:
    device = MemoryDevice(32 << 20)
    make_fs(device, MkfsOptions(bsize=BSIZE, jsize_mb=8, lockproto="lock_nolock", rng=random.Random(1)))
    return device.snapshot()


@pytest.fixture(scope="module")
def gapless(empty: Snapshot) -> Snapshot:
    """A file of four full leaves, so of height 2, and what it holds is never zero."""
    device = MemoryDevice.from_snapshot(empty)
    with Volume(device) as vol:
        vol.create("f", b"\xaa" * (BLOCKS * BSIZE))
    found = shape(device)
    assert found.data == frozenset(range(BLOCKS))
    assert found.height == 2
    assert found.blocks == 1 + LEAVES + BLOCKS
    return device.snapshot()


def edges() -> Iterator[tuple[int, int]]:
    """(first, end) around every leaf's border."""
    near = sorted({b * INPTRS + d for b in range(LEAVES + 1) for d in (-1, 0, 1)} & set(range(BLOCKS + 2)))
    yield from ((first, end) for first in near for end in near if first < end)


def test_every_edge_of_a_punch(gapless: Snapshot) -> None:
    for first, end in edges():
        device = MemoryDevice.from_snapshot(gapless)
        with Volume(device, background=False) as vol:
            vol.fallocate("f", KEEP | PUNCH, first * BSIZE, (end - first) * BSIZE)
            for lblk in {first - 1, first, end - 1, end} & set(range(BLOCKS)):
                wanted = 0 if first <= lblk < end else 0xAA
                assert vol.read("f", lblk * BSIZE, BSIZE) == bytes([wanted]) * BSIZE, (first, end, lblk)
        found = shape(device)
        assert found.size == BLOCKS * BSIZE
        assert found.data == frozenset(range(BLOCKS)) - frozenset(range(first, end)), (first, end)
        assert found.blocks == 1 + len(found.indirect) + len(found.data), (first, end)
        # Only a leaf that lay wholly within the range is gone; a border may leave one without data.
        whole = {(1, i) for i in range(LEAVES) if first <= i * INPTRS and (i + 1) * INPTRS <= end}
        assert found.indirect == {(1, i) for i in range(LEAVES)} - whole, (first, end)


@pytest.mark.parametrize("rest", [0, 1, BSIZE - 232, BSIZE - 1])
def test_every_edge_of_a_truncation(gapless: Snapshot, rest: int) -> None:
    for blocks in sorted({b for pair in edges() for b in pair if b < BLOCKS}):
        size = blocks * BSIZE + rest
        device = MemoryDevice.from_snapshot(gapless)
        with Volume(device, background=False) as vol:
            vol.truncate("f", size)
            vol.truncate("f", size + 5000)
            tail = vol.read("f", max(size - 10, 0))
            assert tail == b"\xaa" * min(size, 10) + bytes(5000), size
            vol.truncate("f", size)
        found = shape(device)
        kept = -(-size // BSIZE)
        assert found.size == size
        if size:
            assert found.data == frozenset(range(kept))
            assert found.indirect == expected_indirect(found.data, found.height)
        assert found.blocks == 1 + len(found.indirect) + len(found.data)
        assert not found.flags & c.GFS2_DIF_TRUNC_IN_PROG


@pytest.mark.parametrize("jdata", [False, True])
def test_scattered_blocks_of_a_tall_tree(empty: Snapshot, jdata: bool) -> None:
    """Height 4 with single blocks far apart: a punch in the middle takes the branches that lie within."""
    step = INPTRS * INPTRS // 2
    places = [i * step for i in range(60)]
    device = MemoryDevice.from_snapshot(empty)
    with Volume(device) as vol:
        vol.create("f")
        if jdata:
            vol.calls.ioctl(vol.node("f"), FS_IOC_SETFLAGS, struct.pack("<I", FS_JOURNAL_DATA_FL))
        for lblk in places:
            vol.write("f", lblk * BSIZE, b"x")
    made = shape(device)
    assert made.data == frozenset(places)
    assert made.indirect == expected_indirect(made.data, made.height)
    first, end = places[10] + 1, places[50]
    with Volume(device) as vol:
        vol.fallocate("f", KEEP | PUNCH, first * BSIZE, (end - first) * BSIZE)
    found = shape(device)
    assert found.data == frozenset(p for p in places if not first <= p < end)
    within = {(h, i) for h, i in made.indirect if first <= i * INPTRS**h and (i + 1) * INPTRS**h <= end}
    assert found.indirect == made.indirect - within
    assert found.blocks == 1 + len(found.indirect) + len(found.data)
    assert_clean(device)


def test_truncation_to_nothing_makes_the_file_stuffed_again(gapless: Snapshot) -> None:
    device = MemoryDevice.from_snapshot(gapless)
    with Volume(device) as vol:
        vol.truncate("f", 0)
        vol.write("f", 0, b"small")
    assert shape(device) == Shape(5, 0, 1, frozenset(), frozenset(), 0)
    assert_clean(device)


def test_growing_unstuffs_only_what_no_longer_fits(empty: Snapshot) -> None:
    device = MemoryDevice.from_snapshot(empty)
    with Volume(device) as vol:
        for name, content in (("f", b""), ("g", b"abc"), ("h", b"abc")):
            vol.create(name, content)
        vol.truncate("f", BSIZE - 231)
        vol.truncate("g", BSIZE - 232)
        vol.truncate("h", BSIZE - 231)
        assert vol.read("g") == b"abc" + bytes(BSIZE - 235)
        assert vol.read("h") == b"abc" + bytes(BSIZE - 234)
    assert [shape(device, n).height for n in "fgh"] == [1, 0, 1]
    assert [shape(device, n).blocks for n in "fgh"] == [1, 1, 2]
    assert_clean(device)


def test_the_same_size_keeps_what_was_allocated_behind_it(empty: Snapshot) -> None:
    device = MemoryDevice.from_snapshot(empty)
    with Volume(device) as vol:
        vol.create("f", b"y" * 1000)
        vol.fallocate("f", KEEP, 0, 100 * BSIZE)
        vol.truncate("f", 1000)
    assert shape(device).data == frozenset(range(100))
    with Volume(device) as vol:
        vol.truncate("f", 999)
    assert shape(device).data == frozenset(range(2))
    assert_clean(device)


@pytest.mark.parametrize("size", [1 << 63, (1 << 64) - 1])
def test_no_file_beyond_the_largest(empty: Snapshot, size: int) -> None:
    device = MemoryDevice.from_snapshot(empty)
    with Volume(device) as vol:
        vol.create("f")
        with pytest.raises(OSError, match="File too large"):
            vol.truncate("f", size)
        vol.truncate("f", (1 << 63) - 1)
        assert vol.stat("f").size == (1 << 63) - 1
    assert_clean(device)


def test_deleting_frees_everything(gapless: Snapshot) -> None:
    device = MemoryDevice.from_snapshot(gapless)
    before = check(device).counts
    with Volume(device) as vol:
        vol.unlink("f")
    assert_clean(device)
    after = check(device).counts
    assert before["dinodes"] - after["dinodes"] == 1
