"""The words on a control socket: framing, requests and replies. No socket and no clock in here.

A message is its length (4 bytes, big-endian) and one msgpack map. Request: {"v": 1, "op": "statistics"} and the
operation's arguments; reply: {"v": 1, "ok": True, "result": {...}} or {"v": 1, "ok": False, "error": CODE,
"message": TEXT}. One reply to each request, in order. A reply of an older daemon may lack fields of a result, one
of a newer may have more: clients take what they know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgpack

VERSION = 1
LENGTH_BYTES = 4
REQUEST_MAX_BYTES = 64 << 10
REPLY_MAX_BYTES = 4 << 20
_ITEMS_MAX = 1024               # of one map or list in a request

# codes of an error reply
BAD_MESSAGE = "bad-message"     # cannot be read as a request; the connection is closed after it
BAD_VERSION = "bad-version"
BAD_ARGUMENT = "bad-argument"
UNKNOWN_OPERATION = "unknown-operation"
NOT_PERMITTED = "not-permitted"
BUSY = "busy"
FAILED = "failed"

Arguments = Mapping[str, object]
Handler = Callable[[Arguments], Mapping[str, Any]]


class ControlError(Exception):
    """A request that was refused: one of the codes above and a sentence."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class ProtocolError(ControlError):
    """What came is no message; nothing after it on this connection can be trusted."""

    def __init__(self, message: str) -> None:
        super().__init__(BAD_MESSAGE, message)


def frame(message: Mapping[str, object], limit_bytes: int) -> bytes:
    """One message as it goes over the socket. Raises ControlError when it is too long."""
    body = msgpack.packb(message)
    if len(body) > limit_bytes:
        raise ControlError(FAILED, f"a message of {len(body)} bytes is longer than {limit_bytes}")
    return bytes(len(body).to_bytes(LENGTH_BYTES, "big") + body)


def _unpack(body: bytes) -> dict[str, object]:
    try:
        # Lengths are checked by msgpack against the body's own, so nothing is allocated that was not sent.
        found = msgpack.unpackb(body, strict_map_key=True, max_array_len=_ITEMS_MAX if len(body) <= REQUEST_MAX_BYTES
                                else len(body), max_ext_len=0)
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as e:
        raise ProtocolError(f"not a msgpack message: {type(e).__name__}") from None
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise ProtocolError("a message must be a map with names for keys")
    return found


class Decoder:
    """Cuts a stream of bytes into messages; holds at most one message and what one read brought after it."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._rest = bytearray()

    def feed(self, data: bytes) -> None:
        self._rest += data

    @property
    def pending_bytes(self) -> int:
        return len(self._rest)

    def next(self) -> dict[str, object] | None:
        """The next whole message, None until more has come. Raises ProtocolError."""
        if len(self._rest) < LENGTH_BYTES:
            return None
        length = int.from_bytes(self._rest[:LENGTH_BYTES], "big")
        if not 0 < length <= self._limit_bytes:
            raise ProtocolError(f"a message of {length} bytes: wanted 1 to {self._limit_bytes}")
        if len(self._rest) < LENGTH_BYTES + length:
            return None
        body = bytes(self._rest[LENGTH_BYTES:LENGTH_BYTES + length])
        del self._rest[:LENGTH_BYTES + length]
        return _unpack(body)


def request(op: str, arguments: Arguments) -> bytes:
    """A request, framed. Raises ControlError when it is too long."""
    return frame({**arguments, "v": VERSION, "op": op}, REQUEST_MAX_BYTES)


def refusal(error: ControlError) -> bytes:
    return frame({"v": VERSION, "ok": False, "error": error.code, "message": str(error)[:1024]}, REPLY_MAX_BYTES)


def answer(message: Mapping[str, object], handlers: Mapping[str, Handler]) -> bytes:
    """The framed reply to one request."""
    try:
        if message.get("v") != VERSION:
            raise ControlError(BAD_VERSION, f"this daemon speaks version {VERSION}")
        op = message.get("op")
        if not isinstance(op, str) or op not in handlers:
            raise ControlError(UNKNOWN_OPERATION, f"no operation {str(op)[:64]!r}")
        arguments = {name: value for name, value in message.items() if name not in ("v", "op")}
        return frame({"v": VERSION, "ok": True, "result": handlers[op](arguments)}, REPLY_MAX_BYTES)
    except ControlError as e:
        return refusal(e)
    except (OSError, ValueError) as e:
        return refusal(ControlError(FAILED, f"{type(e).__name__}: {e}"))


def result(message: Mapping[str, object]) -> dict[str, Any]:
    """What a reply says. Raises ControlError with the daemon's words, ProtocolError when it is no reply."""
    if message.get("ok") is True and isinstance(found := message.get("result"), dict):
        return found
    code, text = message.get("error"), message.get("message")
    if message.get("ok") is False and isinstance(code, str) and isinstance(text, str):
        raise ControlError(code, text)
    raise ProtocolError("the reply is neither a result nor an error")


def number(arguments: Arguments, name: str, default: int, low: int, high: int) -> int:
    """An argument that is a whole number. Raises ControlError."""
    value = arguments.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ControlError(BAD_ARGUMENT, f"{name} must be a number from {low} to {high}")
    return value
