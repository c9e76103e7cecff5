"""A node with the quorum disk: the cluster stack, and the daemon's QdiskMachine on a disk that all nodes share.

What cman.qdisk.shell does with threads is done here with events: read all blocks, ask the machine, write one block
after the other, give the ring the master's word. Between two of these anything may happen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cman.node import NodeMachine
from cman.qdisk.machine import Kill, QdiskMachine, Stop, Write
from cman.qdisk.machine import Reboot as DiskReboot
from cman.qdisk.ondisk import Status
from cman.qdisk.settings import QdiskSettings
from cman.quorum import Standing
from cman.totem import RingId
from sim.cluster_stack import ClusterProcess, Reboot
from sim.kernel import MS, Observe

NO_DISK_MS = 1000               # the disk is looked at first so long after the start
GOOD = (1, 1)


@dataclass(frozen=True, slots=True)
class DiskRead:
    """Read all blocks, then call disk_read with them, or with None."""


@dataclass(frozen=True, slots=True)
class DiskWrite:
    """Write a block, then call disk_written with whether it could be."""

    status: Status


@dataclass(frozen=True, slots=True)
class Promise:
    """For checkers: this node, the disk's master, has said that it has the votes until then, by its own clock."""

    until_ns: int


@dataclass(frozen=True, slots=True)
class DiskCounts:
    """For checkers: by whose word the disk's votes count in this node's ring, as it sees it; 0: they do not."""

    holder: int
    members: tuple[int, ...]
    ring_id: RingId


class QdiskProcess(ClusterProcess):
    """`machine`: how this life's QdiskMachine is made."""

    def __init__(self, node: NodeMachine, settings: QdiskSettings, machine: Callable[[], QdiskMachine]) -> None:
        super().__init__(node)
        self.settings = settings
        self.qdisk = machine()
        self._due_ns: int | None = None
        self._began_ns = 0
        self._timestamp = 0
        self._writes: list[Status] = []
        self._counts: DiskCounts | None = None

    def start(self, now_ns: int) -> None:
        super().start(now_ns)
        self._due_ns = now_ns + NO_DISK_MS * MS

    def next_timer(self) -> int | None:
        other = super().next_timer()
        return other if self._due_ns is None else self._due_ns if other is None else min(other, self._due_ns)

    def handle_timer(self, now_ns: int) -> None:
        super().handle_timer(now_ns)
        if self._due_ns is not None and self._due_ns <= now_ns:
            if not self.node.ready:
                self._due_ns = now_ns + self.settings.machine.interval_ms * MS
                return
            self._due_ns, self._began_ns = None, now_ns
            self._done.append(DiskRead())

    def disk_read(self, blocks: Mapping[int, Status] | None, now_ns: int) -> None:
        self._now_ns = now_ns
        self._timestamp = max(self._timestamp + 1, now_ns // (1000 * MS))
        gone = [n for n, s in self.node.quorum.standing.items() if s is Standing.OUT]
        found: dict[int, Status | None] = {n: blocks[n] if blocks is not None else None for n in range(1, 17)}
        effects = self.qdisk.cycle(found, GOOD, self.node.members, gone, self._timestamp, self._began_ns)
        for effect in effects:
            if isinstance(effect, Write):
                self._writes.append(effect.status)
            elif isinstance(effect, Kill) and effect.nodeid in self.node.members:
                self.node.control(now_ns, t="kill", node=effect.nodeid)
            elif isinstance(effect, DiskReboot | Stop):
                self._done.append(Reboot(effect.why))
        self._next(now_ns)

    def disk_written(self, good: bool, now_ns: int) -> None:
        self._now_ns = now_ns
        status = self._writes.pop(0)
        if status.nodeid == self.me:
            if good:
                self.qdisk.wrote(self._began_ns)
            else:
                self.qdisk.failed()
        self._next(now_ns)

    def _next(self, now_ns: int) -> None:
        if self._writes:
            self._done.append(DiskWrite(self._writes[0]))
            return
        until_ns = self.qdisk.votes_until_ns()
        if until_ns > now_ns:
            self._done.append(Observe(Promise(until_ns)))
        self.node.disk_word(until_ns, now_ns)
        self._due_ns = max(self._began_ns + self.settings.machine.interval_ms * MS, now_ns)

    def effects(self) -> list[Any]:
        done = super().effects()
        counts = DiskCounts(self.node.disk.holder, self.node.members, self.node.totem.ring_id)
        if self._counts is None or (counts.holder, counts.members) != (self._counts.holder, self._counts.members):
            self._counts = counts
            done.append(Observe(counts))
        return done
