"""Power cuts: seeded workloads, every flush boundary, subsets and torn writes of what was pending.

With GFS2PY_CRASH_SECONDS the campaigns run for that long; every failure prints the task that shows it again.
"""

import os
import random
import subprocess
import time
from pathlib import Path

import pytest

from crash.campaign import campaign
from crash.power import draw, judge_all, mount, perform
from crash.shapes import ACL, SHAPES, Shape
from gfs2py.engine.volume import Volume

SECONDS = float(os.environ.get("GFS2PY_CRASH_SECONDS") or 0)
# What a campaign must have met, besides its count: otherwise it has not tested what it says.
MET = frozenset({
    "cuts: torn", "cuts: some pending writes lost", "cuts: blocks replayed", "cuts: revoked blocks skipped",
    "cuts: in a replay", "cuts: while settling", "cuts: di_unlinked", "cuts: di_trunc",
    "cuts: while settling: di_unlinked", "seen half done", "revokes written", "the log went round",
    "waits for log space", "lives after a crash", "acl", "chattr", "comb", "exchange", "fallocate", "fstrim",
    "held", "link", "prealloc", "punch", "setxattr", "symlink", "tmpfile", "truncate", "zero_range", "unmount"})
POWER_CUTS = 20_000
CAP_S = 420.0


@pytest.mark.slow
@pytest.mark.timeout(4000)
def test_power_cuts_by_the_thousand(seed: int) -> None:
    """At least POWER_CUTS, and GFS2PY_CRASH_SECONDS if that is set; nothing is found."""
    count = 0 if SECONDS else POWER_CUTS
    outcome = campaign("power", seed, count=count, seconds=SECONDS or CAP_S, marks=MET)
    print(outcome.text())
    assert not outcome.failures, outcome.failures[0]
    assert outcome.count >= count, f"this machine is too slow: {outcome.text()}"
    assert SECONDS or not [m for m in MET if not outcome.marks[m]], outcome.text()


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
