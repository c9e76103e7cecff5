"""Names, deletion and mounting on whole volumes in memory, judged by the checker."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

import pytest

from gfs2py.block._file import FileDevice
from gfs2py.block._memory import MemoryDevice
from gfs2py.edit.patch import patch_field
from gfs2py.engine.volume import ROOT, Volume
from gfs2py.errors import CorruptionError, MountError
from gfs2py.fsck import check
from gfs2py.mkfs.make import make_fs
from gfs2py.mkfs.options import MkfsOptions

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1 << 20
NOREPLACE, EXCHANGE = 1, 2


def fresh(size_bytes: int = 64 * MIB, **options: int) -> MemoryDevice:
    device = MemoryDevice(size_bytes)
    make_fs(device, MkfsOptions(lockproto="lock_nolock", jsize_mb=8, **options))  # type: ignore[arg-type]
    return device


def assert_clean(device: MemoryDevice) -> None:
    assert check(device).findings == []


@pytest.fixture
def device() -> MemoryDevice:
    return fresh()


@pytest.fixture
def volume(device: MemoryDevice) -> Iterator[Volume]:
    with Volume(device, quiet=True) as mounted:
        yield mounted
    assert_clean(device)


def test_rename_over_a_file_frees_it(device: MemoryDevice) -> None:
    with Volume(device, quiet=True) as volume:
        volume.create("/a", b"a" * 10000)
        alone = volume.calls.statfs()[2]
        volume.create("/b", b"b" * 50000)
        volume.rename("/a", "/b")
        assert volume.listdir() == [b"b"]
        assert volume.read("/b") == b"a" * 10000
    with Volume(device, quiet=True) as volume:
        assert volume.calls.statfs()[2] == alone
    assert_clean(device)


def test_rename_over_directories(volume: Volume) -> None:
    for name in ("/src", "/full", "/empty", "/full/x"):
        volume.mkdir(name)
    volume.create("/file")
    for old, new, wanted in (("/src", "/full", errno.ENOTEMPTY), ("/src", "/file", errno.ENOTDIR),
                             ("/file", "/empty", errno.EISDIR), ("/full", "/full/x/y", errno.EINVAL),
                             ("/none", "/other", errno.ENOENT)):
        with pytest.raises(OSError) as caught:
            volume.rename(old, new)
        assert caught.value.errno == wanted, (old, new)
    volume.rename("/src", "/empty")
    volume.rename("/full/x", "/empty/x")
    assert volume.stat("/empty").nlink == 3
    assert volume.stat("/full").nlink == 2
    assert volume.stat("/").nlink == 4


def test_rename_exchange_moves_dotdot_and_links(volume: Volume) -> None:
    volume.mkdir("/one")
    volume.mkdir("/one/dir")
    volume.mkdir("/two")
    volume.create("/two/file", b"f")
    with pytest.raises(FileExistsError):
        volume.rename("/one/dir", "/two/file", NOREPLACE)
    volume.rename("/one/dir", "/two/file", EXCHANGE)
    assert stat.S_ISDIR(volume.stat("/two/file").mode)
    assert volume.read("/one/dir") == b"f"
    assert (volume.stat("/one").nlink, volume.stat("/two").nlink) == (2, 3)
    with pytest.raises(FileNotFoundError):
        volume.rename("/one/dir", "/nothing", EXCHANGE)
    with pytest.raises(OSError):
        volume.rename("/one/dir", "/two/file", NOREPLACE | EXCHANGE)


def test_two_names_of_one_file_stay_after_rename(volume: Volume) -> None:
    volume.create("/a", b"x")
    volume.link("/a", "/b")
    volume.rename("/a", "/b")
    assert sorted(volume.listdir()) == [b"a", b"b"]
    assert volume.stat("/a").nlink == 2


def test_an_unlinked_file_lives_while_it_is_known(volume: Volume) -> None:
    node, fh, _ = volume.calls.create(ROOT, b"f")
    volume.calls.write(node, 0, b"data" * 5000)
    volume.calls.unlink(ROOT, b"f")
    assert volume.calls.getattr(node).nlink == 0
    assert volume.calls.read(node, 0, 20000) == b"data" * 5000
    volume.calls.release(node, fh)
    volume.calls.forget(node)
    volume.sync()
    assert not volume.exists("/f")


def test_an_unnamed_file_gets_a_name(volume: Volume) -> None:
    node, fh, attr = volume.calls.tmpfile(ROOT)
    assert attr.nlink == 0
    volume.calls.write(node, 0, b"kept")
    volume.calls.link(node, ROOT, b"named")
    volume.calls.release(node, fh)
    volume.calls.forget(node, 2)
    assert volume.read("/named") == b"kept"
    assert volume.stat("/named").nlink == 1


def test_leftovers_of_a_crash_go_even_if_the_next_mount_is_short(device: MemoryDevice) -> None:
    volume = Volume(device, quiet=True)
    for number in range(300):
        volume.calls.create(ROOT, b"f%d" % number)
        volume.calls.unlink(ROOT, b"f%d" % number)
    volume.sync()
    volume.abandon()
    Volume(device, quiet=True).close()
    report = check(device)
    assert report.findings == []
    assert report.counts["unlinked"] == 0


def test_immutable_and_append_only(volume: Volume) -> None:
    getflags, setflags = 0x80086601, 0x40086602
    volume.create("/f", b"content")
    node = volume.node("/f")
    for flag, write_ok in ((0x10, False), (0x20, True)):
        volume.calls.ioctl(node, setflags, flag.to_bytes(4, "little"))
        assert int.from_bytes(volume.calls.ioctl(node, getflags, b"", 4), "little") == flag
        for call in (lambda: volume.unlink("/f"), lambda: volume.rename("/f", "/g"), lambda: volume.link("/f", "/h"),
                     lambda: volume.truncate("/f", 0), lambda: volume.calls.open(node, os.O_RDWR)):
            with pytest.raises(PermissionError):
                call()
        if write_ok:
            volume.calls.release(node, volume.calls.open(node, os.O_RDWR | os.O_APPEND))
    volume.calls.ioctl(node, setflags, bytes(4))
    volume.unlink("/f")
    volume.calls.forget(node)


def test_journaled_data_may_be_switched_on_and_off(volume: Volume) -> None:
    setflags, journal_data = 0x40086602, 0x4000
    volume.create("/f", b"1" * 20000)
    node = volume.node("/f")
    volume.calls.ioctl(node, setflags, journal_data.to_bytes(4, "little"))
    volume.calls.write(node, 5000, b"2" * 9000)
    volume.calls.ioctl(node, setflags, bytes(4))
    volume.calls.write(node, 0, b"3" * 100)
    volume.calls.fsync(node)
    volume.calls.forget(node)
    assert volume.read("/f") == b"3" * 100 + b"1" * 4900 + b"2" * 9000 + b"1" * 6000


def test_setgid_directories_hand_their_group_down(volume: Volume) -> None:
    volume.mkdir("/d")
    volume.setattr("/d", mode=0o2775, gid=77)
    volume.create("/d/f")
    volume.mkdir("/d/sub")
    assert volume.stat("/d/f").gid == 77
    assert volume.stat("/d/sub").mode & 0o2000


def test_foreign_and_damaged_disks_are_refused_and_left_alone(device: MemoryDevice) -> None:
    empty = MemoryDevice(16 * MIB)
    with pytest.raises(MountError, match="no GFS2 superblock"):
        Volume(empty, quiet=True)
    assert empty.read(0, 16 * MIB) == bytes(16 * MIB)
    with pytest.raises(MountError, match="too small"):
        Volume(MemoryDevice(64 << 10), quiet=True)
    with pytest.raises(MountError, match="only 1 journals") as caught:
        Volume(device, jid=1, quiet=True)
    assert caught.value.errno == errno.EUSERS
    for field, value, text in (("sb_fs_format", 1900, "format 1900"), ("sb_bsize", 3000, "sb_bsize"),
                               ("sb_root_dir.no_addr", 1 << 40, "sb_root_dir")):
        broken = MemoryDevice.from_snapshot(device.snapshot())
        patch_field(broken, 65536 // 4096, "sb", field, value)
        with pytest.raises((MountError, CorruptionError), match=text):
            Volume(broken, quiet=True)
    assert_clean(device)


def test_damage_met_later_withdraws_this_mount_only(device: MemoryDevice) -> None:
    with Volume(device, quiet=True) as volume:
        volume.create("/f", b"x" * 100000)
        addr = volume.stat("/f").ino
    other = fresh()
    patch_field(device, addr, "dinode", "di_height", 99)
    damaged, well = Volume(device, quiet=True), Volume(other, quiet=True)
    with pytest.raises(OSError) as caught:
        damaged.stat("/f")
    assert caught.value.errno == errno.EIO
    assert damaged.fs.withdrawn is not None
    for part in (str(addr), "di_height", "99"):
        assert part in damaged.fs.withdrawn
    with pytest.raises(OSError):
        damaged.create("/new")
    well.create("/new", b"fine")
    well.close()
    assert_clean(other)
    with pytest.raises(OSError):
        damaged.close()
    patch_field(device, addr, "dinode", "di_height", 1)
    with Volume(device, quiet=True) as again:
        assert again.read("/f") == b"x" * 100000
    assert_clean(device)


def test_a_cold_walk_by_names_reads_dinodes_in_runs(tmp_path: Path) -> None:
    """Files made one after the other, looked up in that order: far fewer reads than files."""
    image = tmp_path / "image"
    image.write_bytes(b"")
    os.truncate(image, 64 * MIB)
    names = [b"%04d" % i for i in range(1000)]
    with FileDevice(image) as device:
        make_fs(device, MkfsOptions(lockproto="lock_nolock", jsize_mb=8))
        with Volume(device, quiet=True, inodes=4096) as volume:
            for name in names:
                volume.create(b"/" + name, b"")
    with FileDevice(image) as device, Volume(device, quiet=True, inodes=4096, background=False) as volume:
        volume.calls.lookup(ROOT, names[0])
        before = volume.statistics()["device_reads"]
        for name in names:
            volume.calls.lookup(ROOT, name)
        assert volume.statistics()["device_reads"] - before < len(names) // 10
