"""The words between the daemon `cman` and its clients on one node: framing and the shapes of messages. No I/O here.

A message is its length (4 bytes, big-endian) and one msgpack map.
  request   {"v": 1, "id": N, "op": "nodes", ...arguments}; id 0: no reply, errors come as the event "error"
  reply     {"id": N, "ok": True, "result": {...}} or {"id": N, "ok": False, "error": CODE, "message": TEXT}
  event     {"event": "deliver", ...}: what the client has asked to be told, in the order in which it happened
A newer daemon may add fields to results and events: clients take what they know.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgpack

VERSION = 1
SOCKET = Path("/run/cman/cman.sock")
SOCKET_VARIABLE = "CMAN_SOCKET"         # environment: another path, for tests and containers
LENGTH_BYTES = 4
MESSAGE_MAX_BYTES = 2 << 20             # a configuration is 1 MiB at most
MCAST_MAX_BYTES = 64 << 10              # of one message to a group
GROUP_NAME_MAX = 127
GROUPS_PER_CLIENT_MAX = 64
SUBSYSTEMS_PER_CLIENT_MAX = 64
_ITEMS_MAX = 4096                       # of one map or list

# codes of an error reply
BAD_MESSAGE = "bad-message"             # cannot be read; the connection is closed after it
BAD_VERSION = "bad-version"
BAD_ARGUMENT = "bad-argument"
UNKNOWN_OPERATION = "unknown-operation"
NOT_PERMITTED = "not-permitted"
NOT_FOUND = "not-found"
EXISTS = "exists"
BUSY = "busy"
NOT_MEMBER = "not-member"
NOT_NEWER = "not-newer"                 # a configuration whose version is not greater
FAILED = "failed"

Arguments = Mapping[str, object]
Message = dict[str, Any]


class CmanError(Exception):
    """What the daemon refused: one of the codes above and a sentence."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class ProtocolError(CmanError):
    """What came is no message; nothing after it on this connection can be trusted."""

    def __init__(self, message: str) -> None:
        super().__init__(BAD_MESSAGE, message)


class Unreachable(CmanError):
    """No daemon answers; the text says why."""

    def __init__(self, message: str) -> None:
        super().__init__("unreachable", message)


def frame(message: Mapping[str, object]) -> bytes:
    """One message as it goes over the socket. Raises CmanError when it is too long."""
    body: bytes = msgpack.packb(message)
    if len(body) > MESSAGE_MAX_BYTES:
        raise CmanError(FAILED, f"a message of {len(body)} bytes is longer than {MESSAGE_MAX_BYTES}")
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def unpack(body: bytes) -> Message:
    """One message without its length. Raises ProtocolError."""
    try:
        # msgpack checks every length against the body's own: nothing is allocated that was not sent.
        found = msgpack.unpackb(body, strict_map_key=True, max_array_len=_ITEMS_MAX, max_map_len=_ITEMS_MAX,
                                max_ext_len=0)
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as e:
        raise ProtocolError(f"not a msgpack message: {type(e).__name__}") from None
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise ProtocolError("a message must be a map with names for keys")
    return found


class Decoder:
    """Cuts a stream of bytes into messages; holds at most one message and what one read brought after it."""

    def __init__(self, limit_bytes: int = MESSAGE_MAX_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._rest = bytearray()

    def feed(self, data: bytes) -> None:
        self._rest += data

    @property
    def pending_bytes(self) -> int:
        return len(self._rest)

    def next(self) -> Message | None:
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
        return unpack(body)


def request(number: int, op: str, arguments: Arguments) -> bytes:
    """A request, framed. Raises CmanError when it is too long."""
    return frame({**arguments, "v": VERSION, "id": number, "op": op})


def reply(number: int, result: Mapping[str, object]) -> bytes:
    return frame({"id": number, "ok": True, "result": result})


def refusal(number: int, error: CmanError) -> bytes:
    """An error reply, or the event "error" for a request that wants no reply."""
    told: dict[str, object] = {"error": error.code, "message": str(error)[:4096]}
    return frame({"event": "error", **told} if number == 0 else {"id": number, "ok": False, **told})


def result(message: Message) -> Message:
    """What a reply says. Raises CmanError with the daemon's words, ProtocolError when it is no reply."""
    if message.get("ok") is True and isinstance(found := message.get("result"), dict):
        return found
    code, text = message.get("error"), message.get("message")
    if message.get("ok") is False and isinstance(code, str) and isinstance(text, str):
        raise CmanError(code, text)
    raise ProtocolError("the reply is neither a result nor an error")


def whole(arguments: Arguments, name: str, low: int, high: int, default: int | None = None) -> int:
    """An argument that is a whole number. Raises CmanError."""
    value = arguments.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise CmanError(BAD_ARGUMENT, f"{name} must be a number from {low} to {high}")
    return value


def text(arguments: Arguments, name: str, limit: int = 255, default: str | None = None) -> str:
    """An argument that is a text which is not empty. Raises CmanError."""
    value = arguments.get(name, default)
    if not isinstance(value, str) or not 0 < len(value.encode(errors="replace")) <= limit or not value.isprintable():
        raise CmanError(BAD_ARGUMENT, f"{name} must be a printable text of 1 to {limit} bytes")
    return value


def blob(arguments: Arguments, name: str, limit: int) -> bytes:
    """An argument that is bytes. Raises CmanError."""
    value = arguments.get(name)
    if not isinstance(value, bytes) or len(value) > limit:
        raise CmanError(BAD_ARGUMENT, f"{name} must be at most {limit} bytes")
    return value


def switch(arguments: Arguments, name: str) -> bool:
    """An argument that is true or false; absent is false. Raises CmanError."""
    value = arguments.get(name, False)
    if not isinstance(value, bool):
        raise CmanError(BAD_ARGUMENT, f"{name} must be true or false")
    return value
