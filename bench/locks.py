"""What a lock costs: remote grants and conversions beside a plain TCP round trip over the same link, in one run.

Two processes, each a node, on two loopback addresses. Every row is measured in rounds that take turns, so that a busy
moment of the machine meets all rows alike; the table has medians and the ratio to the TCP row of the same run.

    python -m bench.locks [--smoke] [--rounds N] [--count N]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
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

ADDRESS = {1: "127.0.0.1", 2: "127.0.0.2"}
SPACE_ID = 0x10c5
PACKET_BYTES = 116              # of a request with its envelope and a name of four bytes
START_LIMIT_S = 20.0


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


async def other_side(nodes: list[Node], echo: socket.socket, ready: int) -> None:
    """Node 2: masters what is asked of it, gives way where it holds, and echoes."""
    async with member(nodes, 2) as (_, space), trio.open_nursery() as nursery:
        for i in range(8):
            await space.lock(f"far{i}", LockMode.NL)
        nursery.start_soon(give_way, await space.lock("turn", LockMode.EX))
        os.close(ready)
        await trio.to_thread.run_sync(serve_echo, echo, abandon_on_cancel=True)
        nursery.cancel_scope.cancel()


def serve_echo(echo: socket.socket) -> None:
    connection, _ = echo.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection:
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


async def measure(nodes: list[Node], echo_port: int, ready: int, rounds: int, count: int) -> list[Row]:
    async with member(nodes, 1) as (_, space):
        await trio.to_thread.run_sync(os.read, ready, 1)        # its end: the other node has its locks
        with socket.create_connection((ADDRESS[2], echo_port)) as link:
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
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
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = options(argv)
    if args.smoke:
        args.rounds, args.count = 2, 50
    nodes = [Node(i, a, free_port(a)) for i, a in ADDRESS.items()]
    with socket.socket() as echo:
        echo.bind((ADDRESS[2], 0))
        echo.listen(1)
        wait_ready, ready = os.pipe()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.close(wait_ready)
                trio.run(other_side, nodes, echo, ready)
                status = 0
            finally:
                os._exit(status)
        os.close(ready)
        try:
            rows = trio.run(measure, nodes, echo.getsockname()[1], wait_ready, args.rounds, args.count)
        finally:
            os.kill(child, 15)
            os.waitpid(child, 0)
    report(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
