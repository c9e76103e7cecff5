"""Measures mkfs.gfs2 and fsck.gfs2 -n beside those of gfs2-utils, in one run, on the same images.

    python -m bench.tools [--smoke] [--only ROW,...] [--repeats N] [--dir DIR] [--keep DIR] [--files N]

Interleaved repeats, medians: wall clock, processor time (user and system), peak resident memory. "cold" means that no
block of the image was in the page cache. The image with many files is made in process; --keep DIR has it for the next
run too. Every check must say clean, every file system that was made is checked by the other's checker.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.population import fill, least_bytes
from bench.report import OURS, machine, short

THEIRS = "gfs2-utils"
BIN = Path(sys.executable).parent
MIB, TIB = 1 << 20, 1 << 40
PR_SET_CHILD_SUBREAPER = 36
MEASURES = ("wall", "cpu", "peak")
UNITS = {"wall": "s", "cpu": "s", "peak": "MiB"}


@dataclass(frozen=True)
class Cost:
    """What one run of a command took: seconds and MiB."""

    wall: float
    cpu: float
    peak: float
    status: int


def adopt_orphans() -> None:
    """Children of a child that has ended become ours, so that wait4() tells what they cost."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def run(argv: Sequence[str | Path]) -> Cost:
    """Run a command silently.

    A process begins with the peak of the one that called exec(), and that would be this Python's. So a shell, which is
    small, starts the command and ends; the command is adopted.
    """
    began = time.monotonic()
    shell = subprocess.run(["/bin/sh", "-c", '"$@" >/dev/null 2>&1 & echo $!', "sh", *map(str, argv)],
                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True)
    _, status, used = os.wait4(int(shell.stdout), 0)
    wall = time.monotonic() - began
    return Cost(wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, os.waitstatus_to_exitcode(status))


def command(whose: str, name: str) -> Path:
    """Raises RuntimeError when Debian's is not there."""
    if whose == OURS:
        return BIN / name
    found = shutil.which(name, path="/usr/sbin:/sbin")
    if found is None:
        raise RuntimeError(f"{name} of gfs2-utils is not installed")
    return Path(found)


def must(argv: Sequence[str | Path]) -> Cost:
    """A run that has to succeed."""
    cost = run(argv)
    if cost.status:
        raise RuntimeError(f"{' '.join(map(str, argv))}: exit status {cost.status}")
    return cost


def fsck(whose: str, image: Path) -> Cost:
    return must([command(whose, "fsck.gfs2"), "-n", image])


def mkfs(whose: str, image: Path, bsize: int) -> Cost:
    return must([command(whose, "mkfs.gfs2"), "-O", "-q", "-p", "lock_nolock", "-b", str(bsize), image])


def evict(image: Path) -> None:
    """Take the image's blocks out of the page cache."""
    with image.open("rb") as f:
        os.fsync(f.fileno())
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def sparse(image: Path, size: int) -> None:
    """An image file without a single block."""
    image.unlink(missing_ok=True)
    image.touch()
    os.truncate(image, size)


@dataclass
class Bench:
    """Images, and the samples taken on them."""

    work: Path
    keep: Path
    size: int           # bytes of the sparse image
    files: int
    repeats: int
    costs: dict[str, dict[str, list[Cost]]] = field(default_factory=dict)

    def compare(self, row: str, one: Callable[[str], Cost]) -> None:
        """A row: each repeat begins with the other one."""
        by_whom = self.costs.setdefault(row, {OURS: [], THEIRS: []})
        for repeat in range(self.repeats):
            for whose in (OURS, THEIRS) if repeat % 2 == 0 else (THEIRS, OURS):
                by_whom[whose].append(one(whose))
        print(f"bench: {row}", file=sys.stderr, flush=True)

    def empty(self, bsize: int) -> None:
        """mkfs of a sparse image, and the check of what was made."""
        image, what = self.work / "empty.img", f"{short(self.size / TIB)} TiB, blocks of {bsize}"

        def make(whose: str) -> Cost:
            sparse(image, self.size)
            return mkfs(whose, image, bsize)

        def crosswise(whose: str) -> Cost:
            sparse(image, self.size)
            mkfs(THEIRS if whose == OURS else OURS, image, bsize)
            return fsck(whose, image)

        self.compare(f"mkfs {what}", make)
        self.compare(f"fsck {what}", crosswise)
        image.unlink()

    def population(self, size: int) -> Path:
        """The image with many files, from the last time if there is one."""
        image = self.keep / f"files-{self.files}-{size // MIB}.img"
        if not image.exists():
            began = time.monotonic()
            new = image.with_suffix(".new")
            new.unlink(missing_ok=True)
            made = fill(new, self.files, size)
            new.rename(image)
            print(f"bench: {made} in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        return image

    def populated(self, size: int) -> None:
        image = self.population(size)
        what = f"{self.files:,} files in {short(size / (TIB if size >= TIB else 1 << 30))} " \
               f"{'TiB' if size >= TIB else 'GiB'}"

        def cold(whose: str) -> Cost:
            evict(image)
            return fsck(whose, image)

        self.compare(f"fsck {what}, cold", cold)
        self.compare(f"fsck {what}, cached", lambda whose: fsck(whose, image))
        if size != self.size:
            copy = self.work / "overwritten.img"
            must(["cp", "--sparse=always", "--reflink=auto", image, copy])
            self.compare(f"mkfs over {what}", lambda whose: mkfs(whose, copy, 4096))
            for whose in (OURS, THEIRS):
                fsck(whose, copy)
            copy.unlink()

    def lines(self) -> list[str]:
        """JSON, one line for each row and command."""
        out = []
        for row, by_whom in self.costs.items():
            for whose, costs in by_whom.items():
                values = {m: round(statistics.median(getattr(c, m) for c in costs), 3) for m in MEASURES}
                out.append(json.dumps({"name": row, "fs": whose, **values, "n": len(costs), **machine()}))
        return out

    def table(self) -> str:
        """Medians; in brackets how many times as much theirs took (above 1: ours is ahead)."""
        out = ["| row | " + " | ".join(f"{m} {w} {UNITS[m]}" for m in MEASURES for w in (OURS, THEIRS)) + " |",
               "| --- |" + " ---: |" * 6]
        for row, by_whom in self.costs.items():
            cells = []
            for m in MEASURES:
                ours, theirs = (statistics.median(getattr(c, m) for c in by_whom[w]) for w in (OURS, THEIRS))
                cells += [short(ours), f"{short(theirs)} ({theirs / ours:.2f})"]
            out.append(f"| {row} | " + " | ".join(cells) + " |")
        return "\n".join(out)


ROWS: dict[str, Callable[[Bench], None]] = {
    "empty-4096": lambda b: b.empty(4096),
    "empty-512": lambda b: b.empty(512),
    "files": lambda b: b.populated(least_bytes(b.files)),
    "files-sparse": lambda b: b.populated(b.size),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.tools", description=__doc__.partition("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="small images, once: does every row still run?")
    parser.add_argument("--only", default=",".join(ROWS), help="of: " + " ".join(ROWS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--dir", type=Path, help="where the images live (default: a temporary directory)")
    parser.add_argument("--keep", type=Path, help="where images with many files stay for the next run")
    args = parser.parse_args()
    rows = args.only.split(",")
    if unknown := set(rows) - set(ROWS):
        parser.error(f"unknown rows: {' '.join(sorted(unknown))}")
    size = TIB
    if args.smoke:
        size, args.files, args.repeats = 16 << 30, 3000, 1
    adopt_orphans()
    with tempfile.TemporaryDirectory(prefix="gfs2py-bench-", dir=args.dir) as work:
        keep = args.keep or Path(work)
        keep.mkdir(parents=True, exist_ok=True)
        bench = Bench(Path(work), keep, size, args.files, args.repeats)
        for row in rows:
            ROWS[row](bench)
    print(bench.table())
    if not args.smoke:
        print("\n".join(bench.lines()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
