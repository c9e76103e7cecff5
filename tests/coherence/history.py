"""What was asked of a register and when, and whether one order of all that explains it.

A write is (began, ended, value); values are written once. A read that returns w is stale if another write began after w
had ended and ended before the read began; or if an earlier read already saw a write that began after w had ended.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True, frozen=True)
class Event:
    began: int
    ended: int
    value: bytes
    who: str


@dataclass(slots=True)
class History:
    """Of one register; `first` is what it holds before anybody writes."""

    first: bytes
    writes: list[Event] = field(default_factory=list)
    reads: list[Event] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def write(self, who: str, value: bytes, act: Callable[[], object]) -> None:
        began = time.monotonic_ns()
        act()
        event = Event(began, time.monotonic_ns(), value, who)
        with self.lock:
            self.writes.append(event)

    def read(self, who: str, act: Callable[[], bytes]) -> None:
        began = time.monotonic_ns()
        value = act()
        event = Event(began, time.monotonic_ns(), value, who)
        with self.lock:
            self.reads.append(event)

    def problems(self) -> list[str]:
        """Each read that no order explains, in words; empty when the history is fine."""
        by_value = {w.value: w for w in self.writes}
        by_value[self.first] = Event(0, 0, self.first, "mkfs")
        out = []
        writes = sorted(by_value.values(), key=lambda w: w.began)
        seen: list[tuple[int, Event]] = []      # (when the read ended, the write it saw), by end
        for read in sorted(self.reads, key=lambda r: r.ended):
            source = by_value.get(read.value)
            if source is None:
                out.append(f"{read.who} read {read.value!r}, which nobody wrote")
                continue
            if source.began > read.ended:
                out.append(f"{read.who} read {read.value!r} before it was written")
            newer = [w for w in writes if w.began > source.ended and w.ended < read.began]
            if newer:
                out.append(f"{read.who} read {read.value!r} of {source.who} although {newer[0].who} had written "
                           f"{newer[0].value!r}, {(read.began - newer[0].ended) // 1000} us before")
            back = [w for end, w in seen if end < read.began and w.began > source.ended]
            if back:
                out.append(f"{read.who} read {read.value!r} after {back[0].value!r} had been read")
            seen.append((read.ended, source))
        return out
