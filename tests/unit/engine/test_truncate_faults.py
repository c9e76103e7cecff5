"""Truncating when reads fail or the tree is damaged: an error, never a wrong free, and nothing hangs."""

from __future__ import annotations

import errno
import random
from typing import TYPE_CHECKING

import pytest

from gfs2py.block import FaultyDevice, MemoryDevice, Snapshot
from gfs2py.edit.reader import Reader
from gfs2py.engine.volume import Volume
from gfs2py.fsck import check
from gfs2py.mkfs.make import make_fs
from gfs2py.mkfs.options import MkfsOptions

if TYPE_CHECKING:
    from collections.abc import Callable

BSIZE, INPTRS = 512, 61
STEP = INPTRS * 80


@pytest.fixture(scope="module")
def tall() -> Snapshot:
    """A file of height 4 with a few runs of blocks far apart."""
    device = MemoryDevice(32 << 20)
    make_fs(device, MkfsOptions(bsize=BSIZE, jsize_mb=8, lockproto="lock_nolock", rng=random.Random(1)))
    with Volume(device) as vol:
        vol.create("f")
        for i in range(40):
            vol.write("f", i * STEP * BSIZE, b"x" * 5 * BSIZE)
    assert Reader(device).path("f").height == 4
    return device.snapshot()


def attempt(*steps: Callable[[], object]) -> int:
    """The errno of the first step that fails; 0 when none does."""
    try:
        for step in steps:
            step()
    except OSError as e:
        return e.errno or -1
    return 0


@pytest.mark.parametrize("size", [0, 20 * STEP * BSIZE + 3])
def test_each_read_failing_in_turn(tall: Snapshot, size: int) -> None:
    failures = 0
    for k in range(1, 1000):
        base = MemoryDevice.from_snapshot(tall)
        device = FaultyDevice(base)
        vol = Volume(device, background=False, quiet=True)
        device.arm(fail_at=k, kinds=("read",))
        code = attempt(lambda: vol.truncate("f", size))  # noqa: B023
        assert code in (0, errno.EIO)
        failures += code != 0
        done = device.failed == 0
        device.disarm()
        if attempt(lambda: vol.truncate("f", size), vol.close):  # noqa: B023
            # The mount has withdrawn: the journal has it all.
            vol.abandon()
            with Volume(base, background=False, quiet=True) as again:
                again.truncate("f", size)
        assert check(base).findings == [], k
        assert Reader(base).path("f").size == size
        if done:
            break
    else:
        pytest.fail("the truncation reads without end")
    assert failures > 2


def level(device: MemoryDevice, which: int) -> list[tuple[int, int]]:
    r = Reader(device)
    return list(r.tree_level(r.path("f"), which))


def put_pointer(device: MemoryDevice, block: int, index: int, value: int) -> None:
    raw = bytearray(device.read(block * BSIZE, BSIZE))
    raw[24 + 8 * index:32 + 8 * index] = value.to_bytes(8, "big")
    device.write(block * BSIZE, bytes(raw))


def beyond_the_device(device: MemoryDevice) -> None:
    put_pointer(device, level(device, 3)[5][1], 7, device.size_bytes // BSIZE + 5)


def outside_every_group(device: MemoryDevice) -> None:
    put_pointer(device, level(device, 3)[5][1], 7, 3)


def a_free_block(device: MemoryDevice) -> None:
    put_pointer(device, level(device, 3)[5][1], 7, device.size_bytes // BSIZE - 100)


def one_block_twice(device: MemoryDevice) -> None:
    put_pointer(device, level(device, 3)[5][1], 9, level(device, 4)[0][1])


def data_as_indirect_block(device: MemoryDevice) -> None:
    put_pointer(device, level(device, 2)[0][1], 60, level(device, 4)[0][1])


def itself(device: MemoryDevice) -> None:
    put_pointer(device, level(device, 2)[0][1], 60, level(device, 2)[0][1])


def huge(device: MemoryDevice) -> None:
    put_pointer(device, level(device, 1)[0][1], 60, (1 << 64) - 1)


@pytest.mark.parametrize("plant", [beyond_the_device, outside_every_group, a_free_block, one_block_twice,
                                   data_as_indirect_block, itself, huge])
@pytest.mark.parametrize("how", ["truncate", "punch", "unlink"])
def test_a_damaged_tree(tall: Snapshot, plant: Callable[[MemoryDevice], None], how: str) -> None:
    device = MemoryDevice.from_snapshot(tall)
    plant(device)
    vol = Volume(device, background=False, quiet=True)
    code = attempt({"truncate": lambda: vol.truncate("f", 0), "punch": lambda: vol.fallocate("f", 3, 0, 1 << 40),
                    "unlink": lambda: vol.unlink("f")}[how], vol.sync)
    assert code == errno.EIO or how == "unlink"
    # An unlink is done when its entry is gone; the deletion meets the damage later, at the latest now.
    assert attempt(lambda: vol.create("after"), vol.close) == errno.EIO
    vol.abandon()
