"""Nodes of the lock manager in one process, on 127.0.0.x, with one lockspace started on all of them."""

from __future__ import annotations

import math
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from dlm.core import events
from dlm.locks import Lockspace
from dlm.node import DlmNode, open_node
from dlm.transport import Node

LIMIT_S = 60.0
SPACE_ID = 0x1092


@dataclass
class Site:
    """One node and its lockspace."""

    node: DlmNode
    space: Lockspace
    told: list[object]
    death: trio.Event
    dead: trio.Event

    async def die(self) -> None:
        """Without a word to anybody."""
        self.death.set()
        await self.dead.wait()


async def until(check: Callable[[], object]) -> None:
    """Wait for what no event tells."""
    with trio.fail_after(LIMIT_S):
        while not check():      # noqa: ASYNC110
            await trio.sleep(0.002)


def restart(sites: list[Site], incarnation: int = 0, left: tuple[int, ...] = ()) -> None:
    """Stop all, then start all: what the control does."""
    nodes = [events.Node(s.node.node_id, comm_seq=incarnation) for s in sites]
    for site in sites:
        site.space.stop()
    for site in sites:
        site.node.start(site.space, nodes, left=left)


@asynccontextmanager
async def cluster(count: int, lvb_bytes: int = 32) -> AsyncIterator[list[Site]]:
    """Nodes 1 to `count`, running."""
    sites: list[Site] = []

    async def life(i: int, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with open_node(Node(i + 1, f"127.0.0.{i + 1}", 0), rng=random.Random(i)) as node:
            told: list[object] = []
            space = node.lockspace("test", SPACE_ID, lvb_bytes=lvb_bytes, on_event=told.append)
            site = Site(node, space, told, trio.Event(), trio.Event())
            sites.append(site)
            task_status.started()
            await site.death.wait()
        site.dead.set()

    async with trio.open_nursery() as nursery:
        for i in range(count):
            await nursery.start(life, i)
        for site in sites:
            site.node.transport.set_nodes(s.node.local for s in sites)
        say, said = trio.open_memory_channel[bytes](math.inf)

        async def group() -> None:
            """What is said is heard by all in one order."""
            async for data in said:
                for site in sites:
                    site.space.heard(data)

        nursery.start_soon(group)
        for site in sites:
            site.space.say = say.send_nowait
        restart(sites)
        with trio.fail_after(LIMIT_S):
            for site in sites:
                await site.space.wait_running()
        yield sites
        nursery.cancel_scope.cancel()
