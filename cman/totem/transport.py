"""Totem over UDP with trio: carries the machine, seals and opens its packets, obeys its timers.

Two ways to reach all: IP multicast, or one datagram per configured node ("udpu"), which works everywhere. Tokens are
unicast in both. The sockets do not block; a datagram that the kernel does not take is lost, as the network might
have lost it.

    transport = Transport(settings, machine, sealer, on_effect)
    async with trio.open_nursery() as nursery:
        await nursery.start(transport.run)
        transport.submit(b"...")

`on_effect` gets Deliver, ConfigChange, StoreRingSeq, Writable and Trace, in order and at once; it must not await.
StoreRingSeq has to be on stable storage when it returns: the packets that use the number are sent after it.

All packets that wait are given to the machine before a timer is handled, so that a process that was stopped sees what
the others sent meanwhile before it accuses them.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import trio

from cman.totem.crypto import Sealer
from cman.totem.effects import Effect, Multicast, NodeId, SendTo
from cman.totem.machine import TotemMachine

# A datagram with its seal fits into what UDP over IPv4 can carry at all.
DATAGRAM_BYTES_MAX = 65507
# Packets taken from a socket before the others get their turn.
BATCH = 128
SOCKET_BUFFER_BYTES = 4 << 20
FOREVER_NS = 1 << 63
# The network may be away for a while: these are losses, not reasons to stop.
LOSSES = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS, errno.ENETUNREACH, errno.EHOSTUNREACH,
                    errno.ECONNREFUSED, errno.ENETDOWN, errno.EPERM, errno.EADDRNOTAVAIL, errno.EINVAL})


@dataclass(frozen=True, slots=True)
class TransportSettings:
    """addresses: IPv4 or IPv6 address of each node; multicast: group address, or None for unicast to each.

    Raises ValueError with what is wrong.
    """

    me: NodeId
    addresses: Mapping[NodeId, str]
    port: int = 5405
    multicast: str | None = None
    ttl: int = 1
    # Without clock and operating system in the way: for tests.
    now_ns: Callable[[], int] = field(default=time.monotonic_ns)

    def __post_init__(self) -> None:
        if self.me not in self.addresses:
            raise ValueError(f"node {self.me} has no address")
        versions = {ipaddress.ip_address(self.addresses[n]).version for n in sorted(self.addresses)}
        if len(versions) != 1:
            raise ValueError("the addresses of the nodes are partly IPv4 and partly IPv6")
        if len(set(self.addresses.values())) != len(self.addresses):
            raise ValueError("two nodes have the same address")
        if not 0 < self.port < 1 << 16:
            raise ValueError(f"port {self.port} is none")
        if not 0 < self.ttl < 256:
            raise ValueError(f"ttl {self.ttl}, 1 to 255")
        if self.multicast is not None:
            group = ipaddress.ip_address(self.multicast)
            if not group.is_multicast or group.version not in versions:
                raise ValueError(f"{self.multicast} is no multicast address of the nodes' kind")

    @property
    def family(self) -> socket.AddressFamily:
        version = ipaddress.ip_address(self.addresses[self.me]).version
        return socket.AF_INET if version == 4 else socket.AF_INET6


def _udp(settings: TransportSettings, address: str) -> socket.socket:
    sock = socket.socket(settings.family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER_BYTES)
        sock.bind((address, settings.port))
    except BaseException:
        sock.close()
        raise
    return sock


def open_unicast(settings: TransportSettings) -> socket.socket:
    """The socket that everything is sent from, bound to the node's own address. Raises OSError."""
    own = settings.addresses[settings.me]
    sock = _udp(settings, own)
    if settings.multicast is not None:
        if settings.family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(own))
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, settings.ttl)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, settings.ttl)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
    return sock


def open_multicast(settings: TransportSettings) -> socket.socket:
    """The socket that hears the group. Raises OSError."""
    assert settings.multicast is not None
    sock = _udp(settings, settings.multicast)
    try:
        group = socket.inet_pton(settings.family, settings.multicast)
        if settings.family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP,
                            group + socket.inet_aton(settings.addresses[settings.me]))
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group + struct.pack("@I", 0))
    except BaseException:
        sock.close()
        raise
    return sock


E_co = TypeVar("E_co", covariant=True)


class Machine(Protocol[E_co]):
    """What is carried: a TotemMachine, or one that stands on it and hands its packets through."""

    def start(self, now_ns: int) -> None: ...
    def receive(self, data: bytes, source: NodeId, now_ns: int) -> None: ...
    def next_timer(self) -> int | None: ...
    def handle_timer(self, now_ns: int) -> None: ...
    def effects(self) -> Sequence[E_co]: ...


E = TypeVar("E")


class Carrier(Generic[E]):
    """One node's totem on the network. Whoever calls the machine calls drain() afterwards."""

    def __init__(self, settings: TransportSettings, machine: Machine[E], sealer: Sealer,
                 on_effect: Callable[[E], None]) -> None:
        self.settings = settings
        self._carried = machine
        self.sealer = sealer
        self.on_effect = on_effect
        self.counters = {"packets_in": 0, "packets_out": 0, "not_sent": 0, "refused": 0}
        self._now_ns = settings.now_ns
        self._unicast: socket.socket | None = None
        self._sockets: list[socket.socket] = []
        self._poke = trio.Event()
        # When _keep_time wakes by itself: only an earlier wish must wake it.
        self._wakes_ns = 0
        self._draining = False
        self.set_addresses(settings.addresses)

    def set_addresses(self, addresses: Mapping[NodeId, str]) -> None:
        """The configured nodes, from now on."""
        self._addresses = {node: (addresses[node], self.settings.port) for node in sorted(addresses)}
        self.sealer.set_nodes(frozenset(self._addresses))

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carry packets and timers until cancelled. Raises OSError when the sockets cannot be opened."""
        self._unicast = open_unicast(self.settings)
        self._sockets = [self._unicast]
        try:
            if self.settings.multicast is not None:
                self._sockets.append(open_multicast(self.settings))
            async with trio.open_nursery() as nursery:
                for sock in self._sockets:
                    nursery.start_soon(self._listen, sock)
                self._carried.start(self._now_ns())
                self.drain()
                task_status.started()
                await self._keep_time()
        finally:
            for sock in self._sockets:
                trio.lowlevel.notify_closing(sock)
                sock.close()
            self._unicast, self._sockets = None, []

    # Packets

    async def _listen(self, sock: socket.socket) -> None:
        while True:
            await trio.lowlevel.wait_readable(sock)
            self._read(sock)
            self.drain()

    def _read(self, sock: socket.socket) -> bool:
        """Give the machine what waits in the socket; False when more may wait."""
        for _ in range(BATCH):
            try:
                packet = sock.recv(DATAGRAM_BYTES_MAX)
            except OSError as error:
                if error.errno not in LOSSES:
                    raise
                return True
            self.counters["packets_in"] += 1
            now_ns = self._now_ns()
            opened = self.sealer.open(packet, now_ns)
            if opened is None:
                self.counters["refused"] += 1
                continue
            for node, reply in opened.replies:
                self._send(node, reply)
            if opened.data is not None:
                self._carried.receive(opened.data, opened.source, now_ns)
        return False

    def _send(self, node: NodeId, packet: bytes) -> None:
        address = self._addresses.get(node)
        if address is not None:
            self._send_to(address, packet)

    def _send_to(self, address: tuple[str, int], packet: bytes) -> None:
        assert self._unicast is not None
        try:
            self._unicast.sendto(packet, address)
            self.counters["packets_out"] += 1
        except OSError as error:
            if error.errno not in LOSSES:
                raise
            self.counters["not_sent"] += 1

    def _multicast(self, data: bytes) -> None:
        packet = self.sealer.seal(data)
        if self.settings.multicast is not None:
            self._send_to((self.settings.multicast, self.settings.port), packet)
            return
        for node, address in self._addresses.items():
            if node != self.settings.me:
                self._send_to(address, packet)

    def drain(self) -> None:
        """Do the machine's effects, also those that the owner's reactions cause, in order."""
        if self._draining:
            return
        self._draining = True
        try:
            while effects := self._carried.effects():
                for effect in effects:
                    if isinstance(effect, SendTo):
                        self._send(effect.node, self.sealer.seal(effect.data, effect.node))
                    elif isinstance(effect, Multicast):
                        self._multicast(effect.data)
                    else:
                        self.on_effect(effect)
        finally:
            self._draining = False
        due_ns = self._carried.next_timer()
        if due_ns is not None and due_ns < self._wakes_ns:
            self._poke.set()

    # Timers

    async def _keep_time(self) -> None:
        """Call the machine when it wants to be called; its wishes may change with every packet."""
        while True:
            self._poke = trio.Event()
            due_ns = self._carried.next_timer()
            wait_s = (due_ns - self._now_ns()) / 1e9 if due_ns is not None else float("inf")
            if wait_s > 0:
                self._wakes_ns = due_ns if due_ns is not None else FOREVER_NS
                with trio.move_on_after(wait_s):
                    await self._poke.wait()
                continue
            while not all(self._read(sock) for sock in self._sockets):
                pass
            self._carried.handle_timer(self._now_ns())
            self.drain()
            await trio.lowlevel.checkpoint()


class Transport(Carrier[Effect]):
    """A bare TotemMachine on the network."""

    def __init__(self, settings: TransportSettings, machine: TotemMachine, sealer: Sealer,
                 on_effect: Callable[[Effect], None]) -> None:
        super().__init__(settings, machine, sealer, on_effect)
        self.machine = machine

    def submit(self, payload: bytes) -> bool:
        """As TotemMachine.submit; what it causes is sent at once."""
        taken = self.machine.submit(payload, self._now_ns())
        self.drain()
        return taken

    def leave(self) -> None:
        """Say goodbye; run() may be cancelled afterwards."""
        self.machine.leave(self._now_ns())
        self.drain()
