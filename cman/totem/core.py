"""What the phases of the machine share: its state, its timers, its effects.

          +------------------ token lost, join, merge ---------------+
          v                                                          |
    +--------+  consensus,   +--------+  all known  +----------+  all have all  +-------------+
 -->| GATHER |-------------->| COMMIT |------------>| RECOVERY |--------------->| OPERATIONAL |
    +--------+ commit token  +--------+  2nd round  +----------+                +-------------+
       ^  ^                      |                       |                            | leave()
       |  +--- token lost, join -+--- token lost, join --+                            v
       +--- join, consensus timeout (ask again)                                     LEFT

Source: Amir, Moser, Melliar-Smith, Agarwal, Ciarfella: The Totem Single-Ring Ordering and Membership Protocol, ACM
TOCS 13 (1995); behaviour beyond it (holding the token, merge detection) is corosync's.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

from cman.totem import wire
from cman.totem.config import TotemConfig
from cman.totem.effects import Deliver, Effect, Multicast, NodeId, RingId, SendTo, Trace, Writable
from cman.totem.gather import Gather
from cman.totem.pack import Reassembly, SendQueue
from cman.totem.recovery import Recovery
from cman.totem.ring import Packet, Ring

NEVER = 1 << 63
# Times in a row that a late timer of our own is taken for our own fault.
GRACES_MAX = 2


class State(enum.Enum):
    """The states of the paper, and LEFT: this node takes no part any more."""

    GATHER = "GATHER"
    COMMIT = "COMMIT"
    RECOVERY = "RECOVERY"
    OPERATIONAL = "OPERATIONAL"
    LEFT = "LEFT"


class Core:
    """State of one node. Times are absolute nanoseconds of a monotonic clock; NEVER is a timer that is off."""

    def __init__(self, me: NodeId, nodes: Iterable[NodeId], config: TotemConfig, stored_ring_seq: int) -> None:
        self.me = me
        self.config = config
        self.nodes = frozenset(nodes) | {me}
        # Foreign nodes that did not answer, and until when we do not seek them.
        self.shunned: dict[NodeId, int] = {}
        if any(not 0 < node < 1 << 32 for node in sorted(self.nodes)):
            raise ValueError(f"node ids are 1 to {(1 << 32) - 1}: {sorted(self.nodes)}")
        self.state = State.GATHER
        # One beyond the stored one: the ring of before the restart must not be taken for this one.
        self.highest_seq = stored_ring_seq + 1
        # The last ring that was operational here; the old ring while a new one is made.
        self.ring = Ring(RingId(self.highest_seq, me), (me,), me, config)
        self.gather = Gather(me, frozenset())
        self.commit: RingId | None = None
        self.commit_hop = 0
        self.commit_seq = 0
        self.recovery: Recovery | None = None
        self.queue = SendQueue(config.queue_bytes_max)
        self.reassembly = Reassembly()
        # The token while it rests here, and the packet that we passed it on with.
        self.held: wire.Token | None = None
        self.looped: wire.Token | None = None
        self.woken = False
        self.passed = b""
        self.passed_to: NodeId = 0
        self.refused = False
        self.graces = 0
        # For people: when the token was last here, when it had been when the ring broke, since when members are sought,
        # when this ring opened.
        self.seen_ns = self.lost_ns = self.sought_ns = self.opened_ns = 0
        self.room = config.mtu_bytes - wire.MCAST_OVERHEAD
        self.t_token = self.t_retransmit = self.t_hold = self.t_wake = NEVER
        self.t_join = self.t_consensus = self.t_merge = NEVER
        self.counters = {"tokens": 0, "token_retransmits": 0, "token_losses": 0, "sent": 0, "resent": 0, "received": 0,
                         "delivered": 0, "dropped": 0, "rings": 0, "pauses": 0, "rotations": 0, "rotations_ns": 0}
        self._effects: list[Effect] = []

    # Effects

    def effects(self) -> list[Effect]:
        """What is to be done, in order; the list is handed over."""
        done, self._effects = self._effects, []
        return done

    def emit(self, effect: Effect) -> None:
        self._effects.append(effect)

    def trace(self, event: str, **values: object) -> None:
        self._effects.append(Trace(event, tuple(values.items())))

    def warn(self, event: str, **values: object) -> None:
        self._effects.append(Trace(event, tuple(values.items()), warning=True))

    def drop(self, source: NodeId, reason: str) -> None:
        """A packet that changes nothing."""
        self.counters["dropped"] += 1
        self.trace("packet dropped", node=source, reason=reason)

    def pass_on(self, node: NodeId, data: bytes, now_ns: int, rest_ns: int = 0) -> None:
        """Send a token and be ready to send it again; it may rest at its next stop for rest_ns."""
        self.passed, self.passed_to = data, node
        self.t_retransmit = now_ns + self.config.retransmit_ns + rest_ns
        self._effects.append(SendTo(node, data))

    def multicast(self, ring: Ring, seq: int, packet: Packet) -> None:
        """Send a packet of a ring, for the first time or again."""
        self._effects.append(Multicast(self.encoded(ring, seq, packet)))

    def encoded(self, ring: Ring, seq: int, packet: Packet) -> bytes:
        return wire.encode_mcast(wire.Mcast(self.me, ring.ring_id, packet.origin, seq, packet.recovered, packet.body))

    # Deliveries

    def deliver(self, ring: Ring) -> None:
        """Hand up what has no gap before it."""
        while ring.delivered < ring.aru:
            ring.delivered += 1
            packet = ring.store[ring.delivered]
            if not packet.recovered:
                self.hand_up(ring, ring.delivered, packet)

    def hand_up(self, ring: Ring, seq: int, packet: Packet) -> None:
        try:
            payloads = self.reassembly.feed(packet.origin, packet.body)
        except wire.WireError as error:
            self.drop(packet.origin, str(error))
            return
        for payload in payloads:
            self.counters["delivered"] += 1
            self._effects.append(Deliver(packet.origin, payload, ring.ring_id, seq))

    def tell_writable(self) -> None:
        """After submit() refused: there is room again."""
        if self.refused and self.queue.has_room():
            self.refused = False
            self._effects.append(Writable())

    # Timers

    def stop_timers(self) -> None:
        self.t_token = self.t_retransmit = self.t_hold = self.t_wake = NEVER
        self.t_join = self.t_consensus = self.t_merge = NEVER
        self.held = self.looped = None
        self.woken = False

    def was_paused(self, late_ns: int, **values: object) -> bool:
        """Whether a timer that accuses others is so late that it was us who stood still; they get another chance."""
        if late_ns < self.config.pause_ns or self.graces >= GRACES_MAX:
            return False
        self.graces += 1
        self.counters["pauses"] += 1
        self.warn("this node was paused", late_ms=late_ns // 1_000_000, **values)
        return True
