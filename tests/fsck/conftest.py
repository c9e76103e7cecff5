"""Images for the checker's tests: what the kernel filled (populate.sh), unpacked once per session."""

from __future__ import annotations

import lzma
from collections.abc import Iterator
from pathlib import Path

import pytest

from gfs2py.block import MemoryDevice, Snapshot

HERE = Path(__file__).parent


def load_image(name: str) -> MemoryDevice:
    """An image of tests/fsck in memory; blocks of zeros take none."""
    with lzma.open(HERE / f"{name}.img.xz") as f:
        chunks: Iterator[bytes] = iter(lambda: f.read(1 << 20), b"")
        parts = list(chunks)
    dev = MemoryDevice(sum(map(len, parts)), name=name)
    at = 0
    for part in parts:
        if part.strip(b"\0"):
            dev.write(at, part)
        at += len(part)
    return dev


@pytest.fixture(scope="session")
def kernel_4096() -> Snapshot:
    """64 MiB, blocks of 4096 bytes, format 1802, one journal."""
    return load_image("kernel-4096").snapshot()


@pytest.fixture(scope="session")
def kernel_512() -> Snapshot:
    """64 MiB, blocks of 512 bytes, format 1801, one journal."""
    return load_image("kernel-512").snapshot()
