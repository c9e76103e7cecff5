"""A run: file system, workload, history; then cuts of its recording, judged one by one."""

from __future__ import annotations

import functools
import random
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from unittest import mock

from crash.model import History
from crash.oracle import Judge, Lost, recover
from crash.workload import MIXES, Workload
from gfs2py.block._device import BlockDevice
from gfs2py.block._memory import MemoryDevice, Snapshot
from gfs2py.block._recording import Cut, RecordingDevice, tear
from gfs2py.engine.volume import Volume
from gfs2py.mkfs import options
from gfs2py.mkfs.make import make_fs

POISON = bytes(range(0xA0, 0xB0)) * (1 << 16)       # 1 MiB that no test ever writes


@dataclass(frozen=True, slots=True)
class Shape:
    """One kind of file system and mount."""

    bsize: int = 4096
    mib: int = 24
    jsize_mb: int = 2
    flags: tuple[str, ...] = ("relatime", "acl")
    mix: str = "general"
    steps: int = 160
    cache_bytes: int = 1 << 20
    inodes: int = 32
    daemon: bool = False        # with the log daemon runs do not repeat exactly

    @property
    def writeback(self) -> bool:
        return "writeback" in self.flags


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
    counts: dict[str, int] = field(default_factory=dict)


def mount(device: BlockDevice, shape: Shape) -> Volume:
    return Volume(device, flags=shape.flags, background=False, quiet=True, cache_bytes=shape.cache_bytes,
                  inodes=shape.inodes, commit_ms=3_600_000 if shape.daemon else 0)


def perform(shape: Shape, seed: int, *, wrap: Callable[[BlockDevice], BlockDevice] = lambda d: d,
            start: MemoryDevice | None = None) -> Run:
    """Format (or take `start`), mount, run the workload and pull the plug.

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
    finally:
        volume.abandon()
    if reason:
        raise AssertionError(f"{shape}, seed {seed}: withdrawn: {reason}")
    return Run(shape, seed, device, workload.history, Judge(workload.history, shape.bsize, shape.writeback), stats,
               workload)


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
        yield Cut(epoch, keep, torn, device.cut(epoch, keep, torn))


def judge_cut(run: Run, cut: Cut) -> int:
    """Raises Lost, with everything needed to see it again."""
    try:
        return run.judge.judge(cut.epoch, recover(cut.device))
    except (Lost, OSError) as e:
        begun = run.history.last_begun(cut.epoch)
        trail = "\n".join(f"  {k}: {run.history.steps[k].text}" for k in range(max(0, begun - 14), begun + 1))
        raise Lost(f"{run.shape}\nseed {run.seed}, epoch {cut.epoch} of {run.device.epochs}, keep {cut.keep}, "
                   f"torn {cut.torn}\n{type(e).__name__}: {e}\nlast steps:\n{trail}") from e


def judge_all(run: Run, *, samples: int = 2, until: float | None = None, rng: random.Random | None = None,
              also: Callable[[Run, Cut], None] | None = None) -> int:
    """Every epoch of the recording (in a random order while time is short); the number of cuts judged."""
    rng = rng or random.Random(f"cuts {run.seed}")
    epochs = list(range(run.device.epochs + 1))
    if until is not None:
        rng.shuffle(epochs)
    n = 0
    for epoch in epochs:
        for cut in draw(run.device, epoch, rng, samples):
            judge_cut(run, cut)
            n += 1
            if also is not None:
                also(run, cut)
        if until is not None and time.monotonic() > until:
            break
    return n
