"""Link counts and sizes of directories; blocks: what statfs says, what stat says, and what comes back."""

from __future__ import annotations

import errno
import os
import random
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from interop.commands import Commands, Mounts
from torture.sys_calls import EXCHANGE, KEEP_SIZE, fallocate, link_open_file, renameat2

pytestmark = pytest.mark.mount

DINODE_BYTES = 232
POLL_S, LIMIT_S = 0.02, 60.0


@pytest.fixture(params=[1024, 4096])
def bsize(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def root(mounts: Mounts, make_image: Callable[..., Path], commands: Commands, bsize: int) -> Iterator[Path]:
    image = make_image(128)
    commands.mkfs(image, "-J", "8", "-b", str(bsize))
    mounted = mounts.mount(image)
    yield mounted.path
    mounted.umount()
    commands.assert_clean(image)


def free_blocks(root: Path, wanted: int) -> int:
    """What is removed is freed behind the call's back: look until it is as wanted, but not for ever."""
    deadline = time.monotonic() + LIMIT_S
    while (free := os.statvfs(root).f_bfree) != wanted and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return free


def test_links_of_directories(root: Path) -> None:
    """Two, and one for each directory in it, however that came or went."""
    a, b = root / "a", root / "b"

    def links(*wanted: int) -> None:
        assert (os.stat(a).st_nlink, os.stat(b).st_nlink) == wanted

    a.mkdir()
    b.mkdir()
    links(2, 2)
    (a / "file").touch()
    for n in range(3):
        (a / f"d{n}").mkdir()
    links(5, 2)
    os.rename(a / "d0", b / "d0")
    links(4, 3)
    os.rename(a / "d1", b / "d0")           # over an empty one
    links(3, 3)
    renameat2(os.fspath(a / "file"), os.fspath(b / "d0"), EXCHANGE)
    links(4, 2)
    renameat2(os.fspath(a / "file"), os.fspath(b / "d0"), EXCHANGE)
    links(3, 3)
    (b / "d0").rmdir()
    links(3, 2)
    with pytest.raises(OSError, match="not empty"):
        os.rename(b, a)
    links(3, 2)


def test_links_of_a_large_directory(root: Path) -> None:
    top = root / "top"
    top.mkdir()
    for n in range(2000):
        (top / f"{n}").mkdir()
    assert os.stat(top).st_nlink == 2002
    for n in range(0, 2000, 2):
        (top / f"{n}").rmdir()
    assert os.stat(top).st_nlink == 1002


def test_size_of_directories(root: Path, bsize: int) -> None:
    """In the dinode: the space there is. Behind it: the hash table, eight bytes for each of a power of two."""
    folder = root / "folder"
    folder.mkdir()
    assert os.stat(folder).st_size == bsize - DINODE_BYTES
    for n in range(1500):
        (folder / f"{n:0100}").touch()
    size = os.stat(folder).st_size
    assert size % 8 == 0
    assert (size // 8).bit_count() == 1
    assert size >= bsize // 2
    for n in range(1500):
        (folder / f"{n:0100}").unlink()
    assert os.listdir(folder) == []
    assert os.stat(folder).st_size % 8 == 0


def test_blocks_add_up(root: Path, bsize: int, rng: random.Random) -> None:
    """What statfs lacks is what the inodes have; after removing everything nothing lacks."""
    top = root / "top"
    top.mkdir()
    os.sync()
    free = os.statvfs(root).f_bfree
    for n in range(300):
        path = top / f"{n}"
        kind = rng.randrange(6)
        if kind == 0:
            path.mkdir()
        elif kind == 1:
            path.symlink_to("x" * rng.randrange(1, 500))
        else:
            fd = os.open(path, os.O_RDWR | os.O_CREAT)
            if kind == 2:
                fallocate(fd, KEEP_SIZE, 0, rng.randrange(1, 100_000))
            elif kind == 3:
                os.pwrite(fd, b"x", rng.randrange(1 << 40))
            elif kind == 4:
                os.setxattr(fd, "user.x", rng.randbytes(rng.randrange(bsize * 3)))
            os.write(fd, rng.randbytes(rng.randrange(30_000)))
            os.close(fd)
    os.sync()
    used = sum(os.lstat(path).st_blocks for path in [top, *top.iterdir()]) * 512 // bsize
    assert free_blocks(root, free + 1 - used) == free + 1 - used     # `top` itself had its block before
    for path in top.iterdir():
        if stat.S_ISDIR(os.lstat(path).st_mode):
            path.rmdir()
        else:
            path.unlink()
    kept = os.stat(top).st_blocks * 512 // bsize - 1
    assert free_blocks(root, free - kept) == free - kept


def test_open_files_keep_their_blocks(root: Path, bsize: int) -> None:
    (root / "f").touch()
    os.sync()
    free = os.statvfs(root).f_bfree
    fd = os.open(root / "f", os.O_RDWR)
    os.unlink(root / "f")
    fallocate(fd, 0, 0, 100 * bsize)
    assert os.statvfs(root).f_bfree <= free - 100
    os.close(fd)
    assert free_blocks(root, free + 1) == free + 1


def test_tmpfile_that_shall_have_no_name(root: Path) -> None:
    fd = os.open(root, os.O_TMPFILE | os.O_EXCL | os.O_RDWR)
    with pytest.raises(FileNotFoundError):
        link_open_file(fd, os.fspath(root / "name"))
    os.close(fd)
    fd = os.open(root, os.O_TMPFILE | os.O_RDWR)
    link_open_file(fd, os.fspath(root / "name"))
    with pytest.raises(OSError) as again:
        link_open_file(fd, os.fspath(root / "name"))
    assert again.value.errno == errno.EEXIST
    os.close(fd)
