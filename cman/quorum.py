"""Who may decide: votes, and how many of them are enough.

A pure machine. Each configured node stands in one of four ways:

    UNKNOWN  not seen since this node started           counts against us
    MEMBER   in the ring                                its votes are ours
    LOST     was a member, went without a word          counts against us until fencing has confirmed it
    OUT      confirmed fenced, or left cleanly          counts no more

A LOST node that is back in the ring is a MEMBER, but nobody knows yet whether it is its old life, with locks and dirty
data of before, or a new one: it stays unconfirmed until `clean` says so. Otherwise the others, who wait for its
fencing, would recover from its loss while it is still at work.

quorum = electorate / 2 + 1, where the electorate is the votes of members, lost and unknown nodes and of the quorum
disk, or the expected votes less those that are out, whichever is more. So quorum falls only when it is certain that
the missing node does nothing any more: the last of four nodes goes on alone once the other three were fenced, one
after the other, and never before. (The original never lowered it by itself.)

Two nodes with one vote each may set two_node: then one vote is quorum, and fencing decides who is right when they
lose sight of each other. A component that has quorum must still fence who is UNKNOWN or LOST before it touches shared
storage: `unconfirmed` says who that is. This is what makes shrinking safe against nodes that start again elsewhere
and do not know that they were voted out.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from cman.totem.effects import NodeId, Trace

VOTES_MAX = 255


class Standing(enum.Enum):
    """How a configured node counts."""

    UNKNOWN = "unknown"
    MEMBER = "member"
    LOST = "lost"
    OUT = "out"


@dataclass(frozen=True, slots=True)
class QuorumConfig:
    """votes of each node; expected_votes None for the sum; qdisk_votes 0 without a quorum disk.

    Raises ValueError with the setting that is wrong.
    """

    votes: Mapping[NodeId, int]
    expected_votes: int | None = None
    two_node: bool = False
    qdisk_votes: int = 0

    def __post_init__(self) -> None:
        for node in sorted(self.votes):
            if not 0 <= self.votes[node] <= VOTES_MAX:
                raise ValueError(f"votes of node {node} is {self.votes[node]}, 0 to {VOTES_MAX}")
        if not 0 <= self.qdisk_votes <= VOTES_MAX:
            raise ValueError(f"votes of the quorum disk is {self.qdisk_votes}, 0 to {VOTES_MAX}")
        if self.expected_votes is not None and self.expected_votes < 1:
            raise ValueError(f"expected_votes is {self.expected_votes}, at least 1")
        if self.two_node:
            if sorted(self.votes.values()) != [1, 1]:
                raise ValueError("two_node wants exactly two nodes with one vote each")
            if self.expected_votes not in (None, 1):
                raise ValueError(f"two_node wants expected_votes 1, not {self.expected_votes}")
            if self.qdisk_votes:
                raise ValueError("two_node and a quorum disk exclude each other")

    @property
    def expected(self) -> int:
        return self.expected_votes or sum(self.votes.values()) + self.qdisk_votes


@dataclass(frozen=True, slots=True)
class QuorumChange:
    """The numbers changed, perhaps only they: `quorate` is what counts."""

    quorate: bool
    total_votes: int
    quorum: int
    expected_votes: int


@dataclass(frozen=True, slots=True)
class QuorumState:
    """What a node that comes into a quorate component must know: sent to it in agreed order."""

    out: tuple[NodeId, ...]
    expected_votes: int | None
    uncounted: tuple[NodeId, ...]


QuorumEffect: TypeAlias = QuorumChange | Trace


class QuorumMachine:
    """The votes as one node counts them; all inputs come in agreed order, so that all members count alike."""

    def __init__(self, me: NodeId, config: QuorumConfig) -> None:
        self.me = me
        self.config = config
        self.standing: dict[NodeId, Standing] = dict.fromkeys(sorted(config.votes), Standing.UNKNOWN)
        self.qdisk_alive = False
        # How often each has become a member, as this node has seen it.
        self.lives: dict[NodeId, int] = {}
        # What the operator said, and who was out then: not subtracted from it again.
        self._expected: int | None = None
        self._uncounted: frozenset[NodeId] = frozenset()
        # Said goodbye but still in the ring.
        self._leaving: dict[NodeId, bool] = {}
        # Fenced while in the ring, on somebody's request: this life of theirs is over, the ring will see.
        self._struck: set[NodeId] = set()
        # Members that were lost before, perhaps with state of then.
        self._returned: frozenset[NodeId] = frozenset()
        self._effects: list[QuorumEffect] = []
        self._told: QuorumChange | None = None

    # Inputs

    def membership(self, members: Iterable[NodeId], left: Iterable[NodeId]) -> None:
        """A regular configuration of the ring. A node in both left a gap: it is a member, but was away."""
        present = frozenset(members)
        for node in sorted(left):
            if self.standing.get(node) is Standing.MEMBER:
                clean = node in self._leaving or node in self._struck
                self._struck.discard(node)
                self._stand(node, Standing.OUT if clean else Standing.LOST)
                if self._leaving.pop(node, False):
                    self._remove(node)
        for node in sorted(present):
            if node in self.standing:
                self.lives[node] = self.lives.get(node, 0) + (self.standing[node] is not Standing.MEMBER)
                if self.standing[node] is Standing.LOST:
                    self._returned |= {node}
                self._stand(node, Standing.MEMBER)
            else:
                self._effects.append(Trace("member is not in the configuration", (("node", node),), warning=True))
        self._tell()

    def stale(self, node: NodeId) -> None:
        """A member has state of an earlier life: it has to end, and is to be fenced unless it says goodbye."""
        if self.standing.get(node) is Standing.MEMBER:
            self._returned |= {node}

    def clean(self, node: NodeId) -> None:
        """A member has nothing of an earlier life in which it was lost."""
        self._returned -= {node}

    def leaving(self, node: NodeId, remove: bool) -> None:
        """A node said goodbye: when it goes it is out, not lost. With remove, expected votes fall too."""
        if self.standing.get(node) is Standing.MEMBER:
            self._leaving[node] = remove

    def fenced(self, node: NodeId, struck: bool = False) -> None:
        """Fencing of a node that is not a member is confirmed.

        struck: it may be one, and was fenced in this life on somebody's request; it counts until the ring has noticed,
        and is out then. Otherwise, of a member it says nothing about its present life.
        """
        if self.standing.get(node) in (Standing.LOST, Standing.UNKNOWN):
            self._stand(node, Standing.OUT)
        elif struck and self.standing.get(node) is Standing.MEMBER:
            self._struck.add(node)
        self._tell()

    def set_expected(self, votes: int) -> None:
        """What the operator says. Raises ValueError for less than the members have or nonsense."""
        most = sum(self.config.votes.values()) + self.config.qdisk_votes
        if not 1 <= votes <= max(most, self.total_votes):
            raise ValueError(f"expected votes {votes}, 1 to {max(most, self.total_votes)}")
        self._expected = votes
        # Who is missing now no longer counts, though it must still be fenced before shared storage is touched.
        self._uncounted = frozenset(n for n, s in self.standing.items() if s is not Standing.MEMBER)
        self._tell()

    def quorum_disk(self, alive: bool) -> None:
        """Whether the quorum disk's votes are ours: it is read and its master counts us."""
        self.qdisk_alive = alive
        self._tell()

    def reconfigure(self, config: QuorumConfig) -> None:
        """A new cluster.conf: new nodes are unknown, removed ones are forgotten."""
        self.config = config
        self.standing = {node: self.standing.get(node, Standing.UNKNOWN) for node in sorted(config.votes)}
        self._returned &= frozenset(self.standing)
        self._tell()

    def state(self) -> QuorumState:
        """For those who come: only a quorate component's word counts."""
        out = tuple(n for n, s in self.standing.items() if s is Standing.OUT)
        return QuorumState(out, self._expected, tuple(sorted(self._uncounted)))

    def adopt(self, state: QuorumState) -> None:
        """What the quorate component that we came into knows: from here on we count as it does.

        For a node that was not quorate before this ring; whether it is now, by the votes of those it came to, does
        not matter. Who left us cleanly where they could not see it is lost in their eyes, and so in ours.
        """
        for node, standing in self.standing.items():
            if node in state.out and standing in (Standing.LOST, Standing.UNKNOWN):
                self._stand(node, Standing.OUT)
            elif node not in state.out and standing is Standing.OUT:
                self._stand(node, Standing.LOST)
        self._expected, self._uncounted = state.expected_votes, frozenset(state.uncounted)
        self._tell()

    # Results

    @property
    def total_votes(self) -> int:
        """Of the members, and of the quorum disk if it is with us."""
        return self._votes(Standing.MEMBER) + (self.config.qdisk_votes if self.qdisk_alive else 0)

    @property
    def expected_votes(self) -> int:
        return self._expected or self.config.expected

    @property
    def electorate(self) -> int:
        """The votes of which more than half are needed."""
        votes, counted = self.config.votes, [n for n in self.standing if n not in self._uncounted]
        gone = sum(votes[n] for n in counted if self.standing[n] is Standing.OUT)
        there = sum(votes[n] for n in counted if self.standing[n] is not Standing.OUT)
        return max(there + self.config.qdisk_votes, self.expected_votes - gone)

    @property
    def quorum(self) -> int:
        return 1 if self.config.two_node else self.electorate // 2 + 1

    @property
    def quorate(self) -> bool:
        return self.total_votes >= self.quorum

    @property
    def unconfirmed(self) -> tuple[NodeId, ...]:
        """Nodes that may still be at work somewhere: to be fenced before shared storage is touched."""
        return tuple(n for n, s in self.standing.items()
                     if s in (Standing.LOST, Standing.UNKNOWN) or n in self._returned)

    def effects(self) -> list[QuorumEffect]:
        done, self._effects = self._effects, []
        return done

    def _votes(self, standing: Standing) -> int:
        return sum(self.config.votes[n] for n, s in self.standing.items() if s is standing)

    def _stand(self, node: NodeId, standing: Standing) -> None:
        old = self.standing[node]
        if old is not standing:
            self.standing[node] = standing
            self._effects.append(Trace("node " + standing.value, (("node", node), ("was", old.value))))
        if standing is Standing.MEMBER:
            self._uncounted -= {node}
        else:
            self._returned -= {node}

    def _remove(self, node: NodeId) -> None:
        """leave remove: the cluster expects less from now on."""
        self._expected = max(1, self.expected_votes - self.config.votes[node])
        self._uncounted |= {node}

    def _tell(self) -> None:
        now = QuorumChange(self.quorate, self.total_votes, self.quorum, self.expected_votes)
        if now == self._told:
            return
        if self._told is None or self._told.quorate != now.quorate:
            event = "quorum regained, this component may act" if now.quorate else "quorum lost, activity blocked"
            self._effects.append(Trace(event, (("votes", now.total_votes), ("quorum", now.quorum)),
                                       warning=not now.quorate))
        self._told = now
        self._effects.append(now)
