"""Where the resource groups of a new file system lie.

Each journal gets a group of its own, just large enough, right behind the superblock; the rest of the device
is divided into groups of nearly equal size. Addresses and lengths are in file system blocks.
Source: gfs2-utils libgfs2/rgrp.c lgfs2_rgrps_plan, mkfs/main_mkfs.c place_journals: the same input gives the
same layout here, so that images can be compared block for block.
"""

import itertools
from dataclasses import dataclass

from gfs2py.mkfs.options import MAX_RGSIZE_MB, MIB, MkfsError
from gfs2py.ondisk.geometry import Geometry

MIN_RGRP_DATA = 4  # blocks: one byte of bitmap


@dataclass(slots=True)
class Rgrp:
    """One resource group: `length` blocks of header and bitmap at `addr`, `data` blocks from `data0`.

    `used` data blocks are taken, always the first ones; those of `dinodes` (indexes) are inodes.
    """

    addr: int
    blocks: int
    length: int
    data0: int
    data: int
    used: int = 0
    dinodes: list[int] | None = None
    skip: int = 0

    @property
    def bitbytes(self) -> int:
        return self.data // 4

    @property
    def free(self) -> int:
        return self.data - self.used


@dataclass(frozen=True, slots=True)
class Alignment:
    """Stripe width and stripe unit in blocks; 0 and 0 for none."""

    base: int = 0
    offset: int = 0

    def addr(self, addr: int) -> int:
        return _round_up(addr, self.offset)

    def length(self, length: int) -> int:
        return _round_up(length, self.base) + self.offset


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit if unit else value


def _rgrps(geo: Geometry, addr: int, count: int, blocks: int) -> list[Rgrp]:
    """`count` groups of `blocks` blocks each, the first at `addr`; none if that is too small for one."""
    length, data = geo.rgrp_split(blocks)
    if data < MIN_RGRP_DATA:
        return []
    return [Rgrp(addr=at, blocks=blocks, length=length, data0=at + length, data=data)
            for at in range(addr, addr + count * blocks, blocks)]


def divide(space: int, target: int, align: Alignment, largest: int) -> list[tuple[int, int]]:
    """How to cut `space` blocks into groups of about `target`: [(how many, blocks of each), ...].

    There are at most two sizes, one alignment unit (or one block) apart, and at most one unit is left over at
    the end, though always at least one block.
    """
    length = align.length(target)
    while length > largest:
        target -= align.base + 1
        length = align.length(target)
    count = space // length
    if space - count * length <= align.base:
        return [(count, length)]
    # One more group than fits: all shrink alike, then some shrink by one more unit.
    unit = align.base or 1
    count += 1
    length -= max(0, -(-(length - (space - 1) // count) // unit) - 1) * unit
    excess = length * count - space
    smaller = excess // unit + 1 if excess >= 0 else 0
    return [(count - smaller, length), (smaller, length - unit)]


def plan_rgrps(geo: Geometry, fs_blocks: int, journals: int, jsize_mb: int, rgsize_mb: int,
               align: Alignment) -> list[Rgrp]:
    """All resource groups in order, those of the journals first. Raises MkfsError if they do not fit."""
    addr = align.addr(geo.sb_block + 1)
    journal_blocks = align.length(geo.rgrp_size_for_data(geo.blocks_for_file(jsize_mb * MIB)))
    if addr + journals * journal_blocks > fs_blocks:
        raise MkfsError("gfs2 will not fit on this device.")
    groups = _rgrps(geo, addr, journals, journal_blocks)
    addr += journals * journal_blocks
    if addr < fs_blocks:
        cuts = divide(fs_blocks - addr, rgsize_mb * MIB // geo.bsize, align, MAX_RGSIZE_MB * MIB // geo.bsize)
        for count, blocks in cuts:
            if count:
                more = _rgrps(geo, addr, count, blocks)
                addr += len(more) * blocks
                groups += more
    for this, following in itertools.pairwise(groups):
        this.skip = following.addr - this.addr
    return groups
