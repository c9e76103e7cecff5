"""What lies where in an undamaged image: every structure, every pointer, and who owns which block.

Found by the reader of gfs2_edit and by walks of our own, not by the engine that is to be tested.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from dataclasses import dataclass

from gfs2py.block import MemoryDevice
from gfs2py.edit.journal import find_head
from gfs2py.edit.reader import Inode, Reader, pointers
from gfs2py.ondisk import constants as c
from gfs2py.ondisk import structs
from gfs2py.ondisk.structs import num

DI, LF, MH, LD, DE, EA = 232, 104, 24, 72, 40, 16
EXTERNAL = c.GFS2_DIF_EA_INDIRECT
OLD_HEADERS = 40
TABLE_SITES = 12
QUOTA_CHANGE_BLOCKS = 8
SYSTEM_FILES = ("journal", "statfs", "quota", "inum")


@dataclass(frozen=True, slots=True)
class Site:
    """A structure at byte `at` of `block`; `role` tells uses of one structure apart."""

    struct: str
    block: int
    at: int
    role: str


@dataclass(frozen=True, slots=True)
class Pointer:
    """A block number at byte `at` of `block`."""

    block: int
    at: int
    role: str


class Map:
    """Sites by structure and role, pointers by role, the graph of blocks, the bitmaps."""

    def __init__(self, dev: MemoryDevice) -> None:
        self.dev = dev
        self.r = Reader(dev)
        self.bsize, self.blocks = self.r.bsize, self.r.blocks
        self.sb = 65536 // self.bsize
        self.sites: dict[str, dict[str, list[Site]]] = defaultdict(lambda: defaultdict(list))
        self.pointers: dict[str, list[Pointer]] = defaultdict(list)
        self.edges: dict[int, list[int]] = {}
        self.owned: dict[int, set[int]] = {}                # inode -> its blocks
        self.children: dict[int, list[int]] = {}            # directory -> inodes
        self.names: dict[int, str] = {}
        self.journal: set[int] = set()                      # every block of every journal
        self.log_words: set[int] = set()                    # what descriptors of journals name
        self.bitmaps: dict[int, tuple[int, int, int]] = {}  # block -> (first byte, bytes, first data block)
        self.add("sb", self.sb, 0, "sb")
        self.walk(self.r.master_addr, "")
        self.walk(self.r.root_addr, "/")
        self.add_rgrps()
        self.metadata = sorted({s.block for roles in self.sites.values() for found in roles.values() for s in found
                                if s.block not in self.journal})
        self.work = self.tree_of("/w")
        self.system = set().union(*(self.owned[a] for a, name in self.names.items()
                                    if not name.startswith("/") and name.rpartition("/")[2].startswith(SYSTEM_FILES)))
        self.rindex = self.owned[self.r.system("rindex").addr] | {self.sb, self.r.master_addr}

    def add(self, struct_name: str, block: int, at: int, role: str) -> None:
        self.sites[struct_name][role].append(Site(struct_name, block, at, role))
        if at == 0 and struct_name != "sb":
            self.sites["meta_header"][struct_name].append(Site("meta_header", block, 0, struct_name))

    def add_pointers(self, block: int, at: int, count: int, role: str) -> list[int]:
        """The pointers in a table. Sites are some of those set, and the first one that is not."""
        table = pointers(self.r.block(block)[at:at + 8 * count])
        where = [i for i, value in enumerate(table) if value]
        some = where if len(where) <= TABLE_SITES else where[:TABLE_SITES - 2] + where[-2:]
        if len(where) < len(table):
            some = [*some, table.index(0)]
        self.pointers[role] += [Pointer(block, at + 8 * i, role) for i in some]
        return [table[i] for i in where]

    # -- inodes

    def walk(self, addr: int, name: str) -> None:
        """An inode and all below it."""
        todo = [(addr, name)]
        while todo:
            addr, name = todo.pop()
            if addr in self.owned:
                continue
            inode = self.r.inode(addr)
            self.names[addr] = name
            self.owned[addr] = {addr}
            self.add("dinode", addr, 0, self.role_of(inode, name))
            self.add("inum", addr, 24, "dinode")
            if inode.is_dir:
                self.children[addr] = []
                for e in self.r.dirents(inode):
                    self.children[addr].append(e.addr)
                    self.add("dirent", e.block, e.at, "dot" if e.name in (b".", b"..") else
                             ("hashed" if inode.is_hashed else "flat"))
                    self.add("inum", e.block, e.at, "dirent")
                    self.edges.setdefault(e.block, []).append(e.addr)
                    if e.name not in (b".", b".."):
                        below = e.name.decode("utf-8", "replace")
                        todo.append((e.addr, f"{name.rstrip('/')}/{below}" if name else below))
            self.add_tree(inode)
            self.add_xattrs(inode)
            if not name.startswith("/"):
                self.add_system(inode, name.rpartition("/")[2])

    def role_of(self, inode: Inode, name: str) -> str:
        if not name.startswith("/"):
            return "system " + name.rpartition("/")[2].rstrip("0123456789")
        if name == "/":
            return "root"
        kind = inode.mode >> 12
        if kind == 4:
            return "hashed directory" if inode.is_hashed else "directory"
        if kind == 8:
            return f"file of height {inode.height}" + (" jdata" if inode.number("di_flags") & 1 else "")
        return {10: "symlink"}.get(kind, "special")

    def own(self, inode: Inode, parent: int, block: int) -> None:
        self.owned[inode.addr].add(block)
        self.edges.setdefault(parent, []).append(block)

    def add_tree(self, inode: Inode) -> None:
        """Indirect blocks, data, hash table, leaves."""
        role = "system" if not self.names[inode.addr].startswith("/") else "file"
        role = "directory" if inode.is_dir else role
        if inode.is_dir and not inode.is_hashed:
            return
        here = [(inode.addr, DI)] if inode.height else []
        for level in range(inode.height):
            below = []
            for block, at in here:
                for child in self.add_pointers(block, at, (self.bsize - at) // 8, f"{role} level {level}"):
                    self.own(inode, block, child)
                    below.append((child, MH))
                    if level + 1 < inode.height:
                        self.add("indirect", child, 0, f"{role} {inode.height - level - 1}")
                    elif inode.is_dir:
                        self.add("jdata", child, 0, "hash table")
            here = below
        if inode.is_dir:
            tables = here or [(inode.addr, DI)]
            entries = inode.size // 8
            for block, at in tables:
                count = min(entries, (self.bsize - at) // 8)
                for child in dict.fromkeys(self.add_pointers(block, at, count, "hash table")):
                    self.edges.setdefault(block, []).append(child)
            last = inode.addr
            for leaf, raw in self.r.leaves(inode):
                chained = leaf == structs.number("leaf", self.r.block(last), "lf_next") if last != inode.addr else False
                self.add("leaf", leaf, 0, "chained" if chained else "leaf")
                self.own(inode, last if chained else inode.addr, leaf)
                if structs.number("leaf", raw, "lf_next"):
                    self.edges.setdefault(leaf, []).append(structs.number("leaf", raw, "lf_next"))
                last = leaf

    def add_xattrs(self, inode: Inode) -> None:
        eattr = inode.number("di_eattr")
        if not eattr:
            return
        self.own(inode, inode.addr, eattr)
        blocks = [eattr]
        if inode.number("di_flags") & EXTERNAL:
            self.add("indirect", eattr, 0, "xattr")
            blocks = self.add_pointers(eattr, MH, (self.bsize - MH) // 8, "xattr indirect")
            for b in blocks:
                self.own(inode, eattr, b)
        for b in blocks:
            self.add("ea_attr", b, 0, "indirect" if len(blocks) > 1 else "single")
            self.add_records(inode, b)

    def add_records(self, inode: Inode, block: int) -> None:
        raw, at = self.r.block(block), MH
        while at < self.bsize:
            values = structs.unpack("ea_header", raw, at)
            n = num(values, "ea_num_ptrs")
            self.add("ea_header", block, at, "external" if n else "inside" if num(values, "ea_type") else "unused")
            if n and num(values, "ea_type"):
                after = (at + EA + num(values, "ea_name_len") + 7) & ~7
                for b in self.add_pointers(block, after, n, "xattr value"):
                    self.own(inode, block, b)
                    self.add("ea_data", b, 0, "value")
            if num(values, "ea_flags") & 1:
                return
            at += num(values, "ea_rec_len")

    # -- system files

    def add_system(self, inode: Inode, name: str) -> None:
        base = name.rstrip("0123456789")
        if base == "journal":
            self.add_journal(inode)
        elif base in ("statfs", "statfs_change"):
            self.add("statfs_change", inode.addr, DI, base)
        elif base == "inum_range":
            self.add("inum_range", inode.addr, DI, base)
        elif base == "rindex":
            self.add_array(inode, "rindex", 96, 96)
        elif base == "quota":
            self.add_array(inode, "quota", 88, 88)
        elif base == "quota_change":
            for _, block in list(self.r.data_blocks(inode))[:QUOTA_CHANGE_BLOCKS]:
                self.add("quota_change_block", block, 0, base)
                for slot in range(4):
                    self.add("quota_change", block, MH + 16 * slot, base)

    def add_array(self, inode: Inode, name: str, size: int, step: int) -> None:
        """Records of a system file that lie in one block each and are not all zeros, or the first."""
        where = dict(self.r.data_blocks(inode))
        for at in range(0, min(inode.size, 64 << 10) - size + 1, step):
            block = inode.addr if inode.height == 0 else where.get(at // self.bsize)
            here = DI + at if inode.height == 0 else at % self.bsize
            if block is None or here + size > self.bsize:
                continue
            if at == 0 or any(self.r.block(block)[here:here + size]):
                self.add(name, block, here, name)

    def add_journal(self, inode: Inode) -> None:
        head = find_head(self.r, inode)
        assert head is not None
        blocks = dict(self.r.data_blocks(inode))
        self.journal |= self.owned[inode.addr]
        n = len(blocks)
        live = {(head.tail + i) % n for i in range((head.lblock - head.tail) % n + 1)} if not head.clean else set()
        old = 0
        state = "clean" if head.clean else "dirty"
        for lblock, block, raw in self.r.contents(blocks.items()):
            st = structs.identify(raw)
            active = lblock in live or (head.lblock - lblock) % n < 3
            if st is None:
                continue
            if not active:
                old += 1
                if old > OLD_HEADERS:
                    continue
            role = f"{state} {'active' if active else 'old'} journal"
            short = st.name.removeprefix("gfs2_")
            self.add(short, block, 0, role)
            if short in ("log_descriptor", "log_block"):
                at = LD if short == "log_descriptor" else MH
                self.add_pointers(block, at, (self.bsize - at) // 8, role)
                self.log_words |= set(pointers(raw))

    # -- resource groups

    def add_rgrps(self) -> None:
        self.states = bytearray(self.blocks)
        self.rgrp_blocks: set[int] = set()
        for ri in self.r.rindex():
            addr, data0 = num(ri, "ri_addr"), num(ri, "ri_data0")
            for i, (at, start, length) in enumerate(self.r.geo.bitmap_layout(num(ri, "ri_bitbytes"))):
                self.add("rgrp_bitmap" if i else "rgrp", addr + i, 0, "rgrp")
                self.rgrp_blocks.add(addr + i)
                self.bitmaps[addr + i] = (at, length, data0 + 4 * start)
                self.states_of(self.r.block(addr + i), addr + i, self.states)

    def states_of(self, raw: bytes, block: int, out: bytearray) -> None:
        """The states that a bitmap block gives, into `out`."""
        at, length, first = self.bitmaps[block]
        bits = raw[at:at + length]
        for shift in range(4):
            part = bytes(b >> 2 * shift & 3 for b in bits)
            here = out[first + shift:first + 4 * length:4]
            out[first + shift:first + 4 * length:4] = part[:len(here)]

    def tree_of(self, path: str) -> set[int]:
        """All blocks of the inodes at and below a path."""
        out: set[int] = set()
        for addr, name in self.names.items():
            if name == path or name.startswith(path + "/"):
                out |= self.owned[addr]
        return out


def words(raw: bytes, limit: int) -> set[int]:
    """Every number in a block, at any byte, that could be the number of a block."""
    found: set[int] = set()
    for shift in range(8):
        n = (len(raw) - shift) // 8
        found.update(struct.unpack_from(f">{n}Q", raw, shift))
    return {w for w in found if 0 < w < limit}
