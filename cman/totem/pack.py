"""Payloads into packets and back: small ones share a packet, large ones take several.

The body of a packet is a row of pieces: flags u8 (1 first, 2 last of its payload), length u16, bytes. A payload is
whole only when all its pieces came on one ring, so after a configuration change the sender begins a half-sent payload
again and everybody forgets the pieces: who joins would otherwise miss the head that the others have.
"""

from __future__ import annotations

import struct
from collections import deque

from cman.totem.config import PAYLOAD_BYTES_MAX
from cman.totem.effects import NodeId
from cman.totem.wire import WireError

PIECE = struct.Struct(">BH")
FIRST = 1
LAST = 2
# A piece of less than this is not worth its header: the next packet takes it.
PIECE_BYTES_MIN = 64
# What a waiting payload costs beside its bytes, so that many empty ones are bounded too.
QUEUED_OVERHEAD_BYTES = 64


class SendQueue:
    """Payloads waiting for the token, bounded in bytes; the first may be half sent."""

    __slots__ = ("_limit_bytes", "_offset", "_payloads", "bytes_queued")

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._payloads: deque[bytes] = deque()
        self._offset = 0
        self.bytes_queued = 0

    def __len__(self) -> int:
        return len(self._payloads)

    def push(self, payload: bytes) -> bool:
        """Queue it; False when there is no room, which changes nothing."""
        cost = len(payload) + QUEUED_OVERHEAD_BYTES
        if self.bytes_queued + cost > self._limit_bytes and self._payloads:
            return False
        self._payloads.append(payload)
        self.bytes_queued += cost
        return True

    def has_room(self) -> bool:
        """At most half full: worth telling those who were refused."""
        return self.bytes_queued * 2 <= self._limit_bytes

    def packets(self, room: int) -> int:
        """About how many packets of this room are waiting."""
        return -(-self.bytes_queued // room)

    def take(self, room: int) -> bytes:
        """The body of one packet of at most room bytes; empty when nothing waits."""
        assert room > PIECE.size + PIECE_BYTES_MIN
        parts: list[bytes] = []
        while self._payloads:
            payload, offset = self._payloads[0], self._offset
            rest = len(payload) - offset
            length = min(rest, room - PIECE.size)
            if length < 0 or (length < rest and length < PIECE_BYTES_MIN):
                break
            last = length == rest
            parts += [PIECE.pack((FIRST if offset == 0 else 0) | (LAST if last else 0), length),
                      payload[offset:offset + length]]
            room -= PIECE.size + length
            if not last:
                self._offset += length
                break
            self._payloads.popleft()
            self._offset = 0
            self.bytes_queued -= len(payload) + QUEUED_OVERHEAD_BYTES
        return b"".join(parts)

    def rewind(self) -> None:
        """Begin the half-sent payload again: the ring that has its first pieces is gone."""
        self._offset = 0


class Reassembly:
    """Puts the pieces of each sender together again; they come in order, some senders in the middle of one."""

    __slots__ = ("_partial",)

    def __init__(self) -> None:
        self._partial: dict[NodeId, bytearray] = {}

    def feed(self, sender: NodeId, body: bytes) -> list[bytes]:
        """The payloads that this packet completes. Raises WireError when the body is no row of pieces."""
        done: list[bytes] = []
        at = 0
        while at < len(body):
            if at + PIECE.size > len(body):
                raise WireError(f"a piece of node {sender} is cut off in its header")
            flags, length = PIECE.unpack_from(body, at)
            at += PIECE.size
            if at + length > len(body) or flags & ~(FIRST | LAST):
                raise WireError(f"a piece of node {sender} has {length} bytes and flags {flags:#x}")
            piece = body[at:at + length]
            at += length
            if flags == FIRST | LAST:
                done.append(piece)
                continue
            if flags & FIRST:
                self._partial[sender] = bytearray()
            partial = self._partial.get(sender)
            if partial is None:
                continue
            partial += piece
            if len(partial) > PAYLOAD_BYTES_MAX:
                del self._partial[sender]
                raise WireError(f"a payload of node {sender} exceeds {PAYLOAD_BYTES_MAX} bytes")
            if flags & LAST:
                done.append(bytes(self._partial.pop(sender)))
        return done

    def forget(self) -> None:
        """Drop what is incomplete: a new ring begins."""
        self._partial.clear()
