"""demo: format an image, mount it, copy a real tree in, read it back, unmount, have two checkers judge it.

It uses nothing but the commands that an administrator would, and says each of them before it runs it.
Exit status 0 when every step went well, 1 otherwise; nothing stays mounted either way.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

BIN = Path(sys.executable).parent
DEBIAN_FSCK = Path("/usr/sbin/fsck.gfs2")
COMMAND_TIMEOUT_S = 600
MIB = 1 << 20


class DemoFailed(Exception):
    """A step did not do what it should; the text says which and what it said."""


@dataclass
class Tree:
    """How much was copied."""

    files: int = 0
    others: int = 0
    size: int = 0


def say(text: str) -> None:
    print(text, flush=True)


def run(*argv: str | Path) -> float:
    """Say a command, run it, show what it prints; returns seconds. Raises DemoFailed."""
    say("  # " + " ".join(shlex.quote(str(a)) for a in argv))
    start = time.monotonic()
    try:
        done = subprocess.run([str(a) for a in argv], stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, errors="replace", timeout=COMMAND_TIMEOUT_S, check=False)
    except OSError as error:
        raise DemoFailed(f"{argv[0]}: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise DemoFailed(f"{argv[0]} did not end within {COMMAND_TIMEOUT_S} s") from error
    elapsed = time.monotonic() - start
    for line in (done.stdout + done.stderr).splitlines():
        say("    " + line)
    if done.returncode:
        raise DemoFailed(f"{argv[0]} ended with exit status {done.returncode}")
    return elapsed


def entries(top: Path) -> Iterator[Path]:
    """Every path below, without what does not belong to the standard library itself."""
    for folder, dirs, files in os.walk(top):
        dirs[:] = sorted(d for d in dirs if d not in ("site-packages", "dist-packages"))
        for name in sorted(dirs + files):
            yield Path(folder, name)


def copy(source: Path, target: Path) -> Tree:
    """Copy with modes, times and links, as cp -a does."""
    done = Tree()
    target.mkdir()
    folders = []
    for path in entries(source):
        new = target / path.relative_to(source)
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode):
            new.mkdir()
            folders.append((path, new))
            done.others += 1
        elif stat.S_ISLNK(mode):
            new.symlink_to(os.readlink(path))
            done.others += 1
        else:
            shutil.copy2(path, new)
            done.files += 1
            done.size += new.stat().st_size
    for path, new in reversed(folders):     # last, because filling a directory changes its time
        shutil.copystat(path, new)
    return done


def compare(source: Path, target: Path) -> None:
    """Type, mode, size, time and content of every path. Raises DemoFailed at the first difference."""
    wanted = [p.relative_to(source) for p in entries(source)]
    found = [p.relative_to(target) for p in entries(target)]
    if wanted != found:
        odd = sorted(map(str, set(wanted) ^ set(found)))
        raise DemoFailed(f"paths differ: {', '.join(odd[:5])}")
    for path in wanted:
        a, b = (source / path).lstat(), (target / path).lstat()
        if stat.S_ISLNK(a.st_mode):
            same = os.readlink(source / path) == os.readlink(target / path)
        elif stat.S_ISDIR(a.st_mode):
            same = (a.st_mode, a.st_mtime_ns) == (b.st_mode, b.st_mtime_ns)
        else:
            same = ((a.st_mode, a.st_size, a.st_mtime_ns) == (b.st_mode, b.st_size, b.st_mtime_ns)
                    and (source / path).read_bytes() == (target / path).read_bytes())
        if not same:
            raise DemoFailed(f"{path} was read back differently")


def speed(tree: Tree, seconds: float) -> str:
    return f"{seconds:.2f} s: {tree.size / MIB / seconds:.0f} MiB/s, {tree.files / seconds:,.0f} files/s"


def steps(work: Path, source: Path, size_mib: int) -> None:
    image, mnt = work / "disk.img", work / "mnt"
    mnt.mkdir()
    with image.open("wb") as f:
        f.truncate(size_mib * MIB)
    say(f"1. A file system in a sparse file of {size_mib} MiB")
    run(BIN / "mkfs.gfs2", "-O", "-p", "lock_nolock", "-j", "1", image)
    say("2. Mounted through FUSE, without a kernel module")
    run(BIN / "mount.gfs2", image, mnt)
    try:
        run("findmnt", "--noheadings", mnt)
        say(f"3. A real tree goes in: {source}")
        start = time.monotonic()
        tree = copy(source, mnt / "tree")
        run("sync", "-f", mnt)
        say(f"  {tree.files:,} files, {tree.others:,} directories and links, {tree.size / MIB:.0f} MiB, "
            f"written and made durable in {speed(tree, time.monotonic() - start)}")
        say("4. Unmounted and mounted again: nothing is cached any more")
        run(BIN / "umount.gfs2", mnt)
        run(BIN / "mount.gfs2", image, mnt)
        start = time.monotonic()
        compare(source, mnt / "tree")
        say("  read back and compared with the original, all equal, in "
            + speed(tree, time.monotonic() - start))
        run("df", "-h", mnt)
        run(BIN / "umount.gfs2", mnt)
    finally:
        if f" {mnt} " in Path("/proc/mounts").read_text():      # a stat of a hung mount would hang too
            subprocess.run(["umount", "-l", mnt], check=False)
    say("5. What the checkers say: ours, and the one of Debian's gfs2-utils")
    run(BIN / "fsck.gfs2", "-n", image)
    run(DEBIAN_FSCK, "-n", image)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="demo", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--size", type=int, default=1024, help="MiB of the image (default 1024)")
    parser.add_argument("--tree", type=Path, default=Path(sysconfig.get_paths()["stdlib"]),
                        help="what is copied (default: Python's standard library)")
    parser.add_argument("--dir", type=Path, help="where the image lives (default: a temporary directory)")
    args = parser.parse_args(argv)
    if os.geteuid() != 0:
        print("demo: mounting needs root", file=sys.stderr)
        return 1
    start = time.monotonic()
    try:
        with contextlib.ExitStack() as stack:
            work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gfs2py-demo-", dir=args.dir)))
            steps(work, args.tree, args.size)
    except DemoFailed as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    say(f"All of it in {time.monotonic() - start:.1f} s. The image is removed; nothing stays mounted.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
