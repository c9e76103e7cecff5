"""Payloads into packets and back, and how much may be sent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cman.totem import TotemConfig
from cman.totem.config import PAYLOAD_BYTES_MAX
from cman.totem.flow import Flow
from cman.totem.pack import PIECE, QUEUED_OVERHEAD_BYTES, Reassembly, SendQueue
from cman.totem.wire import WireError


@given(st.lists(st.binary(max_size=900), max_size=30), st.integers(100, 400))
def test_round_trip(payloads: list[bytes], room: int) -> None:
    queue, there = SendQueue(1 << 20), Reassembly()
    assert all(queue.push(p) for p in payloads)
    got = []
    while body := queue.take(room):
        assert len(body) <= room
        got += there.feed(1, body)
    assert got == payloads
    assert queue.bytes_queued == 0


def test_small_payloads_share_a_packet() -> None:
    queue = SendQueue(1 << 20)
    for _ in range(10):
        queue.push(b"x" * 20)
    assert len(queue.take(300)) == 10 * (20 + PIECE.size)
    assert queue.take(300) == b""


def test_queue_is_bounded() -> None:
    queue = SendQueue(10 * (100 + QUEUED_OVERHEAD_BYTES))
    assert [queue.push(bytes(100)) for _ in range(11)] == [True] * 10 + [False]
    queue.take(2000)
    assert queue.push(bytes(100))


def test_rewind_begins_again_and_forget_drops_the_head() -> None:
    queue, there = SendQueue(1 << 20), Reassembly()
    queue.push(b"a" * 500)
    assert there.feed(1, queue.take(200)) == []
    there.forget()
    queue.rewind()
    got = []
    while body := queue.take(200):
        got += there.feed(1, body)
    assert got == [b"a" * 500]


def test_tail_without_head_is_nothing() -> None:
    queue, there = SendQueue(1 << 20), Reassembly()
    queue.push(b"a" * 300)
    queue.push(b"b")
    queue.take(200)
    assert there.feed(1, queue.take(200)) == [b"b"]


@pytest.mark.parametrize("body", [b"\x03", b"\x03\x00\x05abc", b"\x04\x00\x00"])
def test_bad_pieces(body: bytes) -> None:
    with pytest.raises(WireError, match="a piece of node 7"):
        Reassembly().feed(7, body)


def test_endless_payload() -> None:
    there = Reassembly()
    there.feed(1, PIECE.pack(1, 60000) + bytes(60000))
    for _ in range(PAYLOAD_BYTES_MAX // 60000 - 1):
        there.feed(1, PIECE.pack(0, 60000) + bytes(60000))
    with pytest.raises(WireError, match="exceeds"):
        there.feed(1, PIECE.pack(0, 60000) + bytes(60000))


def test_flow_limits() -> None:
    config = TotemConfig(window_size=50, max_messages=20, unacknowledged_max=100)
    assert Flow(config).allowed(0, 0, 1000, 0) == 20
    assert Flow(config).allowed(45, 0, 10, 0) == 5
    assert Flow(config).allowed(50, 0, 10, 0) == 0
    assert Flow(config).allowed(0, 0, 10, 97) == 3
    # Others have 900 waiting: of the window a tenth is ours.
    assert Flow(config).allowed(0, 900, 100, 0) == 5


def test_flow_counts_its_own_part_once() -> None:
    flow = Flow(TotemConfig(window_size=50, max_messages=20))
    assert flow.account(30, 5, 20, 7) == (50, 12)
    # Next rotation: 20 of the 50 are our own of last time.
    assert flow.allowed(50, 12, 5, 0) == 20
    assert flow.account(50, 12, 5, 0) == (35, 5)
