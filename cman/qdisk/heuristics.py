"""Heuristics: programs whose success says that this node is of use, say `ping -c1 -w1 GATEWAY`. Each is worth points.

A program runs by `sh -c` in a process group of its own, again `interval` after its last beginning. Exit status 0 is
success. After `tko` failures in a row its points are gone, until it succeeds again. One that does not end is killed
with all it started when it has used up the time of all its failures, and counts as that many.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import trio

log = logging.getLogger("cman.QDISK")


@dataclass(frozen=True, slots=True)
class Heuristic:
    """As in <heuristic>."""

    program: str
    score: int = 1
    interval_s: int = 2
    tko: int = 1

    @property
    def limit_s(self) -> int:
        return self.interval_s * self.tko


@dataclass(slots=True)
class Standing:
    """How a heuristic does. Not up before its first success."""

    heuristic: Heuristic
    up: bool = False
    misses: int = 0
    says: str = "not run yet"

    def succeeded(self) -> str:
        """What to log, empty for nothing."""
        news = not self.up
        self.up, self.misses, self.says = True, 0, "success"
        return f"Heuristic: '{self.heuristic.program}' UP" if news else ""

    def failed(self, why: str, times: int = 1) -> str:
        """What to log, empty for nothing."""
        self.misses, self.says = min(self.misses + times, self.heuristic.tko), why
        if not self.up:
            return ""
        if self.misses < self.heuristic.tko:
            return f"Heuristic: '{self.heuristic.program}' missed ({self.misses}/{self.heuristic.tko}): {why}"
        self.up = False
        return f"Heuristic: '{self.heuristic.program}' DOWN ({self.misses}/{self.heuristic.tko}): {why}"


class Heuristics:
    """All of a node; without any the score is 1 of 1."""

    def __init__(self, heuristics: Sequence[Heuristic]) -> None:
        self.standings = [Standing(h) for h in heuristics]

    def score(self) -> tuple[int, int]:
        """What there is, and what there could be."""
        if not self.standings:
            return 1, 1
        return sum(s.heuristic.score for s in self.standings if s.up), sum(s.heuristic.score for s in self.standings)

    async def run(self) -> None:
        """Until cancelled; what runs then is killed."""
        async with trio.open_nursery() as nursery:
            for standing in self.standings:
                nursery.start_soon(_again_and_again, standing)


async def _again_and_again(standing: Standing) -> None:
    heuristic = standing.heuristic
    while True:
        began = trio.current_time()
        why = await run_once(heuristic)
        if why is None:
            text = standing.failed(f"Exceeded timeout of {heuristic.limit_s} seconds", heuristic.tko)
        else:
            text = standing.failed(why) if why else standing.succeeded()
        if text:
            log.log(logging.INFO if standing.up and not standing.misses else logging.WARNING, "%s", text)
        await trio.sleep_until(began + heuristic.interval_s)


async def run_once(heuristic: Heuristic) -> str | None:
    """Empty for success, why it failed, None when it was killed because it did not end."""
    try:
        process = await trio.lowlevel.open_process(["/bin/sh", "-c", heuristic.program], stdin=subprocess.DEVNULL,
                                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                                   start_new_session=True)
    except (OSError, ValueError) as e:
        return f"cannot be run: {e}"
    try:
        with trio.move_on_after(heuristic.limit_s) as limit:
            await process.wait()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with trio.CancelScope(shield=True):
            await process.wait()
    if limit.cancelled_caught:
        return None
    if not process.returncode:
        return ""
    return f"signal {-process.returncode}" if process.returncode < 0 else f"exit status {process.returncode}"
