"""Runs the project's commands and Debian's, and mounts images with our daemon for a test.

Ours are the ones beside the interpreter that runs the tests; Debian's are called by their full path,
so neither can stand in for the other.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

COMMAND_TIMEOUT_S = 120.0
GONE_TIMEOUT_S = 60.0
POLL_S = 0.02
DEBIAN_SBIN = Path("/usr/sbin")
FUSECTL = Path("/sys/fs/fuse/connections")


class CommandFailed(AssertionError):
    """A command did not end as the test needs; the text has its output."""


class Commands:
    """The commands by name. `run` gives the finished process, `check` fails unless it exits 0."""

    def __init__(self, bin_dir: Path) -> None:
        self.bin_dir = bin_dir

    def run(self, *argv: str | os.PathLike[str], timeout_s: float = COMMAND_TIMEOUT_S,
            ) -> subprocess.CompletedProcess[str]:
        return subprocess.run([os.fspath(a) for a in argv], stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, errors="replace", timeout=timeout_s, check=False)

    def check(self, *argv: str | os.PathLike[str], timeout_s: float = COMMAND_TIMEOUT_S) -> str:
        done = self.run(*argv, timeout_s=timeout_s)
        if done.returncode:
            raise CommandFailed(f"{' '.join(map(os.fspath, argv))}: exit status {done.returncode}\n"
                                f"{done.stdout}{done.stderr}")
        return done.stdout

    def ours(self, name: str, *args: str | os.PathLike[str]) -> subprocess.CompletedProcess[str]:
        return self.run(self.bin_dir / name, *args)

    def debian(self, name: str, *args: str | os.PathLike[str]) -> subprocess.CompletedProcess[str]:
        return self.run(DEBIAN_SBIN / name, *args)

    def mkfs(self, image: Path, *options: str, debian: bool = False) -> None:
        """Format for one node; ours unless Debian's is asked for."""
        program = (DEBIAN_SBIN if debian else self.bin_dir) / "mkfs.gfs2"
        self.check(program, "-O", "-q", "-p", "lock_nolock", *options, image)

    def assert_clean(self, image: Path) -> None:
        """Both checkers, read-only, exit 0 and have nothing to say."""
        for fsck in (self.bin_dir / "fsck.gfs2", DEBIAN_SBIN / "fsck.gfs2"):
            self.assert_silent(fsck, image)

    def assert_silent(self, fsck: Path, image: Path) -> None:
        done = self.run(fsck, "-n", "-q", image, timeout_s=600)
        said = (done.stdout + done.stderr).strip()
        if done.returncode or said:
            raise CommandFailed(f"{fsck} -n -q: exit status {done.returncode}\n{said[:5000]}")


def wait_until_gone(pid: int, timeout_s: float = GONE_TIMEOUT_S) -> None:
    """Wait for the end of a process that is not a child. Raises CommandFailed with its state."""
    deadline = time.monotonic() + timeout_s
    while Path(f"/proc/{pid}").exists():
        state = process_state(pid)
        if state in ("Z", ""):
            return
        if time.monotonic() > deadline:
            raise CommandFailed(f"process {pid} is still there after {timeout_s} s, state {state}")
        time.sleep(POLL_S)


def process_state(pid: int) -> str:
    """The letter of /proc/PID/stat; an empty string when the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (OSError, IndexError):
        return ""


def daemons(mount_point: Path) -> list[int]:
    """The gfs2d processes whose command line names this mount point."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                argv = (entry / "cmdline").read_bytes().split(b"\0")
                if argv[0] == b"gfs2d" and os.fsencode(mount_point) in argv:
                    found.append(int(entry.name))
    return found


def is_mounted(path: Path) -> bool:
    """From the kernel's table: a stat of a dead or hung mount would fail or never return."""
    wanted = os.fspath(path).replace("\\", "\\134").replace(" ", "\\040")
    return any(line.split()[1] == wanted for line in Path("/proc/mounts").read_text().splitlines())


def connection(path: Path) -> Path | None:
    """The fusectl directory of a FUSE mount: named by its device number as the kernel holds it."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[4] == os.fspath(path) and "fuse" in line.split(" - ", 1)[1].split()[0]:
            major, minor = map(int, fields[2].split(":"))
            return FUSECTL / str(major << 20 | minor)
    return None


@dataclass
class Mounted:
    """One mount of ours."""

    commands: Commands
    image: Path | str       # or the URL of a LUN
    path: Path

    def daemon(self) -> int:
        """The pid of the daemon that serves it."""
        pids = daemons(self.path)
        if len(pids) != 1:
            raise CommandFailed(f"expected one gfs2d for {self.path}, found {pids}")
        return pids[0]

    def umount(self) -> None:
        """Unmount and wait until the daemon has written everything and gone."""
        pids = daemons(self.path)
        self.commands.check("umount", self.path)
        for pid in pids:
            wait_until_gone(pid)

    def kill(self) -> None:
        """kill -9 of the daemon; its watchdog may unmount what it left, or we do."""
        pid = self.daemon()
        os.kill(pid, signal.SIGKILL)
        wait_until_gone(pid)
        deadline = time.monotonic() + GONE_TIMEOUT_S
        while is_mounted(self.path):
            if self.commands.run("umount", self.path).returncode and time.monotonic() > deadline:
                raise CommandFailed(f"{self.path} is still mounted {GONE_TIMEOUT_S} s after kill -9")


class Mounts:
    """Makes mounts and takes down whatever is left, if need be by aborting the connection."""

    def __init__(self, commands: Commands, top: Path) -> None:
        self.commands, self.top, self.made = commands, top, list[Mounted]()

    def __enter__(self) -> Mounts:
        return self

    def mount(self, image: Path | str, options: str = "", *more: str, name: str = "mnt") -> Mounted:
        path = self.top / name
        path.mkdir(exist_ok=True)
        arguments = ["-o", options] if options else []
        self.commands.check(self.commands.bin_dir / "mount.gfs2", image, path, *arguments, *more)
        made = Mounted(self.commands, image, path)
        self.made.append(made)
        return made

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        left = [m for m in self.made if is_mounted(m.path)]
        for mounted in left:
            with contextlib.suppress(CommandFailed, subprocess.TimeoutExpired):
                mounted.umount()
                continue
            self.force(mounted)
        still = [os.fspath(m.path) for m in self.made if is_mounted(m.path)]
        if still and kind is None:
            raise CommandFailed(f"still mounted after the test: {still}")

    def force(self, mounted: Mounted) -> None:
        """Nothing may stay behind: abort the connection, kill the daemon, detach."""
        where = connection(mounted.path)
        if where is not None:
            if not FUSECTL.is_dir() or not any(FUSECTL.iterdir()):
                self.commands.run("mount", "-t", "fusectl", "fusectl", FUSECTL)
            with contextlib.suppress(OSError):
                (where / "abort").write_text("1")
        for pid in daemons(mounted.path):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.commands.run("umount", "-l", mounted.path)


def processes_in_d_state(pids: Sequence[int]) -> list[int]:
    return [pid for pid in pids if process_state(pid) == "D"]
