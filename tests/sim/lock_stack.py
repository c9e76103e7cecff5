"""The lock manager on a node of the simulated cluster: members, transport, engine, and glocks that use it.

The machines are those of the product: dlm.membership on cman's ordered groups, dlm._midcomms over streams that break,
dlm.core compiled. What `dlm.control` and `dlm.node` do between them with tasks and sockets is done here by hand, in the
same order; `glock_user` stands for the file system.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Any

from cman.cpg import GroupChange, GroupEffect, GroupMessage, Reason
from cman.node import NodeMachine
from cman.quorum import QuorumMachine
from dlm import _midcomms as midcomms
from dlm.core._lockspace import Lockspace
from dlm.core.events import Node
from dlm.membership import Effect, Member, Membership, Prepare, Say, Start, StopLocking
from sim.cluster_stack import ClusterProcess
from sim.glock_user import Glocks
from sim.kernel import MS, S, StreamSend

PORT = "dlm"
GROUP = "dlm:store"
PID = 21
GLOBAL_ID = 0x5707
VALUE_BYTES = 32
ACK_DELAY_NS = 20 * MS
RETRY_NS, RETRY_MAX_NS = 50 * MS, 5 * S
SAYS_MAX = 256


class Link:
    """One other node as the transport knows it."""

    __slots__ = ("ack_ns", "delay_ns", "peer", "retry_ns", "stream")

    def __init__(self, me: int, node: int) -> None:
        self.peer = midcomms.Peer(me, node)
        self.stream = midcomms.Stream()
        self.ack_ns: int | None = None
        # Not connected: when to try again.
        self.retry_ns: int | None = None
        self.delay_ns = RETRY_NS


class LockProcess(ClusterProcess):
    """A node with one lockspace, whose life is the node's."""

    def __init__(self, node: NodeMachine, rng: random.Random, user: Callable[[Lockspace], Glocks],
                 space: Callable[..., Lockspace] = Lockspace,
                 membership: Callable[..., Membership] = Membership) -> None:
        super().__init__(node)
        self.space = space("store", node.me, GLOBAL_ID, lvblen=VALUE_BYTES, rcom_seq=rng.getrandbits(60))
        self.user = user(self.space)
        self.in_group = False
        self.lockers: Membership | None = None
        self.links: dict[int, Link] = {}
        self._known: set[int] = set()
        # Members as they were started with: node, incarnation.
        self._started: dict[int, int] = {}
        self._says: deque[bytes] = deque()
        self._preparing: Prepare | None = None
        self._make = lambda: membership(Member(node.me, PID), f"10.0.0.{node.me}", 21064, VALUE_BYTES, 0, rng=rng)
        self.on_group.append(self._group)
        self.on_quorum.append(self._quorum)

    # Process

    def receive(self, port: str, source: int, data: bytes, now_ns: int) -> None:
        if port != PORT:
            super().receive(port, source, data, now_ns)
            return
        self._now_ns = now_ns
        if source not in self._known:
            return                      # refused: the sender keeps it, and tries again
        link = self._link(source)
        for packet in link.peer.receive(link.stream, data):
            self.space.receive(source, packet, now_ns)
        if link.peer.ack_owed and link.ack_ns is None:
            link.ack_ns = now_ns + ACK_DELAY_NS

    def stream_broken(self, port: str, peer: int, now_ns: int) -> None:
        assert port == PORT
        self._now_ns = now_ns
        self._link(peer)
        self._disconnected(peer)

    def handle_timer(self, now_ns: int) -> None:
        self._now_ns = now_ns
        self.space.handle_timer(now_ns)
        self.user.handle_timer(now_ns)
        for node, link in self.links.items():
            if link.ack_ns is not None and now_ns >= link.ack_ns:
                link.ack_ns = None
                link.peer.acknowledge()
            if link.retry_ns is not None and now_ns >= link.retry_ns:
                link.retry_ns = None
                link.delay_ns = min(2 * link.delay_ns, RETRY_MAX_NS)
                if node in self._known:
                    link.peer.reconnected()
        due = self.node.next_timer()
        if due is not None and due <= now_ns:
            super().handle_timer(now_ns)

    def next_timer(self) -> int | None:
        due = [t for t in (super().next_timer(), self.space.next_timer(), self.user.next_timer()) if t is not None]
        for link in self.links.values():
            due += [t for t in (link.ack_ns, link.retry_ns) if t is not None]
        return min(due, default=None)

    def effects(self) -> list[Any]:
        done = super().effects()
        while self._work():
            done += super().effects()
        return done

    def _work(self) -> bool:
        """Whether anything moved between the machines."""
        worked = False
        while self._says and self.node.mcast(GROUP, PID, self._says[0], self._now_ns):
            self._says.popleft()
            worked = True
        for event in self.space.take_events():
            self.user.event(event, self._now_ns)
            worked = True
        for node, packet in self.space.take_output():
            self._link(node).peer.send(packet)
        for node, link in self.links.items():
            if link.retry_ns is None and link.peer.has_output:
                data = link.peer.output()
                link.peer.written(len(data))
                link.ack_ns = None
                self._done.append(StreamSend(PORT, node, data))
                worked = True
        assert not self.space.broken
        return worked

    # Transport, as dlm.transport and dlm.node have it

    def _link(self, node: int) -> Link:
        if node not in self.links:
            self.links[node] = Link(self.me, node)
        return self.links[node]

    def _disconnected(self, node: int) -> None:
        link = self.links[node]
        link.stream = midcomms.Stream()
        link.retry_ns = self._now_ns + link.delay_ns

    def _forget(self, node: int) -> None:
        """What was said and not acknowledged goes with the connection."""
        link = self._link(node)
        link.peer.close()
        link.stream = midcomms.Stream()
        link.ack_ns = None

    def _expect(self, node: int) -> None:
        if node in self._known and node not in self._started:
            self._forget(node)

    def _lose(self, node: int) -> None:
        if self._started.pop(node, None) is not None:
            self._forget(node)

    # Members, as dlm.control has it

    def join_locks(self, now_ns: int) -> None:
        self._now_ns = now_ns
        self.node.dirty = self.in_group = True
        self.node.join_group(GROUP, PID, now_ns)

    def leave(self, now_ns: int) -> None:
        self._now_ns = now_ns
        if self.in_group:
            self.user.stop(now_ns)
            self.space.stop()
            self.node.leave_group(GROUP, PID, now_ns)
            self.in_group = False
            self.lockers = None
            self._says.clear()
        super().leave(now_ns)

    def _group(self, effect: GroupEffect, now_ns: int) -> None:
        if not isinstance(effect, GroupChange | GroupMessage) or effect.group != GROUP or not self.in_group:
            return
        self._now_ns = now_ns
        if isinstance(effect, GroupMessage):
            if self.lockers is not None:
                self._act(self.lockers.delivered(Member(*effect.sender), effect.payload))
            return
        if self.lockers is None:
            self.lockers = self._make()
        reasons = {Reason.LEAVE: "leave", Reason.PROCDOWN: "process"}
        for member, reason in effect.joined:
            if reason is Reason.JOIN:
                self._lose(member.node)
                self._expect(member.node)
        self._act(self.lockers.configuration(
            [Member(*m) for m in effect.members], [(Member(*m), reasons.get(r, "node")) for m, r in effect.left],
            [Member(*m) for m, _ in effect.joined]))

    def _act(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case StopLocking():
                    self._preparing = None
                    self.space.stop()
                case Say():
                    self._says.append(effect.data)
                    assert len(self._says) <= SAYS_MAX
                case Prepare():
                    self._preparing = effect
                    self._prepare()
                case Start():
                    self._start(effect)

    def _quorum(self, quorum: QuorumMachine, now_ns: int) -> None:
        self._now_ns = now_ns
        self._prepare()

    def may_recover(self) -> bool:
        """Quorate, and whoever was lost is fenced: also those who were lost before we were here to see it."""
        return self.node.quorum.quorate and not self.node.quorum.unconfirmed

    def _prepare(self) -> None:
        """What must be done before recovery: wait for quorum, then for the fencing of those lost."""
        what = self._preparing
        if what is not None and self.lockers is not None and self.may_recover():
            self._preparing = None
            self._act(self.lockers.prepared(what.number))

    def _start(self, start: Start) -> None:
        now = {n.node_id: n.incarnation for n in start.nodes}
        for node in [n for n in self._started if now.get(n) != self._started[n]]:
            if node in start.left and node not in now:
                self._link(node).peer.remove_user()
            else:
                self._forget(node)
            del self._started[node]
        self._known.update(n for n in now if n != self.me)
        for node in [n for n in now if n not in self._started and n != self.me]:
            self._link(node).peer.add_user()
            self._started[node] = now[node]
        self.user.starting(start.failed)
        self.space.start([Node(n, 1, now[n]) for n in sorted(now)], self._now_ns, left=start.left)
