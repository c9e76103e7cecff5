"""The transport over loopback: real sockets between transports of one process, broken in every way we know."""

from __future__ import annotations

import contextlib
import logging
import random
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio

from dlm.transport import Node, Transport, TransportError, canonical
from dlm_packets import ack, header, message, opts, status

LIMIT_S = 60.0


class Inbox:
    """Collects what a transport delivers and lets a task wait for it."""

    def __init__(self) -> None:
        self.packets: list[tuple[int, bytes]] = []
        self.gate = threading.Event()
        self.gate.set()
        self._token = trio.lowlevel.current_trio_token()
        self._news = trio.Event()

    def deliver(self, node: int, packet: bytes) -> None:
        self.gate.wait(LIMIT_S)
        self.packets.append((node, packet))
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._wake)

    def _wake(self) -> None:
        self._news.set()
        self._news = trio.Event()

    def tags(self) -> list[int]:
        return [int.from_bytes(p[28:32], "little") for _, p in self.packets if p[14] == 1]

    async def wait(self, enough: Callable[[Inbox], bool]) -> None:
        with trio.fail_after(LIMIT_S):
            while not enough(self):
                await self._news.wait()


@asynccontextmanager
async def transports(count: int, start: bool = True) \
        -> AsyncIterator[tuple[list[Transport], list[Inbox], trio.Nursery]]:
    """Nodes 1 to `count` on 127.0.0.x that know each other."""
    boxes = [Inbox() for _ in range(count)]
    made = [Transport(Node(i + 1, f"127.0.0.{i + 1}", 0), box.deliver, rng=random.Random(i))
            for i, box in enumerate(boxes)]
    async with trio.open_nursery() as nursery:
        if start:
            for t in made:
                await nursery.start(t.run)
            for t in made:
                t.set_nodes(x.local for x in made)
        yield made, boxes, nursery
        nursery.cancel_scope.cancel()


async def until(check: Callable[[], object]) -> None:
    """Wait for what no event tells."""
    with trio.fail_after(LIMIT_S):
        while not check():      # noqa: ASYNC110
            await trio.sleep(0.005)


async def meet(made: list[Transport], boxes: list[Inbox]) -> None:
    """Say STATUS in all directions."""
    for a in made:
        for b in made:
            if a is not b:
                a.send(b.local.node_id, status(a.local.node_id))
    for box in boxes:
        await box.wait(lambda b: len(b.packets) >= len(made) - 1)


def run(test: Callable[[], object]) -> None:
    trio.run(test)      # type: ignore[arg-type]


def test_packets_both_ways() -> None:
    async def main() -> None:
        async with transports(3) as (made, boxes, _):
            await meet(made, boxes)
            for tag in range(200):
                made[0].send(2, message(1, tag))
                made[1].send(1, message(2, tag))
                made[2].send(2, message(3, tag))
            await boxes[0].wait(lambda b: b.tags() == list(range(200)))
            await boxes[1].wait(lambda b: len(b.tags()) == 400)
            for node in (1, 3):
                assert [p for n, p in boxes[1].packets if n == node] == \
                    [status(node), *(message(node, i) for i in range(200))]
    run(main)


def test_acknowledged_when_nothing_goes_back() -> None:
    """One packet and silence: the ACK comes alone, without trio."""
    async def main() -> None:
        async with transports(2) as (made, boxes, _):
            await meet(made, boxes)
            made[0].send(2, message(1, 1))
            await until(lambda: not made[0].pump.describe(2)["unacked"])
    run(main)


def test_connections_that_break() -> None:
    async def main() -> None:
        async with transports(2) as (made, boxes, _):
            await meet(made, boxes)
            rng = random.Random(1)
            for tag in range(3000):
                made[0].send(2, message(1, tag))
                made[1].send(1, message(2, tag))
                if tag % 300 == 299:
                    sender = made[rng.randrange(2)]._peers
                    for peer in sender.values():
                        if peer.sender:
                            with contextlib.suppress(OSError):      # it broke already
                                peer.sender.sock.shutdown(rng.choice([socket.SHUT_RDWR, socket.SHUT_WR,
                                                                      socket.SHUT_RD]))
                    await trio.sleep(0.02)
            for box in boxes:
                await box.wait(lambda b: len(b.tags()) >= 3000)
                assert box.tags() == list(range(3000))
            assert sum(int(t.pump.describe(3 - t.local.node_id)["gaps"]) for t in made) == 0
    run(main)


def test_a_socket_that_is_full() -> None:
    async def main() -> None:
        async with transports(2) as (made, boxes, _):
            await meet(made, boxes)
            boxes[1].gate.clear()
            packets = [message(1, tag, 4000) for tag in range(6000)]
            for packet in packets:
                made[0].send(2, packet)
            assert made[0].pump.attention(2)[1], "the socket took 24 MB"
            made[0].pump.writable(2)
            boxes[1].gate.set()
            await boxes[1].wait(lambda b: len(b.packets) > len(packets))
            assert [p for _, p in boxes[1].packets[1:]] == packets
    run(main)


def test_both_connect_at_once(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        for _round in range(5):
            async with transports(2) as (made, boxes, _):
                with caplog.at_level(logging.INFO, "dlm.transport"):
                    for a, b in ((0, 1), (1, 0)):
                        sock = await made[a]._connect(made[b].local)
                        made[a]._attach(made[a]._peers[b + 1], sock, accepted=False)
                await meet(made, boxes)
                for tag in range(100):
                    made[0].send(2, message(1, tag))
                    made[1].send(1, message(2, tag))
                for box in boxes:
                    await box.wait(lambda b: b.tags() == list(range(100)))
                await until(lambda: [len(t._peers[3 - t.local.node_id].links) for t in made] == [2, 2])
    run(main)


def test_a_peer_that_listens_late(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with transports(2, start=False) as (made, boxes, nursery):
            with socket.socket() as place:
                place.bind(("127.0.0.2", 0))
                port = place.getsockname()[1]
            made[1].local = Node(2, "127.0.0.2", port)
            await nursery.start(made[0].run)
            made[0].set_nodes([made[1].local])
            made[0].send(2, status(1))
            await until(lambda: "cannot connect node=2" in caplog.text)
            made[1].set_nodes([made[0].local])
            await nursery.start(made[1].run)
            await boxes[1].wait(lambda b: len(b.packets) == 1)
            assert caplog.text.count("cannot connect") == 1
    run(main)


async def closed_by_reset(sock: socket.socket) -> None:
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
    with trio.fail_after(LIMIT_S), pytest.raises(trio.BrokenResourceError):
        await stream.receive_some(100)
    await stream.aclose()


def connection(source: str, to: Node) -> socket.socket:
    sock = socket.socket()
    sock.bind((source, 0))
    sock.connect((to.address, to.port))
    sock.setblocking(False)
    return sock


def test_a_stranger_is_refused_and_named_once(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with transports(2) as (made, boxes, _):
            for _ in range(3):
                await closed_by_reset(connection("127.0.0.77", made[0].local))
            await meet(made, boxes)
            assert caplog.text.count("127.0.0.77") == 1
            assert len(boxes[0].packets) == 1
    run(main)


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n\r\n", bytes(64), header(1, 0, 2, 5),
                                     header(1, 0, 2, 0xffff) + bytes(100)])
def test_garbage_ends_a_connection_and_nothing_else(garbage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with transports(2) as (made, boxes, _):
            await meet(made, boxes)
            sock = connection("127.0.0.2", made[0].local)
            sock.send(garbage)
            await closed_by_reset(sock)
            made[1].send(1, message(2, 7))
            await boxes[0].wait(lambda b: b.tags() == [7])
    caplog.set_level(logging.INFO, "dlm.transport")
    run(main)
    assert "impossible length" in caplog.text


def test_forged_packets_from_a_member_address(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with transports(2) as (made, boxes, _):
            await meet(made, boxes)
            sock = connection("127.0.0.2", made[0].local)
            sock.send(message(2, 66) + opts(5, message(2, 66), 2) + ack(9, 2) + opts(0, message(3, 66), 3))
            await until(lambda: "9, sent was up to 0" in caplog.text)
            made[1].send(1, message(2, 7))
            await boxes[0].wait(lambda b: b.tags() == [7])
            sock.close()
    run(main)


def test_many_connections_of_one_peer() -> None:
    """They are read, but only so many; the newest one that it made is written to."""
    async def main() -> None:
        async with transports(2) as (made, boxes, _):
            await meet(made, boxes)
            socks = [connection("127.0.0.2", made[0].local) for _ in range(9)]
            await until(lambda: len(made[0]._peers[2].links) >= 4)
            await trio.testing.wait_all_tasks_blocked()
            assert len(made[0]._peers[2].links) <= 4
            for sock in socks:
                sock.close()
            made[0].send(2, message(1, 3))
            await boxes[1].wait(lambda b: b.tags() == [3])
    run(main)


def test_parting_in_order() -> None:
    async def main() -> None:
        async with transports(2) as (made, boxes, _):
            await meet(made, boxes)
            for a, b in ((0, 2), (1, 1)):
                made[a].add_user(b)
            made[1].remove_user(1)
            with trio.fail_after(LIMIT_S):
                assert await made[0].shutdown(LIMIT_S) == []
                assert await made[1].shutdown(LIMIT_S) == []
    run(main)


def test_parting_from_one_who_does_not_answer() -> None:
    async def main() -> None:
        async with transports(2) as (made, boxes, _):
            await meet(made, boxes)
            made[1].add_user(1)         # it does not let go
            assert await made[0].shutdown(0.05) == [2]
            assert made[0].pump.describe(2)["state"] == "CLOSED"
    run(main)


def test_a_node_that_failed_is_forgotten_and_may_come_back() -> None:
    async def main() -> None:
        async with transports(2) as (made, boxes, _):
            await meet(made, boxes)
            for tag in range(5):
                made[0].send(2, message(1, tag))
            await boxes[1].wait(lambda b: len(b.tags()) == 5)
            made[0].forget(2)
            made[1].forget(1)
            made[0].send(2, message(1, 9))                      # nothing is sent before the first STATUS
            made[1].send(1, status(2))
            await boxes[0].wait(lambda b: len(b.packets) == 2)
            made[0].send(2, status(1))
            made[0].send(2, message(1, 10))
            await boxes[1].wait(lambda b: len(b.tags()) == 6)
            assert boxes[1].tags() == [0, 1, 2, 3, 4, 10]
    run(main)


def test_half_open_connections_end() -> None:
    """The kernel's own probes are on: a peer whose machine vanished is noticed within seconds."""
    async def main() -> None:
        async with transports(2) as (made, boxes, _):
            await meet(made, boxes)
            for t in made:
                for link in t._peers[3 - t.local.node_id].links:
                    assert link.sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
                    assert link.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 5000
                    assert link.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    run(main)


@pytest.mark.parametrize(("written", "meant"), [("10.0.0.1", "10.0.0.1"), ("FD00::0:1", "fd00::1"),
                                                ("0:0:0:0:0:0:0:1", "::1")])
def test_spellings_of_an_address(written: str, meant: str) -> None:
    assert canonical(written) == meant


def test_errors_say_what() -> None:
    async def main() -> None:
        async with transports(1) as (made, _, _):
            with pytest.raises(TransportError, match="node 9 is not a node of this cluster"):
                made[0].send(9, status(1))
            with pytest.raises(TransportError, match="at most 127"):
                made[0].set_nodes(Node(i + 2, "127.0.0.2") for i in range(128))
            with pytest.raises(TransportError, match="'web1' is no IP address"):
                made[0].set_nodes([Node(2, "127.0.0.2"), Node(3, "web1")])
            assert not made[0].knows(2)
            second = Transport(made[0].local, print, rng=random.Random(0))
            with pytest.raises(TransportError, match=r"cannot listen on 127\.0\.0\.1 port \d+: Address already in use"):
                await second.run()
    run(main)
