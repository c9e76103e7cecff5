"""What one task of a campaign does: a workload, and power cuts in it, in its recovery, in what follows the recovery.

Every scene is a function of a shape and a seed, raises Lost with all that is needed to see it again, and returns what
it went through as a Counter; "cuts" in it is the number of power cuts judged.
"""

from __future__ import annotations

import errno
import os
import random
import time
from collections import Counter
from collections.abc import Callable

from crash.oracle import Lost, Recovered, recover, walk
from crash.power import Run, draw, judge_all, judge_cut, mount, perform
from crash.shapes import SHAPES, Shape
from gfs2py.block._memory import MemoryDevice
from gfs2py.block._recording import Cut, RecordingDevice
from gfs2py.fsck.check import check

Scene = Callable[[Shape, int], "Counter[str]"]
REPLAY_DEPTH = 4            # replays interrupted one within the other
SCENE_SECONDS = 20.0


def same(run: Run, got: Recovered, want: Recovered, what: str) -> None:
    """The recovered file system must be this one, to the byte."""
    run.marks["cuts"] += 1
    run.marks["cuts: " + what] += 1
    if (got.view, got.contents) != (want.view, want.contents):
        odd = [p for p in got.view.keys() | want.view.keys() if got.view.get(p) != want.view.get(p)]
        raise Lost(f"{what}: the file system is another one than before: {odd[:5] or 'contents'}")


def everywhere(shape: Shape, seed: int) -> Counter[str]:
    """Cuts at every boundary; every other run ends with an unmount."""
    run = perform(shape, seed, unmount=seed % 2 == 0)
    judge_all(run, samples=2, until=time.monotonic() + SCENE_SECONDS)
    return run.marks


def some_cuts(run: Run, rng: random.Random, n: int) -> list[Cut]:
    """n cuts of any epochs, whole or torn."""
    return [rng.choice(list(draw(run.device, rng.randint(0, run.device.epochs), rng, 2))) for _ in range(n)]


def copy_of(run: Run, cut: Cut) -> MemoryDevice:
    return run.device.cut(cut.epoch, cut.keep, cut.torn)


def in_the_replay(shape: Shape, seed: int) -> Counter[str]:
    """The power fails during the replay, and again during the replay of that, and again."""
    run = perform(shape, seed)
    rng = random.Random(f"replay {seed}")
    for cut in some_cuts(run, rng, 8):
        want = judge_cut(run, cut)
        device = copy_of(run, cut)
        for depth in range(REPLAY_DEPTH):
            recording = RecordingDevice(device)
            recover(recording)
            for epoch in range(recording.epochs + 1):
                for inner in draw(recording, epoch, rng, 1):
                    same(run, recover(inner.device), want, "in a replay")
                    again = recover(inner.device)
                    if again.replayed:
                        raise Lost(f"{shape}, seed {seed}, depth {depth}: a replayed journal was not clean")
            # The next replay begins where this one was cut off, before its last header if there is such a place.
            epoch = rng.randint(0, max(0, recording.epochs - 1))
            device = rng.choice(list(draw(recording, epoch, rng, 2))).device
    return run.marks


def settling(shape: Shape, seed: int) -> Counter[str]:
    """The power fails while a mount after a crash replays, frees what was unlinked, ends truncations, and unmounts."""
    run = perform(shape, seed)
    rng = random.Random(f"settle {seed}")
    for cut in some_cuts(run, rng, 6):
        want = judge_cut(run, cut)
        recording = RecordingDevice(copy_of(run, cut))
        volume = mount(recording, shape, background=True)       # looks for leftovers by itself
        finish(volume, want)
        volume.close()
        left = [f for f in check(recording, quota=shape.quota).findings if f.code != "journal_size"]
        if left:
            raise Lost(f"{shape}, seed {seed}: after an unmount: {left[0].text}")
        for epoch in range(recording.epochs + 1):
            for inner in draw(recording, epoch, rng, 1):
                got = recover(inner.device, quota=shape.quota)
                same(run, got, want, "while settling")
                for code in got.notes & {"di_unlinked", "di_trunc"}:
                    run.marks["cuts: while settling: " + code] += 1
    return run.marks


def finish(volume, want: Recovered) -> None:        # type: ignore[no-untyped-def]
    """Take every inode's lock for writing, which ends truncations that a crash cut off; nothing changes by it."""
    for path, seen in want.view.items():
        if seen.kind == "file" and not seen.flags & 0x30:
            node = volume.node(path)
            volume.calls.setattr(node, mode=seen.mode)
            volume.calls.forget(node)


def upon_each_other(shape: Shape, seed: int) -> Counter[str]:
    """The disk of one crash is where the next workload begins."""
    rng = random.Random(f"again {seed}")
    marks: Counter[str] = Counter()
    run = perform(shape, seed)
    for n in range(5):
        device = some_cuts(run, rng, 1)[0].device
        run = perform(shape, seed + n + 1, start=device)
        judge_all(run, samples=1, until=time.monotonic() + 1)
        marks += run.marks
    return marks


def living_on(shape: Shape, seed: int) -> Counter[str]:
    """The recovered file system works: changes can be made, and unmounting is clean."""
    run = perform(shape, seed)
    for cut in some_cuts(run, random.Random(f"live {seed}"), 10):
        judge_cut(run, cut)
        live_on(run, cut)
    return run.marks


def live_on(run: Run, cut: Cut) -> None:
    device = copy_of(run, cut)          # cut.device has been replayed by now
    volume = mount(device, run.shape, background=True)
    before = walk(volume)[0]
    try:
        volume.create("after-the-crash", b"x" * 20_000)
    except OSError as e:
        if e.errno != errno.ENOSPC:
            raise
    names = walk(volume)[0]
    if names.keys() - {b"/after-the-crash"} != before.keys():
        raise Lost("other names after a new file was made")
    volume.close()
    left = [f for f in check(device, quota=run.shape.quota).findings if f.code != "journal_size"]
    if left:
        raise Lost("; ".join(f.text for f in left[:5]))
    run.marks["lives after a crash"] += 1


SCENES: dict[str, Scene] = {"everywhere": everywhere, "replay": in_the_replay, "settling": settling,
                            "again": upon_each_other, "life": living_on}
# How often which scene is drawn.
TURNS = ["everywhere", "everywhere", "settling", "everywhere", "replay", "everywhere", "again", "everywhere", "life"]


def power_task(seed: int, number: int) -> tuple[str, Callable[[], Counter[str]]]:
    """Task `number` of a campaign: its name, and the doing."""
    wanted = os.environ.get("GFS2PY_CRASH_SHAPES", "")
    shapes = [name for name in SHAPES if name.startswith(wanted)]
    shape = shapes[number % len(shapes)]
    scene = TURNS[number % len(TURNS)]
    its_seed = seed * 100_000 + number
    return f"{scene} {shape} {its_seed}", lambda: SCENES[scene](SHAPES[shape], its_seed)
