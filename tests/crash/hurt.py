"""The k-th I/O fails, for every k: in the mount, its replay, the work, the syncs, the unmount.

Above the recording is a device that fails. What must hold: every failure shows as EIO or as a withdraw, or not at all;
whatever a sync acknowledged in spite of it is on the disk below; a failed operation of a mount that lives on has done
nothing but a part of one file's content; after a withdraw every call gives EIO and nothing is written any more; and
the disk can be mounted again and holds a state of the history.
"""

from __future__ import annotations

import contextlib
import errno
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from crash.mixes import MIXES, Mix
from crash.model import FILE, History, Rec, State, Step, see
from crash.oracle import Judge, Lost, brief, walk
from crash.power import Run, draw, judge_cut, mount, perform
from crash.shapes import ACL, Shape, small
from crash.workload import Workload
from gfs2py.block._faulty import FaultyDevice
from gfs2py.block._memory import MemoryDevice, Snapshot
from gfs2py.block._recording import RecordingDevice
from gfs2py.edit.reader import Reader
from gfs2py.engine.volume import Volume

KINDS = ("read", "write", "flush", "discard")
FAULT_SHAPES = {
    "general": Shape(bsize=1024, steps=30, cache_bytes=1 << 16),
    "general-512": small(steps=30, cache_bytes=1 << 16),
    "general-4k": Shape(steps=30, cache_bytes=1 << 18),
    "data": Shape(bsize=1024, steps=25, mix="data"),
    "directories": small(steps=12, mix="directories"),
    "attrs": small(steps=30, mix="attrs", cache_bytes=1 << 16),
    "jdata": small(steps=25, mix="jdata"),
    "writeback": Shape(bsize=1024, steps=30, flags=(*ACL, "writeback")),
    "quota": small(steps=30, mix="owners", flags=(*ACL, "quota_account")),
    "discard": Shape(bsize=1024, steps=30, flags=(*ACL, "discard")),
    "tiny": small(mib=4, steps=30, cache_bytes=1 << 16),
}
K_MAX = 10_000
# The mount reads the quota_change file ahead, a thousand blocks that are read again when that fails: some of them do.
READ_AHEAD_FROM, READ_AHEAD_SHARE = 80, 40


class Stop(Exception):
    """No way to go on: withdrawn, or everything fails."""


class Skip(Exception):
    """This step failed; the mount lives."""


class Hurt(Workload):
    """A workload that meets I/O errors and looks at what they did."""

    sticky = False
    half_done: int | None = None

    def attempt(self, text, call, busy=None):       # type: ignore[no-untyped-def]
        try:
            return super().attempt(text, call, busy)
        except AssertionError as e:
            if not isinstance(e.__cause__, OSError):
                raise
            if busy is not None:
                self.history.outside.add(busy)
            only_eio(e.__cause__)
            self.marks["operations that failed"] += 1
            if self.sticky or self.volume.fs.withdrawn:
                self.half_done = busy
                raise Stop from e
            self.look_around(text, busy)
            raise Skip from e

    def look(self) -> State:
        """What the mount says that it holds; files held without a name as they were."""
        nameless = {serial: rec for serial, rec in self.state.items() if rec.nlink == 0}
        for node, serial in self.held:
            if serial in nameless:
                size = self.volume.calls.getattr(node).size
                content = self.volume.calls.read(node, 0, size) if size else b""
                nameless[serial] = replace(nameless[serial], content=content)
        return {**nameless, **self.adopt(self.state)}

    def look_around(self, text: str, busy: int | None) -> None:
        """The mount lives: the operation that failed must not be seen, but for a part of one file's content."""
        before, now = self.state, self.look()
        expected = dict(before)
        for serial, rec in before.items():
            if serial in now and (serial == busy or len(now[serial].content) == len(rec.content)):
                # Data that could not be written may have left the cache by now: this error is the word of it.
                expected[serial] = replace(rec, content=now[serial].content)
                if now[serial].content != rec.content:
                    self.told[serial] = len(self.history.states)
        odd = sorted(k for k in now.keys() | expected.keys() if now.get(k) != expected.get(k))
        if odd:
            changes = [(expected.get(k), now.get(k)) for k in odd[:3]]
            raise Lost(f"{text} gave EIO and was done in part: " + "; ".join(
                " became ".join(brief(see(rec)) if rec else "nothing" for rec in change) for change in changes))
        self.done(now)
        self.told_of(text, busy)

    def told_of(self, text: str, busy: int | None) -> None:
        """From now on no sync answers for the data that this error was about."""
        if text.startswith("syncfs"):
            lost = [serial for serial, rec in self.state.items() if rec.content]
        else:
            lost = [serial for path, serial in self.tree.items() if text.startswith(f"fsync {path!r} ")]
            lost += [busy] if busy is not None else []
        for serial in lost:
            self.told[serial] = len(self.history.states) - 1

    def step(self) -> None:
        self.watch(super().step)

    def thaw(self) -> None:
        self.watch(super().thaw)
        self.watch(super().thaw)        # what an error kept the first from

    def watch(self, call: Callable[[], None]) -> None:
        """An error outside of an attempt came in looking at what was done: look again."""
        try:
            call()
        except Skip:
            pass
        except OSError as e:
            only_eio(e)
            if self.sticky or self.volume.fs.withdrawn:
                raise Stop from e
            self.done(self.look())

    def some_sync(self) -> None:
        with contextlib.suppress(Skip):
            super().some_sync()


def only_eio(e: OSError) -> None:
    """A failed I/O may surface as EIO and as nothing else."""
    if e.errno != errno.EIO:
        raise Lost(f"an I/O error became {e!r}") from e


def check_withdrawn(volume: Volume, recording: RecordingDevice) -> None:
    """Everything gives EIO, and the disk is left alone."""
    before = recording.writes
    calls: list[Callable[[], object]] = [
        lambda: volume.create("x1"), lambda: volume.mkdir("x2"), lambda: volume.listdir("/"),
        lambda: volume.unlink("x3"), lambda: volume.sync(), lambda: volume.fsync("/"),
        lambda: volume.setattr("/", mode=0o700), lambda: volume.rename("x4", "x5"),
        lambda: volume.calls.statfs() and volume.calls.getattr(1)]
    for number, call in enumerate(calls):
        try:
            call()
        except OSError as e:
            only_eio(e)
        else:
            raise Lost(f"a withdrawn mount answered call {number}")
    if recording.writes != before:
        raise Lost("a withdrawn mount wrote")


def mix_of(shape: Shape) -> Mix:
    """Syncs are where errors must show."""
    return replace(MIXES[shape.mix], sync_share=0.15)


@dataclass(frozen=True, slots=True)
class Crashed:
    """A disk as a crash left it, what it holds after its replay, and what stands in its files' blocks."""

    snapshot: Snapshot
    state: State
    blocks: dict[int, bytes]    # by serial: the content, and what lies behind its end


def base_of(shape: Shape, seed: int) -> Crashed:
    """The base of all runs of a seed."""
    run = perform(replace(shape, steps=25), seed)
    pending = run.device.pending(run.device.epochs)
    snapshot = run.device.cut(run.device.epochs, range(len(pending))).snapshot()
    device = MemoryDevice.from_snapshot(snapshot)
    scratch = mount(device, shape)
    try:
        state = Workload(scratch, None, random.Random(0), MIXES[shape.mix]).state
    finally:
        scratch.abandon()
    return Crashed(snapshot, state, {serial: whole_blocks(Reader(device), rec) for serial, rec in state.items()
                                     if rec.kind == FILE and not rec.jdata})


def whole_blocks(reader: Reader, rec: Rec) -> bytes:
    """A file's content and what stands behind its end: an append may have reached the disk whose size did not."""
    inode = reader.inode(rec.ino)
    found = bytearray(rec.content)
    for index, _, raw in reader.contents(reader.data_blocks(inode)):
        if (index + 1) * reader.bsize > len(rec.content):
            found += bytes((index + 1) * reader.bsize - len(found))
            at = max(index * reader.bsize, len(rec.content))
            found[at:(index + 1) * reader.bsize] = raw[at - index * reader.bsize:]
    return bytes(found)


def one_run(shape: Shape, seed: int, base: Crashed, k: int, *, sticky: bool,
            bad: tuple[int, int] = (0, 0)) -> tuple[Run, int, int]:
    """Mount, work, sync, unmount, with I/O number k failing or writes to a `bad` place: the run, how many I/Os failed,
    and how many the mount needs."""
    recording = RecordingDevice(MemoryDevice.from_snapshot(base.snapshot))
    faulty = FaultyDevice(recording, fail_at=k, kinds=KINDS, sticky=sticky, torn=bool(k % 2), bad=bad, seed=k)
    marks: Counter[str] = Counter()
    history = History([base.state])
    judge = Judge(history, shape.bsize, writeback=shape.writeback, hurt=True, marks=marks,
                  behind=base.blocks)
    run = Run(shape, seed, recording, history, judge, {}, None, marks)     # type: ignore[arg-type]
    try:
        volume = mount(faulty, shape)
    except OSError as e:
        only_eio(e)
        marks["mounts that failed"] += 1
        return run, faulty.failed, 0
    reads = faulty.count
    work = Hurt(volume, recording, random.Random(f"faults {seed}"), mix_of(shape), known=base.state)
    work.sticky = sticky
    work.told = judge.told
    run.history = judge.history = history = work.history
    work.marks = marks
    try:
        work.run(shape.steps)
        work.sync()
        finish(work)
    except (Stop, Skip):
        if volume.fs.withdrawn:
            marks["withdrawals"] += 1
            check_withdrawn(volume, recording)
        elif not sticky:
            walk(volume)
            finish(work)
    finally:
        volume.abandon()
    judge.unknown = work.half_done
    marks["failures that nobody had to know of"] += faulty.failed > 0 and not marks["operations that failed"] and \
        not marks["withdrawals"]
    return run, faulty.failed, reads


def finish(work: Hurt) -> None:
    """Unmounting works or gives EIO; worked it has only if everything is there."""
    epoch = work.device.epochs if work.device is not None else 0
    work.step_now = Step("unmount", epoch)
    try:
        work.volume.close()
    except OSError as e:
        only_eio(e)
        work.marks["unmounts that failed"] += 1
        return
    work.done(work.state)
    work.promise(None, False)


def every_io(shape: Shape, seed: int, *, sticky: bool) -> Counter[str]:
    """For k = 1, 2, ... until the run needs fewer I/Os than k."""
    base = base_of(shape, seed)
    marks: Counter[str] = Counter()
    rng = random.Random(f"{seed} {sticky}")
    mount_ends = one_run(shape, seed, base, 0, sticky=False)[2]
    k = 0 if seed % 4 == 0 else mount_ends      # what the mount needs is alike in every run
    while k < K_MAX:
        k += 1
        if READ_AHEAD_FROM < k < mount_ends - 5:
            k = min(k + rng.randrange(1, READ_AHEAD_SHARE), mount_ends - 5)
        try:
            run, failed, _ = one_run(shape, seed, base, k, sticky=sticky)
            if not failed:
                break
            for cut in draw(run.device, run.device.epochs, rng, 1):
                judge_cut(run, cut)
            for cut in draw(run.device, rng.randint(0, run.device.epochs), rng, 0):
                judge_cut(run, cut)
        except (Lost, AssertionError, OSError) as e:
            raise Lost(f"{shape}, seed {seed}, I/O number {k} fails, sticky {sticky}: {e}") from e
        marks += run.marks
        marks["failed I/Os"] += 1
        marks["failed I/Os: " + ("and all after" if sticky else "once")] += 1
    return marks


def every_place(shape: Shape, seed: int) -> Counter[str]:
    """For each place that the run writes to: all writes there fail."""
    base = base_of(shape, seed)
    marks: Counter[str] = Counter()
    rng = random.Random(f"{seed} bad")
    device = one_run(shape, seed, base, 0, sticky=False)[0].device
    places = {w.off for epoch in range(device.epochs + 1) for w in device.pending(epoch)}
    for place in sorted(places):
        try:
            run, failed, _ = one_run(shape, seed, base, 0, sticky=False, bad=(place, 512))
            if not failed:
                continue                            # the order of things was another one
            for cut in draw(run.device, run.device.epochs, rng, 1):
                judge_cut(run, cut)
        except (Lost, AssertionError, OSError) as e:
            raise Lost(f"{shape}, seed {seed}, writes to {place} fail: {e}") from e
        marks += run.marks
        marks["failed I/Os"] += 1
        marks["failed I/Os: writes to one place"] += 1
    return marks


WAYS: dict[str, Callable[[Shape, int], Counter[str]]] = {
    "once": lambda shape, seed: every_io(shape, seed, sticky=False),
    "sticky": lambda shape, seed: every_io(shape, seed, sticky=True),
    "bad": every_place,
}


def fault_task(seed: int, number: int) -> tuple[str, Callable[[], Counter[str]]]:
    """Task `number` of a campaign: its name, and the doing."""
    way = list(WAYS)[number % len(WAYS)]
    number //= len(WAYS)
    shape = list(FAULT_SHAPES)[number % len(FAULT_SHAPES)]
    return f"{way} {shape} {seed * 100_000 + number}", lambda: WAYS[way](FAULT_SHAPES[shape], seed * 100_000 + number)
