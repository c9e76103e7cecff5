"""One run of the cluster stack: the daemon's machine with groups, quorum and fencing, under faults, then in peace."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cman.ccs.load import load
from cman.cpg import CpgMachine
from cman.node import NodeMachine
from cman.quorum import QuorumMachine
from cman.totem import State
from sim.checkers import CRASHES, Violation
from sim.checkers.conf import ConfChecker
from sim.checkers.groups import GroupChecker, Key
from sim.checkers.quorum import QuorumChecker
from sim.cluster_stack import ClusterProcess, Fence, Reboot, build_cluster, cluster_conf
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
    """As for totem; who leaves says goodbye in agreed order first, and is switched off when it has heard itself."""

    def leave(self) -> None:
        self.kernel.call(self.one(), lambda process, now_ns: process.leave(now_ns))


class ClusterRun:
    """A cluster with processes that join groups, talk and leave."""

    # What the groups checker does not read: those of a stack on top.
    own_groups: tuple[str, ...] = ()
    # What cluster.conf says of a quorum disk.
    disk_conf = ""
    peace_extra_ns = 0

    def __init__(self, seed: int, options: Options | None = None, cpg: Callable[..., CpgMachine] = CpgMachine,
                 quorum: Callable[..., QuorumMachine] = QuorumMachine) -> None:
        self.seed = seed
        self.options = options or draw(seed)
        self.rng: random.Random = stream(seed, "workload")
        self.power: random.Random = stream(seed, "power")
        nodes = list(range(1, self.options.nodes + 1))
        two_node = len(nodes) == 2 and self.power.random() < 0.5 and not self.disk_conf
        build = build_cluster(len(nodes), self.options.totem, two_node, cpg, quorum, self.process, self.disk_conf)
        self.kernel = Kernel(nodes, build, Network(self.options.network, stream(seed, "network")))
        self.kernel.routes[Fence] = self.fence
        self.kernel.routes[Reboot] = self.reboot
        self.groups = GroupChecker(self.own_groups)
        self.quorum = QuorumChecker(self.kernel)
        self.conf = ConfChecker()
        self.two_node = two_node
        self.version = 1
        self.kernel.watch(self.groups)
        self.kernel.watch(self.conf)
        self.kernel.watch(self.quorum)
        self.faults = ClusterFaults(self.kernel, self.options, stream(seed, "faults"))
        self.fenced = 0
        self.loading = True
        self.updates_refused = 0

    def process(self, node: NodeMachine, sim_node: SimNode) -> ClusterProcess:
        """What runs on a node."""
        return ClusterProcess(node)

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
        if not process.node.ready or process.machine.state is State.LEFT:
            return
        if self.rng.random() < 0.02:
            self.update(process, now_ns)
        group, pid = self.rng.choice(GROUPS), self.rng.choice(PIDS)
        key: Key = (node.node_id, node.life, pid, group)
        joined = process.joined.setdefault((group, pid), False)
        if not joined:
            # As the daemon does when a subsystem registers.
            process.node.dirty = True
            process.node.join_group(group, pid, now_ns)
            process.joined[(group, pid)] = True
        elif self.rng.random() < 0.05:
            if self.rng.random() < 0.5:
                process.node.leave_group(group, pid, now_ns)
                process.joined[(group, pid)] = False
            else:
                process.node.process_gone(pid, now_ns)
                process.joined = {k: v and k[1] != pid for k, v in process.joined.items()}
        else:
            for _ in range(self.rng.randint(1, self.options.burst_max)):
                if process.node.mcast(group, pid, self.groups.payload(key), now_ns):
                    self.groups.accepted(key)

    def update(self, process: ClusterProcess, now_ns: int) -> None:
        """Spread a new configuration: of two at once only one may win."""
        if process.node.quorum.quorate:
            self.version += self.rng.randint(0, 1)
            text = cluster_conf(self.options.nodes, self.version + 1, self.two_node, self.disk_conf)
            try:
                process.node.propose(load(text + b"<!-- %d -->" % process.me), now_ns)
            except ValueError:
                self.updates_refused += 1

    # The run

    def run(self, duration_ns: int) -> ClusterOutcome:
        """Raises Violation with the seed in its text."""
        try:
            self.start()
            self.kernel.run_for(duration_ns)
            self.make_peace()
        except CRASHES as error:
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
        budget_ns = PEACE_TOKENS * self.options.totem.token_ns + 60 * S + self.peace_extra_ns
        if not self.kernel.run_for(budget_ns, self.at_peace):
            raise Violation(f"no peace within {budget_ns / S:.0f} s: {[self.describe(n) for n in self.nodes()]}")

    def nodes(self) -> list[SimNode]:
        return list(self.kernel.nodes.values())

    @staticmethod
    def describe(node: SimNode) -> Any:
        process = node.process
        return node.node_id, process and (process.machine.state.value, process.node.members, process.node.state.value,
                                          process.node.groups.synced, process.node.spread.synced, process.active,
                                          process.node.quorum.unconfirmed)

    def at_peace(self) -> bool:
        nodes = self.nodes()
        return all(n.process is not None and n.process.active and n.process.node.groups.synced
                   and len(n.process.node.members) == len(nodes) for n in nodes) \
            and len({str(n.process.node.groups.groups()) for n in nodes}) == 1 \
            and len({n.process.node.config.digest for n in nodes}) == 1


def run_cluster(seed: int, duration_ns: int, cpg: Callable[..., CpgMachine] = CpgMachine,
                quorum: Callable[..., QuorumMachine] = QuorumMachine) -> ClusterOutcome:
    return ClusterRun(seed, cpg=cpg, quorum=quorum).run(duration_ns)
