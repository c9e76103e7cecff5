"""A cluster in memory: ordered groups with virtual synchrony, quorum, nodes and processes that die."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import trio

from cman import client
from cman.client import Reason
from cman.cpg import Member, NodeId
from cman.views import Cluster


class FakeGroup:
    """One process in a group."""

    def __init__(self, cluster: FakeCluster, name: str, me: Member) -> None:
        self.cluster, self.name, self.me = cluster, name, me
        self.send, self.receive = trio.open_memory_channel[client.Event](10000)

    async def mcast(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        for group in self.cluster.groups[self.name]:
            group.send.send_nowait(client.Delivered(self.me, data))

    async def leave(self) -> None:
        if self not in self.cluster.groups[self.name]:
            raise client.Unreachable("cman has ended or cut this client off")
        self.cluster.remove(self, Reason.LEAVE)
        await trio.lowlevel.checkpoint()

    async def next(self) -> client.Event:
        try:
            return await self.receive.receive()
        except trio.EndOfChannel:
            raise client.Unreachable("cman has ended or cut this client off") from None


class FakeCman:
    """What a process of one node has of cman."""

    def __init__(self, cluster: FakeCluster, node: int, pid: int) -> None:
        self.of, self.node, self.pid = cluster, node, pid
        self.groups: list[FakeGroup] = []
        self.registered: list[str] = []
        self.reports: list[tuple[str, str, bool]] = []

    def report(self, group: str, view: tuple[int, int, int], phase: str, done: bool, detail: str = "") -> None:
        self.reports.append((group, phase, done))

    async def explain(self, facts: Callable[[], Awaitable[Mapping[str, object]]]) -> None:
        self.facts = facts
        await trio.sleep_forever()

    async def cluster(self) -> Cluster:
        await trio.lowlevel.checkpoint()
        return self.of.view(self.node)

    async def join(self, name: str) -> FakeGroup:
        await trio.lowlevel.checkpoint()
        group = FakeGroup(self.of, name, Member(NodeId(self.node), self.pid))
        self.groups.append(group)
        members = self.of.groups.setdefault(name, [])
        members.append(group)
        self.of.tell(name, [(group.me, Reason.JOIN)], [])
        return group

    async def ask(self, op: str, **arguments: object) -> dict[str, object]:
        await trio.lowlevel.checkpoint()
        self.of.asked.append((op, arguments))
        return {}

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[trio.MemoryReceiveChannel[Cluster]]:
        send, receive = trio.open_memory_channel[Cluster](1000)
        self.of.watchers.append((self.node, send))
        send.send_nowait(self.of.view(self.node))
        yield receive
        self.of.watchers.remove((self.node, send))

    @asynccontextmanager
    async def register(self, subsystem: str, port: int | None = None) -> AsyncIterator[None]:
        self.registered.append(subsystem)
        yield
        self.registered.remove(subsystem)


class FakeCluster:
    """Nodes 1.. on 127.0.0.x."""

    def __init__(self) -> None:
        self.groups: dict[str, list[FakeGroup]] = {}
        self.watchers: list[tuple[int, trio.MemorySendChannel[Cluster]]] = []
        self.quorate = True
        self.unconfirmed: dict[int, tuple[int, ...]] = {}       # as each node knows it
        self.state = "Cluster-Member"
        self.asked: list[tuple[str, dict[str, object]]] = []
        self.members = [1, 2, 3]
        self.pids = 100         # of the last process; a node that is started anew may give the same ones again
        self._views = 0

    def process(self, node: int) -> FakeCman:
        self.pids += 1
        return FakeCman(self, node, self.pids)

    def view(self, node: int) -> Cluster:
        return Cluster(name="test", cluster_id=1, config_version=1, generation=4, state=self.state,
                       members=self.members, expected_votes=3, disk_votes=0,
                       total_votes=3 if self.quorate else 1, node_votes=1, quorum=2,
                       quorate=self.quorate, unconfirmed=list(self.unconfirmed.get(node, ())), subsystems=0,
                       flags=[], ports=[], node_name=f"node{node}", nodeid=node,
                       multicast="", addresses=[f"127.0.0.{node}"])

    def set_quorate(self, quorate: bool) -> None:
        self.quorate = quorate
        self.changed()

    def set_unconfirmed(self, *nodes: int, at: tuple[int, ...] = (1, 2, 3)) -> None:
        """Word of a fencing does not reach all at once: these wait for these nodes."""
        self.unconfirmed.update((node, nodes) for node in at)
        self.changed()

    def changed(self) -> None:
        for node, watcher in self.watchers:
            watcher.send_nowait(self.view(node))

    def tell(self, name: str, joined: list[tuple[Member, Reason]], left: list[tuple[Member, Reason]]) -> None:
        members = tuple(sorted(g.me for g in self.groups[name]))
        self._views += 1
        for group in self.groups[name]:
            group.send.send_nowait(client.Configuration(members, tuple(joined), tuple(left), (self._views, 1, 0)))

    def remove(self, group: FakeGroup, reason: Reason) -> None:
        self.groups[group.name].remove(group)
        if reason is Reason.LEAVE:
            members = tuple(sorted(g.me for g in self.groups[group.name]))
            group.send.send_nowait(client.Configuration(members, (), ((group.me, reason),)))
        else:
            group.send.close()
        self.tell(group.name, [], [(group.me, reason)])

    def end(self, process: FakeCman) -> None:
        """The connection of a process has ended: it is out of every group that it did not leave."""
        for groups in list(self.groups.values()):
            for group in [g for g in groups if g in process.groups]:
                self.remove(group, Reason.PROCDOWN)

    def kill(self, node: int, reason: Reason = Reason.NODEDOWN) -> None:
        """Every group of it is gone at once."""
        for groups in list(self.groups.values()):
            for group in [g for g in groups if g.me.node == node]:
                self.remove(group, reason)
