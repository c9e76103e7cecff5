"""Delayed frames, without a network: who gets which when."""

from __future__ import annotations

import random

from lab import delay
from lab.delay import FRAMES_MAX, VNET_HEADER_BYTES, Line
from lab.network import Faults

MACS = {"a": b"\2aaaaa", "b": b"\2bbbbb", "c": b"\2ccccc"}
MS = 1_000_000


def frame(receiver: bytes, text: bytes = b"") -> bytes:
    return bytes(VNET_HEADER_BYTES) + receiver + b"\2aaaaa" + text


def line(faults: Faults) -> Line:
    return Line(MACS, faults, random.Random(1))


def test_each_pair_has_its_own_delay_and_keeps_its_order() -> None:
    held = line(Faults().delay([("a", "b")], 10).delay([("a", "c")], 5))
    assert held.sources() == ["a"]
    one, two, other = frame(MACS["b"], b"1"), frame(MACS["b"], b"2"), frame(MACS["c"])
    for f in (one, two, other):
        held.push("a", f, 0)
    assert held.next_ns() == 5 * MS
    assert held.due(4 * MS) == []
    assert held.due(5 * MS) == [("c", other)]
    assert held.due(10 * MS) == [("b", one), ("b", two)]
    assert held.next_ns() is None


def test_a_broadcast_goes_to_every_delayed_one() -> None:
    held = line(Faults().delay([("a", "b"), ("a", "c")], 1).cut([("a", "c")]))
    everybody = frame(b"\xff" * 6)
    held.push("a", everybody, 0)
    assert held.due(MS) == [("b", everybody)], "what is cut gets nothing"


def test_what_the_bridge_carries_is_left_alone() -> None:
    held = line(Faults().delay([("a", "b")], 1))
    held.push("a", frame(MACS["c"]), 0)
    held.push("b", frame(MACS["b"]), 0)
    held.push("a", b"short", 0)
    assert held.next_ns() is None


def test_loss_and_the_limit() -> None:
    held = line(Faults().delay([("a", "b")], 1).lose([("a", "b")], 50))
    for _ in range(1000):
        held.push("a", frame(MACS["b"]), 0)
    assert 400 < len(held.due(MS)) < 600
    held = line(Faults().delay([("a", "b")], 1))
    for _ in range(FRAMES_MAX + 5):
        held.push("a", frame(MACS["b"]), 0)
    assert len(held.due(MS)) == FRAMES_MAX
    assert delay.BURST < FRAMES_MAX
