"""A node's whole cluster stack: the daemon's own NodeMachine (totem, groups, configuration, quorum), and fencing.

`ClusterProcess` is what another machine (the lock manager) plugs into: it joins groups with `process.node` and hears
GroupMessage, GroupChange and quorum through `on_group` and `on_quorum`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cman.ccs import spread
from cman.ccs.load import load
from cman.cpg import CpgMachine, GroupChange, GroupEffect, GroupMessage
from cman.fence.domain import FenceStart, FenceStop
from cman.node import Changed, Ended, Log, NodeMachine
from cman.quorum import QuorumMachine
from cman.totem import Multicast, RingId, SendTo, StoreRingSeq, TotemConfig, TotemMachine
from sim.kernel import Datagram, Observe, SimNode, Store

PORT = "totem"
STORED_SEQ = "ring_seq"
STORED_FILE = "cluster.conf"
STORED_GIVEN = "given"
# Effects that only a client would see.
FOR_CLIENTS = ("GroupWritable", "Adopt", "Finished", "FenceOver")


@dataclass(frozen=True, slots=True)
class Fence:
    """Cut this node's power; the kernel answers by calling fence_done of the process that asked."""

    victim: int


@dataclass(frozen=True, slots=True)
class Reboot:
    """This node ends: it was told to, it leaves, or it was at work and lost quorum (a watchdog does the same)."""

    why: str


@dataclass(frozen=True, slots=True)
class Active:
    """For checkers: this node's component may work (quorate, nobody unconfirmed), or no longer."""

    active: bool
    members: tuple[int, ...]
    ring_id: RingId


@dataclass(frozen=True, slots=True)
class Running:
    """For checkers: the configuration that this node runs in a view that is in sync."""

    ring_id: RingId
    version: int
    digest: bytes


def cluster_conf(nodes: int, version: int, two_node: bool, disk: str = "") -> bytes:
    """A file for this many nodes; `disk`: what it says of a quorum disk."""
    entries = "".join(f'<clusternode name="n{n}" nodeid="{n}"><fence><method name="1"><device name="switch" '
                      f'port="{n}"/></method></fence></clusternode>' for n in range(1, nodes + 1))
    two = ' two_node="1" expected_votes="1"' if two_node else ""
    return (f'<cluster name="sim" config_version="{version}"><clusternodes>{entries}</clusternodes><cman{two}/>'
            f'<fencedevices><fencedevice name="switch" agent="fence_sim"/></fencedevices>'
            f'<fence_daemon post_join_delay="2" override_time="1"/>{disk}</cluster>').encode()


class ClusterProcess:
    """The NodeMachine as a Process. What is for nobody but checkers becomes Observe."""

    def __init__(self, node: NodeMachine) -> None:
        self.node = node
        self.me = node.me
        self.fencing: tuple[int, ...] = ()
        self.active = self.has_worked = self.stopping = self.was_synced = False
        # For workloads: which (group, pid) have joined.
        self.joined: dict[tuple[str, int], bool] = {}
        self.on_group: list[Callable[[GroupEffect, int], None]] = []
        self.on_quorum: list[Callable[[QuorumMachine, int], None]] = []
        self._now_ns = 0
        self._done: list[Any] = []

    @property
    def machine(self) -> TotemMachine:
        return self.node.totem

    # Process

    def start(self, now_ns: int) -> None:
        self._now_ns = now_ns
        self.node.start(now_ns)

    def receive(self, port: str, source: int, data: bytes, now_ns: int) -> None:
        assert port == PORT
        self._now_ns = now_ns
        self.node.receive(data, source, now_ns)

    def stream_broken(self, port: str, peer: int, now_ns: int) -> None:
        raise AssertionError("nothing here uses streams")

    def handle_timer(self, now_ns: int) -> None:
        self._now_ns = now_ns
        self.node.handle_timer(now_ns)

    def next_timer(self) -> int | None:
        return self.node.next_timer()

    def effects(self) -> list[Any]:
        while effects := self.node.effects():
            for effect in effects:
                self._do(effect)
        done, self._done = self._done, []
        return done

    def _do(self, effect: Any) -> None:
        if isinstance(effect, SendTo):
            self._done.append(Datagram(PORT, effect.node, effect.data))
        elif isinstance(effect, Multicast):
            self._done.append(Datagram(PORT, None, effect.data))
        elif isinstance(effect, StoreRingSeq):
            self._done.append(Store(STORED_SEQ, effect.seq))
        elif isinstance(effect, spread.Store):
            self._done += [Store(STORED_GIVEN, effect.digest), Store(STORED_FILE, effect.data)]
            self.node.stored(effect.update, effect.version, "", self._now_ns)
        elif isinstance(effect, Changed):
            self._look()
        elif isinstance(effect, FenceStart):
            if not self.stopping:
                self.fencing += (effect.nodeid,)
                self._done.append(Fence(effect.nodeid))
        elif isinstance(effect, FenceStop):
            self.fencing = tuple(n for n in self.fencing if n != effect.nodeid)
        elif isinstance(effect, Ended):
            self._done.append(Reboot(effect.why))
        elif isinstance(effect, GroupMessage | GroupChange):
            self._done.append(Observe(effect))
            for listener in self.on_group:
                listener(effect, self._now_ns)
        else:
            assert isinstance(effect, Log) or type(effect).__name__ in FOR_CLIENTS
            self._done.append(Observe(effect))

    # At work

    def _look(self) -> None:
        """Numbers changed: do we work?"""
        quorum, node = self.node.quorum, self.node
        for listener in self.on_quorum:
            listener(quorum, self._now_ns)
        if node.spread.synced and not self.was_synced:
            self._done.append(Observe(Running(node.totem.ring_id, node.config.version, node.config.digest)))
        self.was_synced = node.spread.synced
        active = quorum.quorate and not quorum.unconfirmed and not self.stopping and node.ready
        self.has_worked = self.has_worked or active
        if self.has_worked and not quorum.quorate:
            self._done.append(Reboot("quorum lost while at work"))
        if active or active != self.active:
            self.active = active
            self._done.append(Observe(Active(active, node.members, node.totem.ring_id)))

    def fence_done(self, victim: int, success: bool, now_ns: int) -> None:
        """The fence agent has come back, if it was not stopped."""
        self._now_ns = now_ns
        if victim in self.fencing:
            self.fencing = tuple(n for n in self.fencing if n != victim)
            self.node.fence_result(victim, success, "fence_sim", now_ns)

    def leave(self, now_ns: int) -> None:
        """Stop working first: from the goodbye on the others no longer fence us."""
        self._now_ns = now_ns
        self.stopping = True
        self._look()
        self.node.control(now_ns, t="leave", remove=False)


def build_cluster(nodes: int, config: TotemConfig, two_node: bool = False,
                  cpg: Callable[..., CpgMachine] = CpgMachine,
                  quorum: Callable[..., QuorumMachine] = QuorumMachine,
                  process: Callable[[NodeMachine, SimNode], ClusterProcess] | None = None,
                  disk: str = "") -> Callable[[SimNode], ClusterProcess]:
    """For Kernel(build=...). Other machine classes are how planted bugs come in; `process` puts more on top."""
    def build(sim_node: SimNode) -> ClusterProcess:
        me, seq = sim_node.node_id, sim_node.stored.get(STORED_SEQ, 0)
        conf = load(sim_node.stored.setdefault(STORED_FILE, cluster_conf(nodes, 1, two_node, disk)))
        node = NodeMachine(me, conf, seq, lambda: 0, given=sim_node.stored.get(STORED_GIVEN, b""))
        # The timers of the run's options, which a file could not all say; and the planted bugs.
        node.totem = TotemMachine(me, range(1, nodes + 1), config, seq)
        node.groups = cpg(me, lambda payload, now_ns: node.totem.submit(b"G" + payload, now_ns))
        node.quorum = quorum(me, conf.quorum())
        return ClusterProcess(node) if process is None else process(node, sim_node)
    return build


