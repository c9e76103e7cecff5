"""Every opcode through the system call that causes it, on a real mount of the null file system."""

from __future__ import annotations

import array
import ctypes
import errno
import fcntl
import mmap
import os
import stat
import struct
import threading
from pathlib import Path

import pytest

from fuse.conftest import MakeMount, NullMount, wait_until

pytestmark = pytest.mark.mount

LIBC = ctypes.CDLL(None, use_errno=True)
FS_IOC_GETFLAGS, FS_IOC_SETFLAGS = 0x80086601, 0x40086602
FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE = 1, 2, 0x10
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
CHUNK = 65536


def renameat2(old: Path, new: Path, flags: int) -> None:
    if LIBC.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags) < 0:
        raise OSError(ctypes.get_errno(), "renameat2")


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    if LIBC.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)) < 0:
        raise OSError(ctypes.get_errno(), "fallocate")


def test_create_write_read_stat(root: Path) -> None:
    f = root / "file"
    data = os.urandom(3 * CHUNK + 17)
    f.write_bytes(data)
    assert f.read_bytes() == data
    assert f.stat().st_size == len(data)
    with f.open("r+b") as handle:
        handle.seek(100)
        handle.write(b"xyz")
    assert f.read_bytes() == data[:100] + b"xyz" + data[103:]


def test_names(root: Path) -> None:
    """255 bytes go, 256 do not; odd bytes are kept."""
    longest = "n" * 255
    (root / longest).touch()
    odd = bytes(c for c in range(1, 256) if c != ord("/"))[:250]
    os.close(os.open(os.fsencode(root) + b"/" + odd, os.O_CREAT | os.O_WRONLY))
    assert {os.fsencode(n) for n in os.listdir(root)} == {longest.encode(), odd}
    with pytest.raises(OSError) as e:
        (root / ("n" * 256)).touch()
    assert e.value.errno == errno.ENAMETOOLONG


def test_directories_links_and_special_files(root: Path) -> None:
    (root / "d/e").mkdir(parents=True)
    (root / "d/f").write_text("x")
    os.link(root / "d/f", root / "g")
    os.symlink("t" * 4000, root / "s")
    os.mkfifo(root / "p")
    os.mknod(root / "c", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    assert (root / "g").stat().st_nlink == 2
    assert (root / "d").stat().st_nlink == 3
    assert os.readlink(root / "s") == "t" * 4000
    assert stat.S_ISFIFO((root / "p").stat().st_mode)
    assert (root / "c").stat().st_rdev == os.makedev(1, 3)
    assert sorted(os.listdir(root)) == ["c", "d", "g", "p", "s"]
    with pytest.raises(OSError) as e:
        (root / "d").rmdir()
    assert e.value.errno == errno.ENOTEMPTY
    (root / "d/f").unlink()
    (root / "d/e").rmdir()
    (root / "d").rmdir()
    assert (root / "g").stat().st_nlink == 1


def test_rename_all_kinds(root: Path) -> None:
    (root / "a").write_text("a")
    (root / "b").write_text("b")
    with pytest.raises(OSError) as e:
        renameat2(root / "a", root / "b", RENAME_NOREPLACE)
    assert e.value.errno == errno.EEXIST
    renameat2(root / "a", root / "b", RENAME_EXCHANGE)
    assert ((root / "a").read_text(), (root / "b").read_text()) == ("b", "a")
    (root / "d").mkdir()
    (root / "a").rename(root / "d/a")
    (root / "d/a").rename(root / "b")
    assert sorted(os.listdir(root)) == ["b", "d"]
    assert (root / "b").read_text() == "b"


def test_many_entries_are_listed_once(root: Path) -> None:
    names = {f"entry-{i:05}" for i in range(3000)}
    for name in names:
        os.close(os.open(root / name, os.O_CREAT | os.O_WRONLY))
    listed = os.listdir(root)
    assert len(listed) == len(names)
    assert set(listed) == names
    with os.scandir(root) as entries:
        assert all(e.is_file() and e.stat().st_size == 0 for e in entries)


def test_attributes(root: Path) -> None:
    f = root / "f"
    f.touch()
    os.chmod(f, 0o4751)
    os.chown(f, 12, 34)
    os.utime(f, ns=(1_000_000_001, -5_000_000_007))
    st = f.stat()
    assert (st.st_uid, st.st_gid) == (12, 34)
    assert (st.st_atime_ns, st.st_mtime_ns) == (1_000_000_001, -5_000_000_007)
    os.truncate(f, 1 << 33)
    assert f.stat().st_size == 1 << 33


def test_setuid_goes_when_another_user_writes(root: Path) -> None:
    """HANDLE_KILLPRIV_V2: the kernel says when the bits must go, and asks for no xattr before each write."""
    f = root / "f"
    f.write_bytes(b"x" * 10)
    os.chown(f, 1000, 1000)
    os.chmod(f, 0o6777)
    fd = os.open(f, os.O_WRONLY)
    pid = os.fork()
    if pid == 0:
        try:
            os.setgid(1000)
            os.setuid(1000)
            os._exit(0 if os.write(fd, b"y") == 1 else 1)
        finally:
            os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0
    os.close(fd)
    assert stat.S_IMODE(f.stat().st_mode) == 0o0777


def test_no_getxattr_before_writes(null_mount: NullMount) -> None:
    with (null_mount.path / "f").open("wb", buffering=0) as f:
        f.write(b"1")
        before = null_mount.settled("GETXATTR")
        for _ in range(50):
            f.write(b"x" * 512)
    assert null_mount.settled("GETXATTR") == before


def test_umask_and_setgid_directory(root: Path) -> None:
    old = os.umask(0o027)
    try:
        (root / "d").mkdir()
        os.chown(root / "d", 0, 77)
        os.chmod(root / "d", 0o2777)
        (root / "d/f").touch()
        (root / "d/e").mkdir()
    finally:
        os.umask(old)
    assert stat.S_IMODE((root / "d/f").stat().st_mode) == 0o640
    assert (root / "d/f").stat().st_gid == 77
    assert stat.S_IMODE((root / "d/e").stat().st_mode) == 0o2750


def test_xattrs(root: Path) -> None:
    f = root / "f"
    f.touch()
    value = os.urandom(60000)
    os.setxattr(f, "user.big", value)
    os.setxattr(f, "trusted.t", b"")
    assert os.getxattr(f, "user.big") == value
    assert sorted(os.listxattr(f)) == ["trusted.t", "user.big"]
    with pytest.raises(OSError) as e:
        os.setxattr(f, "user.big", b"", os.XATTR_CREATE)
    assert e.value.errno == errno.EEXIST
    with pytest.raises(OSError) as e:
        os.setxattr(f, "user.none", b"", os.XATTR_REPLACE)
    assert e.value.errno == errno.ENODATA
    os.removexattr(f, "user.big")
    with pytest.raises(OSError) as e:
        os.getxattr(f, "user.big")
    assert e.value.errno == errno.ENODATA


def test_holes(root: Path) -> None:
    f = root / "f"
    fd = os.open(f, os.O_CREAT | os.O_RDWR)
    try:
        os.pwrite(fd, b"a" * CHUNK, 4 * CHUNK)
        os.fsync(fd)
        assert os.lseek(fd, 0, os.SEEK_DATA) == 4 * CHUNK
        assert os.lseek(fd, 0, os.SEEK_HOLE) == 0
        assert os.lseek(fd, 4 * CHUNK, os.SEEK_HOLE) == 5 * CHUNK
        with pytest.raises(OSError) as e:
            os.lseek(fd, 6 * CHUNK, os.SEEK_DATA)
        assert e.value.errno == errno.ENXIO
        fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4 * CHUNK, CHUNK // 2)
        assert os.pread(fd, CHUNK, 4 * CHUNK) == bytes(CHUNK // 2) + b"a" * (CHUNK // 2)
        fallocate(fd, 0, 0, 8 * CHUNK)
        assert os.fstat(fd).st_size == 8 * CHUNK
        assert os.fstat(fd).st_blocks == 8 * CHUNK // 512
        fallocate(fd, FALLOC_FL_ZERO_RANGE, 4 * CHUNK, CHUNK)
        assert os.pread(fd, CHUNK, 4 * CHUNK) == bytes(CHUNK)
        with pytest.raises(OSError) as e:
            fallocate(fd, 0x20, 0, CHUNK)       # INSERT_RANGE: not offered
        assert e.value.errno == errno.EOPNOTSUPP
    finally:
        os.close(fd)


def test_copy_file_range(null_mount: NullMount) -> None:
    source, target = null_mount.path / "s", null_mount.path / "t"
    data = os.urandom(5 * CHUNK + 99)
    source.write_bytes(data)
    with source.open("rb") as s, target.open("wb") as t:
        done = 0
        while done < len(data):
            done += os.copy_file_range(s.fileno(), t.fileno(), len(data) - done, done, done)
    assert target.read_bytes() == data
    assert null_mount.count("COPY_FILE_RANGE") + null_mount.count("COPY_FILE_RANGE_64") > 0


def test_tmpfile_and_unlinked_but_open(null_mount: NullMount) -> None:
    root = null_mount.path
    fd = os.open(root, os.O_TMPFILE | os.O_RDWR, 0o600)
    os.write(fd, b"temporary")
    assert os.listdir(root) == []
    assert LIBC.linkat(-100, f"/proc/self/fd/{fd}".encode(), -100, os.fsencode(root / "named"), 0x400) == 0
    assert (root / "named").read_bytes() == b"temporary"
    (root / "named").unlink()
    assert os.pread(fd, 9, 0) == b"temporary"
    os.close(fd)
    wait_until(lambda: null_mount.handle.statistics()["inodes"] == 1, "the inode to be forgotten and freed")


def test_statfs_sync_and_syncfs(null_mount: NullMount) -> None:
    st = os.statvfs(null_mount.path)
    assert (st.f_bsize, st.f_namemax, st.f_blocks) == (4096, 255, 1 << 28)
    fd = os.open(null_mount.path, os.O_RDONLY)
    try:
        before = null_mount.settled("SYNCFS")
        assert LIBC.syncfs(fd) == 0
        wait_until(lambda: null_mount.count("SYNCFS") > before, "SYNCFS")
        os.fsync(fd)
        wait_until(lambda: null_mount.count("FSYNCDIR") == 1, "FSYNCDIR")
    finally:
        os.close(fd)


def test_ioctl_flags(root: Path) -> None:
    f = root / "f"
    f.touch()
    fd = os.open(f, os.O_RDONLY)
    try:
        value = array.array("i", [0])
        fcntl.ioctl(fd, FS_IOC_SETFLAGS, struct.pack("i", 0x40))
        fcntl.ioctl(fd, FS_IOC_GETFLAGS, value)
        assert value[0] == 0x40
        with pytest.raises(OSError) as e:
            fcntl.ioctl(fd, 0x12345678, b"\0" * 8)
        assert e.value.errno == errno.ENOTTY
    finally:
        os.close(fd)


def test_statx_with_birth_time(null_mount: NullMount) -> None:
    """statx(2) asked for the birth time: a STATX request, answered without one."""
    f = null_mount.path / "f"
    f.write_text("12345")
    buf = ctypes.create_string_buffer(256)
    assert LIBC.statx(-100, os.fsencode(f), 0x2000, 0xFFF, buf) == 0
    mask, = struct.unpack_from("=I", buf)
    assert mask & 0x7FF == 0x7FF
    assert not mask & 0x800
    assert struct.unpack_from("=Q", buf, 40)[0] == 5
    wait_until(lambda: null_mount.count("STATX") > 0, "STATX")


def test_mmap_shared(root: Path) -> None:
    f = root / "f"
    f.write_bytes(bytes(8192))
    with f.open("r+b") as handle, mmap.mmap(handle.fileno(), 8192) as m:
        m[4090:4100] = b"0123456789"
        m.flush()
    with f.open("rb") as handle:
        assert handle.read()[4090:4100] == b"0123456789"


@pytest.mark.parametrize("writeback", [False, True])
def test_large_and_direct_io(make_mount: MakeMount, writeback: bool) -> None:
    m = make_mount(writeback=writeback)
    f = m.path / "f"
    data = os.urandom(4 << 20)
    fd = os.open(f, os.O_CREAT | os.O_RDWR | os.O_DIRECT)
    try:
        area = mmap.mmap(-1, len(data))
        area[:] = data
        assert os.writev(fd, [area]) == len(data)
        back = mmap.mmap(-1, len(data))
        os.lseek(fd, 0, 0)
        assert os.readv(fd, [back]) == len(data)
        assert back[:] == data
    finally:
        os.close(fd)
    assert m.settled("WRITE") == 4, "1 MiB each"
    assert m.settled("READ") == 4
    assert f.read_bytes() == data


def test_threads_in_one_directory(root: Path) -> None:
    """PARALLEL_DIROPS: eight threads make, rename and remove names in one directory."""
    def work(n: int) -> None:
        for i in range(60):
            path = root / f"{n}-{i}"
            path.write_text(str(i))
            path.rename(root / f"{n}-{i}-renamed")
            if i % 2:
                (root / f"{n}-{i}-renamed").unlink()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(os.listdir(root)) == 8 * 30


def test_forget_frees_inodes(null_mount: NullMount) -> None:
    for i in range(300):
        (null_mount.path / f"f{i}").touch()
    for i in range(300):
        (null_mount.path / f"f{i}").unlink()
    wait_until(lambda: null_mount.handle.statistics()["inodes"] == 1, "all inodes to be forgotten")


def test_everything_was_negotiated(null_mount: NullMount) -> None:
    protocol = null_mount.session.protocol()
    assert protocol["minor"] >= 31
    assert protocol["max_write"] == 1 << 20


def test_statistics_add_up(null_mount: NullMount) -> None:
    for _ in range(20):
        null_mount.path.stat()
    wait_until(lambda: null_mount.count("GETATTR") >= 20, "twenty GETATTRs")
    stats = null_mount.session.statistics()["opcodes"]["GETATTR"]
    assert sum(count for _, count in stats["buckets"]) == stats["count"]
    assert stats["ns"] > 0
    with pytest.raises(FileNotFoundError):
        (null_mount.path / "none").stat()
    wait_until(lambda: null_mount.count("LOOKUP") == 1, "one LOOKUP")
    assert null_mount.session.statistics()["opcodes"]["LOOKUP"]["errors"] == 1


def test_destroy_comes_before_umount_returns(make_mount: MakeMount) -> None:
    m = make_mount()
    m.unmount()
    assert m.handle.statistics()["destroys"] == 1


def test_plain_fuse_destroys_when_the_session_ends(make_mount: MakeMount) -> None:
    m = make_mount(plain=True)
    (m.path / "f").write_text("x")
    m.close()
    assert m.handle.statistics()["destroys"] == 1
