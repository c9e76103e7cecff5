"""Resource groups: no overlap, nothing wasted, and the division that a step-by-step model finds too."""

import itertools

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gfs2py.mkfs.options import MkfsError
from gfs2py.mkfs.plan import Alignment, divide, plan_rgrps
from gfs2py.ondisk.constants import BLOCK_SIZES
from gfs2py.ondisk.geometry import geometry

STRIPES = st.sampled_from([(0, 0), (16, 16), (64, 16), (256, 32)])


def divide_by_steps(space: int, target: int, align: Alignment, largest: int) -> list[tuple[int, int]]:
    """The slow twin: shrink one unit at a time until it fits."""
    length = align.length(target)
    while length > largest:
        target -= align.base + 1
        length = align.length(target)
    count = space // length
    if space - count * length <= align.base:
        return [(count, length)]
    unit = align.base or 1
    count += 1
    while (length - unit) * count >= space:
        length -= unit
    smaller = 0
    while length * (count - smaller) + (length - unit) * smaller >= space:
        smaller += 1
    return [(count - smaller, length), (smaller, length - unit)]


@given(st.integers(2000, 3_000_000), st.integers(1500, 70_000), STRIPES)
def test_division_is_the_slow_twins(space: int, target: int, stripe: tuple[int, int]) -> None:
    align = Alignment(*stripe)
    largest = 60_000
    assume(space > 2 * target)
    assert divide(space, target, align, largest) == divide_by_steps(space, target, align, largest)


@given(st.sampled_from(BLOCK_SIZES), st.integers(80, 40_000), st.integers(1, 4), STRIPES)
def test_groups_follow_one_another_inside_the_device(bsize: int, mib: int, journals: int,
                                                     stripe: tuple[int, int]) -> None:
    geo = geometry(bsize)
    blocks = mib * 2**20 // bsize
    align = Alignment(*stripe)
    groups = plan_rgrps(geo, blocks, journals, 8, 256, align)
    assert groups[0].addr > geo.sb_block
    for rg in groups:
        assert rg.data0 == rg.addr + rg.length
        assert rg.data0 + rg.data <= rg.addr + rg.blocks
        assert rg.data % 4 == 0
        assert rg.data >= 4
        assert not align.offset or rg.addr % align.offset == 0
    for this, following in itertools.pairwise(groups):
        assert this.addr + this.blocks == following.addr
        assert this.skip == following.addr - this.addr
    assert groups[-1].skip == 0
    end = groups[-1].addr + groups[-1].blocks
    assert end <= blocks
    assert blocks - end <= max(2 * align.base, 2)
    for rg in groups[:journals]:
        assert rg.data >= geo.blocks_for_file(8 << 20)


def test_too_small_for_its_journals() -> None:
    with pytest.raises(MkfsError, match="will not fit"):
        plan_rgrps(geometry(4096), 4000, 2, 8, 256, Alignment())
