"""The messages of one ring, as one member holds them.

aru ("all received up to") is the last packet before the first gap, high the last one seen at all. A packet is
released when the token has shown, twice in a row, that everybody has it, and it was delivered here. The store is
bounded by the flow control: nobody sends further ahead of the slowest member than unacknowledged_max.
"""

from __future__ import annotations

from typing import NamedTuple

from cman.totem.config import TotemConfig
from cman.totem.effects import NodeId, RingId
from cman.totem.flow import Flow

# A packet further ahead of our aru than so many times unacknowledged_max cannot come from a ring that keeps the rules.
AHEAD_FACTOR = 4


class Packet(NamedTuple):
    """One packet as kept; a recovered one holds a packet of an old ring and is nothing to deliver."""

    origin: NodeId
    recovered: bool
    body: bytes


class Ring:
    """Packets, positions and neighbours of one ring."""

    __slots__ = ("ahead_max", "aru", "delivered", "flow", "high", "idle", "last_aru", "last_own_aru", "last_seq", "me",
                 "members", "predecessor", "released", "ring_id", "store", "stuck", "successor", "token_seq")

    def __init__(self, ring_id: RingId, members: tuple[NodeId, ...], me: NodeId, config: TotemConfig) -> None:
        assert me in members
        assert list(members) == sorted(members)
        self.ring_id = ring_id
        self.members = members
        self.me = me
        at = members.index(me)
        self.successor = members[(at + 1) % len(members)]
        self.predecessor = members[at - 1]
        self.store: dict[int, Packet] = {}
        self.aru = self.high = self.delivered = self.released = 0
        # Of the token at its last visit here.
        self.token_seq = self.last_seq = self.last_aru = 0
        self.idle = 0
        # Our aru at the last visit, and visits in a row that did not raise it although packets are missing.
        self.last_own_aru = self.stuck = 0
        self.flow = Flow(config)
        self.ahead_max = AHEAD_FACTOR * config.unacknowledged_max

    @property
    def is_rep(self) -> bool:
        return self.members[0] == self.me

    def add(self, seq: int, packet: Packet) -> bool:
        """Keep it; False when it is known or cannot be of this ring."""
        if seq <= self.aru or seq in self.store or seq > self.aru + self.ahead_max:
            return False
        self.store[seq] = packet
        self.high = max(self.high, seq)
        while self.aru + 1 in self.store:
            self.aru += 1
        return True

    def missing(self, upto: int, limit: int) -> list[int]:
        """The first packets that are not here, at most limit of them."""
        found: list[int] = []
        if self.aru >= upto:
            return found
        for seq in range(self.aru + 1, upto + 1):
            if seq not in self.store:
                found.append(seq)
                if len(found) == limit:
                    break
        return found

    def release(self, upto: int) -> None:
        """Forget what everybody has; what was not yet delivered here stays."""
        upto = min(upto, self.delivered)
        while self.released < upto:
            self.released += 1
            self.store.pop(self.released, None)

    def skip_recovered(self) -> None:
        """Packets of an old ring are used when they come: count them as delivered, so that they can be released."""
        while self.delivered < self.aru and self.store[self.delivered + 1].recovered:
            self.delivered += 1
