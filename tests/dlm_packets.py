"""Packets of the DLM protocol for tests: made by hand, so that the code under test does not judge itself."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

HEADER = struct.Struct("<IIIHBB")
V31, V32 = 0x00030001, 0x00030002
MSG, RCOM, OPTS, ACK, FIN = 1, 2, 3, 4, 5
STATUS, NAMES, RCOM_LOOKUP, RCOM_LOCK, STATUS_REPLY, NAMES_REPLY = 1, 2, 3, 4, 5, 6
GOLDEN = Path(__file__).parent / "golden/dlm"


def header(cmd: int, word: int, node: int, length: int, version: int = V32) -> bytes:
    return HEADER.pack(version, word, node, length, cmd, 0)


def message(node: int, tag: int = 0, length: int = 88, version: int = V32, kind: int = 1) -> bytes:
    """A MSG; `tag` is in its lkid, so that a test knows it again."""
    return header(MSG, 0x1092, node, length, version) + struct.pack("<IIII", kind, 0, 0, tag) + bytes(length - 32)


def rcom(node: int, kind: int, length: int = 64, version: int = V32) -> bytes:
    return header(RCOM, 0x1092, node, length, version) + struct.pack("<II", kind, 0) + bytes(length - 24)


def status(node: int, version: int = V32) -> bytes:
    return rcom(node, STATUS, 64, version)


def opts(seq: int, inner: bytes, node: int, version: int = V32) -> bytes:
    return header(OPTS, seq, node, 24 + len(inner), version) + struct.pack("<BBHI", inner[14], 0, 0, 0) + inner


def ack(seq: int, node: int) -> bytes:
    return header(ACK, seq, node, 16)


def fin(node: int) -> bytes:
    return header(FIN, 0, node, 16)


def split(data: bytes) -> list[bytes]:
    """A stream of whole packets, cut."""
    found = []
    while data:
        length = HEADER.unpack_from(data)[3]
        assert 16 <= length <= len(data), data.hex()
        found.append(data[:length])
        data = data[length:]
    return found


def describe(packet: bytes) -> str:
    """A packet in one short line."""
    _, word, _, length, cmd, _ = HEADER.unpack_from(packet)
    if cmd == OPTS:
        return f"OPTS {word} {packet[16]} {length}"
    if cmd == ACK:
        return f"ACK {word}"
    return f"{cmd} {struct.unpack_from('<I', packet, 16)[0]} {length}"


def hex_lines(name: str) -> Iterator[tuple[str, bytes]]:
    """("RX" or "TX", packet) of a golden file with the bytes themselves."""
    for line in (GOLDEN / name).read_text().splitlines():
        if not line.startswith("#"):
            direction, digits, *zeros = line.split()
            yield direction, bytes.fromhex(digits) + bytes(int(zeros[0]) if zeros else 0)
