"""A run: file system, workload, history; then cuts of its recording, judged one by one."""

from __future__ import annotations

import functools
import random
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from unittest import mock

from crash.mixes import MIXES
from crash.model import History
from crash.oracle import FINE, FINE_HURT, Judge, Lost, Recovered, recover
from crash.shapes import Shape
from crash.workload import Workload
from gfs2py.block._device import BlockDevice
from gfs2py.block._memory import MemoryDevice, Snapshot
from gfs2py.block._recording import Cut, RecordingDevice, tear
from gfs2py.engine.volume import Volume
from gfs2py.mkfs import options
from gfs2py.mkfs.make import make_fs

POISON = bytes(range(0xA0, 0xB0)) * (1 << 16)       # 1 MiB that no test ever writes


@functools.cache
def formatted(bsize: int, mib: int, jsize_mb: int) -> Snapshot:
    """A new file system on a disk full of poison, with a journal that may be smaller than mkfs allows."""
    device = MemoryDevice(mib << 20)
    for at in range(mib):
        device.write(at << 20, POISON)
    with mock.patch.object(options, "MIN_JSIZE_MB", 1):
        make_fs(device, options.MkfsOptions(bsize=bsize, jsize_mb=jsize_mb, qcsize_mb=1, lockproto="lock_nolock",
                                            uuid=uuid.UUID(int=7), rng=random.Random(7), now=1_700_000_000))
    return device.snapshot()


@dataclass(slots=True)
class Run:
    """A finished workload and its recording."""

    shape: Shape
    seed: int
    device: RecordingDevice
    history: History
    judge: Judge
    stats: dict[str, int]
    workload: Workload
    marks: Counter[str] = field(default_factory=Counter)    # what the run and its cuts went through


def mount(device: BlockDevice, shape: Shape, *, background: bool = False) -> Volume:
    return Volume(device, flags=shape.flags, background=background, quiet=True, cache_bytes=shape.cache_bytes,
                  inodes=shape.inodes, commit_ms=shape.commit_ms)


def perform(shape: Shape, seed: int, *, wrap: Callable[[BlockDevice], BlockDevice] = lambda d: d,
            start: MemoryDevice | None = None, unmount: bool = False) -> Run:
    """Format (or take `start`), mount, run the workload and pull the plug, or unmount first.

    `wrap` puts a device between the volume and the recording.
    """
    if start is None:
        start = MemoryDevice.from_snapshot(formatted(shape.bsize, shape.mib, shape.jsize_mb))
    device = RecordingDevice(start)
    volume = mount(wrap(device), shape)
    workload = Workload(volume, device, random.Random(f"work {seed}"), MIXES[shape.mix])
    try:
        workload.run(shape.steps)
        stats = volume.statistics()
        reason = volume.fs.withdrawn
        if unmount and not reason:
            workload.unmount()
    finally:
        volume.abandon()
    if reason:
        raise AssertionError(f"{shape}, seed {seed}: withdrawn: {reason}")
    run = Run(shape, seed, device, workload.history, Judge(workload.history, shape.bsize, shape.writeback), stats,
              workload)
    run.judge.marks = run.marks
    run.marks += workload.marks
    for name, many in (("the log went round", stats["log_blocks_written"] // stats["log_blocks"]),
                       ("waits for log space", stats["log_waits"]), ("revokes written", stats["log_revokes"])):
        run.marks[name] += many
    return run


def draw(device: RecordingDevice, epoch: int, rng: random.Random, samples: int) -> Iterator[Cut]:
    """Cuts of one epoch: nothing pending kept, all of it, and `samples` drawn subsets, some of them torn."""
    pending = device.pending(epoch)
    n = len(pending)
    yield Cut(epoch, (), {}, device.cut(epoch))
    if n == 0:
        return
    keep = tuple(range(n))
    yield Cut(epoch, keep, {}, device.cut(epoch, keep))
    for _ in range(samples):
        r = rng.random()
        torn: dict[int, tuple[int, ...]] = {}
        if r < 0.3:
            keep = tuple(range(rng.randrange(n + 1)))
        else:
            share = rng.choice((0.1, 0.5, 0.9))
            keep = tuple(i for i in range(n) if rng.random() < share)
        if rng.random() < 0.5:
            for i in [i for i in keep if pending[i].length > 512 and not pending[i].discard and rng.random() < 0.3]:
                torn[i] = tear(pending[i], rng)
            keep = tuple(i for i in keep if i not in torn)
        if len(keep) not in (0, n) or torn:         # those two have been
            yield Cut(epoch, keep, torn, device.cut(epoch, keep, torn))


def judge_cut(run: Run, cut: Cut) -> Recovered:
    """Raises Lost, with everything needed to see it again."""
    try:
        got = recover(cut.device, quota=run.shape.quota, fine=FINE_HURT if run.judge.hurt else FINE)
        run.judge.judge(cut.epoch, got)
    except (Lost, OSError) as e:
        begun = run.history.last_begun(cut.epoch)
        trail = "\n".join(f"  {k}: {run.history.steps[k].text}" for k in range(max(0, begun - 14), begun + 1))
        raise Lost(f"{run.shape}\nseed {run.seed}, epoch {cut.epoch} of {run.device.epochs}, keep {cut.keep}, "
                   f"torn {cut.torn}\n{type(e).__name__}: {e}\nlast steps:\n{trail}") from e
    run.marks["cuts"] += 1
    run.marks["cuts: torn"] += bool(cut.torn)
    run.marks["cuts: some pending writes lost"] += bool(cut.keep)
    run.marks["cuts: blocks replayed"] += got.replayed > 0
    run.marks["cuts: revoked blocks skipped"] += got.revoked > 0
    for code in got.notes:
        run.marks["cuts: " + code] += 1
    return got


def judge_all(run: Run, *, samples: int = 2, until: float | None = None, rng: random.Random | None = None,
              also: Callable[[Run, Cut], None] | None = None) -> int:
    """Every epoch of the recording (in a random order while time is short); the number of cuts judged."""
    rng = rng or random.Random(f"cuts {run.seed}")
    epochs = list(range(run.device.epochs + 1))
    if until is not None:
        rng.shuffle(epochs)
    before = run.marks["cuts"]
    for epoch in epochs:
        for cut in draw(run.device, epoch, rng, samples):
            judge_cut(run, cut)
            if also is not None:
                also(run, cut)
        if until is not None and time.monotonic() > until:
            break
    return run.marks["cuts"] - before
