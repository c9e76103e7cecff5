"""One machine, or a few in a quiet network: the life of a ring, its answers to each fault, and to nonsense."""

from __future__ import annotations

import random

import pytest

from cman.totem import (
    ConfigChange,
    Deliver,
    Kind,
    Multicast,
    RingId,
    SendTo,
    State,
    StoreRingSeq,
    TotemConfig,
    TotemMachine,
    Trace,
    Writable,
    wire,
)
from sim.kernel import MS, Kernel, SimNode
from sim.network import Network, NetworkOptions
from sim.totem_stack import build_totem


class Cluster:
    """Machines on a quiet network, and what they showed."""

    def __init__(self, count: int, **settings: int) -> None:
        nodes = list(range(1, count + 1))
        self.network = Network(NetworkOptions(delay_mean_ns=0), random.Random(1))
        self.kernel = Kernel(nodes, build_totem(nodes, TotemConfig(**settings)), self.network)
        self.seen: dict[int, list[object]] = {n: [] for n in nodes}
        self.kernel.watch(self.watch)

    def watch(self, node: SimNode, what: object, now_ns: int) -> None:
        self.seen[node.node_id].append(what)

    def start(self) -> Cluster:
        for node in self.kernel.nodes:
            self.kernel.power_on(node)
        assert self.kernel.run_for(2000 * MS, lambda: self.together(*self.kernel.nodes))
        return self

    def machine(self, node: int) -> TotemMachine:
        return self.kernel.nodes[node].process.machine

    def together(self, *nodes: int) -> bool:
        return all(self.machine(n).state is State.OPERATIONAL and self.machine(n).members == nodes for n in nodes)

    def payloads(self, node: int) -> list[bytes]:
        return [x.payload for x in self.seen[node] if isinstance(x, Deliver)]

    def views(self, node: int) -> list[ConfigChange]:
        return [x for x in self.seen[node] if isinstance(x, ConfigChange) and x.kind is Kind.REGULAR]

    def submit(self, node: int, payload: bytes) -> None:
        assert self.kernel.call(node, lambda p, now: p.submit(payload, now))


def test_alone_a_node_is_its_own_ring() -> None:
    machine = TotemMachine(7, (7,), TotemConfig(), 41)
    machine.start(0)
    first = machine.effects()
    assert first[0] == StoreRingSeq(42)
    machine.handle_timer(machine.config.consensus_ns)
    view = [e for e in machine.effects() if isinstance(e, ConfigChange)][-1]
    assert (view.kind, view.members, view.ring_id) == (Kind.REGULAR, (7,), RingId(43, 7))
    assert machine.next_timer() is None
    assert machine.submit(b"hello", 10**9)
    assert Deliver(7, b"hello", RingId(43, 7), 1) in machine.effects()


def test_all_come_together_with_one_view() -> None:
    cluster = Cluster(4).start()
    assert [v.members for v in cluster.views(1)] == [(1, 2, 3, 4)]
    assert len({cluster.machine(n).ring_id for n in range(1, 5)}) == 1


def test_everybody_delivers_in_one_order() -> None:
    cluster = Cluster(3).start()
    for number in range(40):
        for node in (1, 2, 3):
            cluster.submit(node, b"%d from %d" % (number, node) + bytes(number * 40))
        cluster.kernel.run_for(MS // 2)
    cluster.kernel.run_for(100 * MS)
    assert len(cluster.payloads(1)) == 120
    assert cluster.payloads(1) == cluster.payloads(2) == cluster.payloads(3)


def test_an_idle_ring_costs_little_and_wakes_at_once() -> None:
    cluster = Cluster(3).start()
    cluster.kernel.run_for(1000 * MS)
    before = cluster.network.sent
    cluster.kernel.run_for(10_000 * MS)
    assert cluster.network.sent - before < 10 * 1000 / TotemConfig().hold_ms * 3 + 20
    cluster.submit(3, b"fast")
    # The hops of a wake, a token and a packet, not the rest of the hold.
    cluster.kernel.run_for(MS)
    assert cluster.payloads(1) == cluster.payloads(2) == cluster.payloads(3) == [b"fast"]


def test_a_lost_wake_is_sent_again() -> None:
    cluster = Cluster(2, hold_ms=250).start()
    cluster.kernel.run_for(1000 * MS)
    # At the beginning of a rest, so that its end does not come first.
    assert cluster.kernel.run_for(500 * MS, lambda: cluster.machine(1).held is None)
    assert cluster.kernel.run_for(500 * MS, lambda: cluster.machine(1).held is not None)
    cluster.network.cut_link(2, 1)
    cluster.submit(2, b"x")
    cluster.kernel.run_for(MS)
    cluster.network.heal()
    cluster.kernel.run_for(20 * MS)
    assert cluster.payloads(1) == [b"x"]


def test_a_dead_node_is_out_in_about_a_second() -> None:
    cluster = Cluster(4).start()
    cluster.kernel.power_off(3)
    begun = cluster.kernel.now_ns
    assert cluster.kernel.run_for(1300 * MS, lambda: cluster.together(1, 2, 4))
    assert cluster.kernel.now_ns - begun > 500 * MS
    assert (cluster.views(1)[-1].left, cluster.views(1)[-1].joined) == ((3,), ())


def test_a_leaving_node_is_out_at_once() -> None:
    cluster = Cluster(3).start()
    cluster.kernel.call(1, lambda p, now: p.machine.leave(now))
    assert cluster.kernel.run_for(50 * MS, lambda: cluster.together(2, 3))
    assert cluster.machine(1).next_timer() is None
    assert not cluster.machine(1).submit(b"x", 0)


def test_a_quick_restart_is_seen_as_leaving_and_joining() -> None:
    cluster = Cluster(3).start()
    cluster.kernel.power_off(2)
    cluster.kernel.power_on(2)
    cluster.kernel.run_for(1000 * MS)
    view = cluster.views(1)[-1]
    assert (view.members, view.left, view.joined) == ((1, 2, 3), (2,), (2,))


def test_partition_and_merge() -> None:
    cluster = Cluster(5).start()
    cluster.network.partition((1, 2), (3, 4, 5))
    assert cluster.kernel.run_for(2000 * MS, lambda: cluster.together(1, 2) and cluster.together(3, 4, 5))
    cluster.submit(1, b"left")
    cluster.submit(5, b"right")
    cluster.kernel.run_for(100 * MS)
    cluster.network.heal()
    assert cluster.kernel.run_for(3000 * MS, lambda: cluster.together(1, 2, 3, 4, 5))
    assert cluster.views(1)[-1].joined == (3, 4, 5)
    assert cluster.payloads(2) == [b"left"]
    assert cluster.payloads(3) == [b"right"]


def test_one_dead_link_does_not_break_the_ring() -> None:
    """Packets that do not come straight come from others; only the token's own way must hold."""
    cluster = Cluster(3).start()
    cluster.network.cut_link(1, 3)
    for number in range(20):
        cluster.submit(1, b"%d" % number)
        cluster.kernel.run_for(5 * MS)
    cluster.kernel.run_for(200 * MS)
    assert len(cluster.payloads(3)) == 20
    assert len(cluster.views(3)) == 1


@pytest.mark.parametrize("frozen", [False, True])
def test_a_short_pause_costs_nobody_the_membership(frozen: bool) -> None:
    cluster = Cluster(3).start()
    cluster.kernel.pause(2)
    cluster.kernel.run_for(800 * MS)
    cluster.kernel.resume(2, frozen)
    cluster.kernel.run_for(1500 * MS)
    assert cluster.together(1, 2, 3)
    assert all(v.left == () for n in (1, 2, 3) for v in cluster.views(n))


def test_a_paused_node_does_not_accuse() -> None:
    """Its timers are all late when it wakes, before it has read a packet."""
    cluster = Cluster(2).start()
    machine = cluster.machine(1)
    late = machine.next_timer() + 10**10
    machine.handle_timer(late)
    machine.handle_timer(late + MS)
    assert machine.state is State.OPERATIONAL
    assert any(isinstance(e, Trace) and "paused" in e.event for e in machine.effects())
    assert machine.statistics()["pauses"] == 1


def test_stored_ring_number_comes_before_its_packets() -> None:
    machine = TotemMachine(1, (1, 2), TotemConfig(), 0)
    machine.start(0)
    join = wire.encode_join(wire.Join(2, 9, 9, (1, 2), ()))
    machine.effects()
    machine.receive(join, 2, 1)
    effects = machine.effects()
    stored = effects.index(StoreRingSeq(10))
    commits = [i for i, e in enumerate(effects) if isinstance(e, SendTo)]
    assert commits
    assert all(i > stored for i in commits)


def test_foreign_and_damaged_packets_change_nothing() -> None:
    cluster = Cluster(3).start()
    machine, now_ns = cluster.machine(1), 10**12
    token = wire.encode_token(wire.Token(3, machine.ring_id, 1, 0, 0, 0, 0, 0, 0, 0, ()))
    before = (machine.state, machine.ring.token_seq, machine.next_timer())
    dropped = machine.statistics()["dropped"]
    for data, source in ((token, 2), (token, 9), (token, 1), (token[:-1], 3), (b"", 3), (token, 3)):
        machine.receive(data, source, now_ns)
    assert (machine.state, machine.ring.token_seq, machine.next_timer()) == before
    # The last one is in order, only old: it is no reason for a line in the log.
    assert machine.statistics()["dropped"] - dropped == 5
    assert not any(isinstance(e, SendTo | Multicast) for e in machine.effects())


def test_a_full_queue_refuses_and_tells_when_there_is_room() -> None:
    machine = TotemMachine(1, (1, 2), TotemConfig(queue_bytes_max=1 << 20), 0)
    machine.start(0)
    count = 0
    while machine.submit(bytes(100_000), 1):
        count += 1
    assert 9 <= count <= 11
    machine.effects()
    machine.handle_timer(machine.config.consensus_ns)
    effects = machine.effects()
    assert sum(isinstance(e, Deliver) for e in effects) == count
    assert Writable() in effects
    with pytest.raises(ValueError, match="at most"):
        machine.submit(bytes((1 << 20) + 1), 2)


@pytest.mark.parametrize(("settings", "text"), [
    ({"token_ms": 0}, "token_ms"), ({"hold_ms": 400}, "hold_ms"), ({"join_ms": 400}, "join_ms"),
    ({"mtu_bytes": 100}, "mtu_bytes"), ({"max_messages": 100}, "max_messages"), ({"token_ms": 10**9}, "token_ms"),
    ({"queue_bytes_max": 5}, "queue_bytes_max")])
def test_settings_are_checked(settings: dict[str, int], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        TotemConfig(**settings)


def test_retransmissions_fit_into_the_timeout() -> None:
    config = TotemConfig()
    assert config.retransmit_ns * config.token_retransmits_before_loss < config.token_ns
