"""The table of damages: each plants one thing in an image and says what the checker must find, and where.

A planter gets a `Patient` (the image with shorthands to find things in it) and returns the block, or the set of
blocks, at one of which the finding must be; None leaves the place open. `debian` tells what gfs2-utils' checker
does with it: True: it fails as well; False: it does not look at this; "crash": it loops or crashes on it.
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


# ---- superblock ----

@damage("sb_header", fatal=True, debian="crash")
def sb_magic(p: Patient) -> Place:
    return p.put(p.sb, "sb", "mh_magic", 0x01161971)


@damage("sb_header", fatal=True, debian="crash")
def sb_type(p: Patient) -> Place:
    return p.put(p.sb, "sb", "mh_type", 2)


@damage("sb_format", fatal=True)
def sb_fs_format(p: Patient) -> Place:
    return p.put(p.sb, "sb", "sb_fs_format", 1803)


@damage("sb_bsize", fatal=True, debian="crash")
def sb_bsize(p: Patient) -> Place:
    return p.put(p.sb, "sb", "sb_bsize", 513)


@damage("sb_multihost", debian=False)
def sb_multihost(p: Patient) -> Place:
    return p.put(p.sb, "sb", "sb_multihost_format", 1901)


@damage("sb_bsize_shift", debian="crash")
def sb_shift(p: Patient) -> Place:
    return p.put(p.sb, "sb", "sb_bsize_shift", 11)


@damage("sb_lockproto", debian=False)
def sb_lockproto(p: Patient) -> Place:
    return p.put(p.sb, "sb", "sb_lockproto", b"fsck_nolock")


@damage("sb_locktable", debian=False)
def sb_locktable(p: Patient) -> Place:
    return p.put(p.sb, "sb", "sb_locktable", b"x" * 64)


@damage("sb_master", fatal=True, debian="crash")
def sb_master(p: Patient) -> Place:
    return p.put(p.sb, "sb", "sb_master_dir.no_addr", 1 << 40)


@damage("sb_root", debian="crash")
def sb_root(p: Patient) -> Place:
    return p.put(p.sb, "sb", "sb_root_dir.no_addr", 1)


@damage("sb_root", debian="crash")
def sb_root_is_a_file(p: Patient) -> Place:
    return p.put(p.sb, "sb", "sb_root_dir.no_addr", p.ino("plain/file1").addr)


# ---- resource groups ----

@damage("rg_header")
def rg_magic(p: Patient) -> Place:
    return p.put(p.rg0(), "rgrp", "mh_magic", 0)


@damage("rg_header")
def rg_type(p: Patient) -> Place:
    return p.put(p.rg0(), "rgrp", "mh_type", 3)


@damage("rg_crc")
def rg_crc(p: Patient) -> Place:
    return p.put(p.rg0(), "rgrp", "rg_crc", 0xDEADBEEF)


@damage("rg_crc")
def rg_igeneration_without_crc(p: Patient) -> Place:
    return p.put(p.rg0(), "rgrp", "rg_igeneration", 0x77)


@damage("rg_free")
def rg_free(p: Patient) -> Place:
    return p.put(p.rg0(), "rgrp", "rg_free", 1, seal=True)


@damage("rg_dinodes")
def rg_dinodes(p: Patient) -> Place:
    return p.put(p.rg0(), "rgrp", "rg_dinodes", 1, seal=True)


@damage("rg_data0", debian=False)
def rg_data0(p: Patient) -> Place:
    return p.put(p.rg0(), "rgrp", "rg_data0", 19, seal=True)


@damage("rg_data", debian=False)
def rg_data(p: Patient) -> Place:
    return p.put(p.rg0(), "rgrp", "rg_data", 4, seal=True)


@damage("rg_bitbytes", debian=False)
def rg_bitbytes(p: Patient) -> Place:
    return p.put(p.rg0(), "rgrp", "rg_bitbytes", 4, seal=True)


@damage("rg_skip", debian=False)
def rg_skip(p: Patient) -> Place:
    return p.put(p.rg0(), "rgrp", "rg_skip", 17, seal=True)


@damage("rg_flags", debian=False)
def rg_flags(p: Patient) -> Place:
    return p.put(p.rg0(), "rgrp", "rg_flags", 0x10000, seal=True)


@damage("rindex_entry", debian="crash")
def rindex_addr(p: Patient) -> Place:
    block, at = p.rindex_place(1)
    return p.put(block, "rindex", "ri_addr", 77, at=at)


@damage("rindex_entry", debian="crash")
def rindex_length(p: Patient) -> Place:
    block, at = p.rindex_place(1)
    return p.put(block, "rindex", "ri_length", 0, at=at)


@damage("rindex_entry", debian="crash")
def rindex_data0(p: Patient) -> Place:
    block, at = p.rindex_place(0)
    return p.put(block, "rindex", "ri_data0", 1 << 50, at=at)


@damage("rindex_entry", debian="crash")
def rindex_data(p: Patient) -> Place:
    block, at = p.rindex_place(0)
    return p.put(block, "rindex", "ri_data", 0xFFFFFFF0, at=at)


@damage("rindex_entry", debian="crash")
def rindex_bitbytes(p: Patient) -> Place:
    block, at = p.rindex_place(1)
    return p.put(block, "rindex", "ri_bitbytes", 5, at=at)


@damage("rindex_overlap", debian="crash")
def rindex_twice(p: Patient) -> Place:
    b0, at0 = p.rindex_place(0)
    b1, at1 = p.rindex_place(1)
    p.raw(b1, at1, p.r.block(b0)[at0:at0 + 96])
    return p.rg0()


@damage("rindex_size", debian="crash")
def rindex_size(p: Patient) -> Place:
    ino = p.system("rindex")
    return p.put(ino.addr, "dinode", "di_size", ino.size + 5)


# ---- the bitmap against what inodes have ----

@damage("block_leaked")
def leaked(p: Patient) -> Place:
    return p.bit(p.free_block(), 1)


@damage("block_not_allocated")
def data_free_in_bitmap(p: Patient) -> Place:
    return p.bit(next(p.r.data_blocks(p.ino("sparse/mid")))[1], 0)


@damage("block_not_allocated")
def indirect_free_in_bitmap(p: Patient) -> Place:
    return p.bit(next(p.r.tree_level(p.ino("sparse/high"), 1))[1], 0)


@damage("block_duplicate")
def two_files_one_block(p: Patient) -> Place:
    block = next(p.r.data_blocks(p.ino("sparse/low")))[1]
    p.ptr(p.ino("sparse/truncated").addr, DI, block)
    return block


@damage("block_duplicate")
def one_file_one_block_twice(p: Patient) -> Place:
    ino = p.ino("sparse/truncated")
    p.ptr(ino.addr, DI + 8, p.get_ptr(ino.addr, DI))
    return p.get_ptr(ino.addr, DI)


@damage("block_duplicate")
def eattr_is_data(p: Patient) -> Place:
    p.di("xattrs/small", "di_eattr", p.eattr("xattrs/types"))
    return p.eattr("xattrs/types")


@damage("block_is_dinode")
def data_is_dinode(p: Patient) -> Place:
    addr = p.ino("plain/file1").addr
    p.ptr(p.ino("sparse/truncated").addr, DI, addr)
    return addr


@damage("di_header")
def free_block_as_dinode(p: Patient) -> Place:
    return p.bit(p.free_block(), 3)


@damage("de_target")
def dinode_as_data(p: Patient) -> Place:
    return p.bit(p.ino("plain/file4").addr, 1) and p.entry("plain/file4").block


@damage("de_target")
def dinode_free(p: Patient) -> Place:
    return p.bit(p.ino("plain/file4").addr, 0) and p.entry("plain/file4").block


@damage("de_target")
def dinode_unlinked_but_named(p: Patient) -> Place:
    return p.bit(p.ino("plain/file4").addr, 2) and p.entry("plain/file4").block


# ---- dinodes ----

@damage("di_header")
def di_magic(p: Patient) -> Place:
    return p.di("plain/file2", "mh_magic", 0x11)


@damage("di_header")
def di_type(p: Patient) -> Place:
    return p.di("plain/file2", "mh_type", 5)


@damage("meta_format", debian=False)
def di_format(p: Patient) -> Place:
    return p.di("plain/file2", "mh_format", 401)


@damage("di_num")
def di_no_addr(p: Patient) -> Place:
    return p.di("plain/file2", "di_num.no_addr", 99)


@damage("di_formal", debian=False)
def di_no_formal_ino(p: Patient) -> Place:
    return p.di("plain/file2", "di_num.no_formal_ino", 0)


@damage("di_mode")
def di_mode(p: Patient) -> Place:
    return p.di("plain/file2", "di_mode", 0o030644)


@damage("di_size", debian=False)
def stuffed_too_long(p: Patient) -> Place:
    return p.di("plain/file2", "di_size", p.bsize)


@damage("di_size", debian=False)
def size_negative(p: Patient) -> Place:
    return p.di("sparse/low", "di_size", 1 << 63)


@damage("di_size", debian=False)
def symlink_size(p: Patient) -> Place:
    return p.di("special/symlink", "di_size", p.bsize)


@damage("di_symlink", debian=False)
def symlink_cut(p: Patient) -> Place:
    return p.raw(p.ino("special/long-symlink").addr, DI + 20, b"\0")


@damage("di_size", debian=False)
def fifo_size(p: Patient) -> Place:
    return p.di("special/fifo", "di_size", 10)


@damage("di_size", debian=False)
def stuffed_dir_size(p: Patient) -> Place:
    return p.di("plain", "di_size", 100)


@damage("di_size", debian="crash")
def hashed_dir_size(p: Patient) -> Place:
    return p.di("collide", "di_size", 4096)


@damage("di_height", debian="crash")
def height_too_great(p: Patient) -> Place:
    return p.di("sparse/low", "di_height", 40)


@damage("meta_header")
def height_one_more(p: Patient) -> Place:
    ino = p.ino("sparse/mid")
    p.di("sparse/mid", "di_height", ino.height + 1)
    return {block for _, block in p.r.tree_level(ino, ino.height)}


@damage("di_height", debian="crash")
def device_with_height(p: Patient) -> Place:
    return p.di("special/char", "di_height", 1)


@damage("di_blocks")
def di_blocks(p: Patient) -> Place:
    return p.di("sparse/low", "di_blocks", 1234)


@damage("di_blocks")
def di_blocks_of_directory(p: Patient) -> Place:
    return p.di("big", "di_blocks", 3)


@damage("di_goal")
def di_goal(p: Patient) -> Place:
    return p.di("plain/file1", "di_goal_meta", 1 << 45)


@damage("di_flags", debian=False)
def unknown_flags(p: Patient) -> Place:
    return p.di("plain/file1", "di_flags", 0x00100000)


@damage("di_flags", debian=False)
def file_with_exhash(p: Patient) -> Place:
    return p.di("plain/file1", "di_flags", 2)


@damage("di_payload", debian=False)
def di_payload(p: Patient) -> Place:
    return p.di("plain", "di_payload_format", 1300)


@damage("di_depth", debian="crash")
def depth_too_great(p: Patient) -> Place:
    return p.di("big", "di_depth", 20)


@damage("di_depth", debian=False)
def stuffed_dir_depth(p: Patient) -> Place:
    return p.di("plain", "di_depth", 3)


@damage("di_nsec", debian=False)
def di_nsec(p: Patient) -> Place:
    return p.di("plain/file1", "di_mtime_nsec", 1_000_000_000)


@damage("di_eattr")
def eattr_out_of_range(p: Patient) -> Place:
    return p.di("xattrs/small", "di_eattr", 1 << 41)


@damage("di_eattr", debian=False)
def eattr_indirect_without_block(p: Patient) -> Place:
    return p.di("plain/file1", "di_flags", 8)


@damage("di_trunc", debian=False)
def truncation_in_progress(p: Patient) -> Place:
    return p.di("plain/file1", "di_flags", 0x20000000)


# ---- trees ----

@damage("ptr_range")
def data_pointer_wild(p: Patient) -> Place:
    return p.ptr(p.ino("sparse/truncated").addr, DI + 8, 1 << 60)


@damage("ptr_range")
def data_pointer_into_bitmap(p: Patient) -> Place:
    return p.ptr(p.ino("sparse/truncated").addr, DI + 8, p.rg0())


@damage("ptr_range")
def indirect_pointer_wild(p: Patient) -> Place:
    block = next(p.r.tree_level(p.ino("sparse/high"), 1))[1]
    return p.ptr(block, MH + 8, 5)


@damage("meta_header")
def indirect_type(p: Patient) -> Place:
    return p.put(next(p.r.tree_level(p.ino("sparse/high"), 1))[1], "meta_header", "mh_type", 6)


@damage("meta_header")
def indirect_magic(p: Patient) -> Place:
    return p.put(next(p.r.tree_level(p.ino("sparse/higher"), 2))[1], "meta_header", "mh_magic", 0)


@damage("block_duplicate")
def indirect_loop(p: Patient) -> Place:
    ino = p.ino("sparse/higher")
    block = next(p.r.tree_level(ino, 1))[1]
    p.ptr(block, MH + 80, block)
    return block


# ---- extended attributes ----

@damage("meta_header")
def ea_leaf_type(p: Patient) -> Place:
    return p.put(p.eattr("xattrs/small"), "meta_header", "mh_type", 11)


@damage("ea_rec_len")
def ea_rec_len(p: Patient) -> Place:
    return p.put(p.eattr("xattrs/small"), "ea_header", "ea_rec_len", 1 << 20, at=MH)


@damage("ea_rec_len", debian=False)
def ea_rec_len_zero(p: Patient) -> Place:
    return p.put(p.eattr("xattrs/types"), "ea_header", "ea_rec_len", 0, at=MH)


@damage("ea_name")
def ea_name_len(p: Patient) -> Place:
    return p.put(p.eattr("xattrs/small"), "ea_header", "ea_name_len", 0, at=MH)


@damage("ea_type")
def ea_type(p: Patient) -> Place:
    return p.put(p.eattr("xattrs/small"), "ea_header", "ea_type", 9, at=MH)


@damage("ea_type")
def ea_trusted_in_1801(p: Patient) -> Place:
    p.put(p.sb, "sb", "sb_fs_format", 1801)
    return p.eattr("xattrs/types")


@damage("ea_last")
def ea_last(p: Patient) -> Place:
    return p.put(p.eattr("xattrs/small"), "ea_header", "ea_flags", 0, at=MH)


@damage("ea_last", debian=False)
def ea_last_too_early(p: Patient) -> Place:
    return p.put(p.eattr("xattrs/types"), "ea_header", "ea_flags", 1, at=MH)


@damage("ea_data_len", debian=False)
def ea_data_len(p: Patient) -> Place:
    block = p.eattr("xattrs/types")
    return p.put(block, "ea_header", "ea_data_len", 5000, at=MH)


@damage("ea_ptrs")
def ea_num_ptrs(p: Patient) -> Place:
    return p.put(p.eattr("xattrs/large"), "ea_header", "ea_num_ptrs", 1, at=MH)


@damage("ea_ptr_range")
def ea_pointer(p: Patient) -> Place:
    return p.ptr(p.eattr("xattrs/large"), MH + 16 + 8, 3)


@damage("meta_header")
def ea_value_type(p: Patient) -> Place:
    block = p.get_ptr(p.eattr("xattrs/large"), MH + 16 + 8)
    return p.put(block, "meta_header", "mh_type", 10)


@damage("meta_header")
def ea_indirect_type(p: Patient) -> Place:
    return p.put(p.eattr("xattrs/many"), "meta_header", "mh_type", 10)


@damage("ea_ptr_range")
def ea_indirect_pointer(p: Patient) -> Place:
    return p.ptr(p.eattr("xattrs/many"), MH + 8, 1 << 50)


@damage("ea_hole")
def ea_indirect_hole(p: Patient) -> Place:
    block = p.eattr("xattrs/many")
    assert p.get_ptr(block, MH + 16)
    return p.ptr(block, MH + 8, 0)


# ---- directories ----

@damage("dir_hash_hole")
def hash_hole(p: Patient) -> Place:
    return p.ptr(p.ino("big").addr, DI, 0)


@damage("dir_hash_ptr")
def hash_pointer(p: Patient) -> Place:
    return p.raw(p.ino("big").addr, DI, struct.pack(">Q", 1 << 47) * 256)


@damage("dir_hash_run")
def hash_run(p: Patient) -> Place:
    ino = p.ino("big")
    table = struct.unpack_from(">256Q", ino.block, DI)
    i = next(i for i in range(1, 256) if table[i] != table[i - 1])
    return p.ptr(ino.addr, DI + 8 * i, table[i - 1])


@damage("meta_header")
def hash_block_type(p: Patient) -> Place:
    return p.put(list(p.r.data_blocks(p.ino("collide")))[3][1], "meta_header", "mh_type", 5)


@damage("ptr_range")
def hash_block_pointer(p: Patient) -> Place:
    return p.ptr(p.ino("collide").addr, DI + 16, 2)


@damage("meta_header")
def leaf_type(p: Patient) -> Place:
    return p.put(p.leaf("big"), "leaf", "mh_type", 5)


@damage("leaf_depth")
def leaf_depth(p: Patient) -> Place:
    return p.put(p.leaf("big"), "leaf", "lf_depth", 8)


@damage("leaf_entries")
def leaf_entries(p: Patient) -> Place:
    return p.put(p.leaf("big"), "leaf", "lf_entries", 1)


@damage("leaf_format", debian=False)
def leaf_format(p: Patient) -> Place:
    return p.put(p.leaf("big"), "leaf", "lf_dirent_format", 7)


@damage("leaf_inode", debian=False)
def leaf_inode(p: Patient) -> Place:
    return p.put(p.leaf("big"), "leaf", "lf_inode", 7)


@damage("leaf_dist", debian=False)
def leaf_dist(p: Patient) -> Place:
    return p.put(p.chain()[1], "leaf", "lf_dist", 70)


@damage("leaf_loop", debian="crash")
def leaf_loop(p: Patient) -> Place:
    chain = p.chain()
    return p.put(chain[-1], "leaf", "lf_next", chain[1])


@damage("ptr_range", debian="crash")
def leaf_next_wild(p: Patient) -> Place:
    return p.put(p.chain()[1], "leaf", "lf_next", 1 << 44)


@damage("block_leaked")
def leaf_chain_cut(p: Patient) -> Place:
    chain = p.chain()
    p.put(chain[0], "leaf", "lf_next", 0)
    return None


@damage("de_rec_len", debian="crash")
def rec_len_zero(p: Patient) -> Place:
    return p.de("plain/file1", "de_rec_len", 0)


@damage("de_rec_len", debian=False)
def rec_len_odd(p: Patient) -> Place:
    return p.de("plain/file1", "de_rec_len", 49)


@damage("de_rec_len")
def rec_len_huge(p: Patient) -> Place:
    return p.de("plain/file1", "de_rec_len", 0x7FF8)


@damage("de_name_len")
def name_len(p: Patient) -> Place:
    return p.de("plain/file1", "de_name_len", 200)


@damage("de_name_len")
def name_len_zero(p: Patient) -> Place:
    return p.de("plain/file1", "de_name_len", 0)


@damage("de_sentinel")
def zero_inum(p: Patient) -> Place:
    e = p.entry("plain/file1")
    return p.raw(e.block, e.at, bytes(16))


@damage("de_name", debian=False)
def slash_in_name(p: Patient) -> Place:
    return p.rename("plain/file1", b"fil/1")


@damage("de_hash")
def de_hash(p: Patient) -> Place:
    return p.de("plain/file1", "de_hash", 1)


@damage("de_hash")
def name_changed(p: Patient) -> Place:
    e = p.entry("plain/file1")
    return p.raw(e.block, e.at + 40, b"F")


@damage("de_wrong_leaf")
def wrong_leaf(p: Patient) -> Place:
    first = next(e for e in p.r.dirents(p.ino("big")) if len(e.name) > 12)
    table = struct.unpack_from(">256Q", p.ino("big").block, DI)
    for i in range(1000):
        new = b"%04d" % i + first.name[4:]
        if table[zlib.crc32(new) >> 24] != first.block:
            return p.rename("big/" + first.name.decode(), new)
    raise AssertionError


@damage("de_inum_range")
def entry_out_of_range(p: Patient) -> Place:
    return p.de("plain/file1", "de_inum.no_addr", 1 << 40)


@damage("de_target")
def entry_to_data(p: Patient) -> Place:
    return p.de("plain/file1", "de_inum.no_addr", next(p.r.data_blocks(p.ino("sparse/low")))[1])


@damage("de_target")
def entry_to_free(p: Patient) -> Place:
    return p.de("plain/file1", "de_inum.no_addr", p.free_block())


@damage("de_formal", debian=False)
def entry_formal(p: Patient) -> Place:
    return p.de("plain/file1", "de_inum.no_formal_ino", 0x5555)


@damage("de_formal")
def entry_formal_of_directory(p: Patient) -> Place:
    return p.de("plain", "de_inum.no_formal_ino", 0x5555)


@damage("de_formal", debian=False)
def inode_formal_beyond_32_bits(p: Patient) -> Place:
    addr = p.ino("plain/file1").addr
    p.put(addr, "dinode", "di_num.no_formal_ino", (1 << 32) + p.entry("plain/file1").formal_ino)
    return p.entry("plain/file1").block


@damage("de_type", debian=False)
def entry_type(p: Patient) -> Place:
    return p.de("plain/file1", "de_type", 10)


@damage("de_type")
def entry_type_directory(p: Patient) -> Place:
    return p.de("plain/file1", "de_type", 4)


@damage("de_duplicate", debian=False)
def name_twice(p: Patient) -> Place:
    return p.rename("plain/file1", b"file2")


@damage("de_duplicate", debian=False)
def name_twice_in_chain(p: Patient) -> Place:
    chain = p.chain()
    a = list(p.r.dirents_in(chain[0], p.r.block(chain[0]), LF))[0]
    b = list(p.r.dirents_in(chain[1], p.r.block(chain[1]), LF))[0]
    p.raw(b.block, b.at + 40, a.name)
    return {chain[0], chain[1]}


@damage("de_system", debian=False)
def system_flag(p: Patient) -> Place:
    p.di("plain/file1", "di_flags", 0x200)
    return p.entry("plain/file1").block


@damage("de_system")
def system_flag_missing(p: Patient) -> Place:
    p.put(p.system("jindex").addr, "dinode", "di_flags", 1)
    return p.r.master_addr


@damage("dot_wrong")
def dot_wrong(p: Patient) -> Place:
    p.de("plain/.", "de_inum.no_formal_ino", p.entry("deep").formal_ino)
    return p.de("plain/.", "de_inum.no_addr", p.entry("deep").addr)


@damage("dot_missing")
def dot_renamed(p: Patient) -> Place:
    return p.rename("plain/.", b"x")


@damage("dotdot_missing", debian=False)
def dotdot_renamed(p: Patient) -> Place:
    return p.rename("plain/..", b"xx")


@damage("dotdot_wrong")
def dotdot_wrong(p: Patient) -> Place:
    p.de("plain/..", "de_inum.no_formal_ino", p.entry("deep").formal_ino)
    return p.de("plain/..", "de_inum.no_addr", p.entry("deep").addr)


@damage("dotdot_wrong")
def dotdot_of_root(p: Patient) -> Place:
    p.de("..", "de_inum.no_formal_ino", p.entry("deep").formal_ino)
    return p.de("..", "de_inum.no_addr", p.entry("deep").addr)


@damage("dir_entries")
def dir_entries(p: Patient) -> Place:
    return p.di("plain", "di_entries", 3)


@damage("dir_entries")
def dir_entries_hashed(p: Patient) -> Place:
    return p.di("big", "di_entries", 3)


# ---- links ----

@damage("nlink")
def nlink_of_file(p: Patient) -> Place:
    return p.di("plain/file1", "di_nlink", 2)


@damage("nlink")
def nlink_of_directory(p: Patient) -> Place:
    return p.di("plain", "di_nlink", 7)


@damage("nlink")
def nlink_enormous(p: Patient) -> Place:
    return p.di("plain/file1", "di_nlink", 0xFFFFFFFF)


@damage("orphan")
def orphan_file(p: Patient) -> Place:
    addr = p.entry("plain/file3").addr
    other = p.entry("plain/file4")
    p.de("plain/file3", "de_inum.no_formal_ino", other.formal_ino)
    p.de("plain/file3", "de_inum.no_addr", other.addr)
    return addr


@damage("orphan")
def orphan_directory(p: Patient) -> Place:
    addr = p.entry("deep").addr
    other = p.entry("plain/file4")
    p.de("deep", "de_inum.no_formal_ino", other.formal_ino)
    p.de("deep", "de_type", 8)
    p.de("deep", "de_inum.no_addr", other.addr)
    return addr


@damage("dir_hard_link")
def directory_twice(p: Patient) -> Place:
    deep = p.entry("deep")
    p.de("plain/file3", "de_inum.no_formal_ino", deep.formal_ino)
    p.de("plain/file3", "de_type", 4)
    p.de("plain/file3", "de_inum.no_addr", deep.addr)
    return {p.ino("plain").addr, p.r.root_addr}


@damage("dir_unreachable", debian="crash")
def directory_loop(p: Patient) -> Place:
    deep, file = p.entry("deep"), p.entry("plain/file4")
    ring = {p.ino("deep").addr, p.ino("deep/level1").addr, p.ino("deep/level1/level2").addr}
    for path, e, kind in (("deep/level1/level2/file", deep, 4), ("deep", file, 8)):
        p.de(path, "de_type", kind)
        p.de(path, "de_inum.no_formal_ino", e.formal_ino)
        p.de(path, "de_inum.no_addr", e.addr)
    return ring


# ---- system files ----

@damage("sys_missing", debian=True)
def no_statfs(p: Patient) -> Place:
    for e in p.r.dirents(p.r.inode(p.r.master_addr)):
        if e.name == b"statfs":
            p.raw(e.block, e.at + 40, b"statgs")
            return p.put(e.block, "dirent", "de_hash", zlib.crc32(b"statgs"), at=e.at)
    raise AssertionError


@damage("sys_missing", debian="crash")
def no_journal(p: Patient) -> Place:
    for e in p.r.dirents(p.system("jindex")):
        if e.name == b"journal0":
            p.raw(e.block, e.at + 40, b"journal7")
            return p.put(e.block, "dirent", "de_hash", zlib.crc32(b"journal7"), at=e.at)
    raise AssertionError


@damage("jindex_name", debian=False)
def strange_name_in_jindex(p: Patient) -> Place:
    for e in p.r.dirents(p.system("jindex")):
        if e.name == b"journal0":
            p.raw(e.block, e.at + 40, b"jornal00")
            return p.put(e.block, "dirent", "de_hash", zlib.crc32(b"jornal00"), at=e.at)
    raise AssertionError


@damage("rindex_missing", fatal=True, debian="crash")
def no_rindex(p: Patient) -> Place:
    for e in p.r.dirents(p.r.inode(p.r.master_addr)):
        if e.name == b"rindex":
            p.raw(e.block, e.at + 40, b"rindey")
            return p.put(e.block, "dirent", "de_hash", zlib.crc32(b"rindey"), at=e.at)
    raise AssertionError


@damage("sys_size", debian="crash")
def statfs_size(p: Patient) -> Place:
    return p.put(p.system("statfs").addr, "dinode", "di_size", 32)


@damage("sys_size", debian=True)
def inum_range_size(p: Patient) -> Place:
    return p.put(p.system("per_node/inum_range0").addr, "dinode", "di_size", 8)


@damage("statfs")
def statfs_total(p: Patient) -> Place:
    return p.ptr(p.system("statfs").addr, DI, 5)


@damage("statfs")
def statfs_free(p: Patient) -> Place:
    return p.ptr(p.system("statfs").addr, DI + 8, 5)


@damage("statfs")
def statfs_dinodes(p: Patient) -> Place:
    return p.ptr(p.system("statfs").addr, DI + 16, 5)


@damage("qc_header")
def quota_change_block(p: Patient) -> Place:
    block = list(p.r.data_blocks(p.system("per_node/quota_change0")))[9][1]
    return p.put(block, "meta_header", "mh_type", 11)


@damage("qc_flags", debian=False)
def quota_change_flags(p: Patient) -> Place:
    ino = p.system("per_node/quota_change0")
    block = next(p.r.data_blocks(ino))[1]
    p.raw(block, MH, struct.pack(">qII", 5, 0x30, 1000))
    return ino.addr


@damage("journal_hole", debian=False)
def journal_hole(p: Patient) -> Place:
    ino = p.system("jindex/journal0")
    p.ptr(next(p.r.tree_level(ino, 1))[1], MH + 8 * 3, 0)
    return ino.addr


@damage("journal_size", debian=False)
def journal_size(p: Patient) -> Place:
    return p.put(p.system("jindex/journal0").addr, "dinode", "di_size", 4096)


@damage("journal_no_head", debian=True)
def journal_wiped(p: Patient) -> Place:
    ino = p.system("jindex/journal0")
    for _, block in p.r.data_blocks(ino):
        p.raw(block, 0, bytes(64))
    return ino.addr


@damage("journal_header", debian=False)
def journal_header_sum(p: Patient) -> Place:
    p.put(min(p.log_headers())[1], "log_header", "lh_hash", 7)
    return p.system("jindex/journal0").addr


@damage("journal_seq", debian=True)
def journal_sequence(p: Patient) -> Place:
    for _, block in sorted(p.log_headers())[50:150:2]:
        p.put(block, "log_header", "lh_sequence", 3, seal=True)
    return p.system("jindex/journal0").addr


@damage("journal_dirty", debian=False)
def journal_dirty(p: Patient) -> Place:
    return p.put(max(p.log_headers())[1], "log_header", "lh_flags", 0, seal=True)
