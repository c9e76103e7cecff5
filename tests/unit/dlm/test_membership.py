"""Agreement on the members of a lockspace, over a double of the ordered group: same order everywhere, or nothing."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from dlm.membership import (
    Begin,
    ControlError,
    Effect,
    Member,
    Membership,
    Prepare,
    Ready,
    Say,
    Start,
    StopLocking,
    pack,
    unpack,
)


@dataclass
class Process:
    """One member and what it was told to do."""

    machine: Membership
    at: int = 0                                     # events of the group that it has seen
    done: list[Effect] = field(default_factory=list)
    preparing: list[Prepare] = field(default_factory=list)

    def starts(self) -> list[Start]:
        return [e for e in self.done if isinstance(e, Start)]


@dataclass
class Group:
    """Virtual synchrony in memory: one list of events; each member sees them in this order, at its own pace.

    What a member says waits in its queue and may be put into the order long after.
    """

    rng: random.Random
    events: list[tuple[str, tuple[Member, ...], object]] = field(default_factory=list)
    alive: dict[Member, Process] = field(default_factory=dict)
    said: dict[Member, list[bytes]] = field(default_factory=dict)
    ports: int = 0

    def join(self, node: int) -> Member:
        # Numbers come again after a node's restart: they alone identify nobody.
        member = Member(node, 1 + self.ports % 2)
        self.ports += 1
        machine = Membership(member, f"10.0.0.{node}", 21064, 32, 0, rng=random.Random(self.rng.random()))
        self.alive[member] = Process(machine, len(self.events))
        self.said[member] = []
        self.configure([])
        return member

    def lose(self, member: Member, why: str) -> None:
        del self.alive[member]
        del self.said[member]
        self.configure([(member, why)])

    def configure(self, left: list[tuple[Member, str]]) -> None:
        self.events.append(("configuration", tuple(sorted(self.alive)), left))

    def order_one(self, member: Member) -> None:
        if self.said[member]:
            self.events.append(("message", (member,), self.said[member].pop(0)))

    def see_one(self, member: Member) -> None:
        process = self.alive[member]
        if process.at >= len(self.events):
            return
        kind, members, what = self.events[process.at]
        process.at += 1
        if kind == "configuration":
            if member in members:
                self.act(member, process.machine.configuration(members, what))      # type: ignore[arg-type]
        else:
            assert isinstance(what, bytes)
            self.act(member, process.machine.delivered(members[0], what))

    def prepare_one(self, member: Member) -> None:
        process = self.alive[member]
        if process.preparing:
            self.act(member, process.machine.prepared(process.preparing.pop(0).number))

    def act(self, member: Member, effects: list[Effect]) -> None:
        process = self.alive[member]
        for effect in effects:
            process.done.append(effect)
            if isinstance(effect, Say):
                self.said[member].append(effect.data)
            elif isinstance(effect, Prepare):
                process.preparing.append(effect)

    def settle(self) -> None:
        while True:
            before = [(m, p.at, len(self.said[m]), len(p.preparing)) for m, p in sorted(self.alive.items())]
            for member in sorted(self.alive):
                self.order_one(member)
                self.see_one(member)
                self.prepare_one(member)
            if before == [(m, p.at, len(self.said[m]), len(p.preparing)) for m, p in sorted(self.alive.items())]:
                return


def test_one_alone() -> None:
    group = Group(random.Random(1))
    me = group.join(3)
    group.settle()
    assert [type(e) for e in group.alive[me].done] == [StopLocking, Say, Prepare, Say, Start]
    start = group.alive[me].starts()[0]
    assert (start.generation, [n.node_id for n in start.nodes], start.failed) == (1, [3], ())


def test_three_come_one_leaves_one_dies() -> None:
    group = Group(random.Random(1))
    one, two, three = group.join(1), group.join(2), group.join(3)
    group.settle()
    last = {p.starts()[-1] for p in group.alive.values()}
    assert len(last) == 1
    generation = last.pop().generation
    group.lose(three, "leave")
    group.settle()
    assert {(p.starts()[-1].generation, p.starts()[-1].left, p.starts()[-1].failed) for p in group.alive.values()} \
        == {(generation + 1, (3,), ())}
    group.lose(one, "node")
    group.settle()
    prepare = [e for e in group.alive[two].done if isinstance(e, Prepare)][-1]
    assert (prepare.lost, prepare.processes) == ((1,), ())
    assert group.alive[two].starts()[-1].failed == (1,)


def test_a_loss_that_nobody_started_after_is_not_forgotten() -> None:
    group = Group(random.Random(1))
    members = [group.join(n) for n in (1, 2, 3)]
    group.settle()
    group.lose(members[2], "node")
    group.lose(members[1], "process")
    group.join(4)
    group.settle()
    start = group.alive[members[0]].starts()[-1]
    assert (start.failed, [n.node_id for n in start.nodes]) == ((2, 3), [1, 4])


def test_a_node_that_comes_back_is_another_one() -> None:
    group = Group(random.Random(1))
    one, two = group.join(1), group.join(2)
    group.settle()
    before = group.alive[one].starts()[-1].nodes
    group.lose(two, "node")
    group.join(2)
    group.settle()
    after = group.alive[one].starts()[-1]
    assert before[1].incarnation != after.nodes[1].incarnation
    assert after.failed == (2,)


def test_out_of_sight_for_a_while_is_no_failure() -> None:
    """A ring that one member saw and another did not: each has seen the other go and come, and nobody died."""
    one, two = Member(1, 1), Member(2, 1)
    machines = [Membership(m, f"10.0.0.{m.node_id}", 21064, 32, 0, rng=random.Random(m.node_id)) for m in (one, two)]
    starts: list[Start] = []

    def agree() -> None:
        pending = [(m, e) for m in machines for e in m.configuration([one, two], [], [])]
        while pending:
            machine, effect = pending.pop(0)
            if isinstance(effect, Say):
                pending += [(m, e) for m in machines for e in m.delivered(machine.me, effect.data)]
            elif isinstance(effect, Prepare):
                pending += [(machine, e) for e in machine.prepared(effect.number)]
            elif isinstance(effect, Start):
                starts.append(effect)

    for m in machines:
        m.configuration([m.me], [], [m.me])
    agree()
    for m, other in zip(machines, (two, one), strict=True):
        m.configuration([m.me], [(other, "node")])
    agree()
    assert len(starts) == 4
    assert [s.failed for s in starts[2:]] == [(), ()]
    assert starts[2].nodes == starts[0].nodes


def test_nobody_starts_before_all_are_prepared() -> None:
    group = Group(random.Random(1))
    one, two = group.join(1), group.join(2)
    for _ in range(20):
        for m in (one, two):
            group.order_one(m)
            group.see_one(m)
    assert not group.alive[one].starts()
    assert group.alive[one].machine.waits_for() == [1, 2]
    while group.alive[one].preparing:
        group.prepare_one(one)
    for _ in range(20):
        for m in (one, two):
            group.order_one(m)
            group.see_one(m)
    assert not group.alive[one].starts()
    assert group.alive[one].machine.waits_for() == [2]
    group.settle()
    assert group.alive[one].starts()


@pytest.mark.parametrize("case", range(150))
def test_everybody_starts_with_the_same(rng: random.Random, case: int) -> None:
    """Random joins, losses and delays: starts with one generation are the same start, and the last one is shared."""
    rng.seed(f"{rng.random()}/{case}")
    group = Group(rng)
    starts: dict[tuple[int, int], Start] = {}
    gone: list[Process] = []
    for _ in range(400):
        if group.alive and rng.random() < 0.95:
            member = rng.choice(sorted(group.alive))
            rng.choice([group.order_one, group.see_one, group.see_one, group.prepare_one])(member)
        elif rng.random() < 0.55:
            free = [n for n in range(1, 6) if n not in {m.node_id for m in group.alive}]
            if free:
                group.join(rng.choice(free))
        elif group.alive:
            member = rng.choice(sorted(group.alive))
            gone.append(group.alive[member])
            group.lose(member, rng.choice(["leave", "process", "node"]))
    group.settle()
    for process in [*group.alive.values(), *gone]:
        seen = [s.generation for s in process.starts()]
        assert seen == sorted(set(seen)), "generations only rise"
        for start in process.starts():
            # Two components that never shared a member may use one number twice: the members tell them apart.
            key = (start.generation, hash(start.nodes))
            assert starts.setdefault(key, start).nodes == start.nodes
    last = {p.starts()[-1].nodes: p.starts()[-1].generation for p in group.alive.values()}
    assert len(last) <= 1
    for nodes in last:
        assert [n.node_id for n in nodes] == [m.node_id for m in sorted(group.alive)]


def test_two_processes_of_one_node() -> None:
    """Who came second has to go, or the one with the larger number; until then nobody begins."""
    def fresh(port: int) -> Membership:
        return Membership(Member(1, port), "10.0.0.1", 21064, 32, 0, rng=random.Random(1))
    both = [Member(1, 5), Member(1, 9)]
    with pytest.raises(ControlError, match="another process of node 1"):
        fresh(5).configuration(both, [], [Member(1, 5)])
    with pytest.raises(ControlError, match="another process of node 1"):
        fresh(9).configuration(both, [], both)
    assert fresh(5).configuration(both, [], both) == [StopLocking()]
    there = fresh(5)
    there.configuration([Member(1, 5)], [], [Member(1, 5)])
    assert there.configuration(both, [], [Member(1, 9)]) == [StopLocking()]
    assert len(there.configuration([Member(1, 5)], [(Member(1, 9), "leave")])) == 2


def test_different_lock_values_are_refused() -> None:
    machine = Membership(Member(1, 1), "10.0.0.1", 21064, 32, 0, rng=random.Random(1))
    machine.configuration([Member(1, 1), Member(2, 1)], [])
    machine.delivered(Member(1, 1), pack(Begin(5)))
    with pytest.raises(ControlError, match="node 2 has a lock value of 64 bytes"):
        machine.delivered(Member(2, 1), pack(Ready(5, "10.0.0.2", 21064, 1, 0, 64, 0)))


@pytest.mark.parametrize("kernel", [False, True])
def test_a_kernel_without_its_speaker_is_lost(kernel: bool) -> None:
    """A process that dies takes its locks along; a kernel goes on writing, so its node is to be fenced."""
    one, two = Member(1, 1), Member(2, 1)
    machine = Membership(one, "10.0.0.1", 21064, 32, 0, rng=random.Random(1))
    machine.configuration([one, two], [])
    machine.delivered(one, pack(Begin(5)))
    machine.delivered(one, pack(Ready(5, "10.0.0.1", 21064, 1, 0, 32, 0)))
    machine.delivered(two, pack(Ready(5, "10.0.0.2", 21064, 1, 0, 32, 0, kernel)))
    assert machine.phase == "running"
    machine.configuration([one], [(two, "process")])
    prepare, = machine.delivered(one, pack(Begin(6)))
    assert isinstance(prepare, Prepare)
    assert (prepare.lost, prepare.processes, prepare.kernels) == (((2,), (), (2,)) if kernel else ((), (2,), ()))


def test_messages_survive_packing() -> None:
    for message in (Begin(1 << 60), Ready(7, "fe80::1", 65535, 0xffffffff, 9, 32, 3, True)):
        assert unpack(pack(message)) == message


@pytest.mark.parametrize("case", range(30))
def test_noise_is_refused(rng: random.Random, case: int) -> None:
    rng.seed(f"{rng.random()}/{case}")
    good = [pack(Begin(3)), pack(Ready(3, "10.0.0.1", 21064, 1, 2, 32, 0))]
    machine = Membership(Member(1, 1), "10.0.0.1", 21064, 32, 0, rng=random.Random(1))
    machine.configuration([Member(1, 1), Member(2, 1)], [])
    for _ in range(300):
        data = bytearray(rng.choice(good))
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        before = (machine.phase, machine.generation, machine.members)
        try:
            unpack(bytes(data[:rng.randrange(len(data) + 1)]))
        except ControlError:
            with pytest.raises(ControlError):
                machine.delivered(Member(2, 1), b"")
        assert before == (machine.phase, machine.generation, machine.members)
