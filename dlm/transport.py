"""TCP between the nodes of a lockspace: who may connect, when to connect again, which socket is written to.

One process, one address, one port. Every node listens; whoever has something to say connects, and one connection
carries both directions. When two connect at once both connections stay: each is read, and each side writes on the one
it had first. The numbers of dlm._midcomms keep the order and repeat what a broken connection lost.

    known (set_nodes) --something to send--> connecting --> connected --error, end--> connecting, if there is need
                      <--connection accepted from its address--'

What happens often is in dlm._pump: writing by whoever has something to say, reading by a thread per connection. What
happens seldom is here and in trio's thread: listening, connecting with back-off, ends of connections, full sockets,
the log. docs/design/dlm-wire.md has the reasons and the times.

Rules learnt from kernel peers: the source address must be the node's configured one, any port; a refused or broken
connection ends with RST, because after a clean end a kernel repeats nothing; we listen before a member is added.

Source for the behaviour: Linux 6.1 fs/dlm/lowcomms.c.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import os
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import trio

from dlm import _midcomms as midcomms
from dlm._pump import Pump

log = logging.getLogger("dlm.transport")

DLM_PORT = 21064
LINKS_MAX = 4               # connections of one peer that are read at the same time
NODES_MAX = 127
CONNECT_TIMEOUT_S = 3.0
BACKOFF_MIN_S, BACKOFF_MAX_S = 0.02, 1.0
# The node with the smaller id gives the other a moment to connect, so that two rarely do it at once.
POLITE_S = 0.05
# Unanswered data or probes for this long: the other end is gone, whatever TCP still hopes.
USER_TIMEOUT_MS = 5000
KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT = 2, 1, 3
STRANGERS_MAX = 64          # addresses whose refusal is remembered, so that each is logged once
ACCEPT_RETRY_S = 0.1
# The kernel lets threads that wait in accept give these back; none is our listener's end.
ACCEPT_TRANSIENT = (errno.ECONNABORTED, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EPROTO,
                    errno.EINTR, errno.EPERM)


class TransportError(OSError):
    """The transport cannot do what was asked; errno says why."""


@dataclass(frozen=True, slots=True)
class Node:
    """Where a node of the cluster is to be found. `address` is a numeric IPv4 or IPv6 address."""

    node_id: int
    address: str
    port: int = DLM_PORT


@dataclass(frozen=True, slots=True)
class PeerStatistics:
    """What `dlm_tool` shows of one peer."""

    node_id: int
    address: str
    links: int
    counts: dict[str, int | str | bool]


class _Link:
    """One TCP connection with a peer; its thread reads it to the end, then trio closes it."""

    __slots__ = ("accepted", "alive", "peer", "sock")

    def __init__(self, peer: _Peer, sock: socket.socket, accepted: bool) -> None:
        self.peer, self.sock, self.accepted, self.alive = peer, sock, accepted, True


class _Peer:
    """One other node and its connections; touched by trio's thread only."""

    __slots__ = ("changed", "links", "node", "parted", "scope", "sender", "wanted", "writing")

    def __init__(self, node: Node) -> None:
        self.node = node
        self.links: list[_Link] = []
        self.sender: _Link | None = None
        self.wanted = trio.Event()      # somebody has to connect
        self.changed = trio.Event()     # replaced at each change of the machine's state
        self.parted = False             # in order, and nothing is to be said any more
        self.writing = False            # a task waits for its socket to take more
        self.scope = trio.CancelScope()


def arm_reset(sock: socket.socket) -> None:
    """Closing it sends RST: the other end then repeats what we have not acknowledged."""
    with contextlib.suppress(OSError):      # it may have gone already
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def tune(sock: socket.socket) -> None:
    """No delays, and an end to connections whose other half has silently gone. Raises OSError."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_COUNT)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)


def family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def canonical(address: str) -> str:
    """An address as the system writes it, so that two spellings of one are the same. Raises TransportError."""
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        raise TransportError(errno.EINVAL, f"{address!r} is no IP address") from None


class Transport:
    """The connections of one process.

    local: our own id, address and port (0: any free one; `local` then has it). deliver: called with
    (node id, packet) by threads of the transport, for each connection in its order; it may call `send`.
    """

    def __init__(self, local: Node, deliver: Callable[[int, bytes], object], *, rng: random.Random) -> None:
        self.local = local
        self.pump = Pump(local.node_id, deliver)
        self._rng = rng
        self._lines: set[int] = set()
        self._peers: dict[int, _Peer] = {}
        self._by_address: dict[str, _Peer] = {}
        self._strangers: dict[str, None] = {}
        self._nursery: trio.Nursery | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._closing = False

    # ------------------------------------------------------------------ life

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen and serve until cancelled; started when the port is open. Raises TransportError."""
        with self._listen() as listener:
            try:
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    self._token = trio.lowlevel.current_trio_token()
                    nursery.start_soon(self._attend)
                    for peer in self._peers.values():
                        nursery.start_soon(self._connector, peer)
                    task_status.started()
                    await self._accept(listener)
            finally:
                self._nursery = None
                for peer in self._peers.values():
                    self._drop(peer)

    def _listen(self) -> socket.socket:
        listener = socket.socket(family(self.local.address), socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setblocking(False)
            listener.bind((self.local.address, self.local.port))
            listener.listen(NODES_MAX)
        except OSError as e:
            listener.close()
            raise TransportError(e.errno, f"cannot listen on {self.local.address} port {self.local.port}: "
                                 f"{os.strerror(e.errno or 0)}") from e
        if not self.local.port:
            self.local = Node(self.local.node_id, self.local.address, listener.getsockname()[1])
        return listener

    def set_nodes(self, nodes: Iterable[Node]) -> None:
        """The nodes of the cluster, from its configuration: only their addresses may connect. Raises TransportError."""
        wanted = {n.node_id: n for n in nodes if n.node_id != self.local.node_id}
        for node in wanted.values():
            canonical(node.address)     # all or nothing
        if len(wanted) > NODES_MAX:
            raise TransportError(errno.E2BIG, f"{len(wanted)} nodes, at most {NODES_MAX}")
        for node_id in [i for i, p in self._peers.items() if wanted.get(i) != p.node]:
            peer = self._peers.pop(node_id)
            self._by_address.pop(canonical(peer.node.address), None)
            self._drop(peer)
            self.pump.act(node_id, "close")
            peer.scope.cancel()
        for node in wanted.values():
            if node.node_id in self._peers:
                continue
            if node.node_id not in self._lines:
                self.pump.add_line(node.node_id)
                self._lines.add(node.node_id)
            peer = self._peers[node.node_id] = _Peer(node)
            self._by_address[canonical(node.address)] = peer
            self._strangers.pop(canonical(node.address), None)
            if self._nursery:
                self._nursery.start_soon(self._connector, peer)

    def knows(self, node_id: int) -> bool:
        return node_id in self._peers

    def add_user(self, node_id: int) -> None:
        """A lockspace has this node as a member."""
        self._peer(node_id)
        self.pump.act(node_id, "add_user")

    def remove_user(self, node_id: int) -> None:
        """A lockspace has it no more, after it left in order."""
        self._peer(node_id)
        self.pump.act(node_id, "remove_user")

    def forget(self, node_id: int) -> None:
        """The node failed: its connections go, and what was said and not acknowledged is forgotten."""
        peer = self._peer(node_id)
        log.info("closing connection to node %d", node_id)
        self._drop(peer)
        self.pump.act(node_id, "close")

    async def shutdown(self, timeout_s: float) -> list[int]:
        """Part from every peer with FIN; the ids of those that did not answer in time, which are forgotten."""
        self._closing = True
        for node_id in self._peers:
            self.pump.act(node_id, "shutdown")
        late = []
        with trio.move_on_after(timeout_s):
            for node_id, peer in list(self._peers.items()):
                while self.pump.describe(node_id)["state"] != "CLOSED":
                    await peer.changed.wait()
        for node_id in self._peers:
            if self.pump.describe(node_id)["state"] != "CLOSED":
                late.append(node_id)
                self.forget(node_id)
            else:
                self._peers[node_id].parted = True
        return late

    def _peer(self, node_id: int) -> _Peer:
        try:
            return self._peers[node_id]
        except KeyError:
            raise TransportError(errno.EHOSTUNREACH, f"node {node_id} is not a node of this cluster") from None

    def send(self, node_id: int, packet: bytes) -> None:
        """Send one packet; any thread may. Raises TransportError."""
        try:
            self.pump.send(node_id, packet)
        except KeyError:
            raise TransportError(errno.EHOSTUNREACH, f"node {node_id} is not a node of this cluster") from None
        except BufferError as e:
            raise TransportError(errno.ENOBUFS, str(e)) from None

    def statistics(self) -> list[PeerStatistics]:
        return [PeerStatistics(i, p.node.address, len(p.links), self.pump.describe(i))
                for i, p in sorted(self._peers.items())]

    # ------------------------------------------------------------------ what the pump asks for

    async def _attend(self) -> None:
        """Looks after every line when the pump says that there is something."""
        while True:
            try:
                os.eventfd_read(self.pump.attention_fd)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self.pump.attention_fd)
                continue
            for node_id, peer in list(self._peers.items()):
                wanted, full, state, changed, events = self.pump.attention(node_id)
                for level, text in events:
                    log.log(logging.WARNING if level == "warning" else logging.INFO, "node=%d %s", node_id, text)
                if changed:
                    log.info("state node=%d %s", node_id, midcomms.STATE_NAMES[state])
                    peer.changed.set()
                    peer.changed = trio.Event()
                if wanted:
                    peer.wanted.set()
                if full and peer.sender and not peer.writing and self._nursery:
                    peer.writing = True
                    self._nursery.start_soon(self._write_on, peer, peer.sender)

    async def _write_on(self, peer: _Peer, link: _Link) -> None:
        """Wait until a full socket takes more."""
        try:
            await trio.lowlevel.wait_writable(link.sock)
        except (trio.ClosedResourceError, OSError):
            pass                        # it ended: the next connection repeats what it did not take
        finally:
            peer.writing = False
        if peer.sender is link:
            self.pump.writable(peer.node.node_id)

    # ------------------------------------------------------------------ connections

    def _attach(self, peer: _Peer, sock: socket.socket, accepted: bool) -> None:
        """A connection stands."""
        node_id = peer.node.node_id
        if self._peers.get(node_id) is not peer or self._nursery is None:
            arm_reset(sock)
            sock.close()
            return
        link = _Link(peer, sock, accepted)
        log.info("got connection from %d" if accepted else "connected to %d", node_id)
        sock.setblocking(True)
        peer.links.append(link)
        if len(peer.links) > LINKS_MAX:
            self._hang_up(next(x for x in peer.links if x is not peer.sender))
        # A peer that connects again has given up the connection that it made before.
        if peer.sender is None or (accepted and peer.sender.accepted):
            peer.sender = link
            self.pump.carry(node_id, sock.fileno())
        threading.Thread(target=self._read, args=(link,), daemon=True, name=f"dlm-{node_id}").start()

    def _read(self, link: _Link) -> None:
        """The body of a reader thread."""
        why = self.pump.read(link.peer.node.node_id, link.sock.fileno())
        assert self._token is not None
        try:
            self._token.run_sync_soon(self._ended, link, why)
        except trio.RunFinishedError:
            link.sock.close()

    def _ended(self, link: _Link, why: str) -> None:
        """Its thread reads no more: close it, and carry on over another one if there is need."""
        peer = link.peer
        if link.alive:
            log.info("connection lost node=%d: %s", peer.node.node_id, why)
            self._hang_up(link)
        trio.lowlevel.notify_closing(link.sock)
        if not peer.parted:
            arm_reset(link.sock)
        link.sock.close()

    def _hang_up(self, link: _Link) -> None:
        """Write over it no more, and wake its thread, which ends it."""
        peer = link.peer
        link.alive = False
        peer.links.remove(link)
        if peer.sender is link:
            peer.sender = peer.links[-1] if peer.links else None
            self.pump.carry(peer.node.node_id, peer.sender.sock.fileno() if peer.sender else -1)
        # An RST throws away what is under way, and a kernel takes it for a fault: after the word that ended it all it
        # would connect again, for ever.
        if not peer.parted:
            arm_reset(link.sock)
        with contextlib.suppress(OSError):      # the other end was faster
            # Without FIN where the close that follows is to be an RST.
            link.sock.shutdown(socket.SHUT_RDWR if peer.parted else socket.SHUT_RD)

    def _drop(self, peer: _Peer) -> None:
        for link in list(peer.links):
            self._hang_up(link)

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, source = listener.accept()
            except BlockingIOError:
                await trio.lowlevel.wait_readable(listener)
                continue
            except OSError as e:
                if e.errno not in ACCEPT_TRANSIENT:
                    raise
                log.warning("cannot accept a connection: %s", e.strerror)
                await trio.sleep(ACCEPT_RETRY_S)
                continue
            peer = self._by_address.get(source[0])
            if peer is None or self._closing:
                self._refuse(sock, source[0])
                continue
            try:
                tune(sock)
            except OSError:
                sock.close()        # it was reset before we came to it
                continue
            self._attach(peer, sock, accepted=True)

    def _refuse(self, sock: socket.socket, address: str) -> None:
        arm_reset(sock)
        sock.close()
        if address not in self._strangers and not self._closing:
            while len(self._strangers) >= STRANGERS_MAX:
                self._strangers.pop(next(iter(self._strangers)))
            self._strangers[address] = None
            log.warning("connection refused: %s is not the address of a node of this cluster", address)

    async def _connector(self, peer: _Peer) -> None:
        """Makes a connection whenever one is needed and none stands."""
        node = peer.node
        with peer.scope:
            while True:
                await peer.wanted.wait()
                peer.wanted = trio.Event()
                delay_s, said = 0.0, ""
                if self.local.node_id < node.node_id:
                    await trio.sleep(POLITE_S)
                if peer.sender is None and self.pump.wanted(node.node_id):
                    log.info("connecting to %d", node.node_id)
                while peer.sender is None and self.pump.wanted(node.node_id):
                    try:
                        sock = await self._connect(node)
                    except OSError as e:
                        reason = e.strerror or str(e)
                        if reason != said:
                            log.warning("cannot connect node=%d address=%s port=%d: %s", node.node_id, node.address,
                                        node.port, reason)
                            said = reason
                        delay_s = min(max(BACKOFF_MIN_S, 2 * delay_s), BACKOFF_MAX_S)
                        await trio.sleep(delay_s * (0.5 + self._rng.random()))
                        continue
                    self._attach(peer, sock, accepted=False)

    async def _connect(self, node: Node) -> socket.socket:
        """A connection from our own address. Raises OSError."""
        sock = socket.socket(family(node.address), socket.SOCK_STREAM)
        done = False
        try:
            sock.setblocking(False)
            sock.bind((self.local.address, 0))
            tune(sock)
            code = sock.connect_ex((node.address, node.port))
            if code == errno.EINPROGRESS:
                with trio.move_on_after(CONNECT_TIMEOUT_S) as limit:
                    await trio.lowlevel.wait_writable(sock)
                code = errno.ETIMEDOUT if limit.cancelled_caught else \
                    sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, os.strerror(code))
            done = True
            return sock
        finally:
            if not done:
                sock.close()
