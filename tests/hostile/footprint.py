"""What a case leaves behind in its process: memory that is not freed, address space, descriptors, threads.

A worker runs thousands of cases. What each forgets is far below any limit on one of them, and comes to light hours
later as a lack of memory somewhere else: so every case is asked.
"""

from __future__ import annotations

import ctypes
import gc
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from hostile.exercise import sanitised

HEAP_BYTES = (64 if sanitised() else 16) << 10      # Python's caches grow now and then
SPACE_BYTES = 6 << 20                               # more than a step of the heap
AGAIN = 2
END_S, POLL_S = 30.0, 0.001      # a thread that was joined may be seen a moment longer
M_ARENA_MAX = -8


class _Account(ctypes.Structure):
    """malloc(3)'s account, summed over its arenas (struct mallinfo2)."""

    _fields_ = tuple((name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"))

    hblkhd: int
    uordblks: int


def heap_bytes() -> int:
    """What malloc has given out and not got back."""
    libc = ctypes.CDLL(None)
    if sanitised():
        libc.__sanitizer_get_current_allocated_bytes.restype = ctypes.c_size_t
        return int(libc.__sanitizer_get_current_allocated_bytes())
    libc.mallinfo2.restype = _Account
    account = libc.mallinfo2()
    return int(account.uordblks + account.hblkhd)


def few_arenas() -> None:
    """So that the address space tells of leaks, and not of how many threads there were at once (64 MiB for each)."""
    ctypes.CDLL(None).mallopt(M_ARENA_MAX, 2)


@dataclass(frozen=True, slots=True)
class Footprint:
    """At one moment, in bytes and descriptors."""

    heap: int
    space: int
    fds: int
    threads: int

    @classmethod
    def now(cls) -> Footprint:
        with open("/proc/self/statm") as f:
            pages = int(f.read().split()[0])
        return cls(heap_bytes(), pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/fd")),
                   len(os.listdir("/proc/self/task")))

    @classmethod
    def settled(cls, threads: int) -> Footprint:
        """When those threads are gone that are on their way out."""
        deadline = time.monotonic() + END_S
        while len(os.listdir("/proc/self/task")) > threads and time.monotonic() < deadline:
            time.sleep(POLL_S)
        gc.collect()
        return cls.now()

    def more_than(self, before: Footprint) -> str:
        """What has grown; empty if nothing has, or not by enough to tell."""
        said = []
        if self.heap - before.heap > HEAP_BYTES:
            said.append(f"{self.heap - before.heap} bytes of memory")
        if self.space - before.space > SPACE_BYTES and not sanitised():     # whose quarantine grows for long
            said.append(f"{self.space - before.space} bytes of address space")
        if self.fds > before.fds:
            said.append(f"{self.fds - before.fds} descriptors")
        if self.threads > before.threads:
            said.append(f"{self.threads - before.threads} threads")
        return ", ".join(said)


def left_behind(before: Footprint, again: Callable[[], object]) -> str:
    """What a case has not given back, if it does so again and again: the first time may fill a cache."""
    for _ in range(AGAIN):
        if not Footprint.now().more_than(before):
            return ""
        before = Footprint.settled(before.threads)
        again()
    return Footprint.settled(before.threads).more_than(before)
