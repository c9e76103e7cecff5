"""Planted damage lands where it was meant to, and nowhere else."""

import pytest

from gfs2py.edit import patch
from gfs2py.ondisk import structs


class Ram:
    """The least a patch needs."""

    def __init__(self, size: int) -> None:
        self.data = bytearray(size)

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    def read(self, off: int, n: int, /) -> bytes:
        return bytes(self.data[off:off + n])

    def write(self, off: int, data: bytes, /) -> None:
        self.data[off:off + len(data)] = data


@pytest.fixture
def dev() -> Ram:
    ram = Ram(1 << 20)
    ram.write(65536, structs.pack("sb", {"sb_bsize": 1024, "sb_bsize_shift": 10}))
    rg = bytearray(structs.pack("rgrp", {"rg_data0": 102, "rg_data": 4000}).ljust(1024, b"\0"))
    structs.seal("rgrp", rg)
    ram.write(100 * 1024, bytes(rg))
    return ram


def test_one_field(dev: Ram) -> None:
    before = bytes(dev.data)
    assert patch.patch_field(dev, 100, "rgrp", "rg_free", 0x01020304) == 0
    assert patch.get_field(dev, 100, "rgrp", "rg_free") == 0x01020304
    changed = [i for i in range(len(before)) if before[i] != dev.data[i]]
    assert changed == [100 * 1024 + 28 + i for i in range(4)]
    assert [p.field for p in structs.check("rgrp", dev.read(102400, 1024))] == ["rg_crc"]


def test_sealed(dev: Ram) -> None:
    patch.patch_field(dev, 100, "rgrp", "rg_free", 7, seal=True)
    assert structs.check("rgrp", dev.read(102400, 1024)) == []


def test_bitmap_in_the_first_and_in_a_further_block(dev: Ram) -> None:
    assert patch.patch_bitmap(dev, 100, 103, 3) == 0
    assert dev.data[100 * 1024 + 128] == 0b1100
    assert patch.patch_bitmap(dev, 100, 103, 1) == 3
    last_of_first = 102 + (1024 - 128) * 4 - 1
    patch.patch_bitmap(dev, 100, last_of_first, 3)
    assert dev.data[100 * 1024 + 1023] == 0b11000000
    patch.patch_bitmap(dev, 100, last_of_first + 1, 2)
    assert dev.data[101 * 1024 + 24] == 0b10


def test_mistakes_are_refused(dev: Ram) -> None:
    before = bytes(dev.data)
    with pytest.raises(ValueError, match="outside"):
        patch.patch_field(dev, 1024, "rgrp", "rg_free", 1)
    with pytest.raises(KeyError, match="rg_colour"):
        patch.patch_field(dev, 100, "rgrp", "rg_colour", 1)
    with pytest.raises(ValueError, match="does not fit"):
        patch.patch_field(dev, 100, "rgrp", "rg_free", 1 << 32)
    with pytest.raises(ValueError, match="outside of a block"):
        patch.patch_bytes(dev, 100, 1020, b"12345")
    assert bytes(dev.data) == before
    with pytest.raises(structs.DamageError, match="sb_bsize"):
        patch.block_size(Ram(1 << 17))
