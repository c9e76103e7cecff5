"""Power cuts: seeded workloads, every flush boundary, subsets and torn writes of what was pending.

GFS2PY_CRASH_SECONDS sets how long the open-ended test runs (default 20); every failure prints shape, seed and cut.
"""

import errno
import os
import random
import subprocess
import time
from pathlib import Path

import pytest

from crash.oracle import Lost, recover, walk
from crash.power import Run, draw, judge_all, mount, perform
from crash.shapes import ACL, SHAPES, Shape
from gfs2py.block._recording import Cut, RecordingDevice
from gfs2py.engine.volume import Volume
from gfs2py.fsck.check import check

SECONDS = float(os.environ.get("GFS2PY_CRASH_SECONDS") or 20)
def replay_twice(run: Run, cut: Cut) -> None:
    """A crash during the replay: the next replay ends in the same file system, and a third finds nothing to do."""
    first = recover(cut.device)
    again = run.device.cut(cut.epoch, cut.keep, cut.torn)
    recording = RecordingDevice(again)
    recover(recording)
    rng = random.Random(f"{run.seed} {cut.epoch}")
    for inner in draw(recording, rng.randint(0, recording.epochs), rng, 2):
        second = recover(inner.device)
        assert (second.view, second.contents) == (first.view, first.contents)
        third = recover(inner.device)
        assert third.replayed == 0
        assert (third.view, third.contents) == (first.view, first.contents)


def live_on(run: Run, cut: Cut) -> None:
    """The recovered file system works: what was unlinked is reclaimed, changes can be made, unmounting is clean."""
    device = run.device.cut(cut.epoch, cut.keep, cut.torn)     # cut.device has been replayed by now
    volume = Volume(device, flags=run.shape.flags, quiet=True, cache_bytes=1 << 20, commit_ms=3_600_000)
    before = walk(volume)[0]
    try:
        volume.create("after-the-crash", b"x" * 20_000)
    except OSError as e:
        if e.errno != errno.ENOSPC:
            raise
    names = walk(volume)[0]
    assert names.keys() - {b"/after-the-crash"} == before.keys()
    volume.close()
    report = check(device)
    left = [f for f in report.findings if f.code != "journal_size" and "quota" not in f.code]
    assert not left, "; ".join(f.text for f in left[:5])


@pytest.mark.parametrize("name", SHAPES)
def test_every_boundary(name: str, seed: int) -> None:
    """One workload of each shape, cut in every epoch."""
    run = perform(SHAPES[name], seed)
    n = judge_all(run, samples=1, until=time.monotonic() + 4)
    print(f"{name}: seed {seed}, {len(run.history.steps)} steps, {run.device.epochs} boundaries, "
          f"{run.device.writes} writes, {run.stats['log_commits']} commits, {n} cuts")
    assert n > run.device.epochs // 2


def test_the_log_wraps(seed: int) -> None:
    """The shapes are small enough: commits go round the journal and wait for space in it."""
    run = perform(Shape(bsize=512, mib=20, jsize_mb=1, steps=1500, mix="directories"), seed)
    assert run.stats["log_blocks_written"] > run.stats["log_blocks"]
    assert run.stats["log_waits"] > 0
    judge_all(run, samples=0, until=time.monotonic() + 4)


def test_the_same_seed_makes_the_same_writes(seed: int) -> None:
    """Everything but time stamps repeats: steps, and every write's place and length in its epoch."""
    def trace() -> list[object]:
        run = perform(Shape(bsize=1024, steps=80), seed)
        epochs = [[(w.off, w.length, w.fua) for w in run.device.pending(e)] for e in range(run.device.epochs + 1)]
        return [[(s.text, s.began) for s in run.history.steps], epochs]
    assert trace() == trace()


@pytest.mark.parametrize("name", ["general", "data-1k", "directories-512"])
def test_a_crash_during_replay(name: str, seed: int) -> None:
    run = perform(SHAPES[name], seed)
    judge_all(run, samples=0, until=time.monotonic() + 3, also=replay_twice)


@pytest.mark.parametrize("name", ["general", "general-512", "attrs", "quota", "tiny"])
def test_life_after_the_crash(name: str, seed: int) -> None:
    run = perform(SHAPES[name], seed)
    judge_all(run, samples=0, until=time.monotonic() + 3, also=live_on)


def test_crashes_upon_crashes(seed: int) -> None:
    """The disk of one crash is where the next workload begins: mount, work, cut, six times over."""
    rng = random.Random(f"again {seed}")
    shape = Shape(bsize=1024, steps=40)
    run = perform(shape, seed)
    for n in range(6):
        cut = next(iter(draw(run.device, rng.randint(0, run.device.epochs), rng, 0)))
        device = cut.device
        recover(device)
        run = perform(shape, seed + n + 1, start=device)
        judge_all(run, samples=1, until=time.monotonic() + 1)


@pytest.mark.interop
@pytest.mark.parametrize("name", ["general", "general-512", "directories", "data-1k"])
def test_debians_checker_agrees(name: str, seed: int, tmp_path: Path) -> None:
    """fsck.gfs2 -n of gfs2-utils on recovered images: it has nothing to repair but unlinked inodes to free."""
    run = perform(SHAPES[name], seed)
    rng = random.Random(seed)
    for _ in range(3):
        cut = list(draw(run.device, rng.randint(0, run.device.epochs), rng, 1))[-1]
        volume = mount(cut.device, run.shape)      # writable, then closed: unlinked inodes and quotas are settled
        volume.close()
        volume = Volume(cut.device, flags=ACL, quiet=True)
        volume.close()
        image = tmp_path / "image"
        cut.device.save(image)
        done = subprocess.run(["/usr/sbin/fsck.gfs2", "-n", image], capture_output=True, text=True, check=False,
                              errors="replace")
        wrong = [line for line in done.stdout.splitlines() if "nlinked" in line or "rror" in line]
        fine = done.returncode == 0 or (done.returncode == 4 and all("nlinked" in w for w in wrong))
        assert fine, f"seed {seed}, epoch {cut.epoch}: {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-500:]}"


def test_until_the_time_is_up(seed: int) -> None:
    """New seeds for GFS2PY_CRASH_SECONDS: shapes in turn."""
    end = time.monotonic() + SECONDS
    cuts = runs = 0
    while time.monotonic() < end:
        name = list(SHAPES)[runs % len(SHAPES)]
        run = perform(SHAPES[name], seed * 1000 + runs)
        try:
            cuts += judge_all(run, samples=2, until=min(end, time.monotonic() + max(1.0, SECONDS / 40)))
        except Lost as e:
            raise Lost(f"{name}: perform(SHAPES[{name!r}], {seed * 1000 + runs})\n{e}") from e
        runs += 1
    print(f"{runs} workloads, {cuts} cuts in {SECONDS:.0f} s")
    assert cuts
