"""What tests use: run scripts and take manifests under the kernel's gfs2, one guest at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .guest import Job, Machine, Outcome, quote, run_guests
from .prepare import cache_dir, prepare
from .walk import FIELDS


class KernelError(AssertionError):
    """The kernel, or a script under it, did not end as asked."""


@dataclass
class Result:
    """What a run gave: exit status, the script's output, the kernel's messages."""

    status: int
    reason: str
    output: str
    messages: list[str]

    def check(self) -> Result:
        if self.status:
            raise KernelError(f"exit status {self.status} {self.reason}\noutput:\n{self.output}\n"
                              "kernel:\n" + "\n".join(self.messages))
        return self


@contextlib.contextmanager
def one_guest() -> Iterator[None]:
    """Guests share two cores with the tests: at most one runs at a time, over all processes."""
    cache_dir().mkdir(parents=True, exist_ok=True)
    with (cache_dir() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Kernel:
    """The kernel as a judge. Raises KernelError when a run does not end with status 0."""

    def __init__(self, machine: Machine | None = None) -> None:
        self.machine = machine or Machine()
        with one_guest():
            prepare()

    def job(self, job: Job, timeout_s: float | None = None) -> Result:
        """Run one job; the caller judges the status."""
        machine = replace(self.machine, timeout_s=timeout_s or self.machine.timeout_s)
        chunks: list[bytes] = []
        job.sink = chunks.append
        with one_guest():
            outcome: Outcome = run_guests([job], machine)[0]
        return Result(outcome.status, outcome.reason, b"".join(chunks).decode(errors="replace"),
                      outcome.messages)

    def run(self, image: str | os.PathLike[str], script: str, *, crash: bool = False,
            mount_opts: str = "acl", files: dict[str, bytes] | None = None,
            out_dir: str | None = None, timeout_s: float | None = None) -> Result:
        """Mount, run the script (dash) in $MNT, unmount. `files` appear in the guest as /ctl/NAME."""
        return self.job(Job(os.fspath(image), script.encode(), crash=crash, mount_opts=mount_opts,
                            files=dict(files or {}), out_dir=out_dir), timeout_s).check()

    def crash(self, image: str | os.PathLike[str], script: str, *, mount_opts: str = "acl",
              files: dict[str, bytes] | None = None, timeout_s: float | None = None) -> Result:
        """The same, but the guest is reset after the script: what it did not flush is lost."""
        return self.run(image, script, crash=True, mount_opts=mount_opts, files=files,
                        timeout_s=timeout_s)

    def manifest(self, image: str | os.PathLike[str], fields: Sequence[str] = FIELDS, *,
                 replay: str = "overlay", mount_opts: str = "acl",
                 timeout_s: float | None = None) -> list[str]:
        """The walk of the tree, done in the guest.

        replay says where the kernel may replay a dirty journal: in a throw-away "overlay", in the
        "image", or "none" at all (a spectator mount of a read-only device).
        """
        script = f"python3 -S -E /ctl/walk.py --fields {quote(' '.join(fields))} \"$MNT\" >$OUT/manifest\n"
        spectator = ",spectator" if replay == "none" else ""
        with tempfile.TemporaryDirectory(prefix="kernel-gfs2-") as out:
            self.job(Job(os.fspath(image), script.encode(), mount_opts=mount_opts + spectator,
                         readonly=True, readonly_device=replay == "none", snapshot=replay == "overlay",
                         out_dir=out), timeout_s).check()
            return Path(out, "manifest").read_text().splitlines()
