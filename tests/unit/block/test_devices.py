"""What every block device promises, on each kind of it, against a bytearray."""

from __future__ import annotations

import errno
import fcntl
import os
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gfs2py.block import BlockDevice, FaultyDevice, FileDevice, MemoryDevice, RecordingDevice

SIZE = 1 << 18
RDONLY, HAS_FLUSH, HAS_DISCARD = 1, 2, 8


def file_of(tmp: Path, size: int = SIZE) -> Path:
    path = tmp / "image"
    with open(path, "wb") as f:
        f.truncate(size)
    return path


MAKERS: dict[str, Callable[[Path], BlockDevice]] = {
    "direct": lambda tmp: FileDevice(file_of(tmp)),
    "buffered": lambda tmp: FileDevice(file_of(tmp), direct=False),
    "no-rings": lambda tmp: FileDevice(file_of(tmp), rings=False),
    "memory": lambda tmp: MemoryDevice(SIZE),
    "memory-4k": lambda tmp: MemoryDevice(SIZE, align=4096),
    "recording": lambda tmp: RecordingDevice(MemoryDevice(SIZE)),
    "recording-file": lambda tmp: RecordingDevice(FileDevice(file_of(tmp))),
    "faulty": lambda tmp: FaultyDevice(MemoryDevice(SIZE)),
}


@pytest.fixture(params=list(MAKERS))
def dev(request: pytest.FixtureRequest, tmp_path: Path) -> BlockDevice:
    return MAKERS[request.param](tmp_path)


OPS = st.lists(
    st.tuples(
        st.sampled_from(["write", "fua", "read", "discard", "flush", "writev"]),
        st.integers(0, SIZE - 1),
        st.integers(0, 3 * 16384),
        st.integers(0, 1 << 32),
    ),
    max_size=25,
)


@pytest.mark.parametrize("kind", ["direct", "no-rings", "memory", "memory-4k", "recording"])
@given(ops=OPS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_sequence_reads_back_what_a_bytearray_holds(
    kind: str, tmp_path: Path, ops: list[tuple[str, int, int, int]]
) -> None:
    with MAKERS[kind](tmp_path) as dev:
        want = bytearray(SIZE)
        a = dev.align
        for op, off, n, seed in ops:
            rnd = random.Random(seed)
            n = min(n, SIZE - off)
            data = rnd.randbytes(n)
            if op in ("write", "fua"):
                dev.write(off, data, fua=op == "fua")
                want[off : off + n] = data
            elif op == "read":
                assert dev.read(off, n) == want[off : off + n]
            elif op == "discard":
                lo, hi = -(-off // a) * a, (off + n) // a * a
                if lo < hi:
                    dev.discard(lo, hi - lo)
                    want[lo:hi] = bytes(hi - lo)
            elif op == "flush":
                dev.flush()
            else:
                starts = rnd.sample(range(SIZE // 4096), 20)
                pieces = [(s * 4096, rnd.randbytes(4096)) for s in starts]
                dev.writev(pieces)
                for at, piece in pieces:
                    want[at : at + 4096] = piece
                assert dev.readv([(at, 4096) for at, _ in pieces]) == [p for _, p in pieces]
        assert dev.read(0, SIZE) == want


def test_past_the_end_is_eio_and_names_the_device(dev: BlockDevice) -> None:
    for off, n in ((SIZE - 5, 6), (SIZE, 1), (1 << 62, 512), ((1 << 64) - 512, 1024)):
        with pytest.raises(OSError, match="past the end") as e:
            dev.read(off, n)
        assert e.value.errno == errno.EIO
        assert e.value.filename == dev.name
        with pytest.raises(OSError, match="past the end") as e:
            dev.write(off, bytes(n))
        assert e.value.errno == errno.EIO
    with pytest.raises(OSError):
        dev.readv([(0, 4096), (SIZE, 4096)])
    with pytest.raises(OSError):
        dev.writev([(0, bytes(4096)), (SIZE, bytes(4096))])
    assert dev.read(SIZE, 0) == b""


def test_counts_what_it_did(dev: BlockDevice) -> None:
    dev.write(0, bytes(8192))
    dev.read(0, 4096)
    dev.flush()
    stats = dev.stats()
    assert (stats["writes"], stats["reads"], stats["flushes"]) == (1, 1, 1)
    assert (stats["bytes_written"], stats["bytes_read"]) == (8192, 4096)


def test_a_batch_gives_pieces_in_the_order_asked(dev: BlockDevice) -> None:
    # Adjacent, reversed, and far pieces, more of them than one system call takes.
    for block in range(SIZE // 4096):
        dev.write(block * 4096, bytes([block]) * 4096)
    order = list(range(SIZE // 4096))[::-1] + [0, 5, 6, 7, 3] * 60
    assert [p[0] for p in dev.readv([(b * 4096, 4096) for b in order])] == order
    assert dev.readv([]) == []


def test_batches_must_be_aligned(dev: BlockDevice) -> None:
    for off, n in ((1, 4096), (4096, 1), (0, 0)):
        with pytest.raises(ValueError, match="multiple"):
            dev.readv([(off, n)])
    with pytest.raises(ValueError, match="multiple"):
        dev.writev([(0, b"abc")])


def test_closed_devices_say_so(dev: BlockDevice) -> None:
    dev.close()
    dev.close()
    with pytest.raises(ValueError, match="closed"):
        dev.read(0, 1)
    with pytest.raises(ValueError, match="closed"):
        dev.flush()


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_readonly_gives_erofs(kind: str, tmp_path: Path) -> None:
    dev: BlockDevice
    if kind == "file":
        dev = FileDevice(file_of(tmp_path), readonly=True)
    else:
        dev = MemoryDevice(SIZE, readonly=True)
    assert dev.readonly
    assert dev.flags & RDONLY
    for change in (
        lambda: dev.write(0, b"x"),
        lambda: dev.writev([(0, bytes(4096))]),
        lambda: dev.discard(0, 4096),
    ):
        with pytest.raises(OSError) as e:
            change()
        assert e.value.errno == errno.EROFS
    dev.flush()
    assert dev.read(0, 4096) == bytes(4096)


class TestFile:
    def test_missing_and_wrong_kinds_of_file(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="nothing"):
            FileDevice(tmp_path / "nothing")
        with pytest.raises(OSError, match="neither a block device nor a regular file"):
            FileDevice(tmp_path)
        with pytest.raises(OSError, match="neither a block device nor a regular file"):
            FileDevice("/dev/null")

    def test_exclusive_keeps_others_out(self, tmp_path: Path) -> None:
        path = file_of(tmp_path)
        with FileDevice(path, exclusive=True), pytest.raises(OSError, match="in use") as e:
            FileDevice(path, exclusive=True)
        assert e.value.errno == errno.EBUSY
        FileDevice(path, exclusive=True).close()

    def test_odd_sizes_lose_their_tail(self, tmp_path: Path) -> None:
        with FileDevice(file_of(tmp_path, 10 * 4096 + 77), direct=False) as dev:
            assert dev.size_bytes == 10 * 4096

    def test_a_file_cut_short_meanwhile_is_eio(self, tmp_path: Path) -> None:
        path = file_of(tmp_path)
        with FileDevice(path) as dev:
            os.truncate(path, 8192)
            assert dev.read(0, 8192) == bytes(8192)
            with pytest.raises(OSError) as e:
                dev.read(4096, 8192)
            assert e.value.errno == errno.EIO

    @pytest.mark.parametrize("rings", [True, False])
    def test_a_batch_past_a_new_end_fails_only_there(self, tmp_path: Path, rings: bool) -> None:
        path = file_of(tmp_path)
        with FileDevice(path, rings=rings) as dev:
            os.truncate(path, 16384)
            with pytest.raises(OSError, match="at 12288") as e:
                dev.readv([(0, 4096), (12288, 8192), (8192, 4096)])
            assert e.value.errno == errno.EIO

    def test_more_batches_at_once_than_rings(self, tmp_path: Path) -> None:
        with FileDevice(file_of(tmp_path)) as dev:
            def work(me: int) -> None:
                mine = [(at, bytes([me + 1]) * 512) for at in range(me * 512, SIZE, 16 * 512)]
                for _ in range(5):
                    dev.writev(mine)
                    assert dev.readv([(at, 512) for at, _ in mine]) == [data for _, data in mine]

            with ThreadPoolExecutor(16) as pool:
                list(pool.map(work, range(16)))
            assert dev.read(0, 16 * 512) == b"".join(bytes([me + 1]) * 512 for me in range(16))

    def test_direct_is_tried_and_buffered_is_the_fallback(self, tmp_path: Path) -> None:
        with FileDevice(file_of(tmp_path), direct=False) as dev:
            assert not dev.direct
        with FileDevice(file_of(tmp_path)) as dev:
            flags = os.O_DIRECT if dev.direct else 0
            assert fcntl.fcntl(dev.fileno(), fcntl.F_GETFL) & os.O_DIRECT == flags

    def test_adjacent_pieces_are_one_io(self, tmp_path: Path) -> None:
        with FileDevice(file_of(tmp_path)) as dev:
            dev.writev([(b * 4096, bytes(4096)) for b in (7, 3, 4, 5, 6)])
            assert dev.stats()["writes"] == 1
            dev.readv([(b * 4096, 4096) for b in (0, 1, 9, 10, 30)])
            assert dev.stats()["reads"] == 3

    def test_discard_frees_the_blocks(self, tmp_path: Path) -> None:
        path = file_of(tmp_path)
        with FileDevice(path) as dev:
            dev.write(0, b"x" * SIZE)
            dev.flush()
            before = path.stat().st_blocks
            dev.discard(0, SIZE // 2)
            assert path.stat().st_blocks < before
            assert dev.read(0, SIZE) == bytes(SIZE // 2) + b"x" * (SIZE // 2)


class TestMemory:
    def test_a_tebibyte_costs_what_was_written(self) -> None:
        dev = MemoryDevice(1 << 40)
        dev.write((1 << 40) - 4096, b"end")
        dev.write(1 << 39, bytes(1 << 20))
        assert dev.used_bytes <= 1 << 16
        assert dev.read((1 << 40) - 4096, 3) == b"end"
        dev.discard(0, 1 << 40)
        assert dev.used_bytes == 0

    def test_a_snapshot_never_changes(self) -> None:
        dev = MemoryDevice(SIZE)
        dev.write(100, b"old")
        snap = dev.snapshot()
        dev.write(100, b"new")
        dev.discard(65536, 65536)
        one, two = MemoryDevice.from_snapshot(snap), MemoryDevice.from_snapshot(snap)
        one.write(100, b"one")
        assert (dev.read(100, 3), one.read(100, 3), two.read(100, 3)) == (b"new", b"one", b"old")
        dev.close()
        del one
        assert MemoryDevice.from_snapshot(snap).read(100, 3) == b"old"
        assert snap.size_bytes == SIZE

    @pytest.mark.parametrize("align", [512, 4096])
    def test_save_and_load(self, tmp_path: Path, align: int) -> None:
        dev = MemoryDevice(1 << 28, align=align)
        dev.write(5, b"first")
        dev.write((1 << 28) - 7, b"last of")
        dev.save(tmp_path / "image")
        assert (tmp_path / "image").stat().st_blocks * 512 < 1 << 20
        back = MemoryDevice.load(tmp_path / "image", align=align)
        assert (back.read(5, 5), back.read((1 << 28) - 7, 7)) == (b"first", b"last of")
        assert back.used_bytes == dev.used_bytes

    def test_bad_sizes(self) -> None:
        for size, align in ((0, 512), (1000, 512), (4096, 100), (4096, 1 << 20), (-512, 512)):
            with pytest.raises(ValueError):
                MemoryDevice(size, align=align)
