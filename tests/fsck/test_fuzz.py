"""Arbitrary damage: the checker ends in bounded time with findings, whatever the blocks say."""

from __future__ import annotations

import random
import struct
import time

import pytest

from gfs2py.block import FaultyDevice, MemoryDevice, Snapshot
from gfs2py.edit.reader import Reader
from gfs2py.fsck import check

MAGIC = struct.pack(">I", 0x01161970)
ROUNDS = 120
SECONDS_MAX = 20.0
EDGES = (0, 1, 2, 7, 8, 0x7F, 0x80, 0xFF)
WORDS = (0, 1, 17, 18, 0xFFFFFFFF, 1 << 31, 1 << 32, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)


def metadata_blocks(dev: MemoryDevice) -> list[int]:
    """All blocks with a metadata header outside of the journals, and the superblock."""
    r = Reader(dev)
    bsize = r.bsize
    journal = {b for _, b in r.data_blocks(r.system("jindex/journal0"))}
    return [b for b in range(65536 // bsize, dev.size_bytes // bsize)
            if b not in journal and dev.read(b * bsize, 4) == MAGIC]


def mutate(dev: MemoryDevice, bsize: int, blocks: list[int], rng: random.Random) -> None:
    """One change: a bit, a byte, a word of interesting value, a pointer to somewhere, another block."""
    block = rng.choice(blocks)
    base = block * bsize
    # Headers and the fields of dinodes count more than the rest of a block.
    at = rng.randrange(bsize) if rng.random() < 0.5 else rng.randrange(min(256, bsize))
    kind = rng.randrange(6)
    if kind == 0:
        dev.write(base + at, bytes([dev.read(base + at, 1)[0] ^ 1 << rng.randrange(8)]))
    elif kind == 1:
        dev.write(base + at, bytes([rng.choice(EDGES)]))
    elif kind == 2:
        at &= ~7
        dev.write(base + at, struct.pack(">Q", rng.choice(WORDS)))
    elif kind == 3:
        at &= ~7
        dev.write(base + at, struct.pack(">Q", rng.choice(blocks)))
    elif kind == 4:
        at &= ~3
        dev.write(base + at, struct.pack(">I", rng.randrange(1 << 32)))
    else:
        dev.write(base, dev.read(rng.choice(blocks) * bsize, bsize))


@pytest.mark.parametrize("image", ["kernel_4096", "kernel_512"])
def test_random_damage(image: str, request: pytest.FixtureRequest, rng: random.Random) -> None:
    snap: Snapshot = request.getfixturevalue(image)
    whole = MemoryDevice.from_snapshot(snap, name=image)
    bsize = Reader(whole).bsize
    blocks = metadata_blocks(whole)
    assert len(blocks) > 1000
    n_found = 0
    for n in range(ROUNDS):
        dev = MemoryDevice.from_snapshot(snap, name=image)
        for _ in range(1 << rng.randrange(8)):
            mutate(dev, bsize, blocks, rng)
        start = time.monotonic()
        report = check(dev, full_journals=n % 8 == 0, quota=True)
        assert time.monotonic() - start < SECONDS_MAX
        n_found += not report.clean
        for f in report.findings:
            assert str(f)
    assert n_found > ROUNDS * 0.5  # a single change often hits a byte that means nothing


def test_garbage_is_no_file_system(rng: random.Random) -> None:
    dev = MemoryDevice(8 << 20)
    assert not check(dev).checked
    dev.write(65536, rng.randbytes(4096))
    report = check(dev)
    assert not report.checked
    assert report.of("sb_header")


def test_device_too_small() -> None:
    assert check(MemoryDevice(65536)).of("device_short")


@pytest.mark.parametrize("rate", [0.02, 0.3])
def test_blocks_that_cannot_be_read(rate: float, kernel_4096: Snapshot, rng: random.Random) -> None:
    """Read errors are findings, and what could be read is checked all the same."""
    n_found = 0
    for _ in range(20):
        dev = FaultyDevice(MemoryDevice.from_snapshot(kernel_4096), kinds=("read",), error_rate=rate,
                           seed=rng.randrange(1 << 30))
        report = check(dev)
        if report.of("io_error"):
            assert not report.clean
            n_found += 1
    assert n_found


def test_rotten_reads(kernel_4096: Snapshot, rng: random.Random) -> None:
    for _ in range(20):
        dev = MemoryDevice.from_snapshot(kernel_4096)
        check(FaultyDevice(dev, rot_rate=0.3, seed=rng.randrange(1 << 30)))
