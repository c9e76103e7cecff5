"""A member that has the cluster's key and says nonsense in agreed order: nobody falls, and all go on alike."""

from __future__ import annotations

import random
from typing import Any

import msgpack
import pytest
from node_net import MS, Net, config

from cman.node import CONTROL, GROUPS, SPREAD, State

ROUNDS = 200
WORDS = 40
ODD: list[Any] = [None, True, -1, 0, 1, 1 << 40, (1 << 64) - 1, float("inf"), float("nan"), "", "x" * 5000, "web2\n\0",
                  b"", b"\xff" * 40, [], [[]], [1, 2, 3], {}, {"a": {}}, {1: 2}]


def true_words(rng: random.Random, net: Net) -> dict[str, Any]:
    """What a member may really say, but for leaving and killing: after those there is nobody to look at."""
    node, view = rng.randint(1, 4), net.nodes[1].totem.ring_id.seq
    conf = config(36)
    return rng.choice([
        {"t": "votes", "node": node, "votes": 1}, {"t": "expected", "votes": 4},
        {"t": "fenced", "node": node, "by": "agent", "view": view, "asked": False},
        {"t": "fencing", "node": node, "asked": True}, {"t": "unfenced", "node": node, "says": "no"},
        {"t": "life", "view": view, "ring": [view, 1], "quorate": True, "dirty": False, "out": [], "expected": 4,
         "uncounted": [], "votes": {}},
        {"t": "hello", "view": 1, "cluster": conf.name, "version": 36, "digest": conf.digest, "established": True},
        {"t": "file", "view": view, "number": 1, "index": 0, "count": 1, "data": rng.choice((conf.source, b"<x"))},
        {"t": "ack", "node": node, "number": 1, "error": ""}])


def spoilt(rng: random.Random, word: dict[str, Any]) -> bytes:
    """One field is odd, or missing, or the packed word is damaged."""
    word = dict(word)
    if rng.random() < 0.7:
        field = rng.choice([f for f in word if f != "t" or rng.random() < 0.1])
        if rng.random() < 0.2:
            del word[field]
        else:
            word[field] = rng.choice(ODD)
    packed: bytes = msgpack.packb(word)
    if rng.random() < 0.3:
        at = rng.randrange(len(packed))
        packed = packed[:at] + bytes([rng.randrange(256)]) + packed[at + rng.randrange(3):]
    return packed


@pytest.mark.parametrize("part", range(2))
def test_words_from_hell(rng: random.Random, part: int) -> None:
    net = Net(1, 2, 3, 4)
    net.run(3000)
    for n in range(ROUNDS):
        for _ in range(WORDS):
            kind = rng.choice((CONTROL, CONTROL, SPREAD, SPREAD, GROUPS, bytes([rng.randrange(256)])))
            net.nodes[4].totem.submit(kind + spoilt(rng, true_words(rng, net)), net.now)
        net.drain(4)
        net.run(100)
        assert not net.ended, f"part {part} round {n}: {net.ended}"
        assert len(net.numbers()) == 1, f"part {part} round {n}: {net.numbers()}"
    assert any("cannot be read" in line for line in net.logs(1))
    net.run(3000)
    assert all(node.state is State.MEMBER and node.members == (1, 2, 3, 4) for node in net.nodes.values())
    assert len({node.config.digest for node in net.nodes.values()}) == 1
    assert net.now < 120_000 * MS
