"""What torture has found, each as a small test of its own."""

from __future__ import annotations

import mmap
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from interop.commands import Commands, Mounts
from torture.sys_calls import KEEP_SIZE, ZERO, fallocate, getdents

pytestmark = pytest.mark.mount

HOLE = 100_000


@pytest.fixture(params=["writeback_cache", "nowriteback_cache"])
def root(request: pytest.FixtureRequest, mounts: Mounts, make_image: Callable[..., Path],
         commands: Commands) -> Iterator[Path]:
    """The top of a fresh mount; both checkers are silent afterwards."""
    image = make_image(128)
    commands.mkfs(image, "-J", "8")
    mounted = mounts.mount(image, request.param)
    yield mounted.path
    mounted.umount()
    commands.assert_clean(image)


def test_seek_sees_data_that_only_the_kernel_has(root: Path) -> None:
    """FUSE asks for holes without writing back first: cp would leave out what was written just now."""
    fd = os.open(root / "written", os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, b"x" * 100, HOLE)
    assert os.lseek(fd, 0, os.SEEK_DATA) <= HOLE
    assert os.lseek(fd, HOLE, os.SEEK_HOLE) == HOLE + 100
    mapping = mmap.mmap(fd, HOLE)
    assert os.lseek(fd, 0, os.SEEK_DATA) > 0
    mapping[5000] = 1
    assert os.lseek(fd, 0, os.SEEK_DATA) <= 5000, "a mapped page is dirty"
    mapping.close()
    os.close(fd)


def test_cp_of_a_file_just_written(root: Path, commands: Commands, rng: random.Random) -> None:
    data = rng.randbytes(70_000)
    with (root / "a").open("wb") as f:
        f.seek(HOLE)
        f.write(data)
        f.flush()
        commands.check("cp", "--sparse=auto", root / "a", root / "b")
    assert (root / "b").read_bytes() == bytes(HOLE) + data


def test_many_seek_at_once(root: Path) -> None:
    """More of them than there are threads to serve the writes that they wait for; signals interrupt none."""
    failed: list[str] = []

    def seeks(number: int) -> None:
        fd = os.open(root / f"f{number}", os.O_RDWR | os.O_CREAT)
        for n in range(1, 20):
            os.pwrite(fd, b"x", n * HOLE)
            if os.lseek(fd, (n - 1) * HOLE + 1, os.SEEK_DATA) > n * HOLE:
                failed.append(f"file {number}: nothing at {n * HOLE}")
        os.close(fd)

    old = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        threads = [threading.Thread(target=seeks, args=(n,)) for n in range(100)]
        for thread in threads:
            thread.start()
        seeks(100)
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert not failed


def fill_up(root: Path) -> None:
    """A ballast file that leaves about 100 KiB."""
    fd = os.open(root / "ballast", os.O_WRONLY | os.O_CREAT)
    taken = 0
    while (left := (st := os.statvfs(root)).f_bavail * st.f_frsize - 100_000) > 0:
        part = max(st.f_frsize, left // 2)
        fallocate(fd, 0, taken, part)
        taken += part
    os.close(fd)


def test_full_disk_is_told_to_fsync(root: Path, rng: random.Random) -> None:
    """The write comes back short, or fsync says ENOSPC: never all well and half of it lost."""
    fill_up(root)
    data = rng.randbytes(1 << 20)
    fd = os.open(root / "f", os.O_RDWR | os.O_CREAT)
    if os.write(fd, data) == len(data):
        with pytest.raises(OSError, match="No space"):
            os.fsync(fd)
    else:
        os.fsync(fd)
        assert (root / "f").read_bytes() == data[:os.stat(root / "f").st_size]
    os.close(fd)


def test_full_disk_is_told_to_direct_writes(root: Path) -> None:
    fill_up(root)
    fd = os.open(root / "f", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    buffer = mmap.mmap(-1, 1 << 20)
    with pytest.raises(OSError, match="No space"):
        os.write(fd, buffer)
    buffer.close()
    os.close(fd)


def test_zero_range_without_space_changes_nothing(root: Path, rng: random.Random) -> None:
    """The kernel keeps its pages when the call fails: they must not be wrong then."""
    data = rng.randbytes(70_000)
    path = root / "f"
    path.write_bytes(data)
    fill_up(root)
    fd = os.open(path, os.O_RDWR)
    with pytest.raises(OSError, match="No space"):
        fallocate(fd, ZERO, 1000, 8 << 20)
    for _ in range(2):
        assert os.pread(fd, len(data) + 1, 0) == data
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    fallocate(fd, ZERO | KEEP_SIZE, 1000, 8000)
    assert os.pread(fd, len(data) + 1, 0) == data[:1000] + bytes(8000) + data[9000:]
    os.close(fd)


def test_direct_append_behind_what_only_the_kernel_has(root: Path, rng: random.Random) -> None:
    """The end of the file is where the kernel says; pieces of one append, sent at once, stay in order."""
    data = rng.randbytes(50_000)
    path = root / "f"
    with path.open("wb") as f:
        f.write(data)
        f.flush()
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_DIRECT)
        for size in (4096, 5 << 20, 8 << 20):
            buffer = mmap.mmap(-1, size)
            buffer[:] = more = rng.randbytes(size)
            assert os.write(fd, buffer) == size
            data += more
            buffer.close()
            f.seek(0, os.SEEK_END)
            f.write(b"tail")
            f.flush()
            data += b"tail"
        os.close(fd)
    assert path.read_bytes() == data


def test_a_reader_whose_place_is_gone_misses_nothing(root: Path) -> None:
    """A kernel that keeps listings takes a full last page for the end (see do_opendir): one of these fills it."""
    for more in range(4):
        folder = root / f"folder{more}"
        folder.mkdir()
        for number in range(127 + more):        # 64 bytes each in the kept listing, "." and ".." 32
            (folder / f"{number:040d}").touch()
        first = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        got = getdents(first, 400)
        (folder / got[-1]).unlink()
        there = set(os.listdir(folder))
        assert set(os.listdir(folder)) == there
        while some := getdents(first, 32768):
            got += some
        os.close(first)
        assert there - set(got) == set(), f"{127 + more} names"
