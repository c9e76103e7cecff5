"""The table of damages: each plants one thing in an image and says what the checker must find, and where.

A planter gets a `Patient` (the image with shorthands to find things in it) and returns the block, or the set
of blocks, at one of which the finding must be; None leaves the place open. `debian` tells what gfs2-utils'
checker does with it: True: it fails too; False: it does not look at this; "crash": it loops or crashes.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from gfs2py.block import MemoryDevice
from gfs2py.edit.patch import patch_bitmap, patch_bytes, patch_field
from gfs2py.edit.reader import Dirent, Inode, Reader

Place = int | set[int] | None
DI, LF, MH = 232, 104, 24


class Patient:
    """An image to be damaged: patches by structure, and where things of the populated tree are."""

    def __init__(self, dev: MemoryDevice) -> None:
        self.dev = dev
        self.r = Reader(dev)
        self.bsize = self.r.bsize
        self.sb = 65536 // self.bsize

    def ino(self, path: str) -> Inode:
        return self.r.path(path)

    def system(self, path: str) -> Inode:
        return self.r.system(path)

    def put(self, block: int, struct_name: str, field: str, value: int | bytes, *, at: int = 0,
            seal: bool = False) -> int:
        patch_field(self.dev, block, struct_name, field, value, at=at, seal=seal, bsize=self.bsize)
        return block

    def di(self, path: str, field: str, value: int) -> int:
        """Patch a field of an inode; returns its block."""
        return self.put(self.ino(path).addr, "dinode", field, value)

    def raw(self, block: int, at: int, data: bytes) -> int:
        patch_bytes(self.dev, block, at, data, bsize=self.bsize)
        return block

    def ptr(self, block: int, at: int, value: int) -> int:
        return self.raw(block, at, struct.pack(">Q", value))

    def get_ptr(self, block: int, at: int) -> int:
        return int(struct.unpack_from(">Q", self.r.block(block), at)[0])

    def entry(self, path: str) -> Dirent:
        """The directory entry of a path."""
        parent, _, name = path.rpartition("/")
        for e in self.r.dirents(self.ino(parent)):
            if e.name == name.encode():
                return e
        raise AssertionError(f"{path} is not in the image")

    def de(self, path: str, field: str, value: int) -> int:
        e = self.entry(path)
        return self.put(e.block, "dirent", field, value, at=e.at)

    def rename(self, path: str, new: bytes) -> int:
        """Overwrite a name by one of the same length, hash included."""
        e = self.entry(path)
        assert len(new) == len(e.name)
        self.raw(e.block, e.at + 40, new)
        return self.put(e.block, "dirent", "de_hash", zlib.crc32(new), at=e.at)

    def rgrp_of(self, block: int) -> dict[str, int]:
        for ri in self.r.rindex():
            if int(ri["ri_data0"]) <= block < int(ri["ri_data0"]) + int(ri["ri_data"]):
                return {k: int(v) for k, v in ri.items() if isinstance(v, int)}
        raise AssertionError(f"block {block} is in no resource group")

    def bit(self, block: int, state: int) -> int:
        """Set a block's state in the bitmap; the counts of the group are made to fit."""
        rg = self.rgrp_of(block)["ri_addr"]
        old = patch_bitmap(self.dev, rg, block, state)
        free = struct.unpack_from(">I", self.r.block(rg), 28)[0] + (state == 0) - (old == 0)
        dinodes = struct.unpack_from(">I", self.r.block(rg), 32)[0] + (state > 1) - (old > 1)
        self.put(rg, "rgrp", "rg_free", free)
        self.put(rg, "rgrp", "rg_dinodes", dinodes, seal=True)
        return block

    def free_block(self) -> int:
        """A block that is free, in the last resource group."""
        ri = self.r.rindex()[-1]
        addr, data0 = int(ri["ri_addr"]), int(ri["ri_data0"])
        data = self.r.block(addr)
        for byte in range(self.bsize - 1, 128, -1):
            if data[byte] == 0:
                block = data0 + (byte - 128) * 4
                if block < data0 + int(ri["ri_data"]):
                    return block
        raise AssertionError("no free block")

    def leaf(self, path: str, n: int = 0) -> int:
        """A leaf of a hashed directory."""
        return list(self.r.leaves(self.ino(path)))[n][0]

    def chain(self) -> list[int]:
        """The chained leaves of the directory whose names have one hash."""
        out = []
        for addr, raw in self.r.leaves(self.ino("collide")):
            if struct.unpack_from(">Q", raw, 32)[0] or out:
                out.append(addr)
                if not struct.unpack_from(">Q", raw, 32)[0]:
                    break
        assert len(out) > 2
        return out

    def eattr(self, path: str) -> int:
        return self.ino(path).number("di_eattr")

    def rg0(self) -> int:
        return int(self.r.rindex()[0]["ri_addr"])

    def log_headers(self) -> list[tuple[int, int]]:
        """(sequence, block) of every log header of the first journal."""
        out = []
        for _, block in self.r.data_blocks(self.system("jindex/journal0")):
            raw = self.r.block(block)
            if struct.unpack_from(">II", raw) == (0x01161970, 8):
                out.append((int(struct.unpack_from(">Q", raw, 24)[0]), block))
        return out

    def rindex_place(self, n: int) -> tuple[int, int]:
        """(block, byte) of an entry of the resource group index."""
        ino = self.system("rindex")
        if ino.height == 0:
            return ino.addr, DI + n * 96
        blocks = dict(self.r.data_blocks(ino))
        return blocks[n * 96 // self.bsize], n * 96 % self.bsize


@dataclass(frozen=True)
class Damage:
    name: str
    code: str
    plant: Callable[[Patient], Place]
    debian: bool | Literal["crash"] = True
    fatal: bool = False


TABLE: list[Damage] = []


def damage(code: str, *, debian: bool | Literal["crash"] = True,
           fatal: bool = False) -> Callable[[Callable[[Patient], Place]], Callable[[Patient], Place]]:
    """Add a planter to the table, under its own name."""
    def add(plant: Callable[[Patient], Place]) -> Callable[[Patient], Place]:
        TABLE.append(Damage(plant.__name__, code, plant, debian, fatal))
        return plant
    return add
