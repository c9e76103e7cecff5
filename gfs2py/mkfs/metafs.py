"""The inodes of a new file system, built in memory: system files, directories, the root.

Space comes from an allocator that takes the free blocks of the resource groups strictly in order, so the
used blocks of a group are always its first ones. Blocks with content are kept until they are written; the
many equal blocks of the quota change files are kept as runs.
Source: gfs2-utils libgfs2/{structures,fs_ops}.c for the order in which things are made and allocated.
"""

import stat
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from gfs2py.mkfs.options import MkfsError
from gfs2py.mkfs.plan import Rgrp
from gfs2py.ondisk import constants as c
from gfs2py.ondisk import structs
from gfs2py.ondisk._checksum import py_dir_hash
from gfs2py.ondisk.geometry import SIZEOF_DINODE, Geometry

SIZEOF_DIRENT = 40
SIZEOF_LEAF = 104


class Allocator:
    """Hands out blocks in ascending order and notes which ones are inodes."""

    def __init__(self, rgrps: list[Rgrp]) -> None:
        self._rgrps = rgrps
        self._at = 0
        self.next_formal_ino = 1

    def take(self, want: int) -> tuple[int, int]:
        """(first block, how many) of at most `want` contiguous blocks. Raises MkfsError when none is left."""
        while self._at < len(self._rgrps) and not self._rgrps[self._at].free:
            self._at += 1
        if self._at == len(self._rgrps):
            raise MkfsError("gfs2 will not fit on this device.", 1)
        rg = self._rgrps[self._at]
        count = min(want, rg.free)
        first = rg.data0 + rg.used
        rg.used += count
        return first, count

    def block(self) -> int:
        return self.take(1)[0]

    def dinode(self) -> int:
        block = self.block()
        rg = self._rgrps[self._at]
        if rg.dinodes is None:
            rg.dinodes = []
        rg.dinodes.append(block - rg.data0)
        return block

    def formal_ino(self) -> int:
        ino = self.next_formal_ino
        self.next_formal_ino += 1
        return ino


@dataclass(slots=True)
class Blocks:
    """What is to be written: single blocks, and runs of blocks with one content."""

    single: dict[int, bytes | bytearray] = field(default_factory=dict)
    runs: list[tuple[int, int, bytes]] = field(default_factory=list)  # first, count, content

    def pieces(self) -> Iterator[tuple[int, int, bytes | bytearray]]:
        """(first block, count, content of one block), ascending."""
        out: list[tuple[int, int, bytes | bytearray]] = list(self.runs)
        out.extend((block, 1, content) for block, content in self.single.items())
        out.sort(key=lambda piece: piece[0])
        return iter(out)


def pointers(values: "array[int] | range") -> bytes:
    """Block pointers as they stand on disk."""
    out = array("Q", values)
    out.byteswap()
    return out.tobytes()


class Inode:
    """One inode under construction; its data blocks hang in a tree of pointers keyed by index."""

    def __init__(self, geo: Geometry, alloc: Allocator, out: Blocks, mode: int, flags: int, now: int) -> None:
        self.geo = geo
        self.alloc = alloc
        self.out = out
        self.addr = alloc.dinode()
        self.formal_ino = alloc.formal_ino()
        self.mode = mode
        self.flags = flags
        self.now = now
        self.nlink = 1
        self.size = 0
        self.blocks = 1
        self.goal_meta = self.addr
        self.payload_format = 0
        self.height = 0
        self.depth = 0
        self.entries = 0
        self.inline = b""  # what follows the dinode when height is 0
        self.root: dict[int, int] = {}
        self.nodes: dict[int, dict[int, int]] = {}  # indirect block -> its pointers

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def dirent_type(self) -> int:
        return stat.S_IFMT(self.mode) >> 12

    def new_block(self) -> int:
        """A block of this inode that is not an inode."""
        self.goal_meta = self.alloc.block()
        self.blocks += 1
        return self.goal_meta

    def grow_height(self, height: int) -> None:
        """Raises the tree; pointers that exist move down into a new indirect block per level."""
        while self.height < height:
            if self.root:
                block = self.new_block()
                self.nodes[block] = self.root
                self.root = {0: block}
            self.height += 1

    def _leaf(self, lblock: int) -> tuple[dict[int, int], int, int]:
        """The bottom table of pointers for a data block, the index in it, and its capacity."""
        payload = self.geo.jbsize if self.is_dir else self.geo.bsize
        self.grow_height(self.geo.height_for((lblock + 1) * payload, directory=self.is_dir))
        table, capacity = self.root, self.geo.diptrs
        for level in range(self.height - 1, 0, -1):
            index = lblock // self.geo.inptrs**level
            if level < self.height - 1:
                index %= self.geo.inptrs
            if index not in table:
                block = self.new_block()
                self.nodes[block] = {}
                table[index] = block
            table, capacity = self.nodes[table[index]], self.geo.inptrs
        return table, lblock % self.geo.inptrs if self.height > 1 else lblock, capacity

    def data_block(self, lblock: int) -> int:
        """The data block at `lblock`, allocated if it is not there."""
        table, index, _ = self._leaf(lblock)
        if index not in table:
            table[index] = self.new_block()
        return table[index]

    def append_run(self, content: bytes, count: int) -> None:
        """`count` data blocks of one content from the file's start; the size follows."""
        self.height = self.geo.height_for((count + 1) * self.geo.bsize)
        lblock = 0
        while lblock < count:
            table, index, capacity = self._leaf(lblock)
            first, got = self.alloc.take(min(count - lblock, capacity - index))
            table.update(zip(range(index, index + got), range(first, first + got), strict=True))
            self.out.runs.append((first, got, content))
            self.blocks += got
            self.goal_meta = first + got - 1
            lblock += got
        self.size = count * self.geo.bsize

    def write_file(self, data: bytes, room: int = 0) -> None:
        """The content of a regular file, behind the dinode if it fits there with `room` further bytes.

        `room` bytes beyond the end get their blocks too, but do not count in the size.
        """
        self.size = len(data)
        if len(data) + room <= self.geo.max_stuffed:
            self.inline = data
            return
        bsize = self.geo.bsize
        self.height = 1
        for lblock in range(-(-(len(data) + room) // bsize)):
            block = self.data_block(lblock)
            self.out.single[block] = data[lblock * bsize:(lblock + 1) * bsize].ljust(bsize, b"\0")

    def _table_bytes(self, table: dict[int, int]) -> bytes:
        if not table:
            return b""
        flat = array("Q", bytes(8 * (max(table) + 1)))
        for index, block in table.items():
            flat[index] = block
        return pointers(flat)

    def finish(self) -> None:
        """Hands dinode and indirect blocks over for writing."""
        header = structs.pack("indirect", {})
        for block, table in self.nodes.items():
            self.out.single[block] = (header + self._table_bytes(table)).ljust(self.geo.bsize, b"\0")
        tail = self._table_bytes(self.root) if self.height else self.inline
        self.out.single[self.addr] = (self._dinode() + tail).ljust(self.geo.bsize, b"\0")

    def _dinode(self) -> bytes:
        return dinode(self.addr, self.formal_ino, self.now, {
            "di_mode": self.mode, "di_nlink": self.nlink, "di_size": self.size, "di_blocks": self.blocks,
            "di_goal_meta": self.goal_meta, "di_goal_data": self.addr, "di_flags": self.flags,
            "di_payload_format": self.payload_format, "di_height": self.height, "di_depth": self.depth,
            "di_entries": self.entries,
        })


def dinode(addr: int, formal_ino: int, now: int, fields: structs.Values) -> bytes:
    """The 232 bytes of a dinode whose three times are `now`."""
    return structs.pack("dinode", {
        "di_num.no_formal_ino": formal_ino, "di_num.no_addr": addr,
        "di_atime": now, "di_mtime": now, "di_ctime": now, **fields,
    })


def dirent_size(name_len: int) -> int:
    """Bytes of an entry: header and name, rounded up to 8."""
    return (SIZEOF_DIRENT + name_len + 7) & ~7


@dataclass(slots=True)
class Entry:
    """One directory entry; `rec_len` bytes may be more than it needs. Formal inode number 0: it is gone."""

    formal_ino: int
    addr: int
    name: bytes
    type: int
    hash: int
    rec_len: int = 0

    @property
    def needs(self) -> int:
        return dirent_size(len(self.name))

    def raw(self) -> bytes:
        return (structs.pack("dirent", {
            "de_inum.no_formal_ino": self.formal_ino, "de_inum.no_addr": self.addr, "de_hash": self.hash,
            "de_rec_len": self.rec_len, "de_name_len": len(self.name), "de_type": self.type,
        }) + self.name).ljust(self.rec_len, b"\0")


@dataclass(slots=True)
class Leaf:
    """The entries of one block; without any, one empty entry spans the space."""

    block: int
    depth: int
    space: int  # bytes for entries
    entries: list[Entry] = field(default_factory=list)
    next: "Leaf | None" = None

    @property
    def live(self) -> int:
        return sum(e.formal_ino != 0 for e in self.entries)

    def add(self, entry: Entry) -> bool:
        """Puts the entry behind the first one that leaves room for it; False if none does."""
        if not self.live:
            entry.rec_len = self.space
            self.entries = [entry]
            return True
        for i, have in enumerate(self.entries):
            if not have.formal_ino and have.rec_len >= entry.needs:
                entry.rec_len = have.rec_len
                self.entries[i] = entry
                return True
            if have.rec_len >= have.needs + entry.needs:
                entry.rec_len = have.rec_len - have.needs
                have.rec_len = have.needs
                self.entries.insert(i + 1, entry)
                return True
        return False

    def raw(self) -> bytes:
        if self.entries:
            return b"".join(e.raw() for e in self.entries)
        return Entry(0, 0, b"", 0, 0, self.space).raw()


class Directory(Inode):
    """A directory: entries behind the dinode until they no longer fit, then a hash table of leaves."""

    def __init__(self, geo: Geometry, alloc: Allocator, out: Blocks, mode: int, flags: int, now: int,
                 parent: "Directory | None" = None) -> None:
        super().__init__(geo, alloc, out, stat.S_IFDIR | mode, flags | c.GFS2_DIF_JDATA, now)
        above = parent or self
        self.nlink = 2
        self.size = geo.max_stuffed
        self.payload_format = c.GFS2_FORMAT_DE
        self.stuffed = Leaf(self.addr, 0, geo.max_stuffed)
        self.table: list[Leaf] = []
        for name, inode in ((b".", self), (b"..", above)):
            self.stuffed.add(Entry(inode.formal_ino, inode.addr, name, c.DT_DIR, py_dir_hash(name)))
        self.entries = 2

    def add(self, name: str, formal_ino: int, addr: int, dirent_type: int) -> None:
        """Adds an entry; the name must be new."""
        raw = name.encode()
        entry = Entry(formal_ino, addr, raw, dirent_type, py_dir_hash(raw))
        if not self.table:
            if self.stuffed.add(entry):
                self.entries += 1
                return
            self._make_exhash()
        while not self._add_hashed(entry):
            pass
        self.entries += 1

    def _make_exhash(self) -> None:
        """Moves the entries into a first leaf, which every slot of the new hash table points to."""
        leaf = Leaf(self.new_block(), 0, self.geo.bsize - SIZEOF_LEAF, self.stuffed.entries)
        leaf.entries[-1].rec_len += SIZEOF_DINODE - SIZEOF_LEAF
        self.table = [leaf] * self.geo.hash_ptrs
        self.depth = self.geo.hash_ptrs.bit_length() - 1
        self.size = self.geo.hash_bsize
        self.flags |= c.GFS2_DIF_EXHASH
        self.payload_format = 0

    def _add_hashed(self, entry: Entry) -> bool:
        """True when the entry is in; False when a leaf was split or the table doubled: try again."""
        index = entry.hash >> (32 - self.depth)
        leaf = self.table[index]
        while not leaf.add(entry):
            if leaf.depth < self.depth:
                self._split(leaf, index)
                return False
            if self.depth < c.GFS2_DIR_MAX_DEPTH:
                self._double()
                return False
            if leaf.next is None:
                leaf.next = Leaf(self.new_block(), leaf.depth, leaf.space)
            leaf = leaf.next
        return True

    def _split(self, old: Leaf, index: int) -> None:
        """A new leaf takes the lower half of the old one's hash range and the entries that belong there."""
        span = 1 << (self.depth - old.depth)
        start = index & ~(span - 1)
        half = span // 2
        divider = (start + half) << (32 - self.depth)
        old.depth += 1
        new = Leaf(self.new_block(), old.depth, old.space)
        self.table[start:start + half] = [new] * half
        keep: list[Entry] = []
        for entry in old.entries:
            if entry.formal_ino and entry.hash < divider:
                new.add(replace(entry))
                # Its room goes to the entry before it; the first one stays as an empty entry.
                if keep:
                    keep[-1].rec_len += entry.rec_len
                    continue
                entry.formal_ino = entry.addr = 0
            keep.append(entry)
        old.entries = keep

    def _double(self) -> None:
        """Twice the slots; the table leaves the dinode when it no longer fits there."""
        self.size *= 2
        self.table = [leaf for leaf in self.table for _ in range(2)]
        self.depth += 1
        if self.size <= self.geo.max_stuffed:
            return
        if self.height == 0:
            self.height = 1
            self.data_block(0)
        # Allocated from the end in steps of one block: the order in which a table is doubled in place.
        for at in range(self.size - self.geo.bsize, -1, -self.geo.bsize):
            for lblock in range(at // self.geo.jbsize, (at + self.geo.bsize - 1) // self.geo.jbsize + 1):
                self.data_block(lblock)

    def finish(self) -> None:
        if not self.table:
            self.inline = self.stuffed.raw()
            super().finish()
            return
        for leaf in self._leaves():
            self.out.single[leaf.block] = self._leaf_block(leaf)
        table = pointers(array("Q", [leaf.block for leaf in self.table]))
        if self.height == 0:
            self.inline = table
        else:
            header = structs.pack("jdata", {})
            step = self.geo.jbsize
            for lblock in range(-(-len(table) // step)):
                part = table[lblock * step:(lblock + 1) * step]
                self.out.single[self.data_block(lblock)] = (header + part).ljust(self.geo.bsize, b"\0")
        super().finish()

    def _leaves(self) -> Iterator[Leaf]:
        last: Leaf | None = None
        for leaf in self.table:
            if leaf is not last:
                last = leaf
                chained: Leaf | None = leaf
                while chained is not None:
                    yield chained
                    chained = chained.next

    def _leaf_block(self, leaf: Leaf) -> bytes:
        return structs.pack("leaf", {
            "lf_depth": leaf.depth, "lf_entries": leaf.live, "lf_dirent_format": c.GFS2_FORMAT_DE,
            "lf_next": leaf.next.block if leaf.next else 0, "lf_inode": self.addr,
        }) + leaf.raw()
