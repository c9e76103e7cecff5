"""Real machines on loopback addresses: they meet, order their messages and part."""

from __future__ import annotations

import random
import socket

import pytest
import trio

from cman.totem import ConfigChange, Deliver, Effect, Kind, TotemConfig, TotemMachine
from cman.totem.crypto import Sealer
from cman.totem.transport import Transport, TransportSettings

KEY = random.Random(1).randbytes(64)
QUICK = TotemConfig(token_ms=300, consensus_ms=150, join_ms=30, hold_ms=50, merge_ms=100)
PATIENCE_S = 60


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Node:
    """A transport and what it delivered."""

    def __init__(self, me: int, count: int, port: int, key: bytes = KEY) -> None:
        addresses = {n: f"127.0.0.{n}" for n in range(1, count + 1)}
        machine = TotemMachine(me, addresses, QUICK, 0)
        self.transport = Transport(TransportSettings(me, addresses, port), machine,
                                   Sealer(me, key, random.Random(me).randbytes), self.take)
        self.payloads: list[bytes] = []
        self.members: tuple[int, ...] = ()
        self.changed = trio.Event()

    def take(self, effect: Effect) -> None:
        if isinstance(effect, Deliver):
            self.payloads.append(effect.payload)
        elif isinstance(effect, ConfigChange) and effect.kind is Kind.REGULAR:
            self.members = effect.members
        self.changed.set()
        self.changed = trio.Event()

    async def wait_members(self, *members: int) -> None:
        while self.members != members:
            await self.changed.wait()

    async def wait_payloads(self, count: int) -> None:
        while len(self.payloads) < count:
            await self.changed.wait()


def test_three_nodes_meet_and_agree() -> None:
    async def main() -> None:
        port = free_port()
        nodes = [Node(n, 3, port) for n in (1, 2, 3)]
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                for node in nodes:
                    await nursery.start(node.transport.run)
                for node in nodes:
                    await node.wait_members(1, 2, 3)
                for number in range(50):
                    for node in nodes:
                        assert node.transport.submit(b"%d" % number + bytes(number * 50))
                for node in nodes:
                    await node.wait_payloads(150)
                assert nodes[0].payloads == nodes[1].payloads == nodes[2].payloads
                nodes[2].transport.leave()
                await nodes[0].wait_members(1, 2)
                nursery.cancel_scope.cancel()
    trio.run(main)


def test_another_key_is_another_cluster() -> None:
    async def main() -> None:
        port = free_port()
        ours, stranger = Node(1, 2, port), Node(2, 2, port, KEY[::-1])
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                for node in (ours, stranger):
                    await nursery.start(node.transport.run)
                await ours.wait_members(1)
                await stranger.wait_members(2)
                assert ours.transport.counters["refused"] > 0
                assert ours.transport.machine.counters["dropped"] == 0
                nursery.cancel_scope.cancel()
    trio.run(main)


@pytest.mark.parametrize(("addresses", "settings", "text"), [
    ({2: "10.0.0.2"}, {}, "no address"), ({1: "10.0.0.1", 2: "::1"}, {}, "partly"),
    ({1: "10.0.0.1", 2: "10.0.0.1"}, {}, "same address"), ({1: "10.0.0.1"}, {"port": 0}, "port"),
    ({1: "10.0.0.1"}, {"multicast": "10.0.0.9"}, "multicast"), ({1: "10.0.0.1"}, {"ttl": 0}, "ttl"),
    ({1: "web1"}, {}, "web1")])
def test_settings_are_checked(addresses: dict[int, str], settings: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        TransportSettings(1, addresses, **settings)
