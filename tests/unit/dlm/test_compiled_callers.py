"""Compiled callers on two nodes, in threads without the interpreter, while connections break under them."""

from __future__ import annotations

import random

import pytest
import trio

from bench import _dlm
from dlm.core.packets import LockMode
from dlm_nodes import LIMIT_S, cluster, until

NL, PR, EX = LockMode.NL, LockMode.PR, LockMode.EX
ROUNDS = 1500


@pytest.mark.parametrize("breaks", [False, True], ids=["quiet network", "connections break"])
def test_taking_turns(rng: random.Random, breaks: bool) -> None:
    """Six threads contend for three locks; a message that got lost, doubled or swapped would leave one waiting."""
    async def main() -> None:
        async with cluster(2) as sites:
            done = []

            async def caller(node: int, name: bytes) -> None:
                await trio.to_thread.run_sync(_dlm.converts, sites[node].space.machine, name, NL, EX, ROUNDS)
                done.append(name)

            async def breaker() -> None:
                while len(done) < 6:
                    for _ in range(rng.randint(1, 4)):
                        await trio.sleep(0.003)
                    transport = sites[rng.randrange(2)].node.transport
                    for peer in transport._peers.values():
                        for link in list(peer.links):
                            transport._hang_up(link)
            async with trio.open_nursery() as nursery:
                for node in range(2):
                    for name in (b"a", b"b", b"c"):
                        nursery.start_soon(caller, node, name)
                if breaks:
                    nursery.start_soon(breaker)
            await until(lambda: not any(lk.queue != "none" for s in sites for r in s.space.dump() for lk in r.locks))
            counts = [s.node.transport.pump.describe(3 - s.node.node_id) for s in sites]
            assert [c["refused"] for c in counts] == [0, 0]
            assert (sum(int(c["retransmitted"]) for c in counts) > 0) == breaks

    async def limited() -> None:
        with trio.fail_after(LIMIT_S):
            await main()
    trio.run(limited)
