"""The heart of the simulation: a heap of events, nodes with clocks and power, effects handed to routes.

A node runs a `Process`: any stack of sans-I/O machines that takes (datagram | stream | timer, now) and returns
effects. The kernel knows four effects (Datagram, StreamSend, Store, Observe); others are looked up by type in
`routes`, which whoever plugs in another machine extends:

    kernel.routes[ReadSector] = lambda node, effect: ...
    kernel.watch(lambda node, what, now_ns: ...)          # checkers see every Observe

Nothing here reads a clock or a generator of its own: the same seed gives the same events, in the same order, with the
same trace hash.
"""

from __future__ import annotations

import heapq
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from sim.network import Network

NEVER = 1 << 63
S = 1_000_000_000
MS = 1_000_000
# A stopped process's socket buffers: what comes beyond it is lost.
SOCKET_BUFFER_PACKETS = 400
# More in one second of cluster time is a storm that feeds itself, not work.
EVENTS_PER_SECOND_MAX = 50_000


@dataclass(frozen=True, slots=True)
class Datagram:
    """Lossy: to one node, or to all others with dest None."""

    port: str
    dest: int | None
    data: bytes


@dataclass(frozen=True, slots=True)
class StreamSend:
    """Reliable and in order as long as both ends live and the link holds; see Process.stream_broken."""

    port: str
    dest: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Store:
    """Put a value on the node's stable storage, which survives its crashes."""

    key: str
    value: Any


@dataclass(frozen=True, slots=True)
class Observe:
    """For the checkers: something happened in the stack."""

    what: Any


class Storm(AssertionError):
    """The nodes send more and more."""


class Process(Protocol):
    """What runs on a node while it has power. Times are the node's own clock."""

    def start(self, now_ns: int) -> None: ...
    def receive(self, port: str, source: int, data: bytes, now_ns: int) -> None: ...
    def stream_broken(self, port: str, peer: int, now_ns: int) -> None: ...
    def handle_timer(self, now_ns: int) -> None: ...
    def next_timer(self) -> int | None: ...
    def effects(self) -> list[Any]: ...


class SimNode:
    """A machine: power, clock, stable storage, and the process of its present life."""

    __slots__ = ("armed_ns", "backlog", "base_global", "base_local", "life", "node_id", "paused", "paused_since",
                 "process", "rate", "stored")

    def __init__(self, node_id: int) -> None:
        self.node_id = node_id
        self.process: Process | None = None
        self.life = 0
        self.stored: dict[str, Any] = {}
        # local = base_local + (global - base_global) * rate
        self.base_global = 0
        self.base_local = 1000 * S * node_id
        self.rate = 1.0
        self.paused = False
        self.paused_since = 0
        self.backlog: list[tuple[Any, ...]] = []
        self.armed_ns = NEVER

    def local(self, now_ns: int) -> int:
        if self.rate == 1.0:
            return self.base_local + now_ns - self.base_global
        return self.base_local + int((now_ns - self.base_global) * self.rate)

    def globally(self, local_ns: int) -> int:
        if self.rate == 1.0:
            return self.base_global + local_ns - self.base_local
        return self.base_global + int((local_ns - self.base_local) / self.rate) + 1

    def set_rate(self, rate: float, now_ns: int) -> None:
        self.base_local, self.base_global, self.rate = self.local(now_ns), now_ns, rate


class Kernel:
    """Time, events, nodes. build(node) makes the process of a node that gets power."""

    def __init__(self, nodes: list[int], build: Callable[[SimNode], Process], network: Network) -> None:
        self.now_ns = 0
        self.events = 0
        self.trace_hash = 0
        self.nodes = {node_id: SimNode(node_id) for node_id in nodes}
        self.network = network
        self.routes: dict[type, Callable[[SimNode, Any], None]] = {
            Datagram: self._datagram, StreamSend: self._stream, Store: self._store, Observe: self._observe}
        self._build = build
        self._heap: list[tuple[Any, ...]] = []
        self._count = 0
        self._watchers: list[Callable[[SimNode, Any, int], None]] = []
        # (port, from, to): when the last thing on it arrives, and its generation.
        self._streams: dict[tuple[str, int, int], tuple[int, int]] = {}

    # Events

    def at(self, when_ns: int, call: Callable[..., None], *args: Any) -> None:
        """Call it then; events of the same time come in the order in which they were made."""
        self._count += 1
        heapq.heappush(self._heap, (when_ns, self._count, call, args))

    def after(self, delay_ns: int, call: Callable[..., None], *args: Any) -> None:
        self.at(self.now_ns + delay_ns, call, *args)

    def run_until(self, when_ns: int, stop: Callable[[], bool] | None = None) -> bool:
        """Run to that time, or until stop() holds (looked at after each event): whether it did."""
        heap, pop = self._heap, heapq.heappop
        second_ns, events_max = self.now_ns, self.events + EVENTS_PER_SECOND_MAX
        while heap and heap[0][0] <= when_ns:
            at_ns, _, call, args = pop(heap)
            self.now_ns = at_ns
            self.events += 1
            if self.events > events_max:
                if at_ns - second_ns < S:
                    raise Storm(f"{EVENTS_PER_SECOND_MAX} events since {second_ns / S:.6f} s")
                second_ns, events_max = at_ns, self.events + EVENTS_PER_SECOND_MAX
            call(*args)
            if stop is not None and stop():
                return True
        self.now_ns = max(self.now_ns, when_ns)
        return stop is not None and stop()

    def run_for(self, duration_ns: int, stop: Callable[[], bool] | None = None) -> bool:
        return self.run_until(self.now_ns + duration_ns, stop)

    def watch(self, watcher: Callable[[SimNode, Any, int], None]) -> None:
        self._watchers.append(watcher)

    def note(self, data: bytes) -> None:
        """Mix something into the trace hash."""
        self.trace_hash = zlib.crc32(data, self.trace_hash ^ (self.now_ns & 0xFFFFFFFF))

    # Power and pauses

    def power_on(self, node_id: int) -> None:
        node = self.nodes[node_id]
        if node.process is not None:
            return
        node.life += 1
        node.paused, node.backlog, node.armed_ns = False, [], NEVER
        node.process = self._build(node)
        self.note(b"on %d" % node_id)
        node.process.start(node.local(self.now_ns))
        self.settle(node)

    def power_off(self, node_id: int) -> None:
        """At once: what it had not sent yet is lost, what it stored remains."""
        node = self.nodes[node_id]
        node.process, node.armed_ns = None, NEVER
        node.paused, node.backlog = False, []
        self.note(b"off %d" % node_id)
        self.break_streams(node_id)

    def pause(self, node_id: int) -> None:
        """Stop the process; packets wait in its socket."""
        node = self.nodes[node_id]
        if not node.paused and node.process is not None:
            node.paused, node.paused_since = True, self.now_ns

    def resume(self, node_id: int, frozen: bool = False) -> None:
        """Go on. Frozen: the node's own clock stood still too (a virtual machine); it believes no time has passed."""
        node = self.nodes[node_id]
        if not node.paused:
            return
        if frozen:
            node.base_local -= node.local(self.now_ns) - node.local(node.paused_since)
        node.paused = False
        waiting, node.backlog = node.backlog, []
        for life, port, source, data in waiting:
            self._arrive(node, life, port, source, data)
        if node.process is not None and not node.paused:    # what waited may have ended it
            node.armed_ns = NEVER
            self.settle(node)

    # The node's process

    def call(self, node_id: int, what: Callable[[Any, int], Any]) -> Any:
        """Do something with a live process (submit, ask), then route its effects. None when it has no power."""
        node = self.nodes[node_id]
        if node.process is None or node.paused:
            return None
        result = what(node.process, node.local(self.now_ns))
        self.settle(node)
        return result

    def settle(self, node: SimNode) -> None:
        """Route the effects, then arm the timer."""
        process = node.process
        assert process is not None
        life, routes = node.life, self.routes
        for effect in process.effects():
            routes[type(effect)](node, effect)
            if node.life != life or node.process is None:
                return
        due = process.next_timer()
        if due is not None:
            at_ns = max(node.globally(due), self.now_ns)
            if at_ns < node.armed_ns:
                node.armed_ns = at_ns
                self._count += 1
                heapq.heappush(self._heap, (at_ns, self._count, self._timer, (node, life, at_ns)))

    def _timer(self, node: SimNode, life: int, at_ns: int) -> None:
        if node.life != life or node.armed_ns != at_ns or node.process is None or node.paused:
            return
        node.armed_ns = NEVER
        local_ns = node.local(self.now_ns)
        due = node.process.next_timer()
        if due is not None and due <= local_ns:
            self.note(b"t%d" % node.node_id)
            node.process.handle_timer(local_ns)
        self.settle(node)

    # Effects

    def _datagram(self, node: SimNode, effect: Datagram) -> None:
        targets = [effect.dest] if effect.dest is not None else [n for n in self.nodes if n != node.node_id]
        for dest in targets:
            target = self.nodes.get(dest)
            if target is None:
                continue
            for delay_ns in self.network.datagram(node.node_id, dest, effect.dest is None):
                self._count += 1
                heapq.heappush(self._heap, (self.now_ns + delay_ns, self._count, self._arrive,
                                            (target, target.life, effect.port, node.node_id, effect.data)))

    def _arrive(self, node: SimNode, life: int, port: str, source: int, data: bytes) -> None:
        if node.process is None or node.life != life:
            return
        if node.paused:
            if len(node.backlog) < SOCKET_BUFFER_PACKETS:
                node.backlog.append((life, port, source, data))
            return
        self.trace_hash = zlib.crc32(data, self.trace_hash ^ (self.now_ns & 0xFFFFFFFF) ^ node.node_id)
        node.process.receive(port, source, data, node.local(self.now_ns))
        self.settle(node)

    def _stream(self, node: SimNode, effect: StreamSend) -> None:
        key = (effect.port, node.node_id, effect.dest)
        last_ns, generation = self._streams.get(key, (0, 0))
        target = self.nodes[effect.dest]
        if target.process is None or not self.network.connected(node.node_id, effect.dest):
            self.after(self.network.reset_ns, self._broken, node, node.life, effect.port, effect.dest)
            return
        at_ns = max(last_ns + 1, self.now_ns + self.network.delay(node.node_id, effect.dest))
        self._streams[key] = (at_ns, generation)
        self.at(at_ns, self._stream_arrive, key, generation, target, target.life, effect.data)

    def _stream_arrive(self, key: tuple[str, int, int], generation: int, node: SimNode, life: int,
                       data: bytes) -> None:
        port, source, dest = key
        if self._streams.get(key, (0, 0))[1] != generation:
            return
        if not self.network.connected(source, dest):
            self._break(port, source, dest)
        elif node.paused and node.process is not None and node.life == life:
            # TCP waits for the reader, however much that is; the order stays.
            node.backlog.append((life, port, source, data))
        else:
            self._arrive(node, life, port, source, data)

    def _break(self, port: str, a: int, b: int) -> None:
        """A connection is gone for both ends, with what was under way in it."""
        for source, dest in ((a, b), (b, a)):
            last_ns, generation = self._streams.get((port, source, dest), (0, 0))
            self._streams[(port, source, dest)] = (last_ns, generation + 1)
            node = self.nodes[source]
            self.after(self.network.reset_ns, self._broken, node, node.life, port, dest)

    def _broken(self, node: SimNode, life: int, port: str, peer: int) -> None:
        if node.process is None or node.life != life:
            return
        node.process.stream_broken(port, peer, node.local(self.now_ns))
        self.settle(node)

    def break_streams(self, node_id: int) -> None:
        """All connections of a node: it lost power."""
        for port, source, dest in sorted({(p, min(a, b), max(a, b)) for p, a, b in self._streams
                                          if node_id in (a, b)}):
            self._break(port, source, dest)

    def _store(self, node: SimNode, effect: Store) -> None:
        node.stored[effect.key] = effect.value

    def _observe(self, node: SimNode, effect: Observe) -> None:
        for watcher in self._watchers:
            watcher(node, effect.what, self.now_ns)
