"""Byte-range locks of one file, of all nodes: which conflict, and what is left when ranges are cut and joined. Pure.

The rules are those of fcntl(2): an owner's locks never overlap, a new one replaces what it covers, neighbours of one
type are one. The compiled table that decides on a node's own files (gfs2py.fuse._locks) has the same rules.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

Member = tuple[int, int]            # node id, and the process on it
RANGE_END = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Lock:
    """One lock, granted or wanted. `owner` and `fh` mean something on its node only; `end` is inclusive."""

    member: Member
    owner: int
    fh: int
    pid: int
    write: bool
    start: int
    end: int

    def meets(self, other: Lock) -> bool:
        return self.start <= other.end and other.start <= self.end

    def same_owner(self, other: Lock) -> bool:
        return self.owner == other.owner and self.member == other.member

    def conflicts(self, other: Lock) -> bool:
        return (self.write or other.write) and self.meets(other) and not self.same_owner(other)


class Ranges:
    """The granted locks of one file, in the order in which they came."""

    __slots__ = ("locks",)

    def __init__(self, locks: list[Lock] | None = None) -> None:
        self.locks = locks or []

    def __len__(self) -> int:
        return len(self.locks)

    def conflict(self, want: Lock) -> Lock | None:
        """The first lock in the way."""
        return next((held for held in self.locks if held.conflicts(want)), None)

    def conflicts(self, want: Lock) -> list[Lock]:
        return [held for held in self.locks if held.conflicts(want)]

    def _cut(self, gone: Lock) -> None:
        """Take a range out of its owner's locks."""
        left: list[Lock] = []
        for held in self.locks:
            if not held.same_owner(gone) or not held.meets(gone):
                left.append(held)
                continue
            if held.start < gone.start:
                left.append(replace(held, end=gone.start - 1))
            if held.end > gone.end:
                left.append(replace(held, start=gone.end + 1))
        self.locks = left

    def set(self, want: Lock) -> None:
        """Grant it; nothing is in the way."""
        assert self.conflict(want) is None
        self._cut(want)
        start, end = want.start, want.end
        left: list[Lock] = []
        for held in self.locks:
            if held.same_owner(want) and held.write == want.write and (held.end + 1 == start or end + 1 == held.start):
                start, end = min(start, held.start), max(end, held.end)
            else:
                left.append(held)
        left.append(replace(want, start=start, end=end))
        self.locks = left

    def unset(self, gone: Lock) -> bool:
        """Its owner gives the range up. True if anything was there."""
        before = len(self.locks)
        touched = any(held.same_owner(gone) and held.meets(gone) for held in self.locks)
        if touched:
            self._cut(gone)
        assert touched or len(self.locks) == before
        return touched

    def drop(self, which: Callable[[Lock], bool]) -> bool:
        """All locks of which this is true go. True if there was one."""
        left = [held for held in self.locks if not which(held)]
        gone = len(left) != len(self.locks)
        self.locks = left
        return gone
