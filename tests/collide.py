"""Names that collide: all have one CRC-32, so a directory cannot tell them apart by hash."""

import zlib
from collections.abc import Iterator

_POLY = 0xEDB88320


def _table() -> list[int]:
    out = []
    for byte in range(256):
        c = byte
        for _ in range(8):
            c = (c >> 1) ^ (_POLY if c & 1 else 0)
        out.append(c)
    return out


_TABLE = _table()
_BY_TOP = {entry >> 24: index for index, entry in enumerate(_TABLE)}


def suffix_for(prefix: bytes, crc: int) -> bytes:
    """The four bytes that give prefix + suffix the wanted CRC-32: the register run backwards."""
    want = crc ^ 0xFFFFFFFF
    indexes = []
    for _ in range(4):
        index = _BY_TOP[want >> 24]
        indexes.append(index)
        want = ((want ^ _TABLE[index]) << 8) & 0xFFFFFFFF
    state = zlib.crc32(prefix) ^ 0xFFFFFFFF
    out = bytearray()
    for index in reversed(indexes):
        out.append((state ^ index) & 0xFF)
        state = (state >> 8) ^ _TABLE[index]
    return bytes(out)


def colliding_names(crc: int = 0x12345678, prefix: str = "c") -> Iterator[bytes]:
    """Endless legal file names (no slash, no zero byte), all with this CRC-32."""
    number = 0
    while True:
        stem = f"{prefix}{number}-".encode()
        suffix = suffix_for(stem, crc)
        number += 1
        if b"/" not in suffix and b"\0" not in suffix:
            yield stem + suffix
