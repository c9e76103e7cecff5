"""One run of the cluster stack: groups, quorum and fencing over totem, under faults, then in peace."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cman.cpg import CpgMachine
from cman.quorum import QuorumMachine
from cman.totem import State
from sim.checkers import Violation
from sim.checkers.groups import GroupChecker, Key
from sim.checkers.quorum import QuorumChecker
from sim.cluster_stack import CMAN_GROUP, ClusterProcess, Fence, Reboot, build_cluster
from sim.faults import Faults
from sim.kernel import MS, Kernel, S, SimNode
from sim.network import Network, NetworkOptions
from sim.options import Options, draw
from sim.rng import stream

GROUPS = ("dlm:one", "fenced", "plock")
PIDS = (11, 12)
PEACE_TOKENS = 80


@dataclass(frozen=True, slots=True)
class ClusterOutcome:
    """What a run was like."""

    seed: int
    hours: float
    events: int
    messages: int
    changes: int
    fenced: int
    working: int
    faults: int
    trace_hash: int


class ClusterFaults(Faults):
    """As for totem; who leaves says goodbye first and waits until everybody has heard it."""

    def leave(self) -> None:
        node_id = self.one()
        self.kernel.call(node_id, lambda process, now_ns: process.say_leaving(now_ns))
        self.kernel.after(300 * MS, self.go, node_id, self.kernel.nodes[node_id].life)

    def go(self, node_id: int, life: int) -> None:
        if self.kernel.nodes[node_id].life == life:
            self.kernel.call(node_id, lambda process, now_ns: process.machine.leave(now_ns))
            self.kernel.power_off(node_id)
            self.kernel.after(self.lasts(), self.kernel.power_on, node_id)


class ClusterRun:
    """A cluster with processes that join groups, talk and leave."""

    def __init__(self, seed: int, options: Options | None = None, cpg: Callable[..., CpgMachine] = CpgMachine,
                 quorum: Callable[..., QuorumMachine] = QuorumMachine) -> None:
        self.seed = seed
        self.options = options or draw(seed)
        self.rng: random.Random = stream(seed, "workload")
        self.power: random.Random = stream(seed, "power")
        nodes = list(range(1, self.options.nodes + 1))
        two_node = len(nodes) == 2 and self.power.random() < 0.5
        build = build_cluster(dict.fromkeys(nodes, 1), self.options.totem, two_node, cpg, quorum)
        self.kernel = Kernel(nodes, build, Network(self.options.network, stream(seed, "network")))
        self.kernel.routes[Fence] = self.fence
        self.kernel.routes[Reboot] = self.reboot
        self.groups = GroupChecker(ignore=(CMAN_GROUP,))
        self.quorum = QuorumChecker(self.kernel)
        self.kernel.watch(self.groups)
        self.kernel.watch(self.quorum)
        self.faults = ClusterFaults(self.kernel, self.options, stream(seed, "faults"))
        self.fenced = 0
        self.loading = True

    # Power

    def fence(self, node: SimNode, effect: Fence) -> None:
        """An agent takes a while, and now and then it fails."""
        self.kernel.after(self.faults.wait(500 * MS), self.fence_now, node, node.life, effect.victim)

    def fence_now(self, node: SimNode, life: int, victim: int) -> None:
        if node.process is None or node.life != life:
            return
        if node.paused:
            self.kernel.after(500 * MS, self.fence_now, node, life, victim)
            return
        success = self.power.random() < 0.85
        if success:
            self.fenced += 1
            self.kernel.power_off(victim)
            self.kernel.after(self.faults.wait(3000 * MS), self.kernel.power_on, victim)
        self.kernel.call(node.node_id, lambda process, now_ns: process.fence_done(victim, success, now_ns))

    def reboot(self, node: SimNode, effect: Reboot) -> None:
        self.kernel.power_off(node.node_id)
        self.kernel.after(self.faults.wait(2000 * MS), self.kernel.power_on, node.node_id)

    # Load

    def start(self) -> None:
        for node_id in self.kernel.nodes:
            self.kernel.after(self.rng.randrange(300 * MS), self.kernel.power_on, node_id)
            self.kernel.after(self.rng.randrange(S), self.load, node_id)
        self.faults.begin()

    def load(self, node_id: int) -> None:
        if not self.loading:
            return
        node = self.kernel.nodes[node_id]
        self.kernel.call(node_id, lambda process, now_ns: self.act(node, process, now_ns))
        self.kernel.after(int(self.rng.expovariate(1.0) * self.options.submit_every_ns) + 1, self.load, node_id)

    def act(self, node: SimNode, process: ClusterProcess, now_ns: int) -> None:
        """One process joins, talks or leaves."""
        if process.machine.state is State.LEFT:
            return
        group, pid = self.rng.choice(GROUPS), self.rng.choice(PIDS)
        key: Key = (node.node_id, node.life, pid, group)
        joined = process.joined.setdefault((group, pid), False)
        if not joined:
            process.cpg.join(group, pid, now_ns)
            process.joined[(group, pid)] = True
        elif self.rng.random() < 0.05:
            if self.rng.random() < 0.5:
                process.cpg.leave(group, pid, now_ns)
                process.joined[(group, pid)] = False
            else:
                process.cpg.process_gone(pid, now_ns)
                process.joined = {k: v and k[1] != pid for k, v in process.joined.items()}
        else:
            for _ in range(self.rng.randint(1, self.options.burst_max)):
                if process.cpg.mcast(group, pid, self.groups.payload(key), now_ns):
                    self.groups.accepted(key)

    # The run

    def run(self, duration_ns: int) -> ClusterOutcome:
        """Raises Violation with the seed in its text."""
        try:
            self.start()
            self.kernel.run_for(duration_ns)
            self.make_peace()
        except AssertionError as error:
            raise Violation(f"seed={self.seed} at {self.kernel.now_ns / S:.6f} s: {error!r}; {self.options}") from error
        kernel = self.kernel
        return ClusterOutcome(self.seed, kernel.now_ns / (3600 * S), kernel.events, self.groups.messages,
                              self.groups.changes, self.fenced, self.quorum.times,
                              sum(self.faults.begun.values()), kernel.trace_hash)

    def make_peace(self) -> None:
        """No more faults: one ring, tables in sync, everybody quorate and at work."""
        self.faults.stop()
        self.loading = False
        self.kernel.network.set_options(NetworkOptions())
        budget_ns = PEACE_TOKENS * self.options.totem.token_ns + 60 * S
        if not self.kernel.run_for(budget_ns, self.at_peace):
            raise Violation(f"no peace within {budget_ns / S:.0f} s: {[self.describe(n) for n in self.nodes()]}")

    def nodes(self) -> list[SimNode]:
        return list(self.kernel.nodes.values())

    @staticmethod
    def describe(node: SimNode) -> Any:
        process = node.process
        return node.node_id, process and (process.machine.state.value, process.members, process.cpg.synced,
                                          process.active, process.quorum.unconfirmed)

    def at_peace(self) -> bool:
        nodes = self.nodes()
        return all(n.process is not None and n.process.active and n.process.cpg.synced
                   and len(n.process.members) == len(nodes) for n in nodes) \
            and len({str(n.process.cpg.groups()) for n in nodes}) == 1


def run_cluster(seed: int, duration_ns: int, cpg: Callable[..., CpgMachine] = CpgMachine,
                quorum: Callable[..., QuorumMachine] = QuorumMachine) -> ClusterOutcome:
    return ClusterRun(seed, cpg=cpg, quorum=quorum).run(duration_ns)
