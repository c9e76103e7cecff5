"""What a room of the lab must not leave behind."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from lab import cgroups, loops, remains
from lab.place import Place

POLL_S = 0.005
PATIENCE_S = 20.0
GONE_S = 2.0


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = PATIENCE_S) -> None:
    """Poll a condition; fails naming it."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s for: {what}"
        time.sleep(POLL_S)


def pids_of(place: Place) -> set[int]:
    """Every process of a room that is up, its keeper included."""
    processes = place.processes()
    top = remains._room_namespace(processes)
    return {p.pid for p in processes} | (set(remains.pids_below(top)) if top else set())


def left_behind(place: Place, pids: set[int]) -> list[str]:
    """What is still there of a room that should be gone."""
    found = [f"process {pid}" for pid in sorted(pids) if remains.alive(pid)]
    found += [f"/dev/loop{n} on {image}" for n, image in loops.below(str(place.path)).items()]
    for path in (str(place.path), str(place.base / f"{place.name}.lock"), cgroups.path_of(place.name)):
        found += [path] if path and os.path.exists(path) else []
    found += [f"mount {line}" for line in Path("/proc/self/mountinfo").read_text().splitlines()
              if str(place.path) in line]
    # A network or mount namespace lives as long as a process is in it, or a file bound over it: the latter is a mount.
    return found


def assert_gone(place: Place, pids: set[int], why: str = "") -> None:
    """Nothing is left. A keeper that tidied up by itself may be on its last way out."""
    deadline = time.monotonic() + GONE_S
    while left := left_behind(place, pids):
        assert time.monotonic() < deadline, f"{why}: left behind: {left}"
        time.sleep(POLL_S)
