"""The engine's kernels alone, by pytest-benchmark: `pytest bench/bench_kernels.py`.

Each touches more data than the first-level cache holds, as it would in use.
"""

from __future__ import annotations

import random

from pytest_benchmark.fixture import BenchmarkFixture

from gfs2py.engine import _bitmap
from gfs2py.ondisk import _checksum

BLOCK = 4096
BLOCKS = 256
NAMES = [b"file-%06d-%s" % (n, b"x" * (n % 40)) for n in range(10_000)]
FREE, USED = 0, 1


def test_crc32c_of_blocks(benchmark: BenchmarkFixture) -> None:
    blocks = [random.Random(n).randbytes(BLOCK) for n in range(BLOCKS)]
    benchmark.extra_info["bytes"] = BLOCK * BLOCKS
    benchmark(lambda: [_checksum.py_crc32c(b) for b in blocks])


def test_crc32c_by_table(benchmark: BenchmarkFixture) -> None:
    blocks = [random.Random(n).randbytes(BLOCK) for n in range(16)]
    benchmark.extra_info["bytes"] = BLOCK * 16
    benchmark(lambda: [_checksum.py_crc32c(b, table=True) for b in blocks])


def test_dirhash_of_names(benchmark: BenchmarkFixture) -> None:
    benchmark.extra_info["names"] = len(NAMES)
    benchmark(lambda: [_checksum.py_dir_hash(n) for n in NAMES])


def test_bitmap_search_to_the_end(benchmark: BenchmarkFixture) -> None:
    """The one free block is the last of a 64 KiB bitmap (a 1 GiB resource group)."""
    bits = bytearray(b"\x55" * (64 << 10))
    bits[-1] = 0x15
    last = len(bits) * 4 - 1
    assert benchmark(_bitmap.bitmap_find, bits, 0, last + 1, FREE) == last


def test_bitmap_count(benchmark: BenchmarkFixture) -> None:
    bits = random.Random(1).randbytes(64 << 10)
    assert sum(benchmark(_bitmap.bitmap_count, bits, 0, len(bits) * 4)) == len(bits) * 4


def test_bitmap_set_run(benchmark: BenchmarkFixture) -> None:
    bits = bytearray(64 << 10)
    benchmark(_bitmap.bitmap_set_run, bits, 5, len(bits) * 4 - 5, USED)
    assert bits[100] == 0x55
