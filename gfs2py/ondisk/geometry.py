"""What follows from the block size: pointers per block, file sizes per tree height, bitmap layout.

The names are the kernel's sd_* ones. Source: fs/gfs2/ops_fstype.c gfs2_read_sb, fs/gfs2/rgrp.c
compute_bitstructs.
"""

from dataclasses import dataclass
from functools import cache

from gfs2py.ondisk import constants as c

SIZEOF_META_HEADER = 24
SIZEOF_DINODE = 232
SIZEOF_RGRP = 128
_U64 = 1 << 64


@dataclass(frozen=True, slots=True)
class Geometry:
    """The constants of one block size. Sizes in bytes, block counts and pointers as such."""

    bsize: int
    bsize_shift: int
    diptrs: int  # pointers in a dinode
    inptrs: int  # pointers in an indirect block
    jbsize: int  # payload of a block that carries a metadata header
    hash_bsize: int
    hash_bsize_shift: int
    hash_ptrs: int
    qc_per_block: int
    heightsize: tuple[int, ...]  # [h]: largest size in bytes of a file of height h
    jheightsize: tuple[int, ...]  # the same for directories, whose data blocks carry headers
    max_height: int
    max_jheight: int
    max_dents_per_leaf: int
    max_stuffed: int  # bytes that fit behind the dinode
    sb_block: int  # where the superblock stands

    def height_for(self, size: int, *, directory: bool = False) -> int:
        """The lowest tree height that holds `size` bytes. Raises ValueError when no height does."""
        for height, limit in enumerate(self.jheightsize if directory else self.heightsize):
            if size <= limit:
                return height
        raise ValueError(f"{size} bytes are more than a file can hold")

    def blocks_for_file(self, size: int) -> int:
        """Blocks of a gapless file: dinode, indirect blocks, data."""
        if size <= self.max_stuffed:
            return 1
        return 1 + sum(self.level_counts(size))

    def level_counts(self, size: int) -> list[int]:
        """Blocks on each level below the dinode of a gapless file: indirect levels first, data last."""
        if size <= self.max_stuffed:
            return []
        counts = [-(-size // self.bsize)]
        for _ in range(self.height_for(size) - 1):
            counts.insert(0, -(-counts[0] // self.inptrs))
        return counts

    def bitmap_layout(self, bitbytes: int) -> list[tuple[int, int, int]]:
        """(offset in block, first bitmap byte, bytes) for each bitmap block of a resource group."""
        out = []
        start, offset = 0, SIZEOF_RGRP
        while True:
            length = min(self.bsize - offset, bitbytes - start)
            out.append((offset, start, length))
            start += length
            if start >= bitbytes:
                return out
            offset = SIZEOF_META_HEADER

    def rgrp_length(self, bitbytes: int) -> int:
        """Header and bitmap blocks that a resource group with this bitmap needs (ri_length)."""
        return len(self.bitmap_layout(bitbytes))

    def rgrp_split(self, blocks: int) -> tuple[int, int]:
        """(ri_length, ri_data) of a resource group made of `blocks` blocks, as mkfs.gfs2 splits them.

        The data count is a multiple of 4; up to 3 blocks at the end stay unused.
        """
        first = c.GFS2_NBBY * (self.bsize - SIZEOF_RGRP)
        other = c.GFS2_NBBY * self.jbsize
        length = 0
        while first + other * length < (blocks - length) & ~3:
            length += 1
        mappable = first + other * (length - 1) if length else 0
        data = (blocks - (length + 1)) & ~3
        return (length + 1 if mappable < data else length), data

    def rgrp_size_for_data(self, data_blocks: int) -> int:
        """Blocks of a resource group that offers at least `data_blocks` data blocks."""
        data = (data_blocks + 3) & ~3
        first = c.GFS2_NBBY * (self.bsize - SIZEOF_RGRP)
        extra = -(-max(data - first, 0) // (c.GFS2_NBBY * self.jbsize))
        return 1 + extra + data


def _heights(payload: int, bsize: int, diptrs: int, inptrs: int) -> tuple[int, ...]:
    """Sizes per height; the last height is the first that would hold more than 64 bits can say."""
    sizes = [bsize - SIZEOF_DINODE, payload * diptrs]
    while sizes[-1] * inptrs < _U64:
        sizes.append(sizes[-1] * inptrs)
    return (*sizes, _U64 - 1)


@cache
def geometry(bsize: int) -> Geometry:
    """The constants for a block size. Raises ValueError if GFS2 knows no such blocks."""
    if bsize not in c.BLOCK_SIZES:
        raise ValueError(f"block size must be a power of two between 512 and 4096, not {bsize}")
    diptrs = (bsize - SIZEOF_DINODE) // 8
    jbsize = bsize - SIZEOF_META_HEADER
    inptrs = jbsize // 8
    heightsize = _heights(bsize, bsize, diptrs, inptrs)
    jheightsize = _heights(jbsize, bsize, diptrs, inptrs)
    return Geometry(
        bsize=bsize, bsize_shift=bsize.bit_length() - 1, diptrs=diptrs, inptrs=inptrs, jbsize=jbsize,
        hash_bsize=bsize // 2, hash_bsize_shift=bsize.bit_length() - 2, hash_ptrs=bsize // 16,
        qc_per_block=jbsize // 16, heightsize=heightsize, jheightsize=jheightsize,
        max_height=len(heightsize) - 1, max_jheight=len(jheightsize) - 1,
        max_dents_per_leaf=(bsize - 104) // 48, max_stuffed=bsize - SIZEOF_DINODE,
        sb_block=c.SB_BYTE_ADDR // bsize,
    )
