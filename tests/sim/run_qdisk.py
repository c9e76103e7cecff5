"""One run of the cluster stack with a quorum disk: paths to it hang and fail, beside all other faults."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from typing import Any

from cman.node import NodeMachine
from cman.qdisk.machine import QdiskMachine
from cman.qdisk.ondisk import SLOTS, Status
from cman.qdisk.settings import settings_of
from cman.qdisk.votes import DiskVotes
from sim.checkers.qdisk import QdiskChecker
from sim.cluster_stack import ClusterProcess
from sim.kernel import MS, SimNode
from sim.options import Options, draw
from sim.qdisk_stack import DiskRead, DiskWrite, QdiskProcess
from sim.rng import stream
from sim.run_cluster import ClusterFaults, ClusterOutcome, ClusterRun

DISK_FAULTS = ("disk_hang", "disk_fail")
RETRY_NS = 50 * MS


class SharedDisk:
    """Blocks that all see; each node's path to them may hang or fail."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.blocks = {n: Status(n) for n in range(1, SLOTS + 1)}
        self.hanging: dict[int, bool] = {}
        self.failing: dict[int, bool] = {}

    def latency_ns(self) -> int:
        """Of half a call: to the disk or back."""
        return int(self.rng.expovariate(1.0) * 2 * MS) + MS // 10


class QdiskFaults(ClusterFaults):
    """Also of the paths to the disk."""

    disk: SharedDisk

    def begin(self) -> None:
        self._do |= {"disk_hang": self.disk_hang, "disk_fail": self.disk_fail}
        super().begin()

    def stop(self) -> None:
        super().stop()
        self.disk.hanging.clear()
        self.disk.failing.clear()

    def disk_hang(self) -> None:
        self._for_a_while(self.disk.hanging)

    def disk_fail(self) -> None:
        self._for_a_while(self.disk.failing)

    def _for_a_while(self, paths: dict[int, bool]) -> None:
        node_id = self.one()
        paths[node_id] = True
        self.kernel.after(self.lasts(), paths.pop, node_id, None)


class QdiskRun(ClusterRun):
    """`machine`, `votes`: how planted bugs come in; faults: whether any happen."""

    def __init__(self, seed: int, options: Options | None = None, machine: Callable[..., QdiskMachine] = QdiskMachine,
                 votes: Callable[[int], DiskVotes] = DiskVotes, faults: bool = True) -> None:
        rng = stream(seed, "qdisk")
        options = options or draw(seed)
        # A machine whose clock stood still believes what it promised before: only fencing helps against that.
        kinds = [f for f in options.faults if f != "freeze"] + [f for f in DISK_FAULTS if rng.random() < 0.6]
        options = dataclasses.replace(options, faults=tuple(kinds) if faults else ())
        self._machine, self._votes = machine, votes
        tko = rng.choice([3, 5, 10, 12])
        interval_ms = int(rng.choice([200, 500, 1000]) * max(1.0, options.totem.token_ms / 2000))
        poll_ms = min(interval_ms * rng.choice([2, 4, tko]), 3_600_000)
        self.disk_conf = (f'<quorumd device="sim" interval="{interval_ms / 1000:.3f}" tko="{tko}" '
                          f'votes="{rng.choice([1, 2, max(1, options.nodes - 1)])}"/>')
        self.poll_ms = max(100, poll_ms)
        # To be dead, elected, evicted and back takes a node some tens of cycles.
        self.peace_extra_ns = 100 * interval_ms * MS
        super().__init__(seed, options)
        self.disk = SharedDisk(rng)
        faults_of = QdiskFaults(self.kernel, self.options, stream(seed, "faults"))
        faults_of.disk = self.disk
        self.faults = faults_of
        self.kernel.routes[DiskRead] = self.read
        self.kernel.routes[DiskWrite] = self.write
        self.checker = QdiskChecker(self.kernel)
        self.kernel.watch(self.checker)

    def process(self, node: NodeMachine, sim_node: SimNode) -> ClusterProcess:
        found = settings_of(node.config)
        assert found is not None
        settings = dataclasses.replace(found, machine=dataclasses.replace(found.machine, poll_ms=self.poll_ms))
        node.disk = self._votes(node.me)
        return QdiskProcess(node, settings,
                            lambda: self._machine(node.me, settings.machine, 1000 * sim_node.node_id + sim_node.life))

    # The disk

    def read(self, node: SimNode, effect: DiskRead) -> None:
        self.kernel.after(self.disk.latency_ns(), self.read_now, node, node.life)

    def read_now(self, node: SimNode, life: int) -> None:
        if node.life != life or node.process is None:
            return
        if self.disk.hanging.get(node.node_id):
            self.kernel.after(RETRY_NS, self.read_now, node, life)
            return
        blocks = None if self.disk.failing.get(node.node_id) else dict(self.disk.blocks)
        self.kernel.after(self.disk.latency_ns(), self.give, node, life,
                          lambda process, now_ns: process.disk_read(blocks, now_ns))

    def write(self, node: SimNode, effect: DiskWrite) -> None:
        self.kernel.after(self.disk.latency_ns(), self.write_now, node, node.life, effect.status)

    def write_now(self, node: SimNode, life: int, status: Status) -> None:
        """What is under way when the power goes is lost; a process that is stopped has already asked for it."""
        if node.life != life or node.process is None:
            return
        if self.disk.hanging.get(node.node_id):
            self.kernel.after(RETRY_NS, self.write_now, node, life, status)
            return
        good = not self.disk.failing.get(node.node_id)
        if good:
            self.disk.blocks[status.nodeid] = status
        self.kernel.after(self.disk.latency_ns(), self.give, node, life,
                          lambda process, now_ns: process.disk_written(good, now_ns))

    def give(self, node: SimNode, life: int, what: Callable[[Any, int], None]) -> None:
        """The answer, when the process runs."""
        if node.life != life or node.process is None:
            return
        if node.paused:
            self.kernel.after(RETRY_NS, self.give, node, life, what)
        else:
            self.kernel.call(node.node_id, what)

    def at_peace(self) -> bool:
        """And the disk counts everywhere."""
        return super().at_peace() and all(n.process.node.disk.ours for n in self.nodes())


def run_qdisk(seed: int, duration_ns: int, **planted: Any) -> tuple[ClusterOutcome, QdiskRun]:
    run = QdiskRun(seed, **planted)
    return run.run(duration_ns), run
