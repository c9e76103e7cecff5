"""The k-th I/O fails: nothing hangs, nothing lies, and what is on the disk can be mounted again.

Above the recording is a device that fails. Whatever a sync acknowledged in spite of the failure must be on the disk
below; after a withdraw every call gives EIO, nothing is written any more, and unmounting works.
"""

import errno
import random
import time
from dataclasses import dataclass

import pytest

from crash.mixes import MIXES
from crash.oracle import Judge, Lost, recover, walk
from crash.power import Run, draw, formatted, judge_cut
from crash.shapes import Shape
from crash.workload import Workload
from gfs2py.block._faulty import FaultyDevice
from gfs2py.block._memory import MemoryDevice
from gfs2py.block._recording import RecordingDevice
from gfs2py.engine.volume import Volume

SHAPE = Shape(bsize=1024, steps=60)
KINDS = {"write": ("write",), "flush": ("flush",), "read": ("read",), "any": ("read", "write", "flush")}


class Hurt(Workload):
    """A workload that goes on after I/O errors until the first; the history then ends with what may be half done."""

    failed = False
    half_done: int | None = None

    def attempt(self, text, call, busy=None):       # type: ignore[no-untyped-def]
        try:
            return super().attempt(text, call, busy)
        except AssertionError as e:
            if isinstance(e.__cause__, OSError) and e.__cause__.errno == errno.EIO:
                self.failed = True
                self.half_done = busy
                raise Stop from e
            raise

    def read_back(self, path: bytes) -> None:
        try:
            super().read_back(path)
        except OSError as e:
            raise Stop from e

    def live_xattrs(self, path: bytes):             # type: ignore[no-untyped-def]
        try:
            return super().live_xattrs(path)
        except OSError as e:
            raise Stop from e


class Stop(Exception):
    """The first I/O error."""


def only_eio(e: OSError) -> None:
    """A failed I/O may surface as EIO and as nothing else."""
    if e.errno != errno.EIO:
        raise AssertionError(e) from e


@dataclass
class Outcome:
    run: Run
    withdrawn: str | None
    failed: int


def perform_hurt(seed: int, k: int, kinds: tuple[str, ...], *, sticky: bool, torn: bool,
                 shape: Shape = SHAPE) -> Outcome | None:
    """Mount, work until the failure shows, sync, give up. None: the mount itself failed."""
    recording = RecordingDevice(MemoryDevice.from_snapshot(formatted(shape.bsize, shape.mib, shape.jsize_mb)))
    faulty = FaultyDevice(recording)
    volume = Volume(faulty, flags=shape.flags, background=False, quiet=True, cache_bytes=1 << 16, inodes=256,
                    commit_ms=0)
    work = Hurt(volume, recording, random.Random(f"faults {seed}"), MIXES[shape.mix])
    faulty.arm(fail_at=k, kinds=kinds, sticky=sticky, torn=torn, seed=k)
    try:
        work.run(shape.steps)
    except Stop:
        pass
    except OSError as e:
        only_eio(e)
        work.failed = True
    withdrawn = volume.fs.withdrawn
    failed = faulty.failed
    if withdrawn:
        check_withdrawn(volume, recording)
    elif failed and not sticky:
        faulty.disarm()
        go_on(work)
    volume.abandon()
    # Data that could not be written are lost, as with the kernel, and the commit goes on: only what was acknowledged
    # is promised then.
    judge = Judge(work.history, shape.bsize, writeback=failed > 0 and not withdrawn,
                  unknown=work.half_done)
    return Outcome(Run(shape, seed, recording, work.history, judge, {}, work), withdrawn, failed)


def go_on(work: Hurt) -> None:
    """One failed I/O and no withdraw: the volume lives, can be read and changed, and syncs again."""
    volume = work.volume
    try:
        volume.sync()
    except OSError as e:
        only_eio(e)
    assert volume.fs.withdrawn is None
    walk(volume)


def check_withdrawn(volume: Volume, recording: RecordingDevice) -> None:
    """Everything gives EIO, and the disk is left alone."""
    before = recording.writes
    calls = [lambda: volume.create("x1"), lambda: volume.mkdir("x2"), lambda: volume.listdir("/"),
             lambda: volume.unlink("x3"), lambda: volume.sync(), lambda: volume.fsync("/"),
             lambda: volume.setattr("/", mode=0o700), lambda: volume.rename("x4", "x5"),
             lambda: volume.calls.statfs() and volume.calls.getattr(1)]
    for call in calls:
        with pytest.raises(OSError) as e:
            call()
        assert e.value.errno == errno.EIO
    assert recording.writes == before


def judge_hurt(outcome: Outcome, rng: random.Random) -> None:
    """The disk as it is, and as a power cut after the failure would leave it."""
    run = outcome.run
    for cut in draw(run.device, run.device.epochs, rng, 1):
        judge_cut(run, cut)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sticky", [False, True], ids=["once", "from then on"])
def test_the_kth_io_fails(kind: str, sticky: bool, seed: int) -> None:
    rng = random.Random(f"{seed} {kind} {sticky}")
    end = time.monotonic() + 3
    k, withdrawn, felt = 1, 0, 0
    while time.monotonic() < end:
        try:
            outcome = perform_hurt(seed, k, KINDS[kind], sticky=sticky, torn=bool(k % 2))
            if outcome is None or not outcome.failed:
                break                    # the workload needs fewer I/Os than k
            felt += 1
            withdrawn += outcome.withdrawn is not None
            judge_hurt(outcome, rng)
        except AssertionError as e:
            raise Lost(f"seed {seed}, {kind} number {k}, sticky {sticky}: {e}") from e
        k += 1 if k < 40 else rng.randrange(1, 12)
    print(f"{kind}, sticky {sticky}: {felt} failures up to number {k}, {withdrawn} withdrawals")
    assert felt


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
