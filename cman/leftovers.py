"""Processes that hold state in the cluster, written down so that a later cman of this node can end them.

When cman dies, its clients see their connection close and stop; but one may still be at work for a moment, or hang.
The others count this node as new when a new cman joins, and recover what the old life held. So before it joins, the
processes of the old life have to be gone: they are killed, and one that cannot be killed keeps cman from starting.

The file is in /run: a restart of the machine ends all processes and the file with them. One line per process:
pid, its start time in clock ticks (pids come again), and the subsystems that it had registered.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger("cman.CMAN")

KILL_LIMIT_S = 10.0
POLL_S = 0.01
LINES_MAX = 10_000


class Unkillable(Exception):
    """A process of an earlier cman does not go away."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A process with something registered. start_ticks: field 22 of /proc/PID/stat."""

    pid: int
    start_ticks: int
    names: str


def start_ticks(pid: int) -> int | None:
    """None: there is no such process (any more), or only its zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def parse(text: str) -> list[Holder]:
    """What makes no sense is left out: it names no process."""
    found = []
    for line in text.splitlines()[:LINES_MAX]:
        pid, _, rest = line.partition(" ")
        ticks, _, names = rest.partition(" ")
        if pid.isdecimal() and ticks.isdecimal() and int(pid) > 1:
            found.append(Holder(int(pid), int(ticks), names))
    return found


class Register:
    """The file. `path`: in a directory that does not survive the machine."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._written: str | None = None

    def note(self, users: Iterable[tuple[int, str]]) -> None:
        """Who has what registered now: pid and subsystem. Raises OSError: then nobody may be let in."""
        names: dict[int, list[str]] = {}
        for pid, name in users:
            names.setdefault(pid, []).append(name)
        lines = [f"{pid} {ticks} {','.join(sorted(names[pid]))}\n" for pid in sorted(names)
                 if (ticks := start_ticks(pid)) is not None]
        text = "".join(lines)
        if text == self._written:
            return
        made = self.path.with_name(f"{self.path.name}.new")
        made.write_text(text)
        made.replace(self.path)
        self._written = text

    def end_leftovers(self, limit_s: float = KILL_LIMIT_S) -> None:
        """Kill who is left of an earlier cman's clients, and wait. Raises Unkillable, OSError."""
        try:
            holders = parse(self.path.read_text(errors="replace"))
        except FileNotFoundError:
            return
        left = [h for h in holders if start_ticks(h.pid) == h.start_ticks]
        for holder in left:
            log.warning("pid %d (%s) is left from before: killed", holder.pid, holder.names)
            with contextlib.suppress(ProcessLookupError):
                os.kill(holder.pid, signal.SIGKILL)
        deadline = time.monotonic() + limit_s
        while left := [h for h in left if start_ticks(h.pid) == h.start_ticks]:
            if time.monotonic() > deadline:
                who = ", ".join(f"pid {h.pid} ({h.names})" for h in left)
                raise Unkillable(f"{who} held state in the cluster before, was killed and does not end: it waits in "
                                 "the kernel, most likely for a disk. Until it has ended this node cannot join; a "
                                 "restart of the machine helps")
            time.sleep(POLL_S)
        self.note([])
