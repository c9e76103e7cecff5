"""One run of the whole stack: totem, groups, quorum, fencing, and on top the lock manager with users of its locks."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cman.node import NodeMachine
from cman.totem import State
from dlm.core._lockspace import Lockspace
from dlm.membership import Membership
from sim.checkers import CRASHES, Violation
from sim.checkers.locks import LockChecker, check_empty, check_rest
from sim.cluster_stack import ClusterProcess
from sim.glock_user import Glocks
from sim.kernel import MS, S, SimNode
from sim.lock_stack import GROUP, LockProcess
from sim.options import Options
from sim.rng import stream
from sim.run_cluster import ClusterOutcome, ClusterRun

OPS = ("read", "read", "write", "write", "sync", "cancel")
BURST_MAX = 6


@dataclass(frozen=True, slots=True)
class LockOutcome(ClusterOutcome):
    """What the locks saw, too."""

    grants: int
    reads: int
    values: int
    recoveries: int


@dataclass(frozen=True, slots=True)
class Machines:
    """What planted bugs replace."""

    process: Callable[..., LockProcess] = LockProcess
    space: Callable[..., Lockspace] = Lockspace
    membership: Callable[..., Membership] = Membership
    glocks: Callable[..., Glocks] = Glocks


PLAIN = Machines()


class LockRun(ClusterRun):
    """Nodes join a lockspace when they may work; names are few, so that they meet."""

    own_groups = (GROUP,)

    def __init__(self, seed: int, options: Options | None = None, machines: Machines = PLAIN) -> None:
        self.machines = machines
        self.work: random.Random = stream(seed, "locks")
        self.names = [b"name%d" % i for i in range(self.work.choice([1, 2, 4, 12]))]
        self.hold_ns = self.work.choice([0, 2, 50]) * MS
        super().__init__(seed, options)
        stretch = self.options.totem.token_ns / (1000 * MS)
        self.lock_every_ns = max(self.options.submit_every_ns, int(20 * MS * stretch))
        self.checker = LockChecker(self.kernel)

    def process(self, node: NodeMachine, sim_node: SimNode) -> ClusterProcess:
        rng = stream(self.seed, f"locks {sim_node.node_id} {sim_node.life}")
        machines = self.machines
        return machines.process(
            node, rng, lambda space: machines.glocks(space, node.me, self.checker, rng, self.hold_ns),
            machines.space, machines.membership)

    # Load

    def start(self) -> None:
        super().start()
        for node_id in self.kernel.nodes:
            self.kernel.after(self.work.randrange(S), self.use, node_id)

    def use(self, node_id: int) -> None:
        if not self.loading:
            return
        self.kernel.call(node_id, self.use_locks)
        self.kernel.after(int(self.work.expovariate(1.0) * self.lock_every_ns) + 1, self.use, node_id)

    def use_locks(self, process: LockProcess, now_ns: int) -> None:
        if process.stopping or not process.active or process.machine.state is State.LEFT:
            return
        if not process.in_group:
            process.join_locks(now_ns)
        for _ in range(self.work.randint(1, BURST_MAX)):
            name, op = self.work.choice(self.names), self.work.choice(OPS)
            if op == "cancel":
                process.user.cancel(name)
            else:
                process.user.submit(name, op, now_ns)

    # The run

    def run(self, duration_ns: int) -> LockOutcome:
        outcome = super().run(duration_ns)
        try:
            check_rest(self.lockers())
            self.drain()
        except CRASHES as error:
            raise Violation(f"seed={self.seed} at rest: {error!r}; {self.options}") from error
        return LockOutcome(*dataclasses.astuple(outcome), self.checker.grants, self.checker.reads,
                           self.checker.values, self.checker.recoveries)

    def drain(self) -> None:
        for node in self.lockers():
            self.kernel.call(node.node_id, lambda process, now_ns: process.user.release(now_ns))
        if not self.kernel.run_for(60 * S, lambda: all(self.is_idle(n) for n in self.lockers())):
            raise Violation(f"locks are not given back: {[self.describe(n) for n in self.lockers()]}")
        check_rest(self.lockers())
        check_empty(self.lockers())

    def lockers(self) -> list[SimNode]:
        return [n for n in self.nodes() if n.process is not None and n.process.in_group]

    def at_peace(self) -> bool:
        return super().at_peace() and all(self.is_idle(n) for n in self.lockers())

    def is_idle(self, node: SimNode) -> bool:
        process: Any = node.process
        return (process.space.running and len(process.space.members()) == len(self.lockers())
                and not process.user.pending() and not process.space.statistics().waiting
                and not any(link.peer.unacked_count for node, link in process.links.items()
                            if node in process.space.members()))

    def describe(self, node: SimNode) -> Any:
        process: Any = node.process
        if process is None or not process.in_group:
            return ClusterRun.describe(node)
        return *ClusterRun.describe(node), process.space.phase, process.space.members(), \
            process.lockers and (process.lockers.phase, process.lockers.waits_for()), process.user.pending()


def run_lock(seed: int, duration_ns: int, machines: Machines = PLAIN) -> LockOutcome:
    return LockRun(seed, machines=machines).run(duration_ns)
