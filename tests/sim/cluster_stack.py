"""A node's whole cluster stack: totem, groups, quorum and a simple fence domain, wired as the daemon wires them.

`sim.cluster_stack.ClusterProcess` is what another machine (the lock manager) plugs into: it joins groups with
`process.cpg` and hears GroupMessage, GroupChange and QuorumChange through `on_group` and `on_quorum`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgpack

from cman.cpg import CpgMachine, GroupChange, GroupEffect, GroupMessage
from cman.quorum import QuorumConfig, QuorumEffect, QuorumMachine, QuorumState
from cman.totem import (
    ConfigChange,
    Deliver,
    Kind,
    Multicast,
    RingId,
    SendTo,
    StoreRingSeq,
    TotemConfig,
    TotemMachine,
    Trace,
    Writable,
)
from sim.kernel import Datagram, Observe, SimNode, Store

PORT = "totem"
STORED_SEQ = "ring_seq"
# The daemon's own group, and its process in it.
CMAN_GROUP = "cman"
CMAN_PID = 0


@dataclass(frozen=True, slots=True)
class Fence:
    """Cut this node's power; the kernel answers by calling fence_done of the process that asked."""

    victim: int


@dataclass(frozen=True, slots=True)
class Reboot:
    """Quorum is lost: this node was at work and must not come back with what it knew. (A watchdog does the same.)"""


@dataclass(frozen=True, slots=True)
class Active:
    """For checkers: this node's component may work (quorate, nobody unconfirmed), or no longer."""

    active: bool
    members: tuple[int, ...]
    ring_id: RingId


class ClusterProcess:
    """One node's machines. Their effects become the kernel's; what is for nobody but checkers becomes Observe."""

    def __init__(self, node: SimNode, totem: TotemMachine, quorum: QuorumMachine,
                 cpg: Callable[..., CpgMachine] = CpgMachine) -> None:
        self.me = node.node_id
        self.machine = totem
        self.quorum = quorum
        self.cpg = cpg(self.me, totem.submit)
        self.members: tuple[int, ...] = (self.me,)
        self.ring_id = totem.ring_id
        self.fencing: tuple[int, ...] = ()
        self.active = self.has_worked = False
        self.stopping = False
        # For workloads: which (group, pid) have joined.
        self.joined: dict[tuple[str, int], bool] = {}
        self.on_group: list[Callable[[GroupEffect, int], None]] = []
        self.on_quorum: list[Callable[[QuorumEffect, int], None]] = []
        self._now_ns = 0
        self._done: list[Any] = []

    # Process

    def start(self, now_ns: int) -> None:
        self._now_ns = now_ns
        self.machine.start(now_ns)
        self.cpg.join(CMAN_GROUP, CMAN_PID, now_ns)

    def receive(self, port: str, source: int, data: bytes, now_ns: int) -> None:
        assert port == PORT
        self._now_ns = now_ns
        self.machine.receive(data, source, now_ns)

    def stream_broken(self, port: str, peer: int, now_ns: int) -> None:
        raise AssertionError("nothing here uses streams")

    def handle_timer(self, now_ns: int) -> None:
        self._now_ns = now_ns
        self.machine.handle_timer(now_ns)

    def next_timer(self) -> int | None:
        return self.machine.next_timer()

    def effects(self) -> list[Any]:
        """Run what the machines say to each other until they have no more to say."""
        while True:
            effects = self.machine.effects()
            for effect in effects:
                self._totem(effect)
            heard = self.cpg.effects()
            for group_effect in heard:
                self._group(group_effect)
            if not effects and not heard:
                break
        done, self._done = self._done, []
        return done

    # Machines

    def _totem(self, effect: Any) -> None:
        if isinstance(effect, SendTo):
            self._done.append(Datagram(PORT, effect.node, effect.data))
        elif isinstance(effect, Multicast):
            self._done.append(Datagram(PORT, None, effect.data))
        elif isinstance(effect, StoreRingSeq):
            self._done.append(Store(STORED_SEQ, effect.seq))
        else:
            assert isinstance(effect, Deliver | ConfigChange | Trace | Writable)
            if isinstance(effect, ConfigChange) and effect.kind is Kind.REGULAR:
                self.members, self.ring_id = effect.members, effect.ring_id
                self.quorum.membership(effect.members, effect.left)
                self._heard_quorum()
            if isinstance(effect, ConfigChange):
                self._done.append(Observe(effect))
            if not isinstance(effect, Trace):
                self.cpg.totem(effect, self._now_ns)
                # In between, so that a change of the ring and what the groups make of it stay in order.
                for heard in self.cpg.effects():
                    self._group(heard)

    def _group(self, effect: GroupEffect) -> None:
        self._done.append(Observe(effect))
        if isinstance(effect, GroupMessage) and effect.group == CMAN_GROUP:
            self._cman_message(effect)
        elif isinstance(effect, GroupChange) and effect.group == CMAN_GROUP and effect.joined:
            self._welcome()
        for listener in self.on_group:
            listener(effect, self._now_ns)

    def _welcome(self) -> None:
        """Somebody came: a quorate component tells it who is out."""
        if self.quorum.quorate:
            state = self.quorum.state()
            self._say("state", [list(state.out), state.expected_votes, list(state.uncounted)])

    def _say(self, what: str, value: Any) -> None:
        self.cpg.mcast(CMAN_GROUP, CMAN_PID, msgpack.packb([what, value]), self._now_ns)

    def _cman_message(self, m: GroupMessage) -> None:
        what, value = msgpack.unpackb(m.payload)
        if what == "fenced":
            self.quorum.fenced(value)
            self.fencing = tuple(n for n in self.fencing if n != value)
        elif what == "leaving":
            self.quorum.leaving(m.sender.node, False)
        elif what == "state" and m.sender.node != self.me:
            self.quorum.adopt(QuorumState(tuple(value[0]), value[1], tuple(value[2])))
        self._heard_quorum()

    def _heard_quorum(self) -> None:
        for effect in self.quorum.effects():
            self._done.append(Observe(effect))
            for listener in self.on_quorum:
                listener(effect, self._now_ns)
        active = self.quorum.quorate and not self.quorum.unconfirmed and not self.stopping
        self.has_worked = self.has_worked or active
        if self.has_worked and not self.quorum.quorate:
            self._done.append(Reboot())
        if active or active != self.active:
            self.active = active
            self._done.append(Observe(Active(active, self.members, self.ring_id)))
        # The lowest member shoots; the others take over when it is gone, because the membership changes then.
        if self.quorum.quorate and self.members[0] == self.me and not self.stopping:
            for victim in self.quorum.unconfirmed:
                if victim not in self.fencing:
                    self.fencing += (victim,)
                    self._done.append(Fence(victim))

    def fence_done(self, victim: int, success: bool, now_ns: int) -> None:
        """The fence agent has come back: tell everybody, or try again."""
        self._now_ns = now_ns
        self.fencing = tuple(n for n in self.fencing if n != victim)
        if success:
            self._say("fenced", victim)
        else:
            self._heard_quorum()

    def say_leaving(self, now_ns: int) -> None:
        """Stop working first: from the goodbye on the others no longer fence us."""
        self._now_ns = now_ns
        self.stopping = True
        self._heard_quorum()
        self._say("leaving", None)


def build_cluster(votes: Mapping[int, int], config: TotemConfig, two_node: bool = False,
                  cpg: Callable[..., CpgMachine] = CpgMachine,
                  quorum: Callable[..., QuorumMachine] = QuorumMachine) -> Callable[[SimNode], ClusterProcess]:
    """For Kernel(build=...)."""
    def build(node: SimNode) -> ClusterProcess:
        totem = TotemMachine(node.node_id, list(votes), config, node.stored.get(STORED_SEQ, 0))
        return ClusterProcess(node, totem, quorum(node.node_id, QuorumConfig(votes, two_node=two_node)), cpg)
    return build


__all__ = ["Active", "ClusterProcess", "Fence", "Reboot", "build_cluster"]
