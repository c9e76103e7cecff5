"""Framing between cman and its clients: whole messages come through in any pieces, and nothing else does."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cman import protocol
from cman.protocol import CmanError, Decoder, ProtocolError
from cman.views import Cluster

VALUES = st.recursive(st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=20)
                      | st.binary(max_size=40), lambda inner: st.lists(inner, max_size=4)
                      | st.dictionaries(st.text(max_size=8), inner, max_size=4), max_leaves=12)
MESSAGES = st.dictionaries(st.text(max_size=10), VALUES, max_size=6)


@given(st.lists(MESSAGES, max_size=6), st.lists(st.integers(1, 60), min_size=1, max_size=20))
def test_messages_survive_any_cutting(messages: list[dict[str, object]], steps: list[int]) -> None:
    stream = b"".join(protocol.frame(m) for m in messages)
    decoder, got, at, turn = Decoder(), [], 0, 0
    while at < len(stream):
        step = steps[turn % len(steps)]
        decoder.feed(stream[at:at + step])
        at, turn = at + step, turn + 1
        while (message := decoder.next()) is not None:
            got.append(message)
    assert got == messages
    assert decoder.pending_bytes == 0


@given(st.binary(max_size=200))
def test_garbage_is_refused_or_waited_for(data: bytes) -> None:
    decoder = Decoder()
    decoder.feed(data)
    try:
        while decoder.next() is not None:
            pass
    except ProtocolError:
        return
    assert decoder.pending_bytes <= len(data)


@pytest.mark.parametrize("length", [0, protocol.MESSAGE_MAX_BYTES + 1, 2**32 - 1])
def test_impossible_lengths_are_refused_before_they_arrive(length: int) -> None:
    decoder = Decoder()
    decoder.feed(length.to_bytes(4, "big"))
    with pytest.raises(ProtocolError, match="bytes: wanted 1 to"):
        decoder.next()


@pytest.mark.parametrize("body", [msgpack.packb([1]), msgpack.packb({1: 2}), msgpack.packb("x"), b"\xc1",
                                  msgpack.packb(msgpack.ExtType(5, b"x")), b"\xdd\xff\xff\xff\xff",
                                  b"\x91" * 3000])
def test_what_is_no_map_is_refused(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        protocol.unpack(body)


def test_a_message_that_is_too_long_is_not_sent() -> None:
    with pytest.raises(CmanError, match="longer than"):
        protocol.request(1, "mcast", {"data": bytes(protocol.MESSAGE_MAX_BYTES)})


def test_results_and_refusals() -> None:
    decoder = Decoder()
    decoder.feed(protocol.reply(7, {"a": 1}) + protocol.refusal(8, CmanError("busy", "not now")))
    first, second = decoder.next(), decoder.next()
    assert first is not None
    assert second is not None
    assert protocol.result(first) == {"a": 1}
    with pytest.raises(CmanError, match="not now") as caught:
        protocol.result(second)
    assert caught.value.code == "busy"
    with pytest.raises(ProtocolError):
        protocol.result({"id": 9})


def test_arguments_are_checked() -> None:
    words = {"n": 5, "t": "text", "b": b"xyz", "flag": True, "bad": "a\nb"}
    assert protocol.whole(words, "n", 0, 9) == 5
    assert protocol.text(words, "t") == "text"
    assert protocol.switch(words, "flag")
    assert not protocol.switch(words, "absent")
    for wrong in (lambda: protocol.whole(words, "n", 6, 9), lambda: protocol.whole(words, "flag", 0, 9),
                  lambda: protocol.text(words, "n"), lambda: protocol.text(words, "bad"),
                  lambda: protocol.text(words, "absent"), lambda: protocol.blob(words, "b", 2),
                  lambda: protocol.blob(words, "t", 9), lambda: protocol.switch(words, "n")):
        with pytest.raises(CmanError) as caught:
            wrong()
        assert caught.value.code == protocol.BAD_ARGUMENT


def test_a_newer_daemon_may_tell_more() -> None:
    fields = {name: [] if "list" in str(kind) else "" if "str" in str(kind) else 0
              for name, kind in Cluster.__annotations__.items()}
    assert Cluster.of({**fields, "of tomorrow": 1}).name == ""
    del fields["quorum"]
    with pytest.raises(ProtocolError, match="quorum"):
        Cluster.of(fields)
