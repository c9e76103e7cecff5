"""The constants of each block size, against the kernel's formulas and a slow bitmap model."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfs2py.ondisk.constants import BLOCK_SIZES, GFS2_MAX_META_HEIGHT
from gfs2py.ondisk.geometry import geometry


@pytest.mark.parametrize(("bsize", "diptrs", "inptrs", "max_height"), [
    (512, 35, 61, 10), (1024, 99, 125, 8), (2048, 227, 253, 7), (4096, 483, 509, 6),
])
def test_constants(bsize: int, diptrs: int, inptrs: int, max_height: int) -> None:
    geo = geometry(bsize)
    assert (geo.diptrs, geo.inptrs, geo.max_height) == (diptrs, inptrs, max_height)
    assert geo.max_height <= GFS2_MAX_META_HEIGHT
    assert geo.heightsize[0] == bsize - 232
    assert geo.heightsize[1] == bsize * diptrs
    assert geo.heightsize[2] == bsize * diptrs * inptrs
    assert geo.jheightsize[1] == (bsize - 24) * diptrs
    assert geo.heightsize[-1] == 2**64 - 1
    assert geo.heightsize[-2] * inptrs >= 2**64
    assert geo.sb_block * bsize == 65536


@pytest.mark.parametrize("bsize", [0, 256, 513, 8192])
def test_other_block_sizes_are_refused(bsize: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        geometry(bsize)


@given(st.sampled_from(BLOCK_SIZES), st.integers(0, 1 << 40))
def test_height_is_the_lowest_that_fits(bsize: int, size: int) -> None:
    geo = geometry(bsize)
    height = geo.height_for(size)
    assert size <= geo.heightsize[height]
    assert height == 0 or size > geo.heightsize[height - 1]


@given(st.sampled_from(BLOCK_SIZES), st.integers(1, 1 << 32))
def test_level_counts_hold_every_pointer(bsize: int, size: int) -> None:
    geo = geometry(bsize)
    counts = geo.level_counts(size)
    assert len(counts) == geo.height_for(size)
    assert geo.blocks_for_file(size) == 1 + sum(counts)
    if counts:
        assert counts[0] <= geo.diptrs
        assert counts[-1] == -(-size // bsize)
        for upper, lower in itertools.pairwise(counts):
            assert (upper - 1) * geo.inptrs < lower <= upper * geo.inptrs


@given(st.sampled_from(BLOCK_SIZES), st.integers(16, 1 << 22))
def test_a_resource_groups_bitmap_covers_its_data(bsize: int, blocks: int) -> None:
    geo = geometry(bsize)
    length, data = geo.rgrp_split(blocks)
    assert data % 4 == 0
    assert 0 <= blocks - length - data < 4 + 1
    layout = geo.bitmap_layout(data // 4)
    assert len(layout) <= length
    assert sum(n for _, _, n in layout) == data // 4
    assert all(offset + n <= bsize for offset, _, n in layout)


@given(st.sampled_from(BLOCK_SIZES), st.integers(4, 1 << 20))
def test_size_for_data_offers_that_much(bsize: int, wanted: int) -> None:
    geo = geometry(bsize)
    length, data = geo.rgrp_split(geo.rgrp_size_for_data(wanted))
    assert data >= wanted
    assert geo.rgrp_length(data // 4) <= length
