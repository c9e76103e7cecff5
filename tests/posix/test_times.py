"""Which call updates which of an inode's times: the rules of POSIX and of Linux where POSIX leaves a choice.

Every case starts from times of long ago and looks at which are new afterwards. The same table holds on ext4.
"""

from __future__ import annotations

import mmap
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from interop.commands import Commands, Mounted, Mounts
from torture.sys_calls import EXCHANGE, KEEP_SIZE, PUNCH, ZERO, fallocate, link_open_file, renameat2

pytestmark = pytest.mark.mount

OLD_NS = 1_000_000_000 * 10**9 + 123_456_789
CONTENT = b"content" * 1000
TICK_S = 0.012          # coarser than the clock that file times are taken from
POLL_S = 0.01
DAY_NS = 86_400 * 10**9


class Case:
    """Four inodes in two folders, all with times of long ago."""

    def __init__(self, top: Path) -> None:
        top.mkdir()
        self.top = top
        self.a, self.b = top / "a", top / "b"
        self.f, self.g, self.s = self.a / "f", self.b / "g", self.a / "s"
        self.empty = self.a / "empty"
        for folder in (self.a, self.b, self.a / "sub"):
            folder.mkdir()
        for path in (self.f, self.g):
            path.write_bytes(CONTENT)
            os.setxattr(path, "user.x", b"1")
        self.empty.touch()
        self.s.symlink_to("f")
        self.paths = {"a": self.a, "b": self.b, "f": self.f, "g": self.g, "s": self.s, "empty": self.empty}
        for path in self.paths.values():
            os.utime(path, ns=(OLD_NS, OLD_NS), follow_symlinks=False)
        self.fds = {name: os.open(path, os.O_PATH | os.O_NOFOLLOW) for name, path in self.paths.items()}
        self.before = {name: self.stat(name) for name in self.paths}
        time.sleep(TICK_S)

    def stat(self, name: str) -> tuple[int, int, int]:
        """By a descriptor: the name may lead elsewhere, or nowhere."""
        st = os.stat(f"/proc/self/fd/{self.fds[name]}") if name != "s" else os.lstat(self.s)
        return st.st_atime_ns, st.st_mtime_ns, st.st_ctime_ns

    def changed(self) -> str:
        """`f:mc a:a` and so on, in the order of the names, only those with a change."""
        out = []
        for name, before in self.before.items():
            if name == "s" and not os.path.lexists(self.s):
                continue
            now = self.stat(name)
            letters = "".join(x for x, old, new in zip("amc", before, now, strict=True) if old != new)
            for old, new in zip(before, now, strict=True):
                assert new == old or abs(new - time.time_ns()) < 60 * 10**9, f"{name}: a time of {new}"
            out += [f"{name}:{letters}"] if letters else []
        return " ".join(out)

    def close(self) -> None:
        for fd in self.fds.values():
            os.close(fd)


def with_fd(path: Path, flags: int, call: Callable[[int], object]) -> None:
    fd = os.open(path, flags)
    try:
        call(fd)
    finally:
        os.close(fd)


def store(c: Case) -> None:
    with c.f.open("r+b") as f, mmap.mmap(f.fileno(), 0) as mapping:
        mapping[10] = 1
        mapping.flush()


def told(path: Path) -> None:
    """Until the kernel knows of a change that the daemon made behind its back; the case fails when it never does."""
    deadline = time.monotonic() + 5
    while os.stat(path).st_mtime_ns == OLD_NS and time.monotonic() < deadline:
        time.sleep(POLL_S)


def tmpfile(c: Case) -> None:
    fd = os.open(c.a, os.O_TMPFILE | os.O_RDWR)
    link_open_file(fd, os.fspath(c.b / "named"))
    os.close(fd)


def copy(c: Case) -> None:
    with c.f.open("rb") as f, c.g.open("r+b") as g:
        assert os.copy_file_range(f.fileno(), g.fileno(), 500, 0, 0) == 500


def gone(c: Case) -> None:
    """What is open and has no name is written, read and changed like anything else."""
    fd = os.open(c.f, os.O_RDWR)
    os.unlink(c.f)
    os.utime(fd, ns=(OLD_NS, OLD_NS))
    os.pwrite(fd, b"x", 0)
    os.close(fd)


Row = tuple[Callable[[Case], object], str]
RDWR, RDONLY = os.O_RDWR, os.O_RDONLY
# name -> call, what is new afterwards
WRITES: dict[str, Row] = {
    "write": (lambda c: with_fd(c.f, RDWR, lambda fd: os.pwrite(fd, b"x", 3)), "f:mc"),
    "write at the end": (lambda c: with_fd(c.f, RDWR, lambda fd: os.pwrite(fd, b"x", 10_000)), "f:mc"),
    "append": (lambda c: with_fd(c.f, RDWR | os.O_APPEND, lambda fd: os.write(fd, b"x")), "f:mc"),
    "direct write": (lambda c: with_fd(c.f, RDWR | os.O_DIRECT, lambda fd: os.write(fd, mmap.mmap(-1, 4096))), "f:mc"),
    "write of nothing": (lambda c: with_fd(c.f, RDWR, lambda fd: os.write(fd, b"")), ""),
    "store": (store, "f:mc"),       # ext4 counts the mapping as a read
    "open to write": (lambda c: with_fd(c.f, RDWR, lambda fd: None), ""),
    "open O_CREAT": (lambda c: with_fd(c.f, RDWR | os.O_CREAT, lambda fd: None), ""),
    "open O_TRUNC": (lambda c: with_fd(c.f, RDWR | os.O_TRUNC, lambda fd: None), "f:mc"),
    "open O_TRUNC of an empty file": (lambda c: with_fd(c.empty, RDWR | os.O_TRUNC, lambda fd: None), "empty:mc"),
    "truncate": (lambda c: os.truncate(c.f, 100), "f:mc"),
    "truncate, longer": (lambda c: os.truncate(c.f, 100_000), "f:mc"),
    "ftruncate to the size it has": (lambda c: with_fd(c.f, RDWR, lambda fd: os.ftruncate(fd, len(CONTENT))), "f:mc"),
    "fallocate": (lambda c: with_fd(c.f, RDWR, lambda fd: fallocate(fd, 0, 0, 50_000)), "f:mc"),
    "punch": (lambda c: with_fd(c.f, RDWR, lambda fd: fallocate(fd, PUNCH | KEEP_SIZE, 5, 5000)), "f:mc"),
    "zero": (lambda c: with_fd(c.f, RDWR, lambda fd: fallocate(fd, ZERO, 5, 500)), "f:mc"),
    "fsync": (lambda c: with_fd(c.f, RDWR, os.fsync), ""),
    "written without a name": (gone, "a:mc f:mc"),
}
ATTRIBUTES: dict[str, Row] = {
    "chmod": (lambda c: os.chmod(c.f, 0o600), "f:c"),
    "chmod to what it is": (lambda c: os.chmod(c.f, stat.S_IMODE(os.stat(c.f).st_mode)), "f:c"),
    "chown": (lambda c: os.chown(c.f, 7, 8), "f:c"),
    "chown to what it is": (lambda c: os.chown(c.f, 0, 0), "f:c"),
    "lchown": (lambda c: os.lchown(c.s, 7, 8), "s:c"),
    "setxattr": (lambda c: os.setxattr(c.f, "user.y", b"2"), "f:c"),
    "removexattr": (lambda c: os.removexattr(c.f, "user.x"), "f:c"),
    "getxattr": (lambda c: (os.getxattr(c.f, "user.x"), os.listxattr(c.f)), ""),
    "setxattr of a folder": (lambda c: os.setxattr(c.a, "user.y", b"2"), "a:c"),
    "utime": (lambda c: os.utime(c.f), "f:amc"),
    "utime, only ctime": (lambda c: os.utime(c.f, ns=(OLD_NS, OLD_NS)), "f:c"),
    "utime of a symlink": (lambda c: os.utime(c.s, follow_symlinks=False), "s:amc"),
    "stat": (lambda c: (os.stat(c.f), os.access(c.f, os.R_OK)), ""),
}
NAMES: dict[str, Row] = {
    "create": (lambda c: (c.a / "new").touch(), "a:mc"),
    "mkdir": (lambda c: (c.a / "new").mkdir(), "a:mc"),
    "mkfifo": (lambda c: os.mkfifo(c.a / "new"), "a:mc"),
    "symlink": (lambda c: (c.a / "new").symlink_to("x"), "a:mc"),
    "link": (lambda c: os.link(c.f, c.b / "new"), "b:mc f:c"),
    "linked at last": (tmpfile, "b:mc"),
    "unlink": (lambda c: os.unlink(c.f), "a:mc f:c"),
    "rmdir": (lambda c: (c.a / "sub").rmdir(), "a:mc"),
    "rename": (lambda c: os.rename(c.f, c.a / "new"), "a:mc f:c"),
    "rename to another folder": (lambda c: os.rename(c.f, c.b / "new"), "a:mc b:mc f:c"),
    "rename over": (lambda c: os.rename(c.f, c.g), "a:mc b:mc f:c g:c"),
    "rename to itself": (lambda c: os.rename(c.f, c.f), ""),
    "rename of a folder": (lambda c: os.rename(c.a / "sub", c.b / "sub"), "a:mc b:mc"),
    "exchange": (lambda c: renameat2(os.fspath(c.f), os.fspath(c.g), EXCHANGE), "a:mc b:mc f:c g:c"),
    "lookup": (lambda c: os.path.exists(c.a / "nothing"), ""),
}
def cold(c: Case) -> Path:
    """What the kernel has cached it reads without a word to the daemon: such a read moves no atime."""
    with_fd(c.f, RDONLY, lambda fd: (os.fsync(fd), os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)))
    return c.f


def read_twice(c: Case) -> None:
    """The second one is long enough after the first to have another time."""
    for _ in range(2):
        before = os.stat(c.f).st_atime_ns
        with_fd(cold(c), RDONLY, lambda fd: os.read(fd, 100))
        time.sleep(TICK_S)
    if os.stat(c.f).st_atime_ns != before:
        os.utime(c.g)       # told by the other file


READS: dict[str, Row] = {
    "read": (lambda c: cold(c).read_bytes(), "f:a"),
    "read twice": (read_twice, "f:a"),
    "direct read": (lambda c: with_fd(c.f, RDONLY | os.O_DIRECT, lambda fd: os.preadv(fd, [mmap.mmap(-1, 4096)], 0)),
                    "f:a"),
    "load": (lambda c: with_fd(cold(c), RDONLY, lambda fd: mmap.mmap(fd, 0, prot=mmap.PROT_READ)[5]), "f:a"),
    "copy_file_range": (copy, "f:a g:mc"),
    "readlink": (lambda c: os.readlink(c.s), "s:a"),
    "readdir": (lambda c: os.listdir(c.a), "a:a"),
    "read by O_NOATIME": (lambda c: with_fd(cold(c), RDONLY | os.O_NOATIME, lambda fd: os.read(fd, 100)), ""),
    "readdir by O_NOATIME": (lambda c: with_fd(c.a, RDONLY | os.O_NOATIME, os.listdir), ""),
    "open to read": (lambda c: with_fd(cold(c), RDONLY, lambda fd: None), ""),
    "read of nothing": (lambda c: with_fd(cold(c), RDONLY, lambda fd: os.read(fd, 0)), ""),
}


def with_options(options: str, row: str, wanted: str) -> str:
    """What a row gives with other options than relatime."""
    folder, atimes = row.startswith("readdir"), wanted.replace("f:a", "").replace("s:a", "").replace("a:a", "").strip()
    if options == "noatime" or (options == "nodiratime" and folder):
        return atimes
    return "f:a g:amc" if (options, row) == ("strictatime", "read twice") else wanted


@pytest.fixture
def fresh(mounts: Mounts, make_image: Callable[..., Path], commands: Commands) -> Iterator[Callable[[str], Mounted]]:
    """fresh(options): an empty file system; both checkers are silent afterwards."""
    made: list[Mounted] = []

    def mount(options: str) -> Mounted:
        image = make_image(64)
        commands.mkfs(image, "-J", "8")
        made.append(mounts.mount(image, options))
        return made[0]

    yield mount
    made[0].umount()
    commands.assert_clean(made[0].image)


def outcomes(root: Path, table: dict[str, Row]) -> dict[str, str]:
    got = {}
    for n, (name, (call, _)) in enumerate(table.items()):
        case = Case(root / f"case{n}")
        call(case)
        got[name] = case.changed()
        case.close()
    return got


@pytest.mark.parametrize("table", [WRITES, ATTRIBUTES, NAMES], ids=["writes", "attributes", "names"])
def test_what_updates_which_time(fresh: Callable[[str], Mounted], table: dict[str, Row]) -> None:
    assert outcomes(fresh("").path, table) == {name: wanted for name, (_, wanted) in table.items()}


def test_writes_that_go_through(fresh: Callable[[str], Mounted]) -> None:
    """Without writeback_cache the daemon keeps the times. What it hears of a store is the page, some time later."""
    table = WRITES | {"store": (lambda c: (store(c), told(c.f)), "f:mc")}
    assert outcomes(fresh("nowriteback_cache").path, table) == {name: wanted for name, (_, wanted) in table.items()}


@pytest.mark.parametrize("options", ["relatime", "noatime", "nodiratime", "strictatime"])
def test_reads_update_atime(fresh: Callable[[str], Mounted], options: str) -> None:
    assert outcomes(fresh(options).path, READS) == {
        name: with_options(options, name, wanted) for name, (_, wanted) in READS.items()}


def test_relatime_after_a_day(fresh: Callable[[str], Mounted]) -> None:
    """An atime that is newer than the other two stays, unless it is a day old."""
    case = Case(fresh("").path / "case")
    for age_ns, moves in ((DAY_NS // 2, False), (DAY_NS + 10**9, True)):
        now = time.time_ns()
        os.utime(case.f, ns=(now - age_ns, now - 2 * DAY_NS))
        # ctime is now, whatever one asks for: only the day can decide when atime is newer than it
        os.utime(case.f, ns=(now + 10**12 - (0 if not moves else age_ns + 10**12), now - 2 * DAY_NS))
        before = os.stat(case.f).st_atime_ns
        cold(case).read_bytes()
        assert (os.stat(case.f).st_atime_ns != before) == moves
    case.close()


@pytest.mark.parametrize("options", ["writeback_cache", "nowriteback_cache"])
def test_times_stay_over_a_remount(fresh: Callable[[str], Mounted], mounts: Mounts, options: str) -> None:
    """What stat(2) said, with the kernel's part of it, is what is on disk."""
    mounted = fresh(options)
    for n, (call, _) in enumerate((WRITES | ATTRIBUTES | NAMES | READS).values()):
        case = Case(mounted.path / f"case{n}")
        call(case)
        case.close()

    def times() -> dict[str, tuple[int, int, int]]:
        found = {}
        for folder, dirs, files in os.walk(mounted.path):
            for name in sorted((*dirs, *files)):
                st = os.lstat(os.path.join(folder, name))
                found[os.path.join(folder, name)] = st.st_atime_ns, st.st_mtime_ns, st.st_ctime_ns
        return found

    times()         # the walk itself moves atimes
    before = times()
    mounted.umount()
    mounts.mount(mounted.image, f"{options},noatime")
    after = times()
    assert {p: (before[p], after[p]) for p in before if before[p] != after[p]} == {}
