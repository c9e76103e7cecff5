"""Sealed packets: what is forged, replayed, cut, redirected or foreign opens nothing."""

from __future__ import annotations

import random

import pytest

from cman.totem import crypto
from cman.totem.crypto import CryptoError, Opened, Sealer

KEY = random.Random(1).randbytes(64)
S = 1_000_000_000


class Pair:
    """Two nodes that know each other after a challenge; now_ns goes on with each packet."""

    def __init__(self, key_a: bytes = KEY, key_b: bytes = KEY) -> None:
        self.rng = random.Random(2)
        self.now_ns = S
        self.a, self.b = self.node(1, key_a), self.node(2, key_b)

    def node(self, me: int, key: bytes = KEY) -> Sealer:
        sealer = Sealer(me, key, self.rng.randbytes)
        sealer.set_nodes(frozenset({1, 2, 3}))
        return sealer

    def open(self, at: Sealer, packet: bytes) -> Opened | None:
        self.now_ns += S
        return at.open(packet, self.now_ns)

    def meet(self, sender: Sealer, receiver: Sealer) -> None:
        """The first packet is challenged, the answer makes the session known."""
        first = self.open(receiver, sender.seal(b"first"))
        assert first is not None
        assert first.data is None
        ((node, challenge),) = first.replies
        assert node == sender.me
        answered = self.open(sender, challenge)
        assert answered is not None
        ((_, answer),) = answered.replies
        self.open(receiver, answer)


@pytest.fixture
def pair() -> Pair:
    pair = Pair()
    pair.meet(pair.a, pair.b)
    return pair


def test_data_comes_through(pair: Pair) -> None:
    for number in range(100):
        assert pair.open(pair.b, pair.a.seal(b"%d" % number)) == Opened(1, b"%d" % number, ())
    assert pair.open(pair.b, pair.a.seal(b"x", 2)) == Opened(1, b"x", ())


def test_nothing_readable_is_on_the_wire(pair: Pair) -> None:
    assert b"secret" not in pair.a.seal(b"secret")
    assert pair.a.seal(b"same")[-20:] != pair.a.seal(b"same")[-20:]


def test_replay_is_refused_in_any_order(pair: Pair) -> None:
    packets = [pair.a.seal(b"%d" % n) for n in range(50)]
    random.Random(3).shuffle(packets)
    assert all(pair.open(pair.b, p) for p in packets)
    assert not any(pair.open(pair.b, p) for p in packets)
    assert pair.b.counters["replayed"] == 50


def test_too_old_is_refused(pair: Pair) -> None:
    old = pair.a.seal(b"old")
    for _ in range(crypto.WINDOW):
        packet = pair.a.seal(b"")
    assert pair.open(pair.b, packet)
    assert pair.open(pair.b, old) is None


def test_every_changed_byte_is_seen(pair: Pair) -> None:
    packet = pair.a.seal(b"payload")
    for at in range(len(packet)):
        changed = packet[:at] + bytes([packet[at] ^ 1]) + packet[at + 1:]
        opened = pair.open(pair.b, changed)
        assert opened is None, at
    for length in range(len(packet)):
        assert pair.open(pair.b, packet[:length]) is None
    assert pair.open(pair.b, packet) == Opened(1, b"payload", ())


def test_another_nodes_packet_is_not_ours(pair: Pair) -> None:
    assert pair.open(pair.b, pair.a.seal(b"x", 3)) is None


def test_another_key_and_unknown_nodes() -> None:
    pair = Pair(key_b=KEY[::-1])
    assert pair.open(pair.b, pair.a.seal(b"x")) is None
    stranger = Sealer(9, KEY, pair.rng.randbytes)
    assert pair.open(pair.a, stranger.seal(b"x")) is None


def test_packets_of_an_earlier_life_are_refused(pair: Pair) -> None:
    recorded = [pair.a.seal(b"%d" % n) for n in range(5)]
    again = pair.node(1)
    pair.meet(again, pair.b)
    for packet in recorded:
        opened = pair.open(pair.b, packet)
        assert opened is None or opened.data is None
    # The challenge that the old session was sent changes nothing for the new one.
    assert pair.open(pair.b, again.seal(b"new")) == Opened(1, b"new", ())


def test_a_restarted_receiver_takes_nothing_recorded(pair: Pair) -> None:
    recorded = [pair.a.seal(b"%d" % n) for n in range(5)]
    for packet in recorded:
        assert pair.open(pair.b, packet)
    fresh = pair.node(2)
    pair.meet(pair.a, fresh)
    assert not any(pair.open(fresh, packet) for packet in recorded)
    assert pair.open(fresh, pair.a.seal(b"new")) == Opened(1, b"new", ())


def test_a_recorded_answer_answers_nothing_else(pair: Pair) -> None:
    again = pair.node(1)
    first = pair.open(pair.b, again.seal(b"x"))
    assert first is not None
    answer = pair.open(again, first.replies[0][1]).replies[0][1]
    fresh = pair.node(2)
    pair.open(fresh, again.seal(b"x"))
    pair.open(fresh, answer)
    assert pair.open(fresh, again.seal(b"y")).data is None


def test_challenges_are_rare(pair: Pair) -> None:
    again = pair.node(1)
    replies = [pair.b.open(again.seal(b"x"), pair.now_ns + n).replies for n in range(100)]
    assert sum(len(r) for r in replies) == 1


def test_a_worn_out_key_is_replaced(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crypto, "COUNTER_MAX", 10)
    packets = [pair.a.seal(b"x") for _ in range(25)]
    names = {crypto.HEADER.unpack(p[:crypto.HEADER.size])[5] for p in packets}
    assert len(names) == 3
    pair.meet(pair.a, pair.b)
    assert pair.open(pair.b, pair.a.seal(b"y")).data == b"y"


def test_garbage_opens_nothing(pair: Pair) -> None:
    rng = random.Random(4)
    good = pair.a.seal(b"x" * 50)
    for _ in range(2000):
        head = good[:rng.randrange(len(good))] if rng.random() < 0.5 else b""
        assert pair.open(pair.b, head + rng.randbytes(rng.randrange(80))) is None


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(64), b"ab" * 40, bytes(5000)])
def test_bad_keys(key: bytes) -> None:
    with pytest.raises(CryptoError):
        Sealer(1, key, random.Random(1).randbytes)
