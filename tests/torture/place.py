"""Where a torture program works: an image of its own, mounted by the project's commands and checked at the end."""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from gfs2py.block import FileDevice
from gfs2py.fsck import check
from interop.commands import Commands, Mounted, Mounts, is_mounted
from torture.guard import Guard
from torture.sys_calls import fallocate

UMOUNT_LIMIT_S = 60.0


class Place:
    """An image and its mount point. `root` is the top of the mounted tree."""

    def __init__(self, commands: Commands, mounts: Mounts, top: Path, options: str) -> None:
        self.commands, self.mounts, self.top, self.options = commands, mounts, top, options
        self.image, self.log = top / "image", top / "log"
        self.root = top / "mnt"
        self.mounted: Mounted | None = None
        self.restarts = Restarts(top, self.image) if "iscsi_" in options else None

    def mkfs(self, mib: int, bsize: int, journal_mib: int = 8) -> None:
        with self.image.open("wb") as f:
            f.truncate(mib << 20)
        self.commands.mkfs(self.image, "-b", str(bsize), "-J", str(journal_mib))

    def mount(self) -> Path:
        source: Path | str = self.image
        if self.restarts is not None:
            source = self.restarts.url()
        self.mounted = self.mounts.mount(source, f"{self.options},logfile={self.log}".lstrip(","))
        if self.restarts is not None:
            self.restarts.begin()
        return self.root

    def umount(self) -> None:
        """Fails when it takes too long or when the daemon had something to complain about."""
        assert self.mounted is not None
        began = time.monotonic()
        self.mounted.umount()
        took = time.monotonic() - began
        if self.restarts is not None:
            self.restarts.end()
        assert took < UMOUNT_LIMIT_S, f"the unmount took {took:.0f} s"
        bad = [line for line in self.log.read_text().splitlines()
               if any(word in line for word in (" ERROR ", " CRITICAL ", "withdraw", "Traceback"))]
        assert not bad, "the daemon says:\n" + "\n".join(bad[:20])

    def kill(self) -> None:
        """kill -9 of the daemon."""
        assert self.mounted is not None
        self.mounted.kill()

    def check(self) -> None:
        """Both checkers are silent; where quotas were kept, they are exactly what a walk over all inodes finds."""
        self.commands.assert_clean(self.image)
        if re.search(r"\bquota(=on|=account|$|,)", self.options):
            device = FileDevice(self.image, readonly=True, direct=False)
            try:
                wrong = check(device, quota=True).of("quota_usage")
            finally:
                device.close()
            assert not wrong, "quotas: " + "; ".join(f"{f.name}: {f.found}, wanted {f.wanted}" for f in wrong[:20])


class Restarts:
    """The image as a LUN of a target that is killed and started again every now and then.

    By a process of its own: a program that waits in msync holds Python's lock, and waits for the target.
    """

    EVERY_S = 0.2

    def __init__(self, top: Path, image: Path) -> None:
        self.top, self.image = top, image
        self._process: subprocess.Popen[str] | None = None

    def url(self) -> str:
        """Start the target; returns the LUN's URL."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "iscsi.tgt", self.top, self.image, str(self.EVERY_S)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def begin(self) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def end(self) -> None:
        if self._process is not None:
            self._process.communicate()
            assert self._process.returncode == 0, "the target could not be started again"
            self._process = None


@contextlib.contextmanager
def place(options: str, stall_s: float) -> Iterator[tuple[Place, Guard]]:
    """A place with its guard; on failure the image stays and is named."""
    faulthandler.enable()
    top = Path(tempfile.mkdtemp(prefix="gfs2py-torture-"))
    (top / "mnt").mkdir()
    keep = False
    try:
        commands = Commands(Path(sys.executable).parent)
        with contextlib.ExitStack() as last, Mounts(commands, top) as mounts, Guard(top / "mnt", stall_s) as guard:
            made = Place(commands, mounts, top, options)
            if made.restarts is not None:
                last.callback(made.restarts.end)    # after the mount, which needs it to end
            yield made, guard
    except BaseException:
        keep = (top / "image").exists() and os.environ.get("GFS2PY_TORTURE_KEEP") == "1"
        if keep:
            print(f"kept: {top}", file=sys.stderr)
        raise
    finally:
        if not keep and not is_mounted(top / "mnt"):
            shutil.rmtree(top, ignore_errors=True)


def leave_free(root: Path, size: int) -> None:
    """A ballast file that takes all but `size` bytes, or a little less: its pointers take blocks, too."""
    fd = os.open(root / "ballast", os.O_WRONLY | os.O_CREAT)
    taken = 0
    while (left := (st := os.statvfs(root)).f_bavail * st.f_frsize - size) > 0:
        part = max(st.f_frsize, left // 2)
        fallocate(fd, 0, taken, part)
        taken += part
    os.close(fd)


def arguments(doc: str, **defaults: int) -> argparse.ArgumentParser:
    """The options that all programs share, and an integer option for each default."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--options", default="writeback_cache,acl", help="mount options")
    parser.add_argument("--stall", type=float, default=60.0, help="seconds without progress that are a hang")
    for name, value in defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    return parser


def crowd(count: int, work: Callable[[int], None], limit_s: float) -> Callable[[], None]:
    """Start processes that run work(number) each; the function returned waits for all and fails if one did."""
    sys.stdout.flush()
    pids: dict[int, int] = {}
    for number in range(count):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                signal.alarm(int(limit_s) + 1)      # not before the guard has had its say
                work(number)
                status = 0
            finally:
                if status:
                    traceback.print_exc()
                sys.stderr.flush()
                os._exit(status)
        pids[pid] = number

    def join() -> None:
        failed = []
        for pid, number in pids.items():
            _, status = os.waitpid(pid, 0)
            if status:
                failed.append(f"process {number} ended with {os.waitstatus_to_exitcode(status)}")
        assert not failed, "; ".join(failed)
    return join
