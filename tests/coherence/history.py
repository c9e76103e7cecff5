"""What was asked of a register and when, and whether one order of all that explains it.

A write is (began, ended, value); values are written once. A read that returns w is stale if another write began after w
had ended and ended before the read began; or if an earlier read already saw a write that began after w had ended.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate


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
        begun = [w.began for w in writes]
        first_ended = list(accumulate(reversed(writes), lambda a, b: a if a.ended < b.ended else b))[::-1]
        reads = sorted(self.reads, key=lambda r: r.ended)
        known = [(r, by_value[r.value]) for r in reads if r.value in by_value]
        ends = [r.ended for r, _ in known]
        latest = list(accumulate((w for _, w in known), lambda a, b: a if a.began > b.began else b))
        for read in reads:
            source = by_value.get(read.value)
            if source is None:
                out.append(f"{read.who} read {read.value!r}, which nobody wrote")
                continue
            if source.began > read.ended:
                out.append(f"{read.who} read {read.value!r} before it was written")
            at = bisect_right(begun, source.ended)
            if at < len(writes) and (newer := first_ended[at]).ended < read.began:
                out.append(f"{read.who} read {read.value!r} of {source.who} although {newer.who} had written "
                           f"{newer.value!r}, {(read.began - newer.ended) // 1000} us before")
            at = bisect_left(ends, read.began)
            if at and (seen := latest[at - 1]).began > source.ended:
                out.append(f"{read.who} read {read.value!r} after {seen.value!r} had been read")
        return out
