"""The tree's arithmetic: what a height maps, how much an allocation may need, against a slow tree of sets."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gfs2py.engine._bmap import alloc_need, tree_capacity_blocks
from gfs2py.ondisk import geometry

BSIZES = (512, 1024, 2048, 4096)
LIMIT = (1 << 63) - 1


def pointers(bsize: int) -> tuple[int, int]:
    return (bsize - 232) // 8, (bsize - 24) // 8


@pytest.mark.parametrize("bsize", BSIZES)
def test_capacity_grows_by_one_level_of_pointers(bsize: int) -> None:
    diptrs, inptrs = pointers(bsize)
    assert tree_capacity_blocks(bsize, 0) == 0
    for height in range(1, 11):
        wanted = min(diptrs * inptrs ** (height - 1), 2**64 - 1)
        assert tree_capacity_blocks(bsize, height) == wanted


@pytest.mark.parametrize("bsize", BSIZES)
def test_some_height_below_eleven_maps_the_largest_file(bsize: int) -> None:
    assert any(tree_capacity_blocks(bsize, h) >= LIMIT // bsize + 1 for h in range(11))


@pytest.mark.parametrize("bad", [(513, 1), (256, 1), (8192, 1), (4096, 11), (4096, -1)])
def test_sizes_that_gfs2_does_not_have(bad: tuple[int, int]) -> None:
    with pytest.raises(ValueError):
        tree_capacity_blocks(*bad)


class SlowTree:
    """The blocks of a metadata tree as a set of (level, index); level 1 are the blocks that point to data."""

    def __init__(self, bsize: int, height: int, rng: random.Random) -> None:
        self.diptrs, self.inptrs = pointers(bsize)
        self.height = height
        self.data: set[int] = set()
        self.nodes: set[tuple[int, int]] = set()
        for _ in range(rng.randrange(4) if height else 0):
            lblk = rng.randrange(self.capacity(height))
            self.data.add(lblk)
            self.nodes.update(self.path(lblk))

    def capacity(self, height: int) -> int:
        return self.diptrs * self.inptrs ** (height - 1) if height else 0

    def path(self, lblk: int) -> set[tuple[int, int]]:
        return {(level, lblk // self.inptrs**level) for level in range(1, self.height)}

    def allocate(self, lblk: int) -> set[tuple[int, int]]:
        """Maps lblk; the indirect blocks that this makes or changes."""
        touched: set[tuple[int, int]] = set()
        self.height = max(self.height, 1)
        while lblk >= self.capacity(self.height):
            if self.data:
                self.nodes.add((self.height, 0))
                touched.add((self.height, 0))
            self.height += 1
        touched |= self.path(lblk)
        self.nodes |= touched
        self.data.add(lblk)
        return touched


@settings(max_examples=300, deadline=None)
@given(bsize=st.sampled_from(BSIZES), height=st.integers(0, 5), seed=st.integers(0, 2**32),
       n=st.integers(1, 300), data=st.data())
def test_need_is_enough(bsize: int, height: int, seed: int, n: int, data: st.DataObject) -> None:
    rng = random.Random(seed)
    tree = SlowTree(bsize, height, rng)
    top = min(tree.capacity(data.draw(st.integers(1, 6))), LIMIT // bsize - n)
    lblk = data.draw(st.integers(0, max(top - 1, 0)))
    data_blocks, meta_blocks = alloc_need(bsize, height, 100 if height == 0 else 0, lblk, n)
    touched: set[tuple[int, int]] = set()
    new_data = 0
    if height == 0:
        touched |= tree.allocate(0)
        new_data += 1
    for i in range(lblk, lblk + n):
        new_data += i not in tree.data
        touched |= tree.allocate(i)
    assert len(touched) <= meta_blocks
    assert new_data <= data_blocks


@pytest.mark.parametrize(("bsize", "most"), [(512, 45), (1024, 16), (2048, 8), (4096, 6)])
def test_a_mebibyte_does_not_reserve_hundreds(bsize: int, most: int) -> None:
    data_blocks, meta_blocks = alloc_need(bsize, 3, 10 << 20, (10 << 20) // bsize, (1 << 20) // bsize)
    assert data_blocks == (1 << 20) // bsize
    assert 0 < meta_blocks <= most


def test_agrees_with_the_geometry_table() -> None:
    for bsize in BSIZES:
        g = geometry.geometry(bsize)
        for height in range(1, 5):
            assert tree_capacity_blocks(bsize, height) * bsize == g.heightsize[height]
