"""Damages to extended attributes, directories, links and system files (see patient.py)."""

from __future__ import annotations

import struct
import zlib

from fsck.patient import DI, LF, MH, Patient, Place, damage

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


@damage("ptr_range")
def leaf_next_wild(p: Patient) -> Place:
    return p.put(p.chain()[1], "leaf", "lf_next", 1 << 44)


@damage("block_leaked")
def leaf_chain_cut(p: Patient) -> Place:
    chain = p.chain()
    p.put(chain[0], "leaf", "lf_next", 0)
    return None


@damage("de_rec_len")
def rec_len_zero(p: Patient) -> Place:
    return p.de("plain/file1", "de_rec_len", 0)


@damage("de_rec_len")
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
    a = next(p.r.dirents_in(chain[0], p.r.block(chain[0]), LF))
    b = next(p.r.dirents_in(chain[1], p.r.block(chain[1]), LF))
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


@damage("dotdot_missing")
def dotdot_renamed(p: Patient) -> Place:
    return p.rename("plain/..", b"xx")


@damage("dotdot_wrong", debian=False)
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


@damage("dir_unreachable")
def directory_loop(p: Patient) -> Place:
    deep, file = p.entry("deep"), p.entry("plain/file4")
    ring = {p.ino("deep").addr, p.ino("deep/level1").addr, p.ino("deep/level1/level2").addr}
    for path, e, kind in (("deep/level1/level2/file", deep, 4), ("deep", file, 8)):
        p.de(path, "de_type", kind)
        p.de(path, "de_inum.no_formal_ino", e.formal_ino)
        p.de(path, "de_inum.no_addr", e.addr)
    return ring


# ---- system files ----

@damage("sys_missing")
def no_statfs(p: Patient) -> Place:
    for e in p.r.dirents(p.r.inode(p.r.master_addr)):
        if e.name == b"statfs":
            p.raw(e.block, e.at + 40, b"statgs")
            return p.put(e.block, "dirent", "de_hash", zlib.crc32(b"statgs"), at=e.at)
    raise AssertionError


@damage("sys_missing")
def no_journal(p: Patient) -> Place:
    for e in p.r.dirents(p.system("jindex")):
        if e.name == b"journal0":
            p.raw(e.block, e.at + 40, b"journal7")
            return p.put(e.block, "dirent", "de_hash", zlib.crc32(b"journal7"), at=e.at)
    raise AssertionError


@damage("jindex_name")
def strange_name_in_jindex(p: Patient) -> Place:
    for e in p.r.dirents(p.system("jindex")):
        if e.name == b"journal0":
            p.raw(e.block, e.at + 40, b"jornal00")
            return p.put(e.block, "dirent", "de_hash", zlib.crc32(b"jornal00"), at=e.at)
    raise AssertionError


@damage("rindex_missing", fatal=True)
def no_rindex(p: Patient) -> Place:
    for e in p.r.dirents(p.r.inode(p.r.master_addr)):
        if e.name == b"rindex":
            p.raw(e.block, e.at + 40, b"rindey")
            return p.put(e.block, "dirent", "de_hash", zlib.crc32(b"rindey"), at=e.at)
    raise AssertionError


@damage("sys_size", debian="crash")
def statfs_size(p: Patient) -> Place:
    return p.put(p.system("statfs").addr, "dinode", "di_size", 32)


@damage("sys_size")
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


@damage("journal_hole")
def journal_hole(p: Patient) -> Place:
    ino = p.system("jindex/journal0")
    p.ptr(next(p.r.tree_level(ino, 1))[1], MH + 8 * 3, 0)
    return ino.addr


@damage("journal_size")
def journal_size(p: Patient) -> Place:
    return p.put(p.system("jindex/journal0").addr, "dinode", "di_size", 4096)


@damage("journal_no_head")
def journal_wiped(p: Patient) -> Place:
    ino = p.system("jindex/journal0")
    for _, block in p.r.data_blocks(ino):
        p.raw(block, 0, bytes(64))
    return ino.addr


@damage("journal_header", debian=False)
def journal_header_sum(p: Patient) -> Place:
    p.put(min(p.log_headers())[1], "log_header", "lh_hash", 7)
    return p.system("jindex/journal0").addr


@damage("journal_seq")
def journal_sequence(p: Patient) -> Place:
    for _, block in sorted(p.log_headers())[50:150:2]:
        p.put(block, "log_header", "lh_sequence", 3, seal=True)
    return p.system("jindex/journal0").addr


@damage("journal_dirty", debian=False)
def journal_dirty(p: Patient) -> Place:
    return p.put(max(p.log_headers())[1], "log_header", "lh_flags", 0, seal=True)
