"""The machine as its owner sees it: packets, times and payloads in; effects out.

    machine = TotemMachine(me=1, nodes=(1, 2, 3), config=TotemConfig(), stored_ring_seq=0)
    machine.start(now_ns)
    loop:
        machine.receive(data, source, now_ns)       # all packets that wait, before a timer is handled
        machine.handle_timer(now_ns)                # when now_ns >= machine.next_timer()
        machine.submit(payload, now_ns)
        for effect in machine.effects(): ...        # after each of these calls, in order

Times are nanoseconds of one monotonic clock, never going back. `source` is the node that the packet comes from, as
the transport authenticated it; a packet that says otherwise inside is dropped. The machine knows no clock, socket,
file or random number, and runs each call to its end: nobody sees it half way.
"""

from __future__ import annotations

from collections.abc import Iterable

from cman.totem import wire
from cman.totem.config import PAYLOAD_BYTES_MAX
from cman.totem.core import NEVER, State
from cman.totem.effects import Multicast, NodeId, RingId, StoreRingSeq
from cman.totem.membership import Membership

__all__ = ["State", "TotemMachine"]


class TotemMachine(Membership):
    """One node of a totem ring.

    stored_ring_seq is the last StoreRingSeq of this node's earlier lives, 0 on its first day.
    Raises ValueError for node ids that are none.
    """

    # Inputs

    def start(self, now_ns: int) -> None:
        """Begin to seek members; alone after the consensus timeout."""
        self.emit(StoreRingSeq(self.highest_seq))
        self.enter_gather(self.gather, "start", now_ns)

    def receive(self, data: bytes, source: NodeId, now_ns: int) -> None:
        """One packet of another node. Nothing that is in it can raise."""
        if self.state is State.LEFT:
            return
        if source not in self.nodes or source == self.me:
            self.drop(source, "not a configured node")
            return
        try:
            message = wire.decode(data)
        except wire.WireError as error:
            self.drop(source, str(error))
            return
        if message.sender != source:
            self.drop(source, f"says that it is from node {message.sender}")
        elif isinstance(message, wire.Token):
            self.on_token(message, now_ns)
        elif isinstance(message, wire.Mcast):
            self.on_mcast(message, now_ns)
        elif isinstance(message, wire.Join):
            self.on_join(message, now_ns)
        elif isinstance(message, wire.Commit):
            self.on_commit(message, now_ns)
        elif isinstance(message, wire.Merge):
            self.on_merge(message, now_ns)
        else:
            self.on_wake(message, now_ns)

    def submit(self, payload: bytes, now_ns: int) -> bool:
        """Send to all members in agreed order, ourselves included.

        False after leave(), and when the queue is full: a Writable effect tells when there is room again. What was
        accepted is delivered to this node unless it stops first, though perhaps in a later ring. Raises ValueError for
        too long a payload.
        """
        if len(payload) > PAYLOAD_BYTES_MAX:
            raise ValueError(f"a payload of {len(payload)} bytes, at most {PAYLOAD_BYTES_MAX}")
        if self.state is State.LEFT:
            return False
        if not self.queue.push(payload):
            self.refused = True
            return False
        self.wake(now_ns)
        return True

    def leave(self, now_ns: int) -> None:
        """Go in peace: the others form a ring without us at once. The machine does nothing any more."""
        if self.state is State.LEFT:
            return
        if self.state is State.OPERATIONAL:
            self.gather.proc = frozenset(self.ring.members)
        goodbye = Multicast(self.encoded_join(frozenset({self.me})))
        # Twice: a lost one costs the others the token timeout.
        self.emit(goodbye)
        self.emit(goodbye)
        self.stop_timers()
        self.state = State.LEFT
        self.trace("left the ring", ring=self.ring.ring_id)

    def set_nodes(self, nodes: Iterable[NodeId], now_ns: int) -> None:
        """A new configuration: whom we listen to. Members that are no longer in it drop out by silence."""
        self.nodes = frozenset(nodes) | {self.me}
        self.seek_others(now_ns)

    def next_timer(self) -> int | None:
        """When handle_timer wants to be called; None for never."""
        at = min(self.t_token, self.t_retransmit, self.t_hold, self.t_wake, self.t_join, self.t_consensus,
                 self.t_merge)
        return None if at == NEVER else at

    def handle_timer(self, now_ns: int) -> None:
        """Do what is due; too early a call does nothing."""
        if self.t_hold <= now_ns and self.held is not None:
            self.t_token = now_ns + self.config.token_ns
            self.forward(self.ring, self.held, now_ns)
        if self.t_wake <= now_ns:
            self.send_wake(now_ns)
        if self.t_token <= now_ns:
            if self.was_paused(now_ns - self.t_token, state=self.state.value):
                self.t_token = now_ns + self.config.token_ns // 2
            else:
                self.token_lost(now_ns)
                return
        if self.t_retransmit <= now_ns:
            self.retransmit_token(now_ns)
        if self.t_consensus <= now_ns:
            if self.was_paused(now_ns - self.t_consensus, state=self.state.value):
                self.t_consensus = now_ns + self.config.consensus_ns
            else:
                self.consensus_timeout(now_ns)
                return
        if self.t_join <= now_ns:
            self.send_join(now_ns)
        if self.t_merge <= now_ns:
            self.seek_others(now_ns)

    # What it is like now

    @property
    def ring_id(self) -> RingId:
        """Of the last ring that was operational here."""
        return self.ring.ring_id

    @property
    def members(self) -> tuple[NodeId, ...]:
        """Of that ring, sorted."""
        return self.ring.members

    def statistics(self) -> dict[str, int]:
        """Counters since the start, and what waits or is kept now."""
        old = self.recovery.old if self.recovery else self.ring
        return {**self.counters, "queued_bytes": self.queue.bytes_queued, "queued": len(self.queue),
                "kept_packets": len(old.store) + (len(self.recovery.ring.store) if self.recovery else 0)}
