"""Make, walk and remove a great many files, and hold the daemon to its memory bound.

    python -m bench.million [--files 1000000] [--cache-mib 128] [--dir DIR]

Prints what each phase took and the daemon's resident memory after it; fails when that exceeds the bound documented
in docs/design/engine.md, when a file is missing, or when one of the two checkers finds anything.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench import _driver
from bench.peers import BIN, call

DIRECTORIES = 100
MIB = 1 << 20
# docs/design/engine.md: what is there whatever is mounted, and what each part of the cache and each file adds
BASE_MIB, CACHE_FACTOR, NODE_BYTES = 110, 1.31, 86


def bound_mib(cache_mib: int, files: int) -> float:
    """The documented bound of a daemon's resident memory."""
    return BASE_MIB + cache_mib * CACHE_FACTOR + files * NODE_BYTES / MIB


def daemon_pid(image: Path) -> int:
    """The gfs2d of this image: the child that serves, not its watchdog."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                line = (entry / "cmdline").read_bytes()
                threads = len(list((entry / "task").iterdir()))
            except OSError:
                continue
            if bytes(image) in line and b"gfs2d" in line:
                found.append((threads, int(entry.name)))
    if not found:
        raise RuntimeError(f"no gfs2d for {image}")
    return max(found)[1]


def resident_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} has no VmRSS")


class Run:
    """One file system, mounted, and its files."""

    def __init__(self, work: Path, files: int, cache_mib: int) -> None:
        self.image, self.root = work / "million.img", work / "mnt"
        self.per_dir, self.cache_mib = files // DIRECTORIES, cache_mib
        self.files = self.per_dir * DIRECTORIES
        self.failures: list[str] = []
        self.root.mkdir()
        self.image.touch()
        os.truncate(self.image, (files * 5000 + (1 << 30)) // MIB * MIB)
        call(BIN / "mkfs.gfs2", "-O", "-q", "-p", "lock_nolock", "-J", "64", self.image)

    def mount(self) -> None:
        call(BIN / "mount.gfs2", self.image, self.root, "-o", f"cache_size={self.cache_mib}M")

    def phase(self, name: str, count: int, work: Callable[[], None]) -> None:
        began = time.monotonic()
        work()
        took = time.monotonic() - began
        resident, most = resident_mib(daemon_pid(self.image)), bound_mib(self.cache_mib, self.files)
        print(f"{name:12} {took:8.1f} s {count / took:12,.0f} per s   resident {resident:6.0f} MiB, bound {most:.0f}",
              flush=True)
        if resident > most:
            self.failures.append(f"{name}: resident {resident:.0f} MiB is over the bound of {most:.0f} MiB")

    def loop(self, op: str) -> None:
        for number in range(DIRECTORIES):
            folder = self.root / str(number)
            if op == "create":
                folder.mkdir()
            fd = os.open(folder, os.O_RDONLY)
            try:
                _driver.loop(op, fd, b"file-", self.per_dir)
            finally:
                os.close(fd)
            if op == "unlink":
                folder.rmdir()

    def walk(self) -> None:
        found = sum(1 for folder in os.scandir(self.root) for entry in os.scandir(folder.path)
                    if entry.stat(follow_symlinks=False).st_nlink == 1)
        if found != self.files:
            self.failures.append(f"a walk found {found} files of {self.files}")

    def check(self) -> None:
        debian = shutil.which("fsck.gfs2", path="/usr/sbin:/sbin")
        for checker in [str(BIN / "fsck.gfs2"), *([debian] if debian else [])]:
            began = time.monotonic()
            done = subprocess.run([checker, "-n", str(self.image)], capture_output=True, check=False)
            print(f"{checker} -n: exit {done.returncode}, {time.monotonic() - began:.1f} s", flush=True)
            if done.returncode:
                self.failures.append(f"{checker} -n exits {done.returncode}")


def run(work: Path, files: int, cache_mib: int) -> list[str]:
    test = Run(work, files, cache_mib)
    test.mount()
    try:
        test.phase("create", test.files, lambda: test.loop("create"))
        call(BIN / "umount.gfs2", test.root)
        test.check()
        test.mount()
        test.phase("walk, cold", test.files, test.walk)
        test.phase("walk, warm", test.files, test.walk)
        test.phase("stat", test.files, lambda: test.loop("stat"))
        test.phase("remove", test.files, lambda: test.loop("unlink"))
    finally:
        call(BIN / "umount.gfs2", test.root)
    test.check()
    return test.failures


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.million", description=__doc__.partition("\n")[0])
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--cache-mib", type=int, default=128)
    parser.add_argument("--dir", type=Path, help="where the image lives (default: a temporary directory)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.dir, prefix="gfs2py-million-") as work:
        failures = run(Path(work), args.files, args.cache_mib)
    for failure in failures:
        print(f"million: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
