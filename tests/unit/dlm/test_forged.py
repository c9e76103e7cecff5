"""Packets that somebody forges from a node's address, against a lockspace that is in use: nothing changes."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator

import pytest
import trio

from dlm.core.packets import LockMode
from dlm.locks import WouldBlock
from dlm.transport import Node
from dlm_nodes import LIMIT_S, SPACE_ID, cluster, until
from dlm_packets import hex_lines, opts, status

EX, PR = LockMode.EX, LockMode.PR
PACKETS_MAX = 400


def inner_packets() -> Iterator[bytes]:
    """What a real session had, whichever way it went, made to come from node 2 and for this lockspace."""
    for _, packet in hex_lines("join_and_lock.hex"):
        if packet[14] in (2, 3):
            inner = packet[24:] if packet[14] == 3 else packet
            yield inner[:4] + SPACE_ID.to_bytes(4, "little") + (2).to_bytes(4, "little") + inner[12:]


def forge(rng: random.Random) -> bytes:
    """A stream that our reliable layer takes, with packets inside that were turned over."""
    good, stream = list(inner_packets()), [status(2)]
    for seq in range(PACKETS_MAX):
        packet = bytearray(rng.choice(good))
        if len(packet) > 200:
            packet = packet[:200]
            packet[12:14] = len(packet).to_bytes(2, "little")
        if packet[14] == 1 and rng.random() < 0.7:
            packet[16] = rng.randrange(1, 15)           # another type of message
        for _ in range(rng.randrange(4)):
            at = rng.randrange(16, len(packet))
            packet[at] = rng.choice([0, 1, 2, 5, 0x7f, 0xff, rng.randrange(256)])
        stream.append(opts(seq, bytes(packet), 2))
    return b"".join(stream)


@pytest.mark.parametrize("case", range(6))
@pytest.mark.parametrize("member", [False, True], ids=["from a stranger to the lockspace", "from a member"])
def test_forged_messages(rng: random.Random, member: bool, case: int) -> None:
    rng.seed(f"{rng.random()}/{case}")

    async def main() -> None:
        async with cluster(2 if member else 1) as sites:
            one = sites[0]
            names = [b"res0", b"a", b"b"]
            held = [await one.space.lock(name, EX, lvb=True) for name in names]
            before = {r.name: [(lk.kind, lk.grmode) for lk in r.locks if lk.kind == "local"]
                      for r in one.space.dump() if r.name in names}
            if member:
                # What the real node 2 says from now on is gone: the forger has taken its place.
                sites[1].node.close()
                one.node.transport.forget(2)
                one.node.transport.pump.act(2, "add_user")
            else:
                one.node.transport.set_nodes([Node(2, "127.0.0.2")])
            stream = forge(rng)
            with socket.socket() as forger:
                forger.bind(("127.0.0.2", 0))
                forger.connect((one.node.local.address, one.node.local.port))
                forger.setblocking(False)
                out = trio.SocketStream(trio.socket.from_stdlib_socket(forger.dup()))
                await out.send_all(stream)
                await until(lambda: one.node.transport.pump.describe(2)["seq_next"] == PACKETS_MAX)
                after = {r.name: [(lk.kind, lk.grmode) for lk in r.locks if lk.kind == "local"]
                         for r in one.space.dump() if r.name in names}
                assert after == before
                if not member:
                    assert all(lk.kind == "local" for r in one.space.dump() for lk in r.locks)
                assert not one.space.machine.broken
                for lock in held:
                    with pytest.raises(WouldBlock):
                        await one.space.lock(lock.name, PR, nowait=True)
                await out.aclose()

    async def limited() -> None:
        with trio.fail_after(LIMIT_S):
            await main()
    trio.run(limited)
