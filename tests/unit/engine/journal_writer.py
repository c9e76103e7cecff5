"""A tiny journal writer for tests: copies and revokes as GFS2 logs them, and what they must give.

Independent of the engine: struct and zlib only. Source of the layout: include/uapi/linux/gfs2_ondisk.h.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field

from gfs2py.block import BlockDevice

MAGIC = 0x01161970
DI, IN, RG, LH, LD, LB = 4, 5, 2, 8, 9, 12
METADATA, REVOKE, JDATA = 300, 301, 302
UNMOUNT, RECOVERY = 1, 0x20


def crc32c(data: bytes) -> int:
    """Castagnoli, seed ~0, not inverted, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc


def meta_header(kind: int, jid: int = 0) -> bytes:
    return struct.pack(">IIQII", MAGIC, kind, 0, kind * 100, jid)


def metadata(kind: int, fill: bytes, bsize: int) -> bytes:
    return (meta_header(kind) + fill * bsize)[:bsize]


def log_header(
    bsize: int,
    seq: int,
    blkno: int,
    tail: int,
    flags: int = 0,
    *,
    v1: bool = False,
    statfs_addr: int = 0,
    local: tuple[int, int, int] = (0, 0, 0),
) -> bytes:
    head = meta_header(LH) + struct.pack(">QIII", seq, flags, tail, blkno)
    head += struct.pack(">I", zlib.crc32(head + bytes(4)))
    rest = struct.pack(">IQQQQQqqq", 7, 1700000000, 0, 0, statfs_addr, 0, *local)
    rest += bytes(bsize - len(head) - 4 - len(rest))
    if v1:
        return head + bytes(bsize - len(head))
    return head + struct.pack(">I", crc32c(rest)) + rest


def dinode(bsize: int, addr: int, size: int, height: int, payload: bytes) -> bytes:
    b = meta_header(DI) + struct.pack(">QQ", addr, addr) + struct.pack(">IIII", 0o100600, 0, 0, 1)
    b += struct.pack(">QQQQQII", size, 1, 0, 0, 0, 0, 0)
    b += struct.pack(">QQQ", 0, 0, 0)
    b += struct.pack(">II", 0, 0)
    b += struct.pack(">HHI", 0, height, 0)
    b += bytes(232 - len(b)) + payload
    assert len(b) <= bsize
    return b + bytes(bsize - len(b))


@dataclass
class Log:
    """A journal lying at `at` (disk blocks, by log block) of a device; what it holds is written at once."""

    dev: BlockDevice
    bsize: int
    at: list[int]
    pos: int = 0
    seq: int = 100
    tail: int = 0
    # what replay must give: block -> content; a revoked block is absent
    result: dict[int, bytes] = field(default_factory=dict)
    revoked: set[int] = field(default_factory=set)
    copies: int = 0

    def put(self, block: bytes) -> int:
        """Write one log block; returns its position."""
        assert len(block) == self.bsize
        here = self.pos
        self.dev.write(self.at[here] * self.bsize, block)
        self.pos = (here + 1) % len(self.at)
        return here

    def header(
        self,
        flags: int = 0,
        *,
        v1: bool = False,
        statfs_addr: int = 0,
        local: tuple[int, int, int] = (0, 0, 0),
    ) -> None:
        block = log_header(
            self.bsize, self.seq, self.pos, self.tail, flags, v1=v1, statfs_addr=statfs_addr, local=local
        )
        self.put(block)
        self.seq += 1

    def descriptor(self, kind: int, length: int, count: int, payload: bytes) -> None:
        block = meta_header(LD) + struct.pack(">IIII", kind, length, count, 0) + bytes(32) + payload
        self.put(block + bytes(self.bsize - len(block)))

    def copy(self, blocks: dict[int, bytes]) -> None:
        """Log metadata blocks, in as many descriptors as it takes."""
        room = (self.bsize - 72) // 8
        todo = list(blocks.items())
        while todo:
            part, todo = todo[:room], todo[room:]
            payload = b"".join(struct.pack(">Q", b) for b, _ in part)
            self.descriptor(METADATA, len(part) + 1, len(part), payload)
            for blkno, data in part:
                self.put(data)
                self._now(blkno, data)

    def copy_data(self, blocks: dict[int, bytes]) -> None:
        """Log journaled data; what begins with the magic is escaped."""
        room = (self.bsize - 72) // 16
        todo = list(blocks.items())
        while todo:
            part, todo = todo[:room], todo[room:]
            escaped = [struct.unpack_from(">I", data)[0] == MAGIC for _, data in part]
            payload = b"".join(struct.pack(">QQ", b, e) for (b, _), e in zip(part, escaped, strict=True))
            self.descriptor(JDATA, len(part) + 1, len(part), payload)
            for (blkno, data), esc in zip(part, escaped, strict=True):
                self.put(bytes(4) + data[4:] if esc else data)
                self._now(blkno, data)

    def revoke(self, blocks: list[int]) -> None:
        """Log revokes, with continuation blocks."""
        room, more = (self.bsize - 72) // 8, (self.bsize - 24) // 8
        first, rest = blocks[:room], blocks[room:]
        n_more = -(-len(rest) // more)
        self.descriptor(REVOKE, 1 + n_more, len(blocks), b"".join(struct.pack(">Q", b) for b in first))
        for i in range(n_more):
            part = rest[i * more : (i + 1) * more]
            block = meta_header(LB) + b"".join(struct.pack(">Q", b) for b in part)
            self.put(block + bytes(self.bsize - len(block)))
        for blkno in blocks:
            self.result.pop(blkno, None)
            self.revoked.add(blkno)

    def _now(self, blkno: int, data: bytes) -> None:
        self.copies += 1
        self.result[blkno] = data
