"""Whose the quorum disk's votes are: what the disk's master says, in the agreed order of the ring. A pure machine.

All members of a ring must count alike, so nobody counts for itself what it reads on the disk. The master says it:

    qdisk {view, ms}     the votes are this ring's for so long; 0: they are not any more

It says it after each cycle in which it has read all blocks and written its own, for what is left of its lease
(cman.qdisk.machine). A word holds in the next ring, too, if the master has come along without a gap: so a ring that
loses another node never misses the votes. A ring without the master has none until there is a new master in it, which
is not before the lease is over. When the lease ends the master says so; the others take it for ended by themselves.

So of all rings at most one has the votes: the one with the master in it.
"""

from __future__ import annotations

from collections.abc import Collection

MS = 1_000_000
LEASE_MS_MAX = 3_600_000


class DiskVotes:
    """As one member sees them. Times are monotonic nanoseconds."""

    def __init__(self, me: int) -> None:
        self.me = me
        self.holder = 0                 # whose word holds, 0: nobody's
        self._due_ns = 0
        self._promise_ns = 0            # of our own word, as the master; 0: it has ended and all know

    # The master's side

    def promise(self, until_ns: int, now_ns: int) -> int | None:
        """Our disk says that the votes are ours until then (0: not). Milliseconds to be said, None for nothing."""
        if until_ns <= now_ns:
            known, self._promise_ns = self._promise_ns, 0
            return 0 if known else None
        self._promise_ns = until_ns
        return min((until_ns - now_ns) // MS, LEASE_MS_MAX)

    def again(self, now_ns: int) -> int | None:
        """What is to be said in a new ring."""
        return min((self._promise_ns - now_ns) // MS, LEASE_MS_MAX) if self._promise_ns > now_ns else None

    def ended(self, now_ns: int) -> int | None:
        """As promise() when its time is over."""
        return self.promise(0, now_ns) if self._promise_ns and self._promise_ns <= now_ns else None

    # Everybody's

    @property
    def ours(self) -> bool:
        return bool(self.holder)

    def heard(self, sender: int, ms: int, now_ns: int) -> None:
        """qdisk was delivered in the ring it was said in."""
        if ms:
            self.holder, self._due_ns = sender, now_ns + min(ms, LEASE_MS_MAX) * MS
        elif sender == self.holder:
            self.holder = 0

    def ring(self, members: Collection[int], left: Collection[int]) -> None:
        """A new ring; who is in both was away."""
        if self.holder not in members or self.holder in left:
            self.holder = 0

    def next_timer(self) -> int | None:
        due = [t for t in (self._due_ns if self.holder else 0, self._promise_ns) if t]
        return min(due, default=None)

    def late(self, now_ns: int) -> bool:
        """Whether the word that holds has run out now."""
        if self.holder and self._due_ns <= now_ns:
            self.holder = 0
            return True
        return False
