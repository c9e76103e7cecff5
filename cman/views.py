"""What the daemon tells of the cluster, as plain values: the same for clients, tools and tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Self

from cman.protocol import ProtocolError


class NodeState(Enum):
    """What a node is to this one; the letter is that of `cman_tool nodes`."""

    MEMBER = "M"
    DEAD = "X"                  # not a member: never seen, left, or lost
    DISALLOWED = "d"            # reachable, and not let in


@dataclass(frozen=True, slots=True)
class _Told:
    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Self:
        """From a message; fields that this version does not know are left out. Raises ProtocolError."""
        try:
            return cls(**{f.name: told[f.name] for f in dataclasses.fields(cls)})
        except (KeyError, TypeError) as e:
            raise ProtocolError(f"{cls.__name__} without {e}") from e


@dataclass(frozen=True, slots=True)
class Cluster(_Told):
    """`cman_tool status`. Times are seconds since the epoch."""

    name: str
    cluster_id: int
    config_version: int
    generation: int             # of the ring; changes with every membership
    state: str                  # "Joining", "Cluster-Member", "Leaving"
    members: list[int]          # node ids, sorted
    expected_votes: int
    disk_votes: int
    total_votes: int
    node_votes: int
    quorum: int
    quorate: bool
    unconfirmed: list[int]      # nodes that may still be at work: lost or never seen, and not fenced since
    subsystems: int
    flags: list[str]
    ports: list[int]
    node_name: str
    nodeid: int
    multicast: str              # empty with unicast
    addresses: list[str]        # of this node


@dataclass(frozen=True, slots=True)
class Node(_Told):
    """A row of `cman_tool nodes`."""

    nodeid: int
    name: str
    state: str                  # a letter of NodeState
    incarnation: int            # generation of the ring in which it came; 0: never seen
    joined_s: int               # 0: it is no member
    votes: int
    addresses: list[str]
    left_reason: str            # "", "left", "removed", "killed", "lost"
    left_s: int
    fenced_s: int               # 0: not fenced since it was lost
    fenced_by: str


@dataclass(frozen=True, slots=True)
class VictimView(_Told):
    """A node that has to be fenced."""

    nodeid: int
    name: str
    lost: bool                  # else it was never seen since this component has quorum
    stage: str                  # "waiting", "claiming", "fencing"
    by: int                     # the node that runs the agents, 0: none
    tries: int                  # that have failed
    says: str                   # why the last of them did
    waits_for: str              # for people
    for_ms: int                 # how long it has been a victim


@dataclass(frozen=True, slots=True)
class FenceDomainView(_Told):
    """`fence_tool ls`."""

    members: list[int]
    master: int                 # who fences, 0: nobody may
    acting: bool
    victims: list[VictimView]
    history: list[str]

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Self:
        try:
            return cls(told["members"], told["master"], told["acting"],
                       [VictimView.of(v) for v in told["victims"]], told["history"])
        except (KeyError, TypeError) as e:
            raise ProtocolError(f"{cls.__name__} without {e}") from e


@dataclass(frozen=True, slots=True)
class HeuristicView(_Told):
    """A program that rates this node."""

    program: str
    score: int
    up: bool
    misses: int
    says: str                   # how its last run went


@dataclass(frozen=True, slots=True)
class QdiskView(_Told):
    """This node's part in the quorum disk."""

    configured: bool
    device: str
    label: str
    state: str                  # "none", "init", "run", "master"
    master: int                 # node id, 0: there is none
    score: int
    score_max: int
    score_needed: int
    counts: bool                # whether its votes are this ring's
    visible: list[int]          # other nodes that are alive on the disk
    hung_s: int                 # how long a read or write has hung, 0: none does
    trouble: str                # what is wrong with the disk, for people
    heuristics: list[HeuristicView]

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Self:
        """Raises ProtocolError."""
        try:
            plain = {f.name: told[f.name] for f in dataclasses.fields(cls)}
            return cls(**{**plain, "heuristics": [HeuristicView.of(h) for h in told["heuristics"]]})
        except (KeyError, TypeError) as e:
            raise ProtocolError(f"{cls.__name__} without {e}") from e
