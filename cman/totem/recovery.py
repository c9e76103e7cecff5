"""The end of an old ring: its survivors exchange what some of them lack before the new ring opens.

Members with the same old ring are its transitional members. The entries of the commit token say how far each has
received everything: below the lowest aru nothing is missing; up to the highest aru one holder sends all; above it
everybody sends what it has and nobody sent yet. The packets travel inside packets of the new ring and are therefore
themselves received by all or asked for again.

The ring is recovered when the token went around without anybody having more to send (install_seq is the new ring's
seq then) and its aru has reached install_seq twice at this node: by then every member knows that it has all.

Source: Amir et al. 1995, section 7 (recovery protocol); the choice of one holder is ours, to save the doubles.
"""

from __future__ import annotations

from collections import deque

from cman.totem.ring import Ring
from cman.totem.wire import Entry

QUIET_VISITS = 2
COMPLETE_VISITS = 2


class Recovery:
    """One node's progress through one recovery: the new ring and what the old one still needs."""

    __slots__ = ("_complete", "_counted", "_install_seq", "_quiet", "_seen", "old", "queue", "ring", "transitional")

    def __init__(self, old: Ring, new: Ring, entries: tuple[Entry, ...]) -> None:
        self.old = old
        self.ring = new
        mates = [e for e in entries if e.old_ring == old.ring_id]
        self.transitional = tuple(e.node for e in mates)
        assert new.me in self.transitional
        assert all(e.known for e in entries)
        self.queue: deque[int] = deque(self._plan(mates))
        self._seen: set[int] = set()
        self._counted = False
        self._quiet = 0
        self._complete = 0
        self._install_seq = 0

    def _plan(self, mates: list[Entry]) -> list[int]:
        """Packets of the old ring that this node sends, in order."""
        if len(mates) == 1:
            return []
        low, top = min(e.aru for e in mates), max(e.aru for e in mates)
        assert self.old.released <= low, "a packet was released that a survivor lacks"
        holder = min(e.node for e in mates if e.aru == top)
        plan = list(range(low + 1, top + 1)) if holder == self.ring.me else []
        plan += sorted(seq for seq in self.old.store if seq > top)
        # What recovery brought into the old ring itself all of its members had when it opened.
        return [seq for seq in plan if not self.old.store[seq].recovered]

    def next(self) -> int | None:
        """The next packet of the old ring to send, without those that somebody sent already."""
        while self.queue:
            seq = self.queue.popleft()
            if seq not in self._seen:
                return seq
        return None

    def saw(self, seq: int) -> None:
        """A packet of our old ring came in a packet of the new one."""
        self._seen.add(seq)

    def visit(self, recovering: int, token_seq: int, token_aru: int) -> tuple[int, bool]:
        """The token was here: (its new recovering count, whether the new ring can open at this node).

        A count and not a flag: who is done must not take away the flag of who is not.
        """
        if bool(self.queue) != self._counted:
            self._counted = not self._counted
            recovering = recovering + 1 if self._counted else max(0, recovering - 1)
        self._quiet = 0 if recovering else self._quiet + 1
        if self._quiet == QUIET_VISITS:
            self._install_seq = token_seq
        if self._quiet > QUIET_VISITS and token_aru >= self._install_seq:
            self._complete += 1
        else:
            self._complete = 0
        return recovering, self._complete >= COMPLETE_VISITS
