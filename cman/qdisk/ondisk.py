"""The quorum disk's layout, as qdiskd and mkqdisk of the suite have it. Pure.

Block 0 is the header, block n the status of the node with id n, 1 to 16; a block is 4096 bytes, or a sector if that is
larger, and what is in it fits into its first 512. Each block begins with a shared header whose CRCs cover it and what
follows. Source: disk.h and disk.c of cman/qdisk, as facts; they fix three oddities that are kept here:

- the shared header is in the byte order of the machine that wrote it (both are read, little is written),
- of the payload most is big-endian, but ps_incarnation is in the writer's order,
- the two masks are bytes: node n is bit (n - 1) % 8 of byte (n - 1) / 8.
"""

from __future__ import annotations

import enum
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

SLOTS = 16
SHARED_MAGIC = 0x00DEBB1E
HEADER_MAGIC = 0xEB7A62C2
STATUS_MAGIC = 0x47BACEF8
VERSION_MAGIC = 0x389FABC4
BLOCK_BYTES_MIN = 4096
SECTOR_BYTES_MIN = 512
LABEL_BYTES_MAX = 119           # of 120, the last is zero
HOST_BYTES_MAX = 127

_SHARED = "IIIIQQ"              # magic, CRC of this header, CRC of the data, length of the data, view, timestamp
_SHARED_BYTES = struct.calcsize("<" + _SHARED)
_HEADER = struct.Struct(">IIQ128s120sII")
# magic, updatenode, timestamp, nodeid, pad, state, pad, flags, score, scoremax, cycles (average and last, s and us)
_STATUS_HEAD = struct.Struct(">IIQIIBxHHHIIII")
_INCARNATION = struct.Struct("<Q")
_STATUS_TAIL = struct.Struct(">HHI8s8s")     # message, its number, its argument, mask, master's mask
STATUS_BYTES = _STATUS_HEAD.size + _INCARNATION.size + _STATUS_TAIL.size


class QdiskError(Exception):
    """The disk, or a block of it, is not what it should be; the text names the block."""


class NodeState(enum.IntEnum):
    """What a node says of itself, or the master of it."""

    NONE = 0                    # not at work, or left
    EVICT = 1                   # voted out, about to be fenced
    INIT = 2
    RUN = 5
    MASTER = 6


class Message(enum.IntEnum):
    """Of the election."""

    NONE = 0
    BID = 1
    ACK = 2
    NACK = 3


@dataclass(frozen=True, slots=True)
class Header:
    """What mkqdisk wrote. created_s: seconds since the epoch; sector_bytes 0: of a disk of version 1."""

    label: str
    host: str
    created_s: int
    sector_bytes: int = SECTOR_BYTES_MIN
    version: int = VERSION_MAGIC


@dataclass(frozen=True, slots=True)
class Status:
    """One node's block. `written_by`: the node that wrote it last, 0 for mkqdisk."""

    nodeid: int
    written_by: int = 0
    timestamp: int = 0
    state: NodeState = NodeState.NONE
    incarnation: int = 0
    message: Message = Message.NONE
    number: int = 0
    argument: int = 0
    mask: frozenset[int] = frozenset()
    master_mask: frozenset[int] = frozenset()
    score: int = 0
    score_max: int = 0
    cycle_us: int = 0           # average


def block_bytes(sector_bytes: int) -> int:
    return max(BLOCK_BYTES_MIN, sector_bytes)


def offset_of(nodeid: int, sector_bytes: int) -> int:
    """Of a node's block; 0 is the header's."""
    if not 0 <= nodeid <= SLOTS:
        raise QdiskError(f"a quorum disk has no place for node {nodeid}: 1 to {SLOTS}")
    return nodeid * block_bytes(sector_bytes)


def disk_bytes(sector_bytes: int) -> int:
    """The least that a partition must have."""
    return (SLOTS + 2) * block_bytes(sector_bytes)


def seal(payload: bytes, timestamp: int, sector_bytes: int = SECTOR_BYTES_MIN) -> bytes:
    """One sector: shared header, payload, zeros."""
    data_crc = zlib.crc32(payload)
    head = struct.pack("<" + _SHARED, SHARED_MAGIC, 0, data_crc, len(payload), 0, timestamp)
    head = struct.pack("<" + _SHARED, SHARED_MAGIC, zlib.crc32(head), data_crc, len(payload), 0, timestamp)
    assert len(head) + len(payload) <= sector_bytes
    return (head + payload).ljust(sector_bytes, b"\0")


def unseal(block: bytes, what: str) -> bytes:
    """The payload of a block. Raises QdiskError with what was found."""
    if len(block) < _SHARED_BYTES:
        raise QdiskError(f"{what}: {len(block)} bytes, at least {_SHARED_BYTES} are wanted")
    for order in "<>":
        magic, head_crc, data_crc, length, view, timestamp = struct.unpack_from(order + _SHARED, block)
        if magic == SHARED_MAGIC:
            break
    else:
        raise QdiskError(f"{what}: magic 0x{struct.unpack_from('<I', block)[0]:08x}, wanted 0x{SHARED_MAGIC:08x}")
    found = zlib.crc32(struct.pack(order + _SHARED, magic, 0, data_crc, length, view, timestamp))
    if found != head_crc:
        raise QdiskError(f"{what}: CRC of its header 0x{head_crc:08x}, of what is there 0x{found:08x}")
    if length > len(block) - _SHARED_BYTES:
        raise QdiskError(f"{what}: {length} bytes of data, there are {len(block) - _SHARED_BYTES}")
    payload = block[_SHARED_BYTES:_SHARED_BYTES + length]
    if zlib.crc32(payload) != data_crc:
        raise QdiskError(f"{what}: CRC of its data 0x{data_crc:08x}, of what is there 0x{zlib.crc32(payload):08x}")
    return payload


def pack_header(header: Header) -> bytes:
    """Raises ValueError for a label or host that does not fit."""
    label, host = header.label.encode(), header.host.encode()
    if not 0 < len(label) <= LABEL_BYTES_MAX or b"\0" in label:
        raise ValueError(f"a label has 1 to {LABEL_BYTES_MAX} bytes, this one {len(label)}")
    payload = _HEADER.pack(HEADER_MAGIC, header.version, header.created_s, host[:HOST_BYTES_MAX], label,
                           header.sector_bytes, 0)
    return seal(payload, header.created_s, max(header.sector_bytes, SECTOR_BYTES_MIN))


def unpack_header(block: bytes) -> Header:
    """Raises QdiskError."""
    payload = unseal(block, "the header")
    if len(payload) < _HEADER.size:
        raise QdiskError(f"the header: {len(payload)} bytes, wanted {_HEADER.size}")
    magic, version, created_s, host, label, sector_bytes, _ = _HEADER.unpack_from(payload)
    if magic != HEADER_MAGIC:
        raise QdiskError(f"the header: magic 0x{magic:08x}, wanted 0x{HEADER_MAGIC:08x}")
    if version != VERSION_MAGIC:
        sector_bytes = 0
    elif sector_bytes < SECTOR_BYTES_MIN or sector_bytes & (sector_bytes - 1) or sector_bytes > 1 << 16:
        raise QdiskError(f"the header: a sector of {sector_bytes} bytes")
    return Header(_text(label), _text(host), created_s, sector_bytes, version)


def _text(data: bytes) -> str:
    return data.split(b"\0", 1)[0].decode(errors="replace")


def _mask(nodes: Iterable[int]) -> bytes:
    bits = 0
    for n in nodes:
        bits |= 1 << (n - 1)
    return bits.to_bytes(8, "little")


def _nodes(mask: bytes) -> frozenset[int]:
    bits = int.from_bytes(mask, "little")
    return frozenset(n for n in range(1, SLOTS + 1) if bits >> (n - 1) & 1)


def pack_status(status: Status, sector_bytes: int = SECTOR_BYTES_MIN) -> bytes:
    head = _STATUS_HEAD.pack(STATUS_MAGIC, status.written_by, status.timestamp, status.nodeid, 0, status.state, 0,
                             status.score, status.score_max, *divmod(status.cycle_us, 1_000_000), 0, 0)
    tail = _STATUS_TAIL.pack(status.message, status.number, status.argument, _mask(status.mask),
                             _mask(status.master_mask))
    return seal(head + _INCARNATION.pack(status.incarnation) + tail, status.timestamp, sector_bytes)


def unpack_status(block: bytes, nodeid: int) -> Status:
    """The block of that node. Raises QdiskError, also when it is another one's."""
    what = f"block of node {nodeid}"
    payload = unseal(block, what)
    if len(payload) < STATUS_BYTES:
        raise QdiskError(f"{what}: {len(payload)} bytes, wanted {STATUS_BYTES}")
    (magic, written_by, timestamp, owner, _, state, _, score, score_max,
     cycle_s, cycle_us, _, _) = _STATUS_HEAD.unpack_from(payload)
    if magic != STATUS_MAGIC:
        raise QdiskError(f"{what}: magic 0x{magic:08x}, wanted 0x{STATUS_MAGIC:08x}")
    if owner != nodeid:
        raise QdiskError(f"{what}: it is that of node {owner}")
    incarnation, = _INCARNATION.unpack_from(payload, _STATUS_HEAD.size)
    message, number, argument, mask, master = _STATUS_TAIL.unpack_from(payload, _STATUS_HEAD.size + _INCARNATION.size)
    try:
        return Status(nodeid, written_by, timestamp, NodeState(state), incarnation, Message(message), number, argument,
                      _nodes(mask), _nodes(master), score, score_max, cycle_s * 1_000_000 + cycle_us)
    except ValueError as e:
        raise QdiskError(f"{what}: {e}") from None


def blank_disk(label: str, host: str, created_s: int, sector_bytes: int) -> list[tuple[int, bytes]]:
    """What mkqdisk writes: offset and sector, the header last, so that a half-made disk is none. Raises ValueError."""
    header = pack_header(Header(label, host, created_s, sector_bytes))
    blocks = [(offset_of(n, sector_bytes), pack_status(Status(n, 0, created_s), sector_bytes))
              for n in range(1, SLOTS + 1)]
    return [*blocks, (0, header)]
