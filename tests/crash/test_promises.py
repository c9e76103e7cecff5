"""What a sync promises, one case at a time: the disk with nothing pending on it must hold what was acknowledged."""

import struct
import threading
import time

import pytest

from crash.power import Shape, formatted
from gfs2py.block._faulty import FaultyDevice
from gfs2py.block._memory import MemoryDevice
from gfs2py.block._recording import RecordingDevice
from gfs2py.engine.volume import Volume
from gfs2py.fsck.check import check

SETFLAGS, JOURNAL_DATA = 0x40086602, 0x4000
PUNCH_KEEP = 3
WRITE_CACHE = 1


def disk(shape: Shape = Shape()) -> RecordingDevice:  # noqa: B008
    return RecordingDevice(MemoryDevice.from_snapshot(formatted(shape.bsize, shape.mib, shape.jsize_mb)))


def mounted(device: RecordingDevice | FaultyDevice, *flags: str, inodes: int = 256) -> Volume:
    return Volume(device, flags=("acl", *flags), background=False, quiet=True, commit_ms=0, inodes=inodes,
                  cache_bytes=1 << 20)


def after_cut(volume: Volume, device: RecordingDevice) -> Volume:
    """The file system after a power cut now, everything not flushed lost."""
    volume.abandon()
    image = device.cut(device.epochs)
    found = mounted(image, "rdonly")
    report = check(image)
    assert not [f for f in report.findings if f.code not in ("journal_size", "di_unlinked")]
    return found


def jdata_file(volume: Volume, path: str, content: bytes) -> None:
    volume.create(path)
    node = volume.node(path)
    volume.calls.ioctl(node, SETFLAGS, struct.pack("<I", JOURNAL_DATA))
    volume.calls.forget(node)
    volume.write(path, 0, content)


def test_fsync_of_an_inode_that_left_the_cache_and_came_back() -> None:
    device = disk()
    volume = mounted(device, inodes=4)
    volume.create("kept", b"k" * 1000)       # in its dinode: dirty blocks would keep the inode in memory
    for i in range(30):
        volume.create(f"other{i}", b"o")
    volume.fsync("kept")
    with after_cut(volume, device) as found:
        assert found.read("kept") == b"k" * 1000


def test_fdatasync_of_overwritten_journaled_data() -> None:
    device = disk()
    volume = mounted(device)
    jdata_file(volume, "j", b"1" * 20_000)
    volume.sync()
    volume.write("j", 4096, b"2" * 4096)
    volume.fsync("j", datasync=True)
    with after_cut(volume, device) as found:
        assert found.read("j") == b"1" * 4096 + b"2" * 4096 + b"1" * (20_000 - 8192)


@pytest.mark.parametrize("journaled", [True, False])
def test_fdatasync_of_zeroes_punched_into_data_that_commits_carry(journaled: bool) -> None:
    device = disk()
    volume = mounted(device)
    if journaled:
        jdata_file(volume, "f", b"1" * 8000)
    else:
        volume.create("f", b"1" * 1000)
    volume.sync()
    volume.fallocate("f", PUNCH_KEEP, 100, 200)
    volume.fsync("f", datasync=True)
    with after_cut(volume, device) as found:
        assert found.read("f", 0, 400) == b"1" * 100 + b"\0" * 200 + b"1" * 100


def test_an_fsync_that_meets_a_commit_past_its_flush_flushes_itself() -> None:
    """Data overwritten in place while another thread's commit waits for its flush are not part of that flush."""
    slow = FaultyDevice(disk())
    device = RecordingDevice(slow)
    volume = mounted(device)
    volume.create("a", b"1" * 8192)
    volume.create("b", b"1" * 8192)
    node = volume.node("b")
    slow.arm(kinds=("flush",), latency_s=0.3)
    other = threading.Thread(target=volume.fsync, args=("a",))
    other.start()
    time.sleep(0.1)
    volume.calls.write(node, 0, b"2" * 8192, 0, WRITE_CACHE)
    volume.calls.fsync(node)
    other.join()
    with after_cut(volume, device) as found:
        assert found.read("b") == b"2" * 8192


@pytest.mark.parametrize("mode", ["ordered", "writeback"])
def test_acknowledged_content_survives_leaving_the_dinode(mode: str) -> None:
    device = disk()
    volume = mounted(device, *(["writeback"] if mode == "writeback" else []))
    volume.create("f", b"1" * 1000)
    volume.create("g")
    volume.sync()
    volume.write("f", 1000, b"2" * 9000)
    volume.setattr("g", mode=0o600)
    volume.fsync("g")
    with after_cut(volume, device) as found:
        assert found.stat("f").size == 10_000
        assert found.read("f", 0, 1000) == b"1" * 1000


def test_syncfs_makes_data_durable_in_writeback_mode() -> None:
    device = disk()
    volume = mounted(device, "writeback")
    volume.create("f", b"1" * 50_000)
    volume.sync()
    volume.write("f", 10_000, b"2" * 10_000)
    volume.sync()
    with after_cut(volume, device) as found:
        assert found.read("f") == b"1" * 10_000 + b"2" * 10_000 + b"1" * 30_000


def test_a_removed_directory_that_somebody_still_knows() -> None:
    """Its dinode is unlinked, not damaged; the next writable mount frees it."""
    device = disk(Shape(bsize=512, mib=20, jsize_mb=1))
    volume = mounted(device)
    volume.mkdir("up")
    volume.mkdir("up/down")
    for i in range(40):
        volume.create(f"up/down/{i}")
    for i in range(40):
        volume.unlink(f"up/down/{i}")
    volume.node("up/down")
    volume.rmdir("up/down")
    volume.sync()
    with after_cut(volume, device) as found:
        assert found.listdir("up") == []
    image = device.cut(device.epochs)
    Volume(image, quiet=True).close()
    assert [f.code for f in check(image).findings] == ["journal_size"]


def test_a_punch_in_several_transactions_never_shows_what_the_disk_held_before() -> None:
    """Dirty data of new, scattered blocks, then a punch that takes several transactions, and commits meanwhile."""
    for attempt in range(15):
        device = disk(Shape(bsize=512, mib=20, jsize_mb=1))
        volume = Volume(device, background=False, quiet=True, commit_ms=0, cache_bytes=64 << 20)
        for name in "fg":
            volume.create(name)
        volume.sync()
        for i in range(2000):
            for name in "fg":       # a handle that closes gives its reservation back: the files' blocks alternate
                node = volume.node(name)
                fh = volume.calls.open(node)
                volume.calls.write(node, i * 512, b"1" * 512, fh)
                volume.calls.release(node, fh)
                volume.calls.forget(node)
        first = device.epochs
        puncher = threading.Thread(target=volume.fallocate, args=("f", PUNCH_KEEP, 0, 2000 * 512))
        puncher.start()
        threading.Event().wait(0.0001 * attempt)
        volume.sync()
        puncher.join()
        volume.abandon()
        for epoch in range(first, device.epochs + 1):
            with mounted(device.cut(epoch), "rdonly") as found:      # type: ignore[arg-type]
                data = found.read("f")
                assert set(data) <= {0, ord("1")}, f"attempt {attempt}, epoch {epoch}: {set(data)}"
