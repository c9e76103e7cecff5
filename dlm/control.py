"""Lockspaces of a cluster: members through an ordered group of cman; the job of dlm_controld, in the process itself.

The order after a change of members, which no path through this module leaves: locking stops on every member; quorum;
every lost node fenced; recovery of the lock manager (dlm.membership says when all are ready); locking goes on. Quorum
and fencing are waited for here: no node may be left that was lost, or never seen, and is not confirmed to be off.

    async with open_cman() as cman, join(cman, "my-gfs2") as space:
        async with space.lock("name", LockMode.EX):
            ...
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import random
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from contextlib import asynccontextmanager
from typing import Generic, Protocol, TypeVar

import trio

from cman import client
from cman.client import Reason
from cman.views import Cluster
from dlm import deadlock
from dlm.core import events
from dlm.core.errors import DlmError
from dlm.inspect import Server
from dlm.locks import Lockspace, RecoveryEvent
from dlm.membership import ControlError, Effect, Member, Membership, Prepare, Say, Start, StartNode, StopLocking
from dlm.node import DlmNode, open_node
from dlm.transport import DLM_PORT, Node, TransportError

log = logging.getLogger("dlm.control")

NAME_MAX = 64
SAY_MAX = 256                   # messages that wait for the group; two are said per change
LEAVE_LIMIT_S = 10.0
LOG_LINES_MAX = 200             # of its history that a control keeps for `dlm_tool dump`


class JoinRefused(DlmError):
    """The lockspace cannot be joined; the text says why."""


class GroupPort(Protocol):
    """What is needed of a group; cman.client.Group is one."""

    me: client.Member

    async def mcast(self, data: bytes) -> None: ...
    async def leave(self) -> None: ...
    async def next(self) -> client.Event: ...


class CmanPort(Protocol):
    """What is needed of cman; cman.client.Cman is one."""

    async def cluster(self) -> Cluster: ...
    async def join(self, name: str) -> GroupPort: ...
    def report(self, group: str, view: tuple[int, int, int], phase: str, done: bool, detail: str = "") -> None: ...
    def watch(self) -> contextlib.AbstractAsyncContextManager[trio.MemoryReceiveChannel[Cluster]]: ...
    def register(self, subsystem: str, port: int | None = None) -> contextlib.AbstractAsyncContextManager[None]: ...


def global_id(name: str) -> int:
    """The number of a lockspace on the wire: the same on all nodes, never 0."""
    return zlib.crc32(f"dlm:ls:{name}".encode()) or 1


def member_of(m: client.Member) -> Member:
    return Member(m.node, m.pid)


class SpacePort(Protocol):
    """What is needed of a lockspace; dlm.locks.Lockspace is one, dlm.kernel.KernelSpace another."""

    @property
    def name(self) -> str: ...
    def stop(self) -> None: ...


Space = TypeVar("Space", bound=SpacePort)
SpaceIn = TypeVar("SpaceIn", bound=SpacePort, contravariant=True)


class NodePort(Protocol[SpaceIn]):
    """What is needed of a node; dlm.node.DlmNode is one for lockspaces of a process, dlm.kernel.KernelDlm another."""

    @property
    def local(self) -> Node: ...
    def lose(self, space: SpaceIn, node_id: int) -> None: ...
    def expect(self, node_id: int) -> None: ...
    def know(self, name: str, nodes: Iterable[Node]) -> None: ...
    def start(self, space: SpaceIn, nodes: Iterable[events.Node], *, left: Collection[int] = ()) -> None: ...


REASONS = {Reason.LEAVE: "leave", Reason.PROCDOWN: "process"}


class Control(Generic[Space]):
    """The membership of one lockspace. Made by `join`, and by dlm.kernel.hold."""

    def __init__(self, node: NodePort[Space], space: Space, group: GroupPort, *, lvb_bytes: int, flags: int,
                 cluster: Callable[[], Awaitable[Cluster]], rng: random.Random,
                 on_note: Callable[[str], object] | None = None, kernel: bool = False) -> None:
        self.node, self.space, self.group = node, space, group
        self.quorate = False
        self.history: list[str] = []
        self.started = trio.Event()
        self.failed = ""
        self.on_deadlock: Callable[[bytes], object] | None = None
        # The view of the group that is dealt with, the last one that was started with, and since when what is so.
        self.view = self.started_view = (0, 0, 0)
        self._came: dict[Member, tuple[int, int, int]] = {}     # the views in which lives of members began
        self.since_s = trio.current_time()
        self.on_start: Callable[[], object] = lambda: None
        self._wants, self._wanted = "", tuple[int, ...]()
        self.forsaken = False                   # to be left as a process that dies: the others recover from it
        self._cluster, self._on_note = cluster, on_note
        self._unconfirmed: tuple[int, ...] = ()
        self._kernels: set[int] = set()         # nodes whose kernel goes on with nobody to speak for it
        self._machine: Membership | None = None
        self._make: Callable[[Member], Membership] = lambda me: Membership(
            me, node.local.address, node.local.port, lvb_bytes, flags, rng=rng, kernel=kernel)
        self._changed = trio.Event()            # what cman tells; replaced at each change
        self._say, self._said = trio.open_memory_channel[bytes](SAY_MAX)
        self._preparing: trio.CancelScope | None = None
        self._nursery: trio.Nursery | None = None

    @property
    def machine(self) -> Membership | None:
        return self._machine

    def still_has(self, node: int, number: int, gone_in: tuple[int, int, int]) -> bool:
        """Whether a process that was seen to go in another group, in that view, is a member here as yet.

        A number tells processes of one life of a node apart: the same one in the next life is another process. Who
        comes back with its node, out of sight for a while, is the same one.
        """
        member = Member(node, number)
        return (self._machine is not None and member in self._machine.members
                and self._came.get(member, (0, 0, 0)) < gone_in)

    def state(self, running: bool) -> dict[str, object]:
        """What this lockspace waits for, as cman.explain has it."""
        phase = self._machine.phase if self._machine is not None else "new"
        return {"name": self.space.name, "running": running and phase == "running", "phase": phase,
                "for_ms": round((trio.current_time() - self.since_s) * 1000), "waits_for": self.waits_for(),
                "wants": self._wants, "wanted": list(self._wanted)}

    def waits_for(self) -> list[int]:
        """Nodes that are not ready for the next start."""
        return self._machine.waits_for() if self._machine is not None else []

    def note(self, text: str) -> None:
        log.info("lockspace=%s %s", self.space.name, text)
        self.history.append(text)
        del self.history[:-LOG_LINES_MAX]
        if self._on_note is not None:
            self._on_note(text)

    async def run(self, watch: trio.MemoryReceiveChannel[Cluster]) -> None:
        """Until the group has been left. Raises ControlError, CmanError when cman ends."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._speak)
            nursery.start_soon(self._watch, watch)
            while True:
                event = await self.group.next()
                if isinstance(event, client.Configuration):
                    if any(m == self.group.me for m, _ in event.left):
                        break
                    self._configuration(event)
                elif deadlock.is_ours(event.data):
                    self._deadlock(event.sender.node, event.data)
                elif self._machine is not None:
                    try:
                        effects = self._machine.delivered(member_of(event.sender), event.data)
                    except ControlError as e:
                        self.note(f"message of node {event.sender.node} dropped: {e}")
                        continue
                    self._know(self._machine.found())
                    self._act(effects)
            nursery.cancel_scope.cancel()

    def say(self, data: bytes) -> None:
        """To the group, unless too much waits already: what is said of deadlocks is said again."""
        with contextlib.suppress(trio.WouldBlock):
            self._say.send_nowait(data)

    def _deadlock(self, node: int, data: bytes) -> None:
        if self.on_deadlock is None:
            return
        try:
            self.on_deadlock(data)
        except ControlError as e:
            self.note(f"message of node {node} dropped: {e}")

    async def _speak(self) -> None:
        async for data in self._said:
            await self.group.mcast(data)

    async def _watch(self, watch: trio.MemoryReceiveChannel[Cluster]) -> None:
        async for cluster in watch:
            self._now(cluster)
            self._changed.set()
            self._changed = trio.Event()

    def _now(self, cluster: Cluster) -> None:
        if cluster.quorate != self.quorate:
            self.note("quorate" if cluster.quorate else "quorum lost")
        self.quorate, self._unconfirmed = cluster.quorate, tuple(cluster.unconfirmed)
        self._kernels &= set(cluster.members)

    def _configuration(self, event: client.Configuration) -> None:
        if self._machine is None:
            self._machine = self._make(member_of(self.group.me))
        self.view, self.since_s = event.view, trio.current_time()
        self._wants, self._wanted = "", ()
        joined = [m.node for m, _ in event.joined]
        self.note(f"members {[m.node for m in event.members]}"
                  + (f" joined {joined}" if joined else "")
                  + "".join(f" {m.node} {r.name.lower()}" for m, r in event.left))
        for member, reason in event.joined:
            # Who comes with its node (NODEUP) may be one that was only out of sight: what was said between us stands.
            # What an earlier life left is forgotten when a new one comes, or at the start without it.
            if reason is Reason.JOIN:
                self._came[member_of(member)] = event.view
                self.node.lose(self.space, member.node)
                self.node.expect(member.node)
        self._act(self._machine.configuration(
            [member_of(m) for m in event.members],
            [(member_of(m), REASONS.get(r, "node")) for m, r in event.left],
            [member_of(m) for m, _ in event.joined]))

    def _act(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case StopLocking():
                    if self._preparing is not None:
                        self._preparing.cancel()
                    self.space.stop()
                case Say():
                    self._say.send_nowait(effect.data)
                case Prepare():
                    assert self._nursery is not None
                    if self._preparing is not None:
                        self._preparing.cancel()
                    self._preparing = trio.CancelScope()
                    self._nursery.start_soon(self._prepare, effect, self._preparing)
                case Start():
                    self._start(effect)

    async def _prepare(self, what: Prepare, scope: trio.CancelScope) -> None:
        """What must be done before recovery, in this order."""
        with scope:
            self._kernels |= set(what.kernels)
            self._now(await self._cluster())        # not older than the change that asks for this
            while why := self._waits_for_cman():
                self.note(f"waits for {why}")
                await self._changed.wait()
            assert self._machine is not None
            self._act(self._machine.prepared(what.number))

    def _waits_for_cman(self) -> str:
        self._wants, self._wanted = "", ()
        if not self.quorate:
            self._wants = "quorum"
            return "quorum"
        if self._kernels:
            self._wants, self._wanted = "kernels", tuple(sorted(self._kernels))
            return (f"the end of {', '.join(f'node {n}' for n in sorted(self._kernels))}: its dlm_controld died and "
                    "its kernel goes on (fence_node, or reset it)")
        if self._unconfirmed:
            self._wants, self._wanted = "fencing", self._unconfirmed
            return f"the fencing of {', '.join(f'node {n}' for n in self._unconfirmed)}"
        return ""

    def _know(self, nodes: Iterable[StartNode]) -> None:
        """Others may hear the last READY, start and connect before we hear it: their connection is not a stranger's."""
        self.node.know(self.space.name, [Node(n.node_id, n.address, n.port) for n in nodes])

    def _start(self, start: Start) -> None:
        self.note(f"start generation {start.generation} members {[n.node_id for n in start.nodes]}"
                  + (f" failed {list(start.failed)}" if start.failed else "")
                  + (f" left {list(start.left)}" if start.left else ""))
        self.node.start(self.space, [events.Node(n.node_id, comm_seq=n.incarnation) for n in start.nodes],
                        left=start.left)
        self.started_view = self.view
        assert self._machine is not None
        self._came = {m: view for m, view in self._came.items() if m in self._machine.members}
        self.on_start()
        self.started.set()


async def own_node(cluster: Cluster, name: str) -> Node:
    """Where this node listens for lock messages. Raises JoinRefused."""
    if cluster.state != "Cluster-Member":
        raise JoinRefused(errno.ENOTCONN, f"this node is no member of cluster {cluster.name} ({cluster.state}): "
                          f"lockspace {name} is not joined")
    if not cluster.quorate:
        raise JoinRefused(errno.EAGAIN, f"cluster {cluster.name} is not quorate ({cluster.total_votes} votes, "
                          f"{cluster.quorum} are needed): lockspace {name} is not joined")
    if not cluster.addresses:
        raise JoinRefused(errno.EADDRNOTAVAIL, f"cman knows no address of this node: lockspace {name} is not joined")
    return Node(cluster.nodeid, cluster.addresses[0], DLM_PORT)


@asynccontextmanager
async def listening(local: Node, rng: random.Random) -> AsyncIterator[DlmNode]:
    """On the protocol's port, or on any other when another process of this node has it: members tell each other."""
    async with contextlib.AsyncExitStack() as stack:
        try:
            node = await stack.enter_async_context(open_node(local, rng=rng))
        except TransportError as e:
            if e.errno != errno.EADDRINUSE:
                raise
            node = await stack.enter_async_context(open_node(Node(local.node_id, local.address, 0), rng=rng))
        yield node


@asynccontextmanager
async def join(cman: CmanPort, name: str, *, lvb_bytes: int = 32, flags: int = 0,
               on_event: Callable[[RecoveryEvent], object] | None = None, on_leave: Callable[[], object] | None = None,
               on_note: Callable[[str], object] | None = None, last: bool = True,
               rng: random.Random | None = None) -> AsyncIterator[Lockspace]:
    """Be a member of a lockspace while inside; it runs when this is entered.

    name: up to 64 printable characters. on_note: called with each line of its history ("waits for quorum"). on_leave:
    called when `dlm_tool leave` asks for it; without it that is refused. last: nothing stands on the lockspace that
    would have to recover after it, and report that to cman. Raises JoinRefused; inside, everything raises
    Closed when cman ends.
    """
    if not 0 < len(name.encode()) <= NAME_MAX or not name.isprintable() or "/" in name:
        raise JoinRefused(errno.EINVAL, f"{name!r} cannot name a lockspace")
    rng = rng or random.Random(int.from_bytes(os.urandom(16), "big"))
    local = await own_node(await cman.cluster(), name)
    async with listening(local, rng) as node, cman.register(f"dlm:{name}"), cman.watch() as watch:
        def recovered(event: RecoveryEvent) -> None:
            if isinstance(event, events.RecoverDone):
                cman.report(f"dlm:{name}", control.started_view, "resume" if last else "dlm", True)
            if on_event is not None:
                on_event(event)

        space = node.lockspace(name, global_id(name), lvb_bytes=lvb_bytes, flags=flags, on_event=recovered)
        group = await cman.join(f"dlm:{name}")
        control = Control(node, space, group, lvb_bytes=lvb_bytes, flags=flags, cluster=cman.cluster,
                          rng=rng, on_note=on_note)
        space.control = control
        space.say, space.on_deadlock, control.on_deadlock = control.say, control.note, space.heard
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_keep, control, watch, space)
                await nursery.start(Server(space, on_leave).run)
                try:
                    await control.started.wait()
                    if control.failed:
                        raise JoinRefused(errno.EBUSY, f"lockspace {name} is not joined: {control.failed}")
                    await space.wait_running()
                    yield space
                finally:
                    with trio.move_on_after(LEAVE_LIMIT_S, shield=True):
                        await _leave(control, node)
                    nursery.cancel_scope.cancel()
        except BaseExceptionGroup as found:
            if len(found.exceptions) == 1:
                raise found.exceptions[0] from None
            raise


async def _keep(control: Control[Lockspace], watch: trio.MemoryReceiveChannel[Cluster], space: Lockspace) -> None:
    """The control's task; whatever ends it early ends the lockspace."""
    try:
        await control.run(watch)
    except* (client.CmanError, ControlError) as found:
        why = str(found.exceptions[0])
        control.note(f"given up: {why}")
        control.failed = why
        control.started.set()
        space.stop()
        space.close(why)


async def _leave(control: Control[Lockspace], node: DlmNode) -> None:
    """Locks are given up, the group is told, the other nodes are parted from."""
    if not control.failed:
        control.space.stop()
    if control.forsaken:
        # The group sees this member go when its connection to cman ends, and that it did not leave.
        await node.leave(control.space, in_order=False)
        return
    with contextlib.suppress(client.CmanError):
        await control.group.leave()
    # The others do not answer one that they take for dead.
    await node.leave(control.space, in_order=not control.failed)
