"""Who takes part: the sets of GATHER, and when they are agreed.

Each node multicasts a join with the nodes it knows of (proc) and those of them that it takes for failed. Sets only
grow while members are sought. Consensus: every node of proc - failed has sent exactly our two sets; then the lowest
of them makes the commit token. Who has not agreed after the consensus timeout is added to failed.

A leaving node sends a join that has itself in failed. Failed nodes come back through merging rings, never here.
"""

from __future__ import annotations

import enum

from cman.totem.effects import NodeId
from cman.totem.wire import Join


class Verdict(enum.Enum):
    """What a join did to our sets."""

    AGREES = "agrees"
    CHANGED = "changed"
    OLD = "old"
    IGNORED = "ignored"


class Gather:
    """The sets of one node while it seeks members; proc always has the node itself."""

    __slots__ = ("_agreed", "failed", "me", "proc")

    def __init__(self, me: NodeId, proc: frozenset[NodeId], failed: frozenset[NodeId] = frozenset()) -> None:
        self.me = me
        self.proc = proc | {me}
        self.failed = failed - {me}
        self._agreed: set[NodeId] = {me}

    @property
    def active(self) -> tuple[NodeId, ...]:
        """Those who would form the ring, sorted."""
        return tuple(sorted(self.proc - self.failed))

    def consensus(self) -> bool:
        return self.proc - self.failed <= self._agreed

    def restart(self) -> None:
        """Ask everybody again."""
        self._agreed = {self.me}

    def add(self, node: NodeId) -> bool:
        """A node that was heard of; False when it is known, failed ones included."""
        if node in self.proc:
            return False
        self.proc |= {node}
        self.restart()
        return True

    def judge(self, join: Join) -> Verdict:
        """Take a join in."""
        sender, proc, failed = join.sender, frozenset(join.proc), frozenset(join.failed)
        if sender in self.failed:
            return Verdict.IGNORED
        if sender in failed:
            if sender not in self.proc:
                return Verdict.IGNORED
            self.failed |= {sender}
            self.restart()
            return Verdict.CHANGED
        if proc == self.proc and failed == self.failed:
            self._agreed.add(sender)
            return Verdict.AGREES
        if proc <= self.proc and failed <= self.failed:
            return Verdict.OLD
        self.proc |= proc
        # Who takes us for failed cannot be in a ring with us; of others we believe whom they take for failed.
        self.failed |= {sender} if self.me in failed else failed
        self.restart()
        if proc == self.proc and failed == self.failed:
            self._agreed.add(sender)
        return Verdict.CHANGED

    def accuse(self) -> tuple[NodeId, ...]:
        """The consensus timeout: those who did not agree are failed, and the others are asked again."""
        silent = tuple(sorted(self.proc - self.failed - self._agreed))
        self.failed |= frozenset(silent)
        self.restart()
        return silent
