"""One sparse file against a dictionary of its bytes: every height, huge offsets, punching and truncating.

512-byte blocks give the tallest trees: 35 pointers in the dinode, 61 in an indirect block, up to ten levels.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from volume_adapter import TestVolume
from volume_model import FALLOC_KEEP, FALLOC_PUNCH, SEEK_DATA, SEEK_HOLE

if TYPE_CHECKING:
    from pathlib import Path

    from interop.commands import Commands

FILE = (b"f",)
LIMIT = (1 << 63) - 1
PLACES, DELTAS = st.integers(0, 60), st.integers(-1100, 1100)


def edges(bsize: int) -> list[int]:
    """File offsets at which a tree must grow by one level, below the largest size."""
    diptrs, inptrs = (bsize - 232) // 8, (bsize - 24) // 8
    out = [0, bsize - 232]
    span = diptrs * bsize
    while span < LIMIT:
        out += [span, span // diptrs]
        span *= inptrs
    return [*out, LIMIT]


class SparseFile(RuleBasedStateMachine):
    """The model: size, and the blocks that hold anything but zeros."""

    bsize = 512
    image: Path
    commands: Commands

    def __init__(self) -> None:
        super().__init__()
        self.vol = TestVolume(bsize=self.bsize, mib=24)
        self.size = 0
        self.blocks: dict[int, bytes] = {}
        self.places = edges(self.bsize)

    @initialize(jdata=st.booleans())
    def make(self, jdata: bool) -> None:
        self.vol.create(FILE, 0o644)
        if jdata:
            self.vol.set_jdata(FILE)

    def get(self, off: int, n: int) -> bytes:
        n = max(0, min(n, self.size - off))
        first, last = off // self.bsize, (off + n - 1) // self.bsize if n else off // self.bsize
        zero = bytes(self.bsize)
        body = b"".join(self.blocks.get(i, zero) for i in range(first, last + 1))
        at = off - first * self.bsize
        return body[at:at + n]

    def put(self, off: int, data: bytes) -> None:
        at = 0
        while at < len(data):
            i, start = divmod(off + at, self.bsize)
            part = data[at:at + self.bsize - start]
            old = self.blocks.get(i, bytes(self.bsize))
            self.blocks[i] = old[:start] + part + old[start + len(part):]
            at += len(part)

    def drop(self, off: int, end: int) -> None:
        """Bytes [off, end) become zero."""
        for i in [i for i in self.blocks if (i + 1) * self.bsize > off and i * self.bsize < end]:
            a, b = max(off - i * self.bsize, 0), min(end - i * self.bsize, self.bsize)
            old = self.blocks[i]
            self.blocks[i] = old[:a] + bytes(b - a) + old[b:]
            if b - a == self.bsize:
                del self.blocks[i]

    def offset(self, place: int, delta: int) -> int:
        known = [*self.places, self.size, *(i * self.bsize for i in sorted(self.blocks)[:20])]
        return max(0, min(LIMIT, known[place % len(known)] + delta))

    @rule(place=PLACES, delta=DELTAS, n=st.integers(1, 40000), fill=st.binary(min_size=1))
    def write(self, place: int, delta: int, n: int, fill: bytes) -> None:
        off = self.offset(place, delta)
        data = (fill * (n // len(fill) + 1))[:n]
        if off + n > LIMIT:
            with pytest.raises(OSError) as e:
                self.vol.write(FILE, off, data)
            assert e.value.errno == errno.EFBIG
            return
        assert self.vol.write(FILE, off, data) == n
        self.put(off, data)
        self.size = max(self.size, off + n)

    @rule(place=PLACES, delta=DELTAS)
    def truncate(self, place: int, delta: int) -> None:
        size = self.offset(place, delta)
        self.vol.truncate(FILE, size)
        self.drop(size, LIMIT)
        self.size = size

    @rule(place=PLACES, delta=DELTAS, n=st.integers(1, 1 << 20), wide=st.integers(0, 40))
    def punch(self, place: int, delta: int, n: int, wide: int) -> None:
        off = self.offset(place, delta)
        n = min(n << wide, (1 << 62) - 1 - off)
        if n <= 0:
            return
        self.vol.fallocate(FILE, FALLOC_KEEP | FALLOC_PUNCH, off, n)
        self.drop(off, off + n)

    @rule(place=PLACES, delta=DELTAS, n=st.integers(1, 30000), keep=st.booleans())
    def allocate(self, place: int, delta: int, n: int, keep: bool) -> None:
        off = self.offset(place, delta)
        if off + n >= 1 << 62:
            return
        self.vol.fallocate(FILE, FALLOC_KEEP if keep else 0, off, n)
        if not keep:
            self.size = max(self.size, off + n)

    @rule(place=PLACES, delta=DELTAS, n=st.integers(1, 70000))
    def read(self, place: int, delta: int, n: int) -> None:
        off = self.offset(place, delta)
        assert self.vol.read(FILE, off, n) == self.get(off, n)

    @rule()
    def holes_and_data(self) -> None:
        """What is reported as a hole holds nothing; every block that holds something is reported as data."""
        at = 0
        left = {i for i, b in self.blocks.items() if any(b) and i * self.bsize < self.size}
        while (data := self.seek(at, SEEK_DATA)) < self.size:
            at = self.seek(data, SEEK_HOLE)
            assert data < at <= self.size
            left -= {i for i in left if data <= i * self.bsize < at or data < (i + 1) * self.bsize <= at}
        assert not left

    def seek(self, off: int, whence: int) -> int:
        """The size when there is no more."""
        try:
            return self.vol.seek(FILE, off, whence)
        except OSError as e:
            if e.errno == errno.ENXIO and (whence == SEEK_DATA or off >= self.size):
                return self.size
            raise

    @rule(crash=st.booleans())
    def remount(self, crash: bool) -> None:
        if crash:
            self.vol.crash()
        else:
            self.vol.remount()

    @invariant()
    def stat(self) -> None:
        if self.vol.exists(FILE):
            assert self.vol.stat(FILE)[2] == self.size

    def teardown(self) -> None:
        try:
            for i in sorted(self.blocks):
                assert self.vol.read(FILE, i * self.bsize, self.bsize) == self.get(i * self.bsize, self.bsize)
        except BaseException:
            if self.vol.volume is not None:
                self.vol.volume.abandon()
            raise
        self.vol.check(self.commands, self.image)


@pytest.mark.interop
@pytest.mark.parametrize("bsize", [512, 4096])
def test_sparse_file(tmp_path: Path, commands: Commands, bsize: int) -> None:
    here = {"bsize": bsize, "image": tmp_path / "image", "commands": commands}
    machine = type("Machine", (SparseFile,), here)
    run_state_machine_as_test(machine, settings=settings(
        max_examples=25, stateful_step_count=25, deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]))
