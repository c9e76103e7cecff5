"""Damages to superblock, resource groups, bitmaps, dinodes and trees (see patient.py)."""

from __future__ import annotations

from fsck.patient import DI, MH, Patient, Place, damage

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


@damage("sb_bsize_shift")
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


@damage("sb_root")
def sb_root(p: Patient) -> Place:
    return p.put(p.sb, "sb", "sb_root_dir.no_addr", 1)


@damage("sb_root")
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


@damage("rindex_entry")
def rindex_addr(p: Patient) -> Place:
    block, at = p.rindex_place(1)
    return p.put(block, "rindex", "ri_addr", 77, at=at)


@damage("rindex_entry")
def rindex_length(p: Patient) -> Place:
    block, at = p.rindex_place(1)
    return p.put(block, "rindex", "ri_length", 0, at=at)


@damage("rindex_entry")
def rindex_data0(p: Patient) -> Place:
    block, at = p.rindex_place(0)
    return p.put(block, "rindex", "ri_data0", 1 << 50, at=at)


@damage("rindex_entry")
def rindex_data(p: Patient) -> Place:
    block, at = p.rindex_place(0)
    return p.put(block, "rindex", "ri_data", 0xFFFFFFF0, at=at)


@damage("rindex_entry")
def rindex_bitbytes(p: Patient) -> Place:
    block, at = p.rindex_place(1)
    return p.put(block, "rindex", "ri_bitbytes", 5, at=at)


@damage("rindex_overlap")
def rindex_twice(p: Patient) -> Place:
    b0, at0 = p.rindex_place(0)
    b1, at1 = p.rindex_place(1)
    p.raw(b1, at1, p.r.block(b0)[at0:at0 + 96])
    return p.rg0()


@damage("rindex_size")
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


@damage("di_size")
def hashed_dir_size(p: Patient) -> Place:
    return p.di("collide", "di_size", 4096)


@damage("di_height")
def height_too_great(p: Patient) -> Place:
    return p.di("sparse/low", "di_height", 40)


@damage("meta_header")
def height_one_more(p: Patient) -> Place:
    ino = p.ino("sparse/mid")
    p.di("sparse/mid", "di_height", ino.height + 1)
    return {block for _, block in p.r.tree_level(ino, ino.height)}


@damage("di_height", debian=False)
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


@damage("di_depth")
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
