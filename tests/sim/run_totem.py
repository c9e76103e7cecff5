"""One run of totem alone: faults first (anything may fail but the rules), then peace (everything must come right)."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from cman.totem import State, TotemMachine
from sim.checkers import CRASHES, Violation
from sim.checkers.limits import check_totem_limits
from sim.checkers.synchrony import SynchronyChecker
from sim.faults import Faults
from sim.kernel import MS, Kernel, S, SimNode
from sim.network import Network, NetworkOptions
from sim.options import Options, draw
from sim.rng import stream
from sim.totem_stack import TotemProcess, build_totem

# Within so many token timeouts after the last fault all nodes are in one ring and everything is delivered.
PEACE_TOKENS = 40


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run was like; trace_hash is the same whenever the seed is."""

    seed: int
    hours: float
    events: int
    delivered: int
    changes: int
    faults: int
    trace_hash: int


class TotemRun:
    """A cluster of totem machines with load, faults and checkers."""

    def __init__(self, seed: int, options: Options | None = None,
                 machine: Callable[..., TotemMachine] = TotemMachine) -> None:
        self.seed = seed
        self.options = options or draw(seed)
        nodes = list(range(1, self.options.nodes + 1))
        network = Network(self.options.network, stream(seed, "network"))
        self.kernel = Kernel(nodes, build_totem(nodes, self.options.totem, machine), network)
        self.checker = SynchronyChecker()
        self.kernel.watch(self.checker)
        self.faults = Faults(self.kernel, self.options, stream(seed, "faults"))
        self.rng: random.Random = stream(seed, "workload")
        self.loading = True

    def run(self, duration_ns: int) -> Outcome:
        """Raises Violation, or AssertionError of a machine's own invariant, with the seed in its text."""
        try:
            self.start()
            self.kernel.run_for(duration_ns)
            self.make_peace()
        except CRASHES as error:
            raise Violation(f"seed={self.seed} at {self.kernel.now_ns / S:.6f} s: {error!r}; {self.options}") from error
        kernel = self.kernel
        return Outcome(self.seed, kernel.now_ns / (3600 * S), kernel.events, self.checker.delivered,
                       self.checker.changes, sum(self.faults.begun.values()), kernel.trace_hash)

    def start(self) -> None:
        for node_id in self.kernel.nodes:
            self.kernel.after(self.rng.randrange(300 * MS), self.kernel.power_on, node_id)
            self.kernel.after(self.rng.randrange(S), self.load, node_id)
        self.kernel.after(self.options.totem.token_ns, self.look_at_limits)
        self.faults.begin()

    def load(self, node_id: int) -> None:
        """Submit a burst, and again later."""
        if not self.loading:
            return
        node = self.kernel.nodes[node_id]
        for _ in range(self.rng.randint(1, self.options.burst_max)):
            self.submit(node, self.rng.randint(0, self.options.size_max))
        self.kernel.after(int(self.rng.expovariate(1.0) * self.options.submit_every_ns) + 1, self.load, node_id)

    def submit(self, node: SimNode, size: int) -> None:
        payload = self.checker.submit(node.node_id, node.life, size)

        def push(process: TotemProcess, now_ns: int) -> None:
            # Counted before its effects are routed: alone in a ring a node delivers at once.
            if process.machine.state is not State.LEFT and process.submit(payload, now_ns):
                self.checker.accepted(node.node_id, node.life)
        self.kernel.call(node.node_id, push)

    def look_at_limits(self) -> None:
        for node in self.kernel.nodes.values():
            if node.process is not None:
                check_totem_limits(node.process.machine)
        self.kernel.after(self.options.totem.token_ns, self.look_at_limits)

    def make_peace(self) -> None:
        """No more faults: one ring, everything delivered, in time."""
        self.faults.stop()
        self.loading = False
        self.kernel.network.set_options(NetworkOptions())
        budget_ns = PEACE_TOKENS * self.options.totem.token_ns + 10 * S
        if not self.kernel.run_for(budget_ns, self.at_peace):
            states = [(n.node_id, n.process and (n.process.machine.state.value, str(n.process.machine.ring_id),
                                                 n.process.machine.members)) for n in self.kernel.nodes.values()]
            raise Violation(f"no peace within {budget_ns / S:.0f} s: {states}")

    def at_peace(self) -> bool:
        """Looked at after each event: the cheap questions first."""
        nodes = list(self.kernel.nodes.values())
        ring_id = nodes[0].process.machine.ring_id
        return all(n.process.machine.state is State.OPERATIONAL and n.process.machine.ring_id == ring_id
                   and len(n.process.machine.members) == len(nodes) for n in nodes) \
            and all(self.checker.own_delivered((n.node_id, n.life)) for n in nodes)


def run_totem(seed: int, duration_ns: int, machine: Callable[..., TotemMachine] = TotemMachine) -> Outcome:
    return TotemRun(seed, machine=machine).run(duration_ns)
