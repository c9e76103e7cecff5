"""What the totem machine asks its owner to do, in this order: each effect is complete before the next one starts.

The order matters once: `StoreRingSeq` stands before the packets that use the number, and a packet of a ring must
not leave the node before the ring's number is on stable storage.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

NodeId: TypeAlias = int


class RingId(NamedTuple):
    """The name of one ring: unique for ever, because its representative stores each seq before it uses it.

    Ordered by seq, then by representative.
    """

    seq: int
    rep: NodeId

    def __str__(self) -> str:
        return f"{self.rep}.{self.seq}"


class Kind(enum.Enum):
    """Which of the two configuration changes of extended virtual synchrony.

    TRANSITIONAL has those who come from the same old ring: what is delivered after it belongs to the old ring but
    was not seen by all of that ring. REGULAR opens the new ring.
    """

    TRANSITIONAL = "transitional"
    REGULAR = "regular"


@dataclass(frozen=True, slots=True)
class Multicast:
    """Send the bytes to every configured node but ourselves; losing some is allowed."""

    data: bytes


@dataclass(frozen=True, slots=True)
class SendTo:
    """Send the bytes to one other node; losing them is allowed."""

    node: NodeId
    data: bytes


@dataclass(frozen=True, slots=True)
class Deliver:
    """A payload, at the same place of the same order at every member, its sender included.

    ring_id and seq name the packet that completed it, for traces and checkers.
    """

    sender: NodeId
    payload: bytes
    ring_id: RingId
    seq: int


@dataclass(frozen=True, slots=True)
class ConfigChange:
    """A new membership, between two deliveries at the same place for all who come from the same ring.

    members, joined and left are sorted. A node that restarted before anybody noticed is both in left and in joined:
    what it knew is lost. In a TRANSITIONAL change joined is empty.
    """

    kind: Kind
    ring_id: RingId
    members: tuple[NodeId, ...]
    joined: tuple[NodeId, ...]
    left: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True)
class StoreRingSeq:
    """Put this ring sequence number on stable storage (fsync) before any later effect is done.

    It is handed to the constructor after a restart, so that no ring id is ever used twice.
    """

    seq: int


@dataclass(frozen=True, slots=True)
class Writable:
    """The send queue has room again after submit() refused a payload."""


@dataclass(frozen=True, slots=True)
class Trace:
    """A line for the log: what happened, then key=value; warning says that an operator should see it."""

    event: str
    values: tuple[tuple[str, object], ...] = ()
    warning: bool = False

    def __str__(self) -> str:
        return " ".join([self.event, *(f"{key}={_text(value)}" for key, value in self.values)])


def _text(value: object) -> str:
    if isinstance(value, tuple) and not isinstance(value, RingId):
        return ",".join(str(x) for x in value) or "none"
    return str(value)


Effect: TypeAlias = Multicast | SendTo | Deliver | ConfigChange | StoreRingSeq | Writable | Trace
