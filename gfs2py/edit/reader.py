"""Reads a file system without mounting it: superblock, inodes, block maps, directories, the system files.

For printing and for tests; it takes the disk as it is, trusts nothing, and says with DamageError what it
cannot follow. The journals are not replayed: what is only in them is not seen.
"""

import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from gfs2py.ondisk import constants as c
from gfs2py.ondisk import structs
from gfs2py.ondisk.geometry import SIZEOF_DINODE, SIZEOF_META_HEADER, Geometry, geometry
from gfs2py.ondisk.structs import DamageError, Values, num

SIZEOF_DIRENT = 40
SIZEOF_LEAF = 104
SIZEOF_RINDEX = 96
READ_AHEAD_BYTES = 1 << 20


class ReadDevice(Protocol):
    @property
    def size_bytes(self) -> int: ...
    def read(self, off: int, n: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Dirent:
    """A directory entry and where it stands: byte `at` of `block`."""

    name: bytes
    formal_ino: int
    addr: int
    type: int
    hash: int
    rec_len: int
    block: int
    at: int


@dataclass(frozen=True, slots=True)
class Inode:
    """A dinode: its fields, its whole block, and shorthands for what readers ask for most."""

    addr: int
    values: Values
    block: bytes

    def number(self, name: str) -> int:
        return num(self.values, name)

    @property
    def size(self) -> int:
        return self.number("di_size")

    @property
    def height(self) -> int:
        return self.number("di_height")

    @property
    def mode(self) -> int:
        return self.number("di_mode")

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_hashed(self) -> bool:
        return bool(self.number("di_flags") & c.GFS2_DIF_EXHASH)


def pointers(data: bytes) -> list[int]:
    """Big-endian 64 bit numbers."""
    return [int.from_bytes(data[i:i + 8], "big") for i in range(0, len(data) // 8 * 8, 8)]


class Reader:
    """A file system on a device. Raises DamageError when there is none.

    With `lenient` a damaged superblock will do: its block size counts if it can, else 4096.
    """

    def __init__(self, dev: ReadDevice, *, lenient: bool = False) -> None:
        self.dev = dev
        if dev.size_bytes < c.SB_BYTE_ADDR + 512:
            raise DamageError("gfs2_sb", "size", "a superblock at 64 KiB", f"{dev.size_bytes} bytes")
        self.sb_raw = raw = dev.read(c.SB_BYTE_ADDR, 512)
        self.sb = structs.unpack("sb", raw) if lenient else structs.checked("sb", raw)
        bsize = num(self.sb, "sb_bsize")
        if lenient and bsize not in c.BLOCK_SIZES:
            bsize = c.BLOCK_SIZES[-1]
        try:
            self.geo: Geometry = geometry(bsize)
        except ValueError as e:
            raise DamageError("gfs2_sb", "sb_bsize", "512..4096", str(bsize)) from e
        self.bsize = bsize
        self.blocks = dev.size_bytes // bsize

    def require_superblock(self) -> None:
        """What a lenient reader let pass. Raises DamageError."""
        structs.checked("sb", self.sb_raw, block=self.geo.sb_block)

    def _check_address(self, addr: int) -> None:
        if not 0 <= addr < self.blocks:
            raise DamageError("block", "address", f"below {self.blocks}", str(addr))

    def block(self, addr: int) -> bytes:
        self._check_address(addr)
        return self.dev.read(addr * self.bsize, self.bsize)

    def inode(self, addr: int) -> Inode:
        raw = self.block(addr)
        return Inode(addr, structs.checked("dinode", raw, block=addr), raw)

    @property
    def root_addr(self) -> int:
        return num(self.sb, "sb_root_dir.no_addr")

    @property
    def master_addr(self) -> int:
        return num(self.sb, "sb_master_dir.no_addr")

    # -- files ---------------------------------------------------------------------------------------------

    def tree_level(self, inode: Inode, level: int) -> Iterator[tuple[int, int]]:
        """(index, block) of what hangs `level` (1 to di_height) below the dinode; holes are left out."""
        here = [(i, p) for i, p in enumerate(pointers(inode.block[SIZEOF_DINODE:])) if p]
        seen = {inode.addr}
        for _ in range(level - 1):
            below: list[tuple[int, int]] = []
            for index, addr in here:
                raw = self.block(addr)
                structs.checked("indirect", raw, block=addr)
                if addr in seen:  # or a small damage would make a huge tree
                    raise DamageError("gfs2_indirect", "pointer", "a block of its own", "one used twice",
                                      addr)
                seen.add(addr)
                below.extend((index * self.geo.inptrs + i, p)
                             for i, p in enumerate(pointers(raw[SIZEOF_META_HEADER:])) if p)
            here = below
        yield from here

    def data_blocks(self, inode: Inode) -> Iterator[tuple[int, int]]:
        """(logical block, block) of a file that is not stuffed; holes are left out."""
        if inode.height:
            yield from self.tree_level(inode, inode.height)

    def data(self, inode: Inode, limit: int = 1 << 28) -> bytes:
        """The content up to `limit` bytes; a directory's is its hash table, as files see it."""
        size = min(inode.size, limit, self.blocks * self.bsize)
        if inode.height == 0:
            return inode.block[SIZEOF_DINODE:SIZEOF_DINODE + size]
        skip = SIZEOF_META_HEADER if inode.is_dir else 0
        step = self.bsize - skip
        out = bytearray(-(-size // step) * step)
        for lblock, _, raw in self.contents(self.data_blocks(inode)):
            if lblock * step < size:
                out[lblock * step:(lblock + 1) * step] = raw[skip:]
        return bytes(out[:size])

    def contents(self, where: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int, bytes]]:
        """(index, block, content) of blocks given as (index, block); neighbours are read at once."""
        run: list[tuple[int, int]] = []
        for index, addr in where:
            if run and (addr != run[-1][1] + 1 or len(run) * self.bsize >= READ_AHEAD_BYTES):
                yield from self._run(run)
                run = []
            run.append((index, addr))
        if run:
            yield from self._run(run)

    def _run(self, run: list[tuple[int, int]]) -> Iterator[tuple[int, int, bytes]]:
        for addr in (run[0][1], run[-1][1]):
            self._check_address(addr)
        data = self.dev.read(run[0][1] * self.bsize, len(run) * self.bsize)
        for i, (index, addr) in enumerate(run):
            yield index, addr, data[i * self.bsize:(i + 1) * self.bsize]

    # -- directories ---------------------------------------------------------------------------------------

    def leaves(self, inode: Inode) -> Iterator[tuple[int, bytes]]:
        """(address, block) of every leaf of a hashed directory, chains included."""
        if inode.size != 8 << inode.number("di_depth"):
            raise DamageError("gfs2_dinode", "di_size", f"{8 << inode.number('di_depth')} for its depth",
                              str(inode.size), inode.addr)
        last = 0
        seen: set[int] = set()
        for head in pointers(self.data(inode)):
            if head == last:
                continue
            last = addr = head
            while addr:
                if addr in seen:
                    raise DamageError("gfs2_leaf", "address", "a leaf in one place", "one used twice", addr)
                seen.add(addr)
                raw = self.block(addr)
                values = structs.checked("leaf", raw, block=addr)
                yield addr, raw
                addr = num(values, "lf_next")

    def dirents(self, inode: Inode) -> Iterator[Dirent]:
        """All entries of a directory, '.' and '..' too, in the order of the disk."""
        if not inode.is_dir:
            raise DamageError("gfs2_dinode", "di_mode", "a directory", f"0{inode.mode:o}", inode.addr)
        if not inode.is_hashed:
            yield from self.dirents_in(inode.addr, inode.block, SIZEOF_DINODE)
            return
        for addr, raw in self.leaves(inode):
            yield from self.dirents_in(addr, raw, SIZEOF_LEAF)

    def dirents_in(self, block: int, raw: bytes, at: int, *, gone: bool = False) -> Iterator[Dirent]:
        """The entries of one block from byte `at`; with `gone`, empty ones too."""
        while at < len(raw):
            values = structs.unpack("dirent", raw, at)
            rec_len, name_len = num(values, "de_rec_len"), num(values, "de_name_len")
            formal_ino = num(values, "de_inum.no_formal_ino")
            if rec_len < SIZEOF_DIRENT or rec_len % 8 or at + rec_len > len(raw):
                raise DamageError("gfs2_dirent", "de_rec_len", f"a multiple of 8, at most {len(raw) - at}",
                                  str(rec_len), block)
            if SIZEOF_DIRENT + name_len > rec_len:
                raise DamageError("gfs2_dirent", "de_name_len", f"at most {rec_len - SIZEOF_DIRENT}",
                                  str(name_len), block)
            if formal_ino or gone:
                name = raw[at + SIZEOF_DIRENT:at + SIZEOF_DIRENT + name_len]
                yield Dirent(name, formal_ino, num(values, "de_inum.no_addr"), num(values, "de_type"),
                             num(values, "de_hash"), rec_len, block, at)
            at += rec_len

    def lookup(self, inode: Inode, name: bytes) -> Inode:
        """The inode called `name` in a directory. Raises FileNotFoundError."""
        for entry in self.dirents(inode):
            if entry.name == name:
                return self.inode(entry.addr)
        raise FileNotFoundError(2, "No such file or directory", name.decode(errors="backslashreplace"))

    def path(self, path: str, start: int | None = None) -> Inode:
        """The inode at a path below the root directory (or below the directory at `start`)."""
        here = self.inode(self.root_addr if start is None else start)
        for part in path.split("/"):
            if part:
                here = self.lookup(here, part.encode())
        return here

    # -- system files --------------------------------------------------------------------------------------

    def system(self, path: str) -> Inode:
        """A file below the master directory: rindex, jindex/journal0, per_node/quota_change1, ..."""
        return self.path(path, self.master_addr)

    def rindex(self) -> list[Values]:
        """The resource group index."""
        data = self.data(self.system("rindex"))
        if len(data) % SIZEOF_RINDEX:
            raise DamageError("gfs2_dinode", "di_size", "a multiple of 96 in rindex", str(len(data)))
        return [structs.unpack("rindex", data, at) for at in range(0, len(data), SIZEOF_RINDEX)]
