"""The faulty device fails what its plan says, repeats exactly from its seed, and nothing else."""

from __future__ import annotations

import errno
import time

import pytest

from gfs2py.block import BlockDevice, FaultyDevice, MemoryDevice

BLOCK = 4096
SIZE = 64 * BLOCK


def failures(dev: BlockDevice, n: int = 10) -> list[int]:
    """The numbers (from 1) of those of n writes that fail, each with EIO."""
    out = []
    for i in range(1, n + 1):
        try:
            dev.write(0, bytes(BLOCK))
        except OSError as e:
            if e.errno == errno.EIO:
                out.append(i)
    return out


def test_the_kth_once_or_from_then_on() -> None:
    dev = FaultyDevice(MemoryDevice(SIZE), fail_at=3)
    assert failures(dev) == [3]
    assert (dev.count, dev.failed) == (10, 1)
    dev.arm(fail_at=3, sticky=True)
    assert failures(dev) == list(range(3, 11))
    dev.disarm()
    assert failures(dev) == []


def test_only_the_chosen_kinds_count() -> None:
    dev = FaultyDevice(MemoryDevice(SIZE), fail_at=2, kinds=["flush"])
    dev.write(0, bytes(BLOCK))
    dev.read(0, BLOCK)
    dev.flush()
    assert dev.count == 1
    with pytest.raises(OSError, match="flush"):
        dev.flush()
    dev.arm(fail_at=1, kinds=["read"])
    dev.write(0, bytes(BLOCK))
    with pytest.raises(OSError, match="read of 4096 bytes at 8192"):
        dev.read(2 * BLOCK, BLOCK)
    dev.arm(fail_at=1, kinds=["discard"])
    with pytest.raises(OSError, match="discard"):
        dev.discard(0, BLOCK)
    with pytest.raises(ValueError, match="no I/O is called 'seek'"):
        dev.arm(kinds=["seek"])


def test_a_batch_counts_its_pieces_and_names_the_failed_one() -> None:
    dev = FaultyDevice(MemoryDevice(SIZE), fail_at=3, kinds=["read"])
    with pytest.raises(OSError, match="at 20480"):
        dev.readv([(b * BLOCK, BLOCK) for b in (1, 3, 5, 7)])
    assert dev.count == 4


def test_a_torn_write_leaves_a_proper_part() -> None:
    base = MemoryDevice(SIZE)
    dev = FaultyDevice(base)
    seen = set()
    for seed in range(40):
        base.write(0, bytes(BLOCK))
        dev.arm(fail_at=1, torn=True, seed=seed)
        with pytest.raises(OSError):
            dev.write(0, b"n" * BLOCK)
        got = base.read(0, BLOCK)
        kept = got.count(b"n")
        assert got == b"n" * kept + bytes(BLOCK - kept)
        assert 0 < kept < BLOCK
        assert kept % 512 == 0
        seen.add(kept)
    assert len(seen) > 3
    dev.arm(fail_at=1)
    base.write(0, bytes(BLOCK))
    with pytest.raises(OSError):
        dev.write(0, b"n" * BLOCK)
    assert base.read(0, BLOCK) == bytes(BLOCK)


def test_an_error_rate_repeats_from_its_seed() -> None:
    dev = FaultyDevice(MemoryDevice(SIZE), error_rate=0.3, seed=7)
    first = failures(dev, 500)
    assert 100 < len(first) < 200
    dev.arm(error_rate=0.3, seed=7)
    assert failures(dev, 500) == first
    dev.arm(error_rate=0.3, seed=8)
    assert failures(dev, 500) != first
    dev.arm(error_rate=1.0)
    assert failures(dev) == list(range(1, 11))
    with pytest.raises(ValueError, match="error_rate"):
        dev.arm(error_rate=1.5)


def test_rot_is_one_bit_of_a_read_and_not_on_the_disk() -> None:
    base = MemoryDevice(SIZE)
    dev = FaultyDevice(base, rot_rate=1.0, seed=3)
    places = set()
    for _ in range(20):
        got = dev.read(0, BLOCK)
        wrong = int.from_bytes(got, "little")
        assert wrong.bit_count() == 1
        places.add(wrong)
    assert len(places) > 10
    assert base.read(0, BLOCK) == bytes(BLOCK)


def test_latency_is_added() -> None:
    dev = FaultyDevice(MemoryDevice(SIZE), latency_s=0.02, kinds=["read"])
    began = time.monotonic()
    for _ in range(3):
        dev.read(0, BLOCK)
    assert time.monotonic() - began >= 0.06
