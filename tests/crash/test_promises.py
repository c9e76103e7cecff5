"""What a sync promises, one case at a time: the disk with nothing pending on it must hold what was acknowledged."""

import struct
import threading
import time

import pytest

from crash.extras import acl
from crash.power import formatted
from crash.shapes import Shape
from gfs2py.block._faulty import FaultyDevice
from gfs2py.block._memory import MemoryDevice
from gfs2py.block._recording import RecordingDevice
from gfs2py.engine._mount import Gfs2
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


def test_a_replay_says_how_far_it_is() -> None:
    """To whoever looks while it is under way, and its lines are those of the kernel's GFS2."""
    class Watched(Gfs2):
        def __init__(self, device: RecordingDevice) -> None:
            self.seen: list[tuple[str, tuple[int, int] | None]] = []
            super().__init__(device, background=False, quiet=True, inodes=256, cache_bytes=1 << 20, say=self.note)

        def note(self, text: str) -> None:
            self.seen.append((text, self.replay_percent))

    device = disk()
    volume = mounted(device)
    volume.create("kept", b"k" * 1000)
    volume.fsync("kept")
    volume.abandon()
    found = Watched(device)
    steps = [(text, percent) for text, percent in found.seen if text.startswith("jid=0: ")]
    assert [text.partition(": ")[2].split()[0] for text, _ in steps] == ["Trying", "Looking", "Replayed", "Done"]
    assert [percent for _, percent in steps] == [(0, 0), (0, 0), (0, 100), (0, 100)]
    assert found.replay_percent is None
    found.close()


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


@pytest.mark.parametrize("what", ["setxattr", "chmod"])
def test_an_acl_and_its_mode_come_together(what: str) -> None:
    """A power cut in any moment: list and mode are both old or both new."""
    old, new = (0o600, None), (0o640, acl(6, 4, 0))
    device = disk(Shape(bsize=512, mib=20, jsize_mb=1))
    volume = Volume(device, background=False, quiet=True, commit_ms=1, cache_bytes=1 << 20)
    names = [f"f{i}" for i in range(400)]
    for name in names:
        volume.create(name, mode=0o600)
        if what == "chmod":
            volume.setxattr(name, b"system.posix_acl_access", acl(6, 0, 0))
    if what == "chmod":
        old, new = (0o600, acl(6, 0, 0)), (0o750, None)
    volume.sync()
    first = device.epochs
    for number, name in enumerate(names):
        if number % 50 == 49:
            volume.sync()
        if what == "chmod":
            volume.setattr(name, mode=0o750)
        else:
            volume.setxattr(name, b"system.posix_acl_access", new[1])
    volume.abandon()
    seen = set()
    for epoch in range(first, device.epochs + 1):
        with mounted(device.cut(epoch), "rdonly") as found:      # type: ignore[arg-type]
            for name in names:
                listed = found.listxattr(name)
                value = found.getxattr(name, listed[0]) if listed else None
                seen.add((found.stat(name).mode & 0o777, value))
    assert len(seen) <= 2, seen
    assert old in seen
    assert {mode for mode, _ in seen} == {old[0], new[0]}, "no cut in between: the test has shown nothing"


@pytest.mark.parametrize("how", ["write", "truncate", "fallocate", "zero range", "journaled"])
def test_what_a_crash_left_behind_the_end_never_becomes_content(how: str) -> None:
    """Appended data are in place before the size that covers them is committed; without the size they are nothing."""
    device = disk(Shape(bsize=1024))
    volume = mounted(device)
    volume.create("f", b"1" * 10_100)
    volume.fallocate("f", 1, 0, 20_000)         # blocks behind the end, which stays
    volume.sync()
    base = device.epochs
    volume.write("f", 10_100, b"2" * 5000)
    volume.fsync("f")
    volume.abandon()
    epoch, image = next(
        (e, d) for e in range(base, device.epochs)
        for d in [device.cut(e, range(len(device.pending(e))))]
        if any(not w.fua for w in device.pending(e)) and b"2" * 512 in d.read(0, d.size_bytes))
    after = RecordingDevice(image)
    volume = mounted(after)
    assert volume.stat("f").size == 10_100, f"epoch {epoch} is not in between"
    if how == "journaled":
        node = volume.node("f")
        volume.calls.ioctl(node, SETFLAGS, struct.pack("<I", JOURNAL_DATA))
    if how == "fallocate":
        volume.fallocate("f", 0, 0, 18_000)
    elif how == "zero range":
        volume.fallocate("f", 16, 12_000, 6000)
    elif how == "truncate":
        volume.truncate("f", 18_000)
    else:
        volume.write("f", 17_000, b"3" * 1000)
    want = b"1" * 10_100 + (b"\0" * 6900 + b"3" * 1000 if how in ("write", "journaled") else b"\0" * 7900)
    assert volume.read("f") == want
    volume.sync()
    with after_cut(volume, after) as found:
        assert found.read("f") == want
