"""Plants one value in one structure of a device: what tests of the checker damage images with.

Nothing is checked and nothing else changes, except that a checksum can be made right again on demand, so that
damage behind a valid checksum can be planted too. Like `gfs2_edit -p STRUCT field value`.
"""

from typing import Protocol

from gfs2py.ondisk import constants as c
from gfs2py.ondisk import structs


class PatchDevice(Protocol):
    """What a patch needs of a device; gfs2py.block devices have it."""

    @property
    def size_bytes(self) -> int: ...
    def read(self, off: int, n: int, /) -> bytes: ...
    def write(self, off: int, data: bytes, /) -> None: ...


def block_size(dev: PatchDevice) -> int:
    """The block size in the superblock. Raises DamageError if there is none."""
    sb = dev.read(c.SB_BYTE_ADDR, 512)
    values = structs.unpack("sb", sb)
    bsize = values["sb_bsize"]
    if values["mh_magic"] != c.GFS2_MAGIC or bsize not in c.BLOCK_SIZES:
        raise structs.DamageError("gfs2_sb", "sb_bsize", "a GFS2 superblock", str(bsize), 0)
    assert isinstance(bsize, int)
    return bsize


def read_block(dev: PatchDevice, block: int, bsize: int | None = None) -> bytes:
    """One file system block. Raises ValueError if it lies outside of the device."""
    bsize = bsize or block_size(dev)
    if not 0 <= block < dev.size_bytes // bsize:
        raise ValueError(f"block {block} (0x{block:x}) is outside of the device")
    return dev.read(block * bsize, bsize)


def write_block(dev: PatchDevice, block: int, data: bytes, bsize: int | None = None) -> None:
    """Overwrites one whole block. Raises ValueError as read_block(), or if `data` is not one block."""
    bsize = bsize or block_size(dev)
    if len(data) != bsize:
        raise ValueError(f"a block has {bsize} bytes, {len(data)} were given")
    if not 0 <= block < dev.size_bytes // bsize:
        raise ValueError(f"block {block} (0x{block:x}) is outside of the device")
    dev.write(block * bsize, data)


def patch_field(dev: PatchDevice, block: int, struct: str, field: str, value: int | bytes, *,
                at: int = 0, seal: bool = False, bsize: int | None = None) -> int | bytes:
    """Sets `field` of the structure at byte `at` of `block`; returns what stood there.

    `struct` is a name of the table (dinode, rgrp, dirent, ...). The superblock is block 65536 / block size.
    `seal` puts the checksums of the structure that begins the block right again (rgrp, log header).
    Pass `bsize` if the superblock itself is damaged. Raises KeyError, ValueError, DamageError.
    """
    bsize = bsize or block_size(dev)
    buf = bytearray(read_block(dev, block, bsize))
    old = structs.get(struct, buf, field, at)
    structs.put(struct, buf, field, value, at)
    if seal and (head := structs.identify(buf)) is not None:
        structs.seal(head, buf)
    write_block(dev, block, bytes(buf), bsize)
    return old


def patch_bytes(dev: PatchDevice, block: int, at: int, data: bytes, *, bsize: int | None = None) -> bytes:
    """Overwrites bytes inside a block (a pointer, a name, a bitmap byte); returns the old ones."""
    bsize = bsize or block_size(dev)
    if at < 0 or at + len(data) > bsize:
        raise ValueError(f"bytes {at}..{at + len(data)} are outside of a block of {bsize} bytes")
    buf = bytearray(read_block(dev, block, bsize))
    old = bytes(buf[at:at + len(data)])
    buf[at:at + len(data)] = data
    write_block(dev, block, bytes(buf), bsize)
    return old


def get_field(dev: PatchDevice, block: int, struct: str, field: str, *, at: int = 0,
              bsize: int | None = None) -> int | bytes:
    """One field as it stands on the device."""
    return structs.get(struct, read_block(dev, block, bsize), field, at)


def bitmap_state_at(bsize: int, rgrp_block: int, ri_data0: int, block: int) -> tuple[int, int, int]:
    """(bitmap block, byte in it, bit shift) of the two bits that say what `block` is used for."""
    index = block - ri_data0
    if index < 0:
        raise ValueError(f"block {block} lies before the group's first data block {ri_data0}")
    byte, shift = index // c.GFS2_NBBY, index % c.GFS2_NBBY * c.GFS2_BIT_SIZE
    if byte < bsize - 128:
        return rgrp_block, 128 + byte, shift
    byte -= bsize - 128
    return rgrp_block + 1 + byte // (bsize - 24), 24 + byte % (bsize - 24), shift


def patch_bitmap(dev: PatchDevice, rgrp_block: int, block: int, state: int) -> int:
    """Sets the bitmap state of `block` in the resource group at `rgrp_block`; returns the old state.

    The group's counters stay as they are. States are GFS2_BLKST_*.
    """
    bsize = block_size(dev)
    data0 = structs.number("rgrp", read_block(dev, rgrp_block, bsize), "rg_data0")
    where, byte, shift = bitmap_state_at(bsize, rgrp_block, data0, block)
    old = read_block(dev, where, bsize)[byte]
    patch_bytes(dev, where, byte, bytes([old & ~(3 << shift) | (state & 3) << shift]), bsize=bsize)
    return old >> shift & 3
