"""How long an ordered message takes from a client to itself, with one to three nodes, and how long a death goes unseen.

    python -m bench.messages [--smoke]

JSON lines {name, value, unit, n}. Real daemons in network namespaces (tests/cluster/netns.py); needs root and ip(8).
Locks may ride on such messages (fcntl locks do), so what counts is the time of one, not how many fit.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import trio

from cman.client import Configuration, Delivered, Group, open_cman
from tests.cluster.netns import NodeRig, Rig

NAMES = ("web1", "web2", "web3")
PAYLOAD = bytes(64)


def tell(name: str, value: float, unit: str, n: int) -> None:
    print(json.dumps({"name": name, "value": round(value, 3), "unit": unit, "n": n}), flush=True)


async def next_message(group: Group) -> Delivered:
    while not isinstance(event := await group.next(), Delivered):
        pass
    return event


async def round_trips(node: NodeRig, count: int) -> list[float]:
    """Milliseconds from mcast to its own delivery, one at a time, sorted."""
    times = []
    async with open_cman(node.socket) as cman:
        group = await cman.join("bench")
        while not isinstance(await group.next(), Configuration):
            pass
        for _ in range(count):
            start = time.perf_counter_ns()
            await group.mcast(PAYLOAD)
            await next_message(group)
            times.append((time.perf_counter_ns() - start) / 1e6)
    return sorted(times)


async def stream(node: NodeRig, count: int) -> float:
    """Messages per second when the sender does not wait."""
    async with open_cman(node.socket) as cman:
        group = await cman.join("bench")
        start = time.perf_counter()
        async with trio.open_nursery() as nursery:
            async def collect() -> None:
                for _ in range(count):
                    await next_message(group)

            nursery.start_soon(collect)
            for _ in range(count):
                await group.mcast(PAYLOAD)
        return count / (time.perf_counter() - start)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a look, not a measurement")
    count = 50 if parser.parse_args().smoke else 2000
    with tempfile.TemporaryDirectory() as folder, Rig(Path(folder), Path(sys.executable).parent, NAMES) as rig:
        rig.configure()
        for size, node in enumerate(rig.nodes, 1):
            node.start(realtime=True)
            rig.wait_members(rig.nodes[:size])
            times = trio.run(round_trips, rig.nodes[0], count)
            for part in (50, 90, 99):
                tell(f"mcast to oneself, {size} nodes, p{part}", times[count * part // 100], "ms", count)
        tell("mcast in a row, 3 nodes", trio.run(stream, rig.nodes[0], count), "1/s", count)
        rig.nodes[2].kill()
        tell("kill -9 to new membership", rig.wait_members(rig.nodes[:2]) * 1e3, "ms", 1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
