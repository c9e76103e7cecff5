"""The k-th I/O fails: nothing hangs, nothing lies, and what is on the disk can be mounted again.

Above the recording is a device that fails. Whatever a sync acknowledged in spite of the failure must be on the disk
below; after a withdraw every call gives EIO, nothing is written any more, and unmounting works.
"""

import errno
import os
import random

import pytest

from crash.campaign import campaign
from crash.hurt import only_eio
from crash.mixes import MIXES
from crash.oracle import Judge, recover
from crash.power import Run, draw, formatted, judge_cut
from crash.shapes import Shape
from crash.workload import Workload
from gfs2py.block._faulty import FaultyDevice
from gfs2py.block._memory import MemoryDevice
from gfs2py.block._recording import RecordingDevice
from gfs2py.engine.volume import Volume

SHAPE = Shape(bsize=1024, steps=60)
SECONDS = float(os.environ.get("GFS2PY_CRASH_SECONDS") or 0)
FAILED_IOS = 20_000
CAP_S = 600.0
MET = frozenset({"mounts that failed", "unmounts that failed", "operations that failed", "withdrawals",
                 "failed I/Os: once", "failed I/Os: and all after", "failed I/Os: writes to one place",
                 "cuts: blocks replayed", "fstrim"})


@pytest.mark.slow
@pytest.mark.timeout(4000)
def test_failed_ios_by_the_thousand(seed: int) -> None:
    """At least FAILED_IOS, and GFS2PY_CRASH_SECONDS if that is set; see hurt.py."""
    count = 0 if SECONDS else FAILED_IOS
    outcome = campaign("faults", seed, count=count, seconds=SECONDS or CAP_S, marks=MET)
    print(outcome.text())
    assert not outcome.failures, outcome.failures[0]
    assert outcome.count >= count, f"this machine is too slow: {outcome.text()}"
    assert SECONDS or not [m for m in MET if not outcome.marks[m]], outcome.text()


@pytest.mark.parametrize("kind", ["read", "write", "flush"])
def test_a_mount_whose_kth_io_fails(kind: str) -> None:
    """An exception or a mount; and the same disk mounts well afterwards, with its replay done or to do."""
    shape = Shape(bsize=1024)
    recording = RecordingDevice(MemoryDevice.from_snapshot(formatted(shape.bsize, shape.mib, shape.jsize_mb)))
    with_work = Volume(recording, background=False, quiet=True, commit_ms=0)
    for i in range(20):
        with_work.create(f"f{i}", b"x" * 3000)
    with_work.sync()
    with_work.unlink("f3")
    with_work.sync()
    with_work.abandon()
    want = recover(recording.cut(recording.epochs))
    k = 0
    done = False
    while not done:
        k += 1 + k // 6
        image = recording.cut(recording.epochs)
        faulty = FaultyDevice(image, fail_at=k, kinds=(kind,))
        try:
            Volume(faulty, background=False, quiet=True, commit_ms=0).close()
        except OSError as e:
            only_eio(e)
        done = faulty.failed == 0
        got = recover(image)
        assert (got.view, got.contents) == (want.view, want.contents)


def test_unmounting_whose_kth_io_fails(seed: int) -> None:
    """close() raises or not; what was synced before is there."""
    for k in range(1, 60):
        recording = RecordingDevice(MemoryDevice.from_snapshot(formatted(1024, 24, 2)))
        faulty = FaultyDevice(recording)
        volume = Volume(faulty, flags=SHAPE.flags, background=False, quiet=True, commit_ms=0)
        work = Workload(volume, recording, random.Random(f"close {seed}"), MIXES["general"])
        work.run(25)
        work.sync()
        faulty.arm(fail_at=k, kinds=("write", "flush"))
        try:
            volume.close()
        except OSError as e:
            only_eio(e)
        run = Run(SHAPE, seed, recording, work.history, Judge(work.history, 1024), {}, work)
        for cut in draw(recording, recording.epochs, random.Random(k), 0):
            judge_cut(run, cut)
        if not faulty.failed:
            break
    assert k > 5


def test_an_fsync_that_failed_says_so_and_data_lost_is_not_acknowledged() -> None:
    """A data block that could not be written: the fsync gives EIO, once."""
    base = MemoryDevice.from_snapshot(formatted(4096, 24, 2))
    faulty = FaultyDevice(base)
    volume = Volume(faulty, background=False, quiet=True, commit_ms=0)
    volume.create("f", b"1" * 10_000)
    volume.sync()
    volume.write("f", 0, b"2" * 10_000)
    faulty.arm(fail_at=1, kinds=("write",))
    with pytest.raises(OSError) as e:
        volume.fsync("f")
    assert e.value.errno == errno.EIO
    volume.abandon()


def test_syncfs_tells_of_data_that_could_not_be_written() -> None:
    base = MemoryDevice.from_snapshot(formatted(4096, 24, 2))
    faulty = FaultyDevice(base)
    volume = Volume(faulty, background=False, quiet=True, commit_ms=0)
    volume.create("f", b"1" * 10_000)
    volume.sync()
    volume.write("f", 0, b"2" * 10_000)
    faulty.arm(fail_at=1, kinds=("write",))
    with pytest.raises(OSError) as e:
        volume.sync()
    assert e.value.errno == errno.EIO
    volume.sync()
    volume.abandon()


def overwritten(inodes: int = 256) -> tuple[FaultyDevice, Volume]:
    """A file with new data over blocks that were its own already, and a device whose next write fails."""
    faulty = FaultyDevice(MemoryDevice.from_snapshot(formatted(4096, 24, 2)))
    volume = Volume(faulty, background=False, quiet=True, commit_ms=0, inodes=inodes, cache_bytes=1 << 20)
    volume.create("f", b"1" * 10_000)
    volume.sync()
    volume.write("f", 0, b"2" * 10_000)
    return faulty, volume


def test_every_opener_is_told_once() -> None:
    """As with the kernel: each open file hears of a write error at its next fsync, whoever heard of it before."""
    faulty, volume = overwritten()
    node = volume.node("f")
    first, second = volume.calls.open(node), volume.calls.open(node)
    faulty.arm(fail_at=1, kinds=("write",))
    for fh in (first, second):
        with pytest.raises(OSError) as e:
            volume.calls.fsync(node, fh=fh)
        assert e.value.errno == errno.EIO
        volume.calls.fsync(node, fh=fh)
    third = volume.calls.open(node)
    volume.calls.fsync(node, fh=third)          # what others were told is not news to him
    for fh in (first, second, third):
        volume.calls.release(node, fh)
    volume.abandon()


def test_an_error_in_a_commit_reaches_whoever_opens_the_file_next() -> None:
    faulty, volume = overwritten()
    volume.create("g")
    faulty.arm(fail_at=1, kinds=("write",))
    volume.fsync("g")                           # its commit writes f's data, too
    assert faulty.failed == 1
    node = volume.node("f")
    fh = volume.calls.open(node)
    with pytest.raises(OSError):
        volume.calls.fsync(node, fh=fh)
    volume.calls.release(node, fh)
    volume.abandon()


def test_syncfs_tells_of_an_inode_that_left_the_cache() -> None:
    faulty, volume = overwritten(inodes=4)
    volume.create("g")
    faulty.arm(fail_at=1, kinds=("write",))
    volume.fsync("g")
    assert faulty.failed == 1
    for i in range(40):
        volume.create(f"n{i}")
    with pytest.raises(OSError):
        volume.sync()
    volume.sync()
    volume.abandon()


def test_a_failed_direct_write_is_told_by_syncfs() -> None:
    faulty = FaultyDevice(MemoryDevice.from_snapshot(formatted(4096, 24, 2)))
    volume = Volume(faulty, background=False, quiet=True, commit_ms=0)
    volume.create("f", b"1" * (1 << 20))
    volume.sync()
    node = volume.node("f")
    faulty.arm(fail_at=1, kinds=("write",))
    with pytest.raises(OSError):
        volume.calls.write(node, 0, b"2" * (1 << 18))
    with pytest.raises(OSError):
        volume.sync()
    volume.sync()
    assert faulty.failed == 1
    volume.abandon()


@pytest.mark.parametrize("how", ["write", "big write", "fallocate", "unstuff"])
@pytest.mark.parametrize("times", [1, 2])
def test_no_commit_shows_blocks_that_were_never_written(how: str, times: int) -> None:
    """A write to new blocks is tried twice; fails that, too, the mount withdraws before the commit maps them."""
    recording = RecordingDevice(MemoryDevice.from_snapshot(formatted(4096, 24, 2)))
    faulty = FaultyDevice(recording)
    volume = Volume(faulty, background=False, quiet=True, commit_ms=0)
    volume.create("f", b"1" * 1000 if how == "unstuff" else b"")
    volume.sync()
    faulty.arm(fail_at=1, kinds=("write",), sticky=times == 2)
    try:
        if how == "fallocate":
            volume.fallocate("f", 0, 0, 1 << 20)
        else:
            volume.write("f", 500 if how == "unstuff" else 0, b"2" * ((1 << 20) if how == "big write" else 20_000))
        volume.sync()
    except OSError as e:
        only_eio(e)
    assert faulty.failed
    assert (volume.fs.withdrawn is not None) == (times == 2), volume.fs.withdrawn
    volume.abandon()
    image = recording.cut(recording.epochs, range(len(recording.pending(recording.epochs))))
    got = recover(image)
    data = got.contents[got.view[b"/f"].ino]
    assert set(data) <= {0, ord("1"), ord("2")}, "what the disk held before"
    if times == 1:
        want = {"write": b"2" * 20_000, "big write": b"2" * (1 << 20), "fallocate": bytes(1 << 20),
                "unstuff": b"1" * 500 + b"2" * 20_000}
        assert data == want[how]


def test_abandoned_at_random_points(seed: int) -> None:
    """kill -9: the process ends, the device has everything that was submitted."""
    for n in range(12):
        steps = random.Random(seed + n).randrange(1, 150)
        shape = Shape(bsize=(512, 1024, 4096)[n % 3], mib=20, jsize_mb=2, steps=steps)
        device = RecordingDevice(MemoryDevice.from_snapshot(formatted(shape.bsize, shape.mib, shape.jsize_mb)))
        volume = Volume(device, flags=shape.flags, quiet=True, cache_bytes=1 << 20, commit_ms=(0, 20)[n % 2])
        work = Workload(volume, device, random.Random(f"kill {seed} {n}"), MIXES["general"])
        work.run(shape.steps)
        volume.abandon()
        run = Run(shape, seed, device, work.history, Judge(work.history, shape.bsize), {}, work)
        pending = device.pending(device.epochs)
        judge_cut(run, next(c for c in draw(device, device.epochs, random.Random(0), 0)
                            if len(c.keep) == len(pending)))
