"""Tells a process that hangs from one that is slow: a test machine may give it a hundredth of a processor."""

from __future__ import annotations

import os
import time
from pathlib import Path

STILL_CPU_S = 0.05      # a thread that looks at a clock now and then uses less
WALL_FACTOR = 8         # so many times `still_s` is too long whatever it does


def cpu_s(pid: int) -> float:
    """Processor time of all its threads so far, in seconds; 0 if there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Watch:
    """Of one process that gives signs of life now and then.

    It waits for what never comes when it has used no processor for `still_s` seconds; it spins when it has used
    `spin_s` seconds of processor time since the last sign.
    """

    def __init__(self, pid: int, *, still_s: float, spin_s: float) -> None:
        self.pid, self.still_s, self.spin_s = pid, still_s, spin_s
        self.sign()

    def sign(self) -> None:
        """It has said something."""
        self.since = self.still_since = time.monotonic()
        self.cpu_s = self.still_cpu_s = cpu_s(self.pid)

    def verdict(self) -> str:
        """What is wrong with it; empty while nothing is known to be."""
        used, now = cpu_s(self.pid), time.monotonic()
        if used - self.cpu_s > self.spin_s:
            return f"{used - self.cpu_s:.0f} s of processor time"
        if used - self.still_cpu_s > STILL_CPU_S:
            self.still_since, self.still_cpu_s = now, used
        if now - self.still_since > self.still_s:
            return f"{now - self.still_since:.0f} s without doing anything"
        if now - self.since > WALL_FACTOR * self.still_s:
            return f"{now - self.since:.0f} s"
        return ""
