"""Messages of the control socket: whole, in pieces, and hostile."""

from __future__ import annotations

import contextlib
import random

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gfs2py.control import protocol
from gfs2py.control.protocol import ControlError, Decoder, ProtocolError

LIMIT = protocol.REQUEST_MAX_BYTES
SCALARS = st.none() | st.booleans() | st.integers(-2**63, 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=9)
VALUES = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.text(max_size=9), SCALARS, max_size=3)


@settings(max_examples=50)
@given(st.lists(st.dictionaries(st.text(max_size=9), VALUES, max_size=3), max_size=3), st.integers(0, 2**32))
def test_messages_survive_any_cutting(messages: list[dict[str, object]], cut_seed: int) -> None:
    stream = b"".join(protocol.frame(m, LIMIT) for m in messages)
    cuts = random.Random(cut_seed)
    decoder, seen = Decoder(LIMIT), []
    while stream:
        n = cuts.randint(1, len(stream))
        decoder.feed(stream[:n])
        stream = stream[n:]
        while (message := decoder.next()) is not None:
            seen.append(message)
    assert seen == messages
    assert decoder.pending_bytes == 0


@given(st.binary(max_size=300))
def test_garbage_is_refused_and_nothing_else(data: bytes) -> None:
    """Any bytes as a body: a map of names, or a ProtocolError."""
    decoder = Decoder(LIMIT)
    decoder.feed(len(data).to_bytes(4, "big") + data)
    with contextlib.suppress(ProtocolError):
        message = decoder.next()
        assert isinstance(message, dict)
        assert all(isinstance(name, str) for name in message)


@pytest.mark.parametrize("head", [0, LIMIT + 1, 2**32 - 1])
def test_a_length_out_of_bounds_is_refused_before_anything_is_kept(head: int) -> None:
    decoder = Decoder(LIMIT)
    decoder.feed(head.to_bytes(4, "big"))
    with pytest.raises(ProtocolError):
        decoder.next()


@pytest.mark.parametrize("body", [
    b"\xc1", b"\xdf\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\x91" * 5000 + b"\xc0",
    b"\x81\x91\x01\x01", b"\x81\xa1a", b"\x93\x01\x02\x03", b"\x81\x01\x02", b"\xd4\x05\x00", b"\x80\x80",
    b"\x81\xa2\xff\xfe\x01", b"\xdc\x08\x00" + b"\xc0" * 2048,
], ids=["reserved", "huge map", "huge list", "huge text", "deep", "list as key", "cut", "a list", "number as key",
        "extension", "two", "no utf-8", "long list"])
def test_hostile_bodies(body: bytes) -> None:
    decoder = Decoder(LIMIT)
    decoder.feed(len(body).to_bytes(4, "big") + body)
    with pytest.raises(ProtocolError):
        decoder.next()


def reply(message: dict[str, object]) -> dict[str, object]:
    def refuse(_: object) -> dict[str, object]:
        raise OSError(5, "it is broken")

    raw = protocol.answer(message, {"add": lambda a: {"sum": protocol.number(a, "a", 0, 0, 9) + 1}, "fail": refuse,
                                    "flood": lambda _: {"x": b"x" * (protocol.REPLY_MAX_BYTES + 1)}})
    found = msgpack.unpackb(raw[4:])
    assert isinstance(found, dict)
    return found


def test_an_answer() -> None:
    assert protocol.result(reply({"v": 1, "op": "add", "a": 4})) == {"sum": 5}


@pytest.mark.parametrize(("message", "code"), [
    ({}, protocol.BAD_VERSION), ({"v": 2, "op": "add"}, protocol.BAD_VERSION),
    ({"v": 1}, protocol.UNKNOWN_OPERATION), ({"v": 1, "op": ["add"]}, protocol.UNKNOWN_OPERATION),
    ({"v": 1, "op": "x" * 5000}, protocol.UNKNOWN_OPERATION), ({"v": 1, "op": "add", "a": 10}, protocol.BAD_ARGUMENT),
    ({"v": 1, "op": "add", "a": "4"}, protocol.BAD_ARGUMENT), ({"v": 1, "op": "add", "a": True}, protocol.BAD_ARGUMENT),
    ({"v": 1, "op": "fail"}, protocol.FAILED), ({"v": 1, "op": "flood"}, protocol.FAILED),
])
def test_refusals(message: dict[str, object], code: str) -> None:
    with pytest.raises(ControlError) as refused:
        protocol.result(reply(message))
    assert refused.value.code == code
    assert len(str(refused.value)) <= 1024


@pytest.mark.parametrize("message", [{}, {"ok": True}, {"ok": True, "result": 1}, {"ok": False, "error": 5}])
def test_what_is_no_reply(message: dict[str, object]) -> None:
    with pytest.raises(ProtocolError):
        protocol.result(message)


def test_a_request_too_long_is_not_sent() -> None:
    with pytest.raises(ControlError):
        protocol.request("add", {"a": "x" * LIMIT})
