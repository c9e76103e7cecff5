"""One process as a node of the lock manager: a transport, the lockspaces over it, and who their members are.

This is where the parts are put together. Who decides on members is dlm.control, or a test, or a program that talks to
a kernel without a cluster manager: `stop`, `start`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
from collections.abc import AsyncIterator, Callable, Collection, Iterable

import trio

from dlm import transport as wire
from dlm._bridge import Bridge
from dlm.core import _wire, events
from dlm.core._lockspace import Lockspace as Machine
from dlm.locks import Lockspace, RecoveryEvent

log = logging.getLogger("dlm.node")

STRANGE_LOGGED_MAX = 20         # packets that make no sense which are logged, of one process
SHUTDOWN_S = 5.0


class DlmNode:
    """Made by open_node()."""

    def __init__(self, local: wire.Node, nursery: trio.Nursery, *, rng: random.Random) -> None:
        self.transport = wire.Transport(local, self._never, rng=rng)
        self.lockspaces: dict[str, Lockspace] = {}
        self._bridge = Bridge(self.transport.pump, self._strange)
        self._nursery = nursery
        self._rng = rng
        self._scopes: dict[str, trio.CancelScope] = {}
        self._members: dict[str, dict[int, int]] = {}       # lockspace: node id: incarnation
        self._addresses: dict[str, dict[int, wire.Node]] = {}
        self._strange_logged = 0

    @property
    def node_id(self) -> int:
        return self.transport.local.node_id

    @property
    def local(self) -> wire.Node:
        return self.transport.local

    def _never(self, node: int, packet: bytes) -> None:
        raise AssertionError("the bridge takes all packets")

    def _strange(self, node: int, packet: bytes, bad: int) -> None:
        """In a reader's thread: a packet for a lockspace that is not here, or one that makes no sense."""
        if not bad:
            answer = _wire.not_ready(packet, self.node_id)
            if answer is not None:
                with contextlib.suppress(OSError):
                    self.transport.send(node, answer)
                return
        if self._strange_logged < STRANGE_LOGGED_MAX:
            self._strange_logged += 1
            log.warning("packet dropped node=%d: %s", node,
                        _wire.check(packet) if bad else f"no lockspace {int.from_bytes(packet[4:8], 'little'):#x} here")

    def lockspace(self, name: str, global_id: int, *, lvb_bytes: int = 32, flags: int = 0,
                  on_event: Callable[[RecoveryEvent], object] | None = None) -> Lockspace:
        """A new lockspace, stopped: `start` gives it members. Raises ValueError when the id is in use here."""
        machine = Machine(name, self.node_id, global_id, lvblen=lvb_bytes, lsflags=flags,
                          rcom_seq=self._rng.getrandbits(62), pid=os.getpid())
        space = Lockspace(machine, on_event)
        try:
            self._bridge.attach(machine, space.event_fd)
        except ValueError:
            space.close()
            raise
        scope = self._scopes[name] = trio.CancelScope()
        self.lockspaces[name] = space
        self._members[name] = {}
        self._nursery.start_soon(self._run, space, scope)
        return space

    async def _run(self, space: Lockspace, scope: trio.CancelScope) -> None:
        with scope:
            await space.run()

    def start(self, space: Lockspace, nodes: Iterable[events.Node], *, left: Collection[int] = ()) -> None:
        """Recover `space` with these members, whose addresses the transport knows (`set_nodes`).

        A member that is missing, or is there with another comm_seq, and is not in `left` has failed: what was said
        to it is forgotten. Raises DlmError, TransportError.
        """
        before = self._members[space.name]
        now = {n.nodeid: n.comm_seq for n in nodes}
        for node_id in [n for n in before if now.get(n) != before[n]]:
            if self.transport.knows(node_id):
                if node_id in left and node_id not in now:
                    self.transport.remove_user(node_id)
                else:
                    self.transport.forget(node_id)
            del before[node_id]
        for node_id in [n for n in now if n not in before and n != self.node_id]:
            self.transport.add_user(node_id)
            before[node_id] = now[node_id]
        space.start(list(nodes), left=left)

    def know(self, name: str, nodes: Iterable[wire.Node]) -> None:
        """Where the members of this lockspace are to be found. Those who left stay known: their FIN is answered."""
        self._addresses.setdefault(name, {}).update({n.node_id: n for n in nodes})
        self.transport.set_nodes({i: n for of in self._addresses.values() for i, n in of.items()}.values())

    def expect(self, node_id: int) -> None:
        """A node joins that no lockspace here counts as a member: what an earlier life of it left is forgotten.

        To be called before it can know of us, since it begins to count anew.
        """
        if self.transport.knows(node_id) and not any(node_id in m for m in self._members.values()):
            self.transport.forget(node_id)

    def lose(self, space: Lockspace, node_id: int) -> None:
        """A member failed: nothing more is heard from it or said to it, long before recovery begins."""
        if self._members[space.name].pop(node_id, None) is not None and self.transport.knows(node_id):
            self.transport.forget(node_id)

    def close(self) -> None:
        """The process ends: what is still there is abandoned, and the other members will recover from it."""
        for name, space in list(self.lockspaces.items()):
            self._bridge.detach(space.machine)
            del self.lockspaces[name]
            space.close("its process ends")

    async def leave(self, space: Lockspace, in_order: bool = True) -> None:
        """Take a lockspace away, whose group has been left; with the last one, part from the other nodes."""
        members = self._members.pop(space.name)
        self._addresses.pop(space.name, None)
        self._bridge.detach(space.machine)
        self._scopes.pop(space.name).cancel()
        del self.lockspaces[space.name]
        space.close()
        if not in_order:
            return
        if self.lockspaces:
            for node_id in members:
                if self.transport.knows(node_id):
                    self.transport.remove_user(node_id)
        else:
            late = await self.transport.shutdown(SHUTDOWN_S)
            if late:
                log.warning("nodes that did not answer FIN: %s", late)


@contextlib.asynccontextmanager
async def open_node(local: wire.Node, *, rng: random.Random | None = None) -> AsyncIterator[DlmNode]:
    """Listen on the node's address while inside. Raises TransportError."""
    try:
        async with trio.open_nursery() as nursery:
            node = DlmNode(local, nursery, rng=rng or random.Random(int.from_bytes(os.urandom(16), "big")))
            await nursery.start(node.transport.run)
            try:
                yield node
            finally:
                node.close()
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        # What went wrong inside is the caller's own, not a group's.
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from None
        raise
