"""A member that does not keep the rules: whatever it sends, the machine neither raises nor grows without end."""

from __future__ import annotations

import random

import pytest

from cman.totem import RingId, State, TotemConfig, TotemMachine, wire
from sim.checkers.limits import check_totem_limits

NODES = (1, 2, 3, 4)
MS = 1_000_000


def bring_up(machine: TotemMachine, peers: tuple[int, ...], now_ns: int) -> None:
    """Play the other members until the machine is operational with them."""
    members = tuple(sorted((machine.me, *peers)))
    for _ in range(60):
        now_ns += MS
        for effect in machine.effects():
            data = getattr(effect, "data", None)
            message = wire.decode(data) if data is not None else None
            if isinstance(message, wire.Join):
                for peer in peers:
                    machine.receive(wire.encode_join(wire.Join(peer, 0, 0, members, ())), peer, now_ns)
            elif isinstance(message, wire.Commit):
                entries = tuple(e if e.known else wire.Entry(e.node, True, RingId(1, e.node), 0, 0)
                                for e in message.entries)
                machine.receive(wire.encode_commit(wire.Commit(peers[-1], message.ring, message.hop + len(peers),
                                                               entries)), peers[-1], now_ns)
            elif isinstance(message, wire.Token):
                machine.receive(wire.encode_token(message._replace(sender=peers[-1],
                                                                   token_seq=message.token_seq + len(peers))),
                                peers[-1], now_ns)
        if machine.state is State.OPERATIONAL:
            return
    raise AssertionError(f"not operational but {machine.state}")


class Liar:
    """Makes messages of the right form around the machine's own numbers."""

    def __init__(self, rng: random.Random, machine: TotemMachine) -> None:
        self.rng = rng
        self.machine = machine

    def number(self) -> int:
        ring = self.machine.current() or self.machine.ring
        near = self.rng.choice([0, 1, ring.aru, ring.high, ring.token_seq, self.machine.highest_seq])
        return max(0, min(near + self.rng.randint(-3, 3), 1 << 60)) if self.rng.random() < 0.9 \
            else self.rng.getrandbits(60)

    def ring_id(self) -> RingId:
        known = [self.machine.ring.ring_id, self.machine.commit, RingId(self.number(), self.rng.choice(NODES))]
        return self.rng.choice([r for r in known if r is not None])

    def nodes(self) -> tuple[int, ...]:
        return tuple(sorted(self.rng.sample((*NODES, 9), self.rng.randint(1, 5))))

    def packet(self, sender: int) -> bytes:
        rng, kind = self.rng, self.rng.randrange(7)
        if kind == 0:
            proc = tuple(sorted({*self.nodes(), sender}))
            failed = tuple(n for n in proc if rng.random() < 0.3)
            low, high = sorted((self.number(), self.number()))
            return wire.encode_join(wire.Join(sender, low, high, proc, failed))
        if kind == 1:
            members = self.machine.gather.active if rng.random() < 0.7 else self.nodes()
            entries = []
            for node in members:
                aru, high = sorted((self.number(), self.number()))
                entries.append(wire.Entry(node, rng.random() < 0.7, self.ring_id(), aru, high))
            ring = RingId(self.ring_id().seq + rng.randint(0, 2), members[0])
            return wire.encode_commit(wire.Commit(sender, ring, rng.randint(0, 9), tuple(entries)))
        if kind in (2, 3):
            aru, seq = sorted((self.number(), self.number()))
            rtr = tuple(rng.randint(1, seq) for _ in range(rng.randint(0, 4))) if seq else ()
            return wire.encode_token(wire.Token(sender, self.ring_id(), self.number(), seq, aru,
                                                rng.choice((0, *NODES)), self.number() % 99, self.number() % 99,
                                                rng.randint(0, 3), rng.randint(0, 4), rtr))
        if kind in (4, 5):
            body = rng.randbytes(rng.randint(0, 60))
            recovered = rng.random() < 0.4
            if recovered and rng.random() < 0.8:
                body = wire.wrap(self.ring_id(), rng.choice(NODES), self.number(), body)
            return wire.encode_mcast(wire.Mcast(sender, self.ring_id(), rng.choice(NODES), self.number() + 1,
                                                recovered, body))
        return rng.choice([wire.encode_merge, wire.encode_wake])(wire.Merge(sender, self.ring_id()))


@pytest.mark.parametrize("number", range(40))
def test_lies(rng: random.Random, number: int) -> None:
    me = 1 if number % 2 else rng.choice(NODES)
    machine = TotemMachine(me, NODES, TotemConfig(unacknowledged_max=64), 0)
    peers = tuple(n for n in NODES if n != machine.me)
    machine.start(0)
    if number % 2:
        bring_up(machine, peers, 0)
    liar, now_ns = Liar(rng, machine), 1000 * MS
    for _ in range(300):
        now_ns += rng.choice([1, MS, 100 * MS])
        sender = rng.choice(peers)
        machine.receive(liar.packet(sender), sender, now_ns)
        if rng.random() < 0.2:
            machine.submit(rng.randbytes(rng.randint(0, 3000)), now_ns)
        if (due := machine.next_timer()) is not None and due <= now_ns:
            machine.handle_timer(now_ns)
        machine.effects()
        check_totem_limits(machine)


def test_the_player_brings_a_machine_up() -> None:
    machine = TotemMachine(1, NODES, TotemConfig(), 0)
    machine.start(0)
    bring_up(machine, (2, 3, 4), 0)
    assert machine.members == NODES


def test_two_tokens_break_the_ring() -> None:
    machine = TotemMachine(1, NODES, TotemConfig(), 0)
    machine.start(0)
    bring_up(machine, (2, 3, 4), 0)
    ring = machine.ring
    machine.receive(wire.encode_mcast(wire.Mcast(2, ring.ring_id, 2, ring.high + 1, False, b"")), 2, 10**9)
    machine.receive(wire.encode_token(wire.Token(4, ring.ring_id, ring.token_seq + 9, ring.high - 1, 0, 0, 0, 0, 0, 0,
                                                 ())), 4, 10**9)
    assert machine.state is State.GATHER
