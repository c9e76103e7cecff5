"""What a lock costs: remote grants and conversions beside a plain TCP round trip over the same link, in one run.

Two processes, each a node, on two loopback addresses (or one of the two, on an address of its own: bench.cluster has
them in two namespaces). Every row is measured in rounds that take turns, so that a busy
moment of the machine meets all rows alike; the table has medians and the ratio to the TCP row of the same run.

    python -m bench.locks [--smoke] [--rounds N] [--count N] [--side 1|2 --addresses A,B --ports DLM1,DLM2,ECHO]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import socket
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import trio

from bench import _dlm
from dlm.core import events
from dlm.core.packets import LockMode
from dlm.locks import Lock, Lockspace
from dlm.node import DlmNode, open_node
from dlm.transport import Node

LOOPBACK = ("127.0.0.1", "127.0.0.2")
SPACE_ID = 0x10c5
PACKET_BYTES = 116              # of a request with its envelope and a name of four bytes
START_LIMIT_S = 20.0
GREETING = b"!"


@dataclass
class Row:
    """One kind of operation and its times in microseconds, a list per round."""

    name: str
    operation: Callable[[int], Awaitable[None]] | None
    compiled: bytes = b""           # instead: conversions on this resource by a compiled caller
    rounds: list[float] = field(default_factory=list)


def free_port(address: str) -> int:
    with socket.socket() as s:
        s.bind((address, 0))
        return int(s.getsockname()[1])


@contextlib.asynccontextmanager
async def member(nodes: list[Node], me: int) -> AsyncIterator[tuple[DlmNode, Lockspace]]:
    async with open_node(nodes[me - 1], rng=random.Random(me)) as node:
        node.transport.set_nodes(nodes)
        space = node.lockspace("bench", SPACE_ID)
        node.start(space, [events.Node(n.node_id) for n in nodes])
        with trio.fail_after(START_LIMIT_S):
            await space.wait_running()
        yield node, space


async def give_way(held: Lock) -> None:
    """Another node wants it: let it have it, and take it again."""
    while True:
        await held.wait_blocking()
        await held.convert(LockMode.NL)
        await held.convert(LockMode.EX)


async def other_side(nodes: list[Node], echo: socket.socket) -> None:
    """Node 2: masters what is asked of it, gives way where it holds, and echoes."""
    async with member(nodes, 2) as (_, space), trio.open_nursery() as nursery:
        for i in range(8):
            await space.lock(f"far{i}", LockMode.NL)
        nursery.start_soon(give_way, await space.lock("turn", LockMode.EX))
        await trio.to_thread.run_sync(serve_echo, echo, abandon_on_cancel=True)
        nursery.cancel_scope.cancel()


def serve_echo(echo: socket.socket) -> None:
    connection, _ = echo.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection:
        connection.sendall(GREETING)        # we have our locks
        while data := connection.recv(4096):
            connection.sendall(data)


async def rows_of(space: Lockspace, link: socket.socket) -> list[Row]:
    """All rows, ready to run."""
    far = await space.lock("far0", LockMode.NL)
    near = await space.lock("near", LockMode.NL)
    turn = await space.lock("turn", LockMode.NL)
    data = bytes(PACKET_BYTES)

    async def tcp(_: int) -> None:
        link.sendall(data)
        link.recv(4096)

    async def remote_convert(_: int) -> None:
        await far.convert(LockMode.PR)
        await far.convert(LockMode.NL)

    async def remote_grant(i: int) -> None:
        async with space.lock(f"far{1 + i % 7}", LockMode.PR):
            pass

    async def local_convert(_: int) -> None:
        await near.convert(LockMode.EX)
        await near.convert(LockMode.NL)

    async def local_lock(_: int) -> None:
        async with space.lock("near", LockMode.PR):
            pass

    async def contended(_: int) -> None:
        await turn.convert(LockMode.EX)
        await turn.convert(LockMode.NL)

    return [Row("TCP round trip (blocking sockets, Python)", tcp),
            Row("remote convert up and down, compiled caller", None, b"far0"),
            Row("remote convert up and down", remote_convert), Row("remote lock and unlock", remote_grant),
            Row("taking turns with the holder", contended),
            Row("local convert up and down, compiled caller", None, b"near"),
            Row("local convert up and down", local_convert), Row("local lock and unlock", local_lock)]


def echo_link(nodes: list[Node], port: int) -> socket.socket:
    """A connection to the other side, which has its locks. Raises OSError."""
    deadline = time.monotonic() + START_LIMIT_S
    while True:
        try:
            link = socket.create_connection((nodes[1].address, port), START_LIMIT_S)
            break
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if link.recv(1) != GREETING:
        raise ConnectionError("the other side went away")
    link.settimeout(None)
    return link


async def measure(nodes: list[Node], echo_port: int, rounds: int, count: int) -> list[Row]:
    async with member(nodes, 1) as (_, space):
        with await trio.to_thread.run_sync(echo_link, nodes, echo_port) as link:
            rows = await rows_of(space, link)
            masters = {r.name: r.master for r in space.dump()}
            if (masters[b"far0"], masters[b"turn"], masters[b"near"]) != (2, 2, 1):
                raise RuntimeError(f"the resources are not where the rows want them: {masters}")
            for number in range(rounds + 1):
                for row in rows:
                    begin = time.perf_counter()
                    if row.operation is None:
                        await trio.to_thread.run_sync(_dlm.converts, space.machine, row.compiled, LockMode.NL,
                                                      LockMode.PR, count)
                    else:
                        for i in range(count):
                            await row.operation(i)
                    if number:          # the first round warms up
                        row.rounds.append((time.perf_counter() - begin) / count * 1e6)
    return rows


def report(rows: list[Row]) -> None:
    base, base_low = statistics.median(rows[0].rounds), min(rows[0].rounds)
    print("| operation | us, median | us, best round | of TCP, median | of TCP, best | per second |\n"
          "| --- | --- | --- | --- | --- | --- |")
    for row in rows:
        us, low = statistics.median(row.rounds), min(row.rounds)
        print(f"| {row.name} | {us:.1f} | {low:.1f} | {us / base:.2f} | {low / base_low:.2f} | {1e6 / us:,.0f} |")
    for row in rows:
        print(json.dumps({"name": f"dlm: {row.name}", "value": round(statistics.median(row.rounds), 2), "unit": "us",
                          "n": len(row.rounds), "low": round(min(row.rounds), 2), "high": round(max(row.rounds), 2)}))


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.locks", description="What a lock costs beside a TCP round trip.")
    parser.add_argument("--smoke", action="store_true", help="seconds of it: does every row still run?")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--count", type=int, default=500, help="operations of each row per round")
    parser.add_argument("--side", type=int, choices=(1, 2), help="be only this node: 1 measures, 2 is measured")
    parser.add_argument("--addresses", type=lambda text: text.split(","), help="of both nodes")
    parser.add_argument("--ports", type=lambda text: [int(p) for p in text.split(",")],
                        help="of both nodes' lock managers, and of the second one's echo")
    args = parser.parse_args(argv)
    if args.side and (len(args.addresses or ()) != 2 or len(args.ports or ()) != 3):
        parser.error("--side needs two addresses and three ports")
    return args


def listen(address: str, port: int) -> socket.socket:
    echo = socket.socket()
    echo.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    echo.bind((address, port))
    echo.listen(1)
    return echo


def both(args: argparse.Namespace) -> list[Row]:
    """Two processes on the loopback."""
    nodes = [Node(i, a, free_port(a)) for i, a in enumerate(LOOPBACK, 1)]
    with listen(nodes[1].address, 0) as echo:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                trio.run(other_side, nodes, echo)
                status = 0
            finally:
                os._exit(status)
        try:
            return trio.run(measure, nodes, echo.getsockname()[1], args.rounds, args.count)
        finally:
            os.kill(child, signal.SIGTERM)
            os.waitpid(child, 0)


def main(argv: Sequence[str] | None = None) -> int:
    args = options(argv)
    if args.smoke:
        args.rounds, args.count = 2, 50
    if not args.side:
        report(both(args))
        return 0
    *ports, echo_port = args.ports
    nodes = [Node(i, a, p) for i, (a, p) in enumerate(zip(args.addresses, ports, strict=True), 1)]
    if args.side == 1:
        report(trio.run(measure, nodes, echo_port, args.rounds, args.count))
    else:
        with listen(nodes[1].address, echo_port) as echo:
            trio.run(other_side, nodes, echo)
    return 0


if __name__ == "__main__":
    sys.exit(main())
