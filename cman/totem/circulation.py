"""The token on its way: what a node does when it has it (RECOVERY and OPERATIONAL).

At each visit: send again what others ask for, send what waits as far as flow control lets, lower or raise the
token's aru, ask for what is missing, release what all have, pass the token on. When nothing happened in the last
rotations the representative lets the token rest; a member with something to send wakes it.
"""

from __future__ import annotations

from cman.totem import wire
from cman.totem.core import NEVER, Core, State
from cman.totem.effects import SendTo
from cman.totem.ring import Packet, Ring

# Rotations without any work before the token rests.
IDLE_ROTATIONS = 2
# How often a node that wants the token wakes its holder until it comes.
WAKE_NS = 15_000_000
# Packets that a node hands to its successor at each visit when nobody else's reach it.
HELP_PACKETS_MAX = 8


class Circulation(Core):
    """The ring's half of the machine."""

    def open_ring(self, now_ns: int) -> None:
        """All have all of their old rings: implemented by the membership half."""
        raise NotImplementedError

    def fail_to_receive(self, now_ns: int) -> None:
        """We lack packets that nobody manages to send us: implemented by the membership half."""
        raise NotImplementedError

    def break_ring(self, reason: str, now_ns: int) -> None:
        """This ring cannot go on: implemented by the membership half."""
        raise NotImplementedError

    def current(self) -> Ring | None:
        """The ring whose token is taken."""
        if self.state is State.OPERATIONAL:
            return self.ring
        return self.recovery.ring if self.recovery else None

    # Packets

    def on_token(self, m: wire.Token, now_ns: int) -> None:
        """Take the token, unless it is an old one or comes from where it cannot come."""
        ring = self.current()
        if ring is None or m.ring != ring.ring_id or m.token_seq <= ring.token_seq or m.sender != ring.predecessor:
            return
        self.circulate(ring, m, now_ns)

    def circulate(self, ring: Ring, token: wire.Token, now_ns: int) -> None:
        """Visit after visit as long as the token comes straight back: in a ring of one."""
        self.looped = token
        while self.looped is not None:
            token, self.looped = self.looped, None
            self.visit(ring, token, now_ns)

    def on_mcast(self, m: wire.Mcast, now_ns: int) -> None:
        """Keep a packet of the new ring, or of the old one as long as no recovery counts on what we have of it."""
        recovery = self.recovery
        if recovery is not None and m.ring == recovery.ring.ring_id:
            ring = recovery.ring
        elif recovery is None and m.ring == self.ring.ring_id:
            ring = self.ring
        else:
            return
        if m.origin not in ring.members:
            self.drop(m.sender, f"a packet of node {m.origin}, which is not in ring {m.ring}")
            return
        if not ring.add(m.seq, Packet(m.origin, m.recovered, m.body)):
            return
        self.counters["received"] += 1
        if recovery is not None:
            if m.recovered:
                self.take_recovered(m.sender, m.body)
            ring.skip_recovered()
        elif self.state is State.OPERATIONAL:
            self.deliver(ring)

    def take_recovered(self, source: int, body: bytes) -> None:
        """A packet of an old ring inside one of the new: ours or of others who come from elsewhere."""
        assert self.recovery is not None
        try:
            ring_id, origin, seq, inner = wire.unwrap(body)
        except wire.WireError as error:
            self.drop(source, str(error))
            return
        old = self.recovery.old
        if ring_id == old.ring_id:
            self.recovery.saw(seq)
            old.add(seq, Packet(origin, False, inner))

    def on_wake(self, m: wire.Wake, now_ns: int) -> None:
        """Let the resting token go; or, when it is on its way, do not let it rest next time."""
        if self.state is not State.OPERATIONAL or m.ring != self.ring.ring_id:
            return
        self.woken = True
        if self.held is not None:
            self.release_token(now_ns)

    # The token

    def visit(self, ring: Ring, token: wire.Token, now_ns: int) -> None:
        """All that happens while the token is here."""
        if token.seq < ring.high:
            # Packets beyond the token: there are two tokens, or a member that does not keep the rules.
            self.break_ring("somebody sent without the token", now_ns)
            return
        ring.token_seq = token.token_seq
        self.counters["tokens"] += 1
        if self.state is State.OPERATIONAL and self.seen_ns > self.opened_ns:
            self.counters["rotations"] += 1
            self.counters["rotations_ns"] += now_ns - self.seen_ns
        self.seen_ns = now_ns
        self.graces = 0
        self.t_token = now_ns + self.config.token_ns if ring.successor != self.me else NEVER
        self.t_retransmit = self.t_wake = self.t_hold = NEVER
        unanswered = self.answer(ring, token.rtr) if token.rtr else []
        seq, sent, left = self.send_waiting(ring, token)
        aru, aru_node = token.aru, token.aru_node
        if ring.aru < aru or aru_node in (0, self.me):
            aru = min(ring.aru, seq)
            aru_node = 0 if aru == seq else self.me
        # Only what was missing a rotation ago is asked for: what was sent since may still be on its way.
        rtr: tuple[int, ...] = ()
        if unanswered or ring.aru < ring.last_seq:
            rtr = self.ask(ring, unanswered)
        if aru_node == ring.successor and aru == ring.last_aru:
            self.help_successor(ring, aru)
        recovering, done = token.recovering, False
        if self.recovery is not None:
            recovering, done = self.recovery.visit(recovering, seq, aru)
        ring.release(min(aru, ring.last_aru))
        ring.last_aru = aru
        busy = sent or left or rtr or aru != seq or seq != ring.last_seq or self.recovery is not None
        idle = 0 if busy else min(token.idle + ring.is_rep, wire.IDLE_MAX)
        ring.last_seq, ring.idle = seq, idle
        total, backlog = ring.flow.account(token.sent, token.backlog, sent, left)
        passed = wire.Token(self.me, ring.ring_id, token.token_seq + 1, seq, aru, aru_node, total, backlog, recovering,
                            idle, rtr)
        if done:
            self.open_ring(now_ns)
        if ring.stuck > self.config.fail_to_recv_rotations:
            self.fail_to_receive(now_ns)
        elif ring.is_rep and idle >= IDLE_ROTATIONS and not self.woken:
            self.held = passed
            self.t_hold = NEVER if len(ring.members) == 1 else now_ns + self.config.hold_ns
        else:
            self.forward(ring, passed, now_ns)
        self.tell_writable()

    def forward(self, ring: Ring, token: wire.Token, now_ns: int) -> None:
        self.held = None
        self.t_hold = NEVER
        self.woken = False
        if ring.successor == self.me:
            self.looped = token
            return
        rest_ns = self.config.hold_ns if token.idle >= IDLE_ROTATIONS - 1 else 0
        self.pass_on(ring.successor, wire.encode_token(token), now_ns, rest_ns)

    def release_token(self, now_ns: int) -> None:
        """The resting token goes on its way, with what waits here."""
        token, self.held = self.held, None
        assert token is not None
        self.circulate(self.ring, token._replace(idle=0) if self.woken or len(self.queue) else token, now_ns)

    def answer(self, ring: Ring, rtr: tuple[int, ...]) -> list[int]:
        """Send again what we have of the requests; the others remain."""
        left = []
        for seq in rtr:
            packet = ring.store.get(seq)
            if packet is None:
                left.append(seq)
            else:
                self.counters["resent"] += 1
                self.multicast(ring, seq, packet)
        return left

    def ask(self, ring: Ring, unanswered: list[int]) -> tuple[int, ...]:
        """The token's new requests, ours among them."""
        missing = ring.missing(ring.last_seq, wire.RTR_MAX)
        ring.stuck = ring.stuck + 1 if missing and ring.aru == ring.last_own_aru else 0
        ring.last_own_aru = ring.aru
        return tuple(sorted({*unanswered, *missing})[:wire.RTR_MAX])

    def help_successor(self, ring: Ring, aru: int) -> None:
        """It lacks the same packet as a rotation ago: who answered it may not reach it, but the token comes from us."""
        for seq in range(aru + 1, aru + 1 + HELP_PACKETS_MAX):
            packet = ring.store.get(seq)
            if packet is not None:
                self.counters["resent"] += 1
                self.emit(SendTo(ring.successor, self.encoded(ring, seq, packet)))

    def send_waiting(self, ring: Ring, token: wire.Token) -> tuple[int, int, int]:
        """Send what flow control allows: (the token's new seq, packets sent, packets left)."""
        recovery = self.recovery
        mine = len(recovery.queue) if recovery is not None else self.queue.packets(self.room)
        if not mine:
            return token.seq, 0, 0
        allowed = ring.flow.allowed(token.sent, token.backlog, mine, token.seq - token.aru)
        seq, sent = token.seq, 0
        while sent < allowed:
            packet = self.next_packet()
            if packet is None:
                break
            seq += 1
            sent += 1
            added = ring.add(seq, packet)
            assert added, "visit() saw to it that the token's next number is free"
            self.multicast(ring, seq, packet)
        self.counters["sent"] += sent
        if recovery is not None:
            ring.skip_recovered()
            return seq, sent, len(recovery.queue)
        self.deliver(ring)
        return seq, sent, self.queue.packets(self.room)

    def next_packet(self) -> Packet | None:
        """The next packet of our own: of the old ring in RECOVERY, of the queue else."""
        if self.recovery is None:
            body = self.queue.take(self.room)
            return Packet(self.me, False, body) if body else None
        seq = self.recovery.next()
        if seq is None:
            return None
        old = self.recovery.old
        packet = old.store[seq]
        return Packet(self.me, True, wire.wrap(old.ring_id, packet.origin, seq, packet.body))

    # Timers

    def wake(self, now_ns: int) -> None:
        """Something waits here: make sure that the token comes soon."""
        if self.state is not State.OPERATIONAL:
            return
        if self.held is not None:
            self.release_token(now_ns)
        elif self.ring.idle and self.t_wake == NEVER and not self.ring.is_rep:
            self.send_wake(now_ns)

    def send_wake(self, now_ns: int) -> None:
        self.t_wake = now_ns + WAKE_NS
        self.emit(SendTo(self.ring.members[0], wire.encode_wake(wire.Wake(self.me, self.ring.ring_id))))

    def retransmit_token(self, now_ns: int) -> None:
        """Nothing shows that the token arrived: send it again."""
        self.counters["token_retransmits"] += 1
        self.pass_on(self.passed_to, self.passed, now_ns)
