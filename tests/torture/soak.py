"""soak: one mount lives through round after round of the other programs; memory, files and threads must not grow.

python -m tests.torture.soak [--seed N] [--minutes N] [--files N] [--ops N] [--procs N] [--bsize N] [--cache-mib N]
                             [--share PERCENT] [--every SECONDS] [--samples FILE]

--files are made first and stay to the end; they are walked in every cycle. Each round works in a directory of its
own, which is removed afterwards: the free blocks have to be what they were. A process of its own samples the
daemon's resident memory, descriptors, threads and processor time. --share holds the whole run, the daemon included,
to so many per cent of one processor.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import random
import select
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from background import repeating
from torture.fsx import Fsx
from torture.guard import Guard
from torture.place import Place, arguments, crowd, leave_free, place
from torture.private import check_tree
from torture.races import RACES, free_blocks
from torture.storms import STORMS
from torture.stress import COUNTERS, Stress
from torture.sys_calls import set_jdata
from torture.walk import walk

MIB = 1 << 20
PER_DIR = 1000
FREE_BYTES = 700 * MIB          # what the rounds have for themselves
TICK_HZ = os.sysconf("SC_CLK_TCK")
# docs/design/engine.md: what is there whatever is mounted, and what each part of the cache and each file adds
BASE_MIB, CACHE_FACTOR, NODE_BYTES = 110, 1.31, 86
# What the last third may have more than the first one after the warm-up: memory for the noise of the allocator,
# threads because they come and go with the traffic, each with a descriptor or none.
GROWTH_MIB, GROWTH_THREADS, GROWTH_FDS = 12.0, 10, 8
# 64 workers and runners (MAX_THREADS of fuse/_state), each with a descriptor at most; what else a daemon has.
THREADS_LIMIT, FDS_LIMIT = 64 + 16, 64 + 24
WARM_S = 600.0          # shorter runs are all warm-up, of the cache and of each thread's buffers
LIMIT_S, POLL_S = 1800.0, 0.1
FULL_BYTES = 2_000_000


@dataclasses.dataclass(frozen=True)
class Sample:
    """The daemon at one moment."""

    at_s: float
    resident_mib: float
    fds: int
    threads: int
    cpu_s: float

    def line(self) -> str:
        return f"{self.at_s:.0f} {self.resident_mib:.2f} {self.fds} {self.threads} {self.cpu_s:.2f}\n"


def sample(pid: int, began: float) -> Sample:
    """Raises FileNotFoundError when the daemon is gone."""
    proc = Path(f"/proc/{pid}")
    status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
    times = (proc / "stat").read_text().rsplit(")", 1)[1].split()
    return Sample(time.monotonic() - began, int(status["VmRSS"].split()[0]) / 1024, len(os.listdir(proc / "fd")),
                  int(status["Threads"]), (int(times[11]) + int(times[12])) / TICK_HZ)


@contextlib.contextmanager
def sampling(pid: int, began: float, every_s: float, into: Path) -> Iterator[None]:
    """A child writes a line every so often: seconds, resident MiB, descriptors, threads, seconds of processor."""
    receive, send = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(send)
            with into.open("a") as out:
                while not select.select([receive], [], [], every_s)[0]:
                    out.write(sample(pid, began).line())
                    out.flush()
            status = 0
        finally:
            os._exit(status)
    os.close(receive)
    try:
        yield
    finally:
        os.close(send)
        _, status = os.waitpid(child, 0)
    assert status == 0, "the sampler ended before its time: is the daemon gone?"


def ticking(guard: Guard) -> AbstractContextManager[None]:
    """For what takes long without touching the mount."""
    return repeating(guard.tick, 1.0)


# -- the rounds: each gets a place whose root is an empty directory of the living mount

Round = Callable[[Place, Guard, random.Random, int, int], str]


def one_file(where: Place, guard: Guard, rng: random.Random, ops: int, procs: int) -> str:
    """fsx, now and then far behind a hole, now and then with journaled data."""
    base = rng.choice((0, 0, 3_000_000_512 // 4096 * 4096, 1 << 42))
    fsx = Fsx(where.root / "file", rng, rng.choice((9000, 400_000, MIB)), base)
    if rng.random() < 0.3:
        set_jdata(fsx.fd, True)
        fsx.jdata = True
    try:
        for _ in range(ops):
            fsx.step()
            guard.tick()
        fsx.compare("at the end")
        fsx.close()
    except BaseException:
        print(*fsx.log, sep="\n", flush=True)
        raise
    return f"{ops} operations, base {base}, jdata {fsx.jdata}"


def common_ground(where: Place, rng: random.Random) -> int:
    """What all of a crowd work on; the seed of their work."""
    (where.root / "shared").mkdir()
    for kind in COUNTERS:
        (where.root / f"counter.{kind}").write_bytes(b"0")
    return rng.randrange(1 << 32)


def stress(where: Place, guard: Guard, rng: random.Random, ops: int, procs: int) -> str:
    seed = common_ground(where, rng)

    def work(number: int) -> None:
        one = Stress(where.root, number, seed, private=True)
        for _ in range(ops):
            one.step()
            guard.tick()
        assert one.private is not None
        check_tree(where.root / f"private{number}", one.private.model)

    crowd(procs, work, LIMIT_S)()
    counts = walk(where.root)
    return f"{ops * procs} operations, {counts}"


def race(name: str) -> Round:
    def run(where: Place, guard: Guard, rng: random.Random, ops: int, procs: int) -> str:
        return (RACES | STORMS)[name](where, guard, rng.randrange(1 << 32), ops, procs, 4096)
    return run


def small_files(where: Place, guard: Guard, rng: random.Random, ops: int, procs: int) -> str:
    """Many small files in some directories, with content, links and long names; found again and removed."""
    def work(number: int) -> None:
        own = random.Random(f"{number}")
        folder = where.root / f"t{number}"
        folder.mkdir()
        for n in range(ops):
            (folder / f"{n}{'n' * own.randrange(100)}").write_bytes(own.randbytes(own.choice((0, 50, 3000, 20_000))))
            guard.tick()

    crowd(procs, work, LIMIT_S)()
    counts = walk(where.root)
    assert counts["others"] == procs * ops, counts
    return str(counts)


def full(where: Place, guard: Guard, rng: random.Random, ops: int, procs: int) -> str:
    """Nearly no space: everybody meets ENOSPC and nothing worse."""
    leave_free(where.root, FULL_BYTES)
    seed = common_ground(where, rng)

    def work(number: int) -> None:
        one = Stress(where.root, number, seed, private=False)
        one.fine |= {errno.ENOSPC}
        for _ in range(ops):
            one.step()
            guard.tick()

    crowd(procs, work, LIMIT_S)()
    os.unlink(where.root / "ballast")
    return str(walk(where.root))


ROUNDS: dict[str, Round] = {"fsx": one_file, "stress": stress, "files": small_files, "full": full,
                            **{name: race(name) for name in (RACES | STORMS) if name != "full"}}


# -- the files that stay

def make_files(top: Path, count: int, guard: Guard) -> None:
    top.mkdir()
    for first in range(0, count, PER_DIR):
        folder = top / str(first // PER_DIR)
        folder.mkdir()
        fd = os.open(folder, os.O_RDONLY)
        for number in range(first, min(first + PER_DIR, count)):
            os.close(os.open(f"file-{number}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, dir_fd=fd))
        os.close(fd)
        guard.tick()


def walk_files(top: Path, count: int, guard: Guard) -> None:
    found = 0
    for folder in os.scandir(top):
        found += sum(1 for entry in os.scandir(folder.path) if entry.stat(follow_symlinks=False).st_nlink == 1)
        guard.tick()
    assert found == count, f"a walk found {found} files of {count}"


# -- the run

class Soak:
    """The whole run on one mount."""

    def __init__(self, where: Place, guard: Guard, seed: int, minutes: float, files: int, ops: int, procs: int,
                 cache_mib: int, share: int) -> None:
        self.where, self.guard, self.seed, self.files = where, guard, seed, files
        self.ops, self.procs, self.cache_mib, self.share = ops, procs, cache_mib, share
        self.began = time.monotonic()
        self.ends = self.began + minutes * 60
        self.counts: Counter[str] = Counter()
        self.rest: list[Sample] = []

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self.began:7.0f} s  {text}", flush=True)

    def pid(self) -> int:
        assert self.where.mounted is not None
        return self.where.mounted.daemon()

    def cpu_s(self) -> float:
        times = os.times()
        return sum(times[:4]) + sample(self.pid(), self.began).cpu_s

    def idle(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(POLL_S)
            self.guard.tick()

    def pause(self, cpu_s: float, began: float) -> None:
        """Sleep until the processor time since `began` is the share it should be of what has passed."""
        if self.share:
            self.idle((self.cpu_s() - cpu_s) * 100 / self.share - (time.monotonic() - began))

    def round(self, number: int, name: str) -> None:
        rng = random.Random(f"{self.seed}/{number}/{name}")
        root = self.where.root / f"{name}-{number}"
        beside = self.where.top / "beside"
        for folder in (root, beside):
            folder.mkdir()
        below = Place(self.where.commands, self.where.mounts, beside, self.where.options)
        below.root = root
        said = ROUNDS[name](below, self.guard, rng, self.ops, self.procs)
        shutil.rmtree(root)
        shutil.rmtree(beside)
        self.counts[name] += 1
        self.say(f"{name}-{number}: {said}")

    def cycle(self, number: int, free: int) -> None:
        """Every kind of round once, a walk over the files that stay, and rest."""
        names = list(ROUNDS)
        random.Random(f"{self.seed}/{number}").shuffle(names)
        for name in names:
            cpu_s, began = self.cpu_s(), time.monotonic()
            self.round(number, name)
            got = free_blocks(self.where.root, free)
            assert got == free, f"after {name}-{number}: {got} free blocks, before it {free}"
            self.pause(cpu_s, began)
        cpu_s, began = self.cpu_s(), time.monotonic()
        walk_files(self.where.root / "stay", self.files, self.guard)
        self.pause(cpu_s, began)
        self.rest.append(sample(self.pid(), self.began))
        self.say(f"cycle {number} done: resident {self.rest[-1].resident_mib:.1f} MiB, {self.rest[-1].fds} fds, "
                 f"{self.rest[-1].threads} threads, daemon {self.rest[-1].cpu_s:.0f} s")

    def free_at_rest(self) -> int:
        """Free blocks when nothing that was removed is still being freed."""
        seen: list[int] = []
        while len(seen) < 4 or len(set(seen[-4:])) > 1:
            seen.append(os.statvfs(self.where.root).f_bfree)
            self.idle(0.5)
        return seen[-1]

    def run(self) -> None:
        make_files(self.where.root / "stay", self.files, self.guard)
        walk_files(self.where.root / "stay", self.files, self.guard)
        self.idle(min(60.0, (self.ends - self.began) / 20))
        first = sample(self.pid(), self.began)
        self.say(f"{self.files} files made, walked and left alone: {first.line().strip()}")
        for name in ROUNDS:                 # directories made once: the root stays as large as it was once
            (self.where.root / f"{name}-0").mkdir()
        for name in ROUNDS:
            (self.where.root / f"{name}-0").rmdir()
        free = self.free_at_rest()
        number = 0
        while number < 2 or time.monotonic() < self.ends:
            self.cycle(number, free)
            number += 1

    def judge(self, samples: list[Sample]) -> list[str]:
        """What is wrong with the figures."""
        bound = BASE_MIB + self.cache_mib * CACHE_FACTOR + self.files * NODE_BYTES / MIB
        seen = sorted([*samples, *self.rest], key=lambda s: s.at_s)
        self.say(f"{len(samples)} samples: " + "; ".join(
            f"{what} {min(values):.0f}-{max(values):.0f}"
            for what, values in (("resident MiB", [s.resident_mib for s in seen]), ("fds", [s.fds for s in seen]),
                                 ("threads", [s.threads for s in seen]))) + f" (resident bound {bound:.0f})")
        return wrong_with(seen, self.rest[0].at_s, bound)


def wrong_with(seen: list[Sample], warm_s: float, bound_mib: float) -> list[str]:
    """What a leak would show in the samples, which are in order of time. The first `warm_s` seconds are the warm-up.

    Bounds hold always. Growth is judged from WARM_S on only: of memory by the greatest values, as the cache is full
    by then; of descriptors and threads by the least ones, as they come in bursts and go, but a leaked one stays.
    """
    wrong = []
    most = max(s.resident_mib for s in seen)
    if most > bound_mib:
        wrong.append(f"resident {most:.1f} MiB, the bound is {bound_mib:.0f}")
    for what, limit in (("fds", FDS_LIMIT), ("threads", THREADS_LIMIT)):
        greatest = max(getattr(s, what) for s in seen)
        if greatest > limit:
            wrong.append(f"{greatest} {what}, the limit is {limit}")
    warm = [s for s in seen if s.at_s >= warm_s]
    third = max(1, len(warm) // 3)
    if not warm or warm[-1].at_s < WARM_S:
        return wrong
    early, late = (max(s.resident_mib for s in part) for part in (warm[:third], warm[-third:]))
    if late > early + GROWTH_MIB:
        wrong.append(f"resident memory grew from {early:.1f} to {late:.1f} MiB")
    for what, slack in (("fds", GROWTH_FDS), ("threads", GROWTH_THREADS)):
        before, after = (min(getattr(s, what) for s in part) for part in (warm[:third], warm[-third:]))
        if after > before + slack:
            wrong.append(f"{what} never fewer than {before} early, never fewer than {after} late")
    return wrong


def read_samples(path: Path) -> list[Sample]:
    rows = [line.split() for line in path.read_text().splitlines()]
    return [Sample(float(r[0]), float(r[1]), int(r[2]), int(r[3]), float(r[4])) for r in rows]


def main() -> int:
    parser = arguments(__doc__ or "", files=2000, ops=400, procs=4, bsize=4096, cache_mib=32, share=0)
    parser.add_argument("--minutes", type=float, default=10.0, help="at least two cycles are done")
    parser.add_argument("--every", type=float, default=30.0, help="seconds between samples")
    parser.add_argument("--samples", type=Path, help="where to keep the samples")
    args = parser.parse_args()
    print(f"soak: --seed {args.seed} --minutes {args.minutes} --files {args.files} --ops {args.ops}"
          f" --procs {args.procs} --bsize {args.bsize} --cache-mib {args.cache_mib} --share {args.share}"
          f" --options {args.options}", flush=True)
    with place(f"{args.options},cache_size={args.cache_mib}M", args.stall) as (where, guard):
        where.mkfs((args.files * (args.bsize + 200) + FREE_BYTES) // MIB, args.bsize, journal_mib=32)
        soak = Soak(where, guard, args.seed, args.minutes, args.files, args.ops, args.procs, args.cache_mib, args.share)
        where.mount()
        into = args.samples or where.top / "samples"
        into.write_text("")
        with sampling(soak.pid(), soak.began, args.every, into):
            soak.run()
        wrong = soak.judge(read_samples(into))
        where.umount()
        with ticking(guard):
            where.check()
        soak.say(f"seed {args.seed}: both checkers silent; rounds: {dict(sorted(soak.counts.items()))}")
        assert not wrong, "; ".join(wrong)
    return 0


if __name__ == "__main__":
    sys.exit(main())
