"""Lays a new file system onto a device.

The old superblock is wiped first and the new one is written last, each behind a flush: a run that is cut
off leaves no file system rather than half of one. In between everything is written once, in ascending order
and in large pieces. Source for the layout: gfs2-utils mkfs/main_mkfs.c.
"""

import os
import stat
import uuid as uuidlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from gfs2py.mkfs._journal import fill_journal
from gfs2py.mkfs.metafs import Allocator, Blocks, Directory, Inode, dinode, pointers
from gfs2py.mkfs.options import DEFAULT_BSIZE, MIB, MkfsError, MkfsOptions, journal_size_mb
from gfs2py.mkfs.plan import Alignment, Rgrp, plan_rgrps
from gfs2py.mkfs.probe import open_device
from gfs2py.ondisk import constants as c
from gfs2py.ondisk import structs
from gfs2py.ondisk.geometry import SIZEOF_RGRP, Geometry, geometry

WRITE_BYTES = MIB
DIRECT_BYTES = 64 * 1024  # pieces of this size are not gathered

Progress = Callable[[str, int, int], None]  # what is being made, how many are done, of how many


class MkfsDevice(Protocol):
    """What mkfs needs of a device; gfs2py.block devices have it. Offsets and lengths in bytes."""

    @property
    def size_bytes(self) -> int: ...
    def write(self, off: int, data: bytes | bytearray | memoryview, /) -> None: ...
    def flush(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Made:
    """What was made; sizes in blocks unless named otherwise."""

    bsize: int
    device_bytes: int
    fs_blocks: int
    journals: int
    jsize_mb: int
    rgrps: int
    lockproto: str
    locktable: str
    uuid: uuidlib.UUID
    root_addr: int
    master_addr: int
    total: int
    free: int
    dinodes: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A checked request, before anything is written."""

    options: MkfsOptions
    geo: Geometry
    device_bytes: int
    jsize_mb: int
    rgrps: list[Rgrp]
    align: Alignment  # base 0: none


class Writer:
    """Gathers neighbouring blocks into large writes."""

    def __init__(self, dev: MkfsDevice, bsize: int) -> None:
        self.dev = dev
        self.bsize = bsize
        self._start = 0
        self._buf = bytearray()

    def put(self, block: int, data: bytes | bytearray | memoryview) -> None:
        off = block * self.bsize
        if self._buf and (off != self._start + len(self._buf) or len(self._buf) + len(data) > WRITE_BYTES):
            self.drain()
        if len(data) >= DIRECT_BYTES:
            self.drain()
            self.dev.write(off, data)
            return
        if not self._buf:
            self._start = off
        self._buf += data

    def zero(self, block: int, count: int) -> None:
        step = WRITE_BYTES // self.bsize
        for first in range(block, block + count, step):
            self.put(first, bytes(min(step, block + count - first) * self.bsize))

    def drain(self) -> None:
        if self._buf:
            self.dev.write(self._start, self._buf)
            self._buf = bytearray()


def _nothing(what: str, done: int, of: int) -> None:
    pass


def plan(size_bytes: int, options: MkfsOptions, alignment: Alignment | None = None) -> Plan:
    """Checks the options against a device of that size and places the resource groups. Raises MkfsError.

    `alignment` comes from the device's topology; stripe sizes among the options come first.
    """
    options.check()
    geo = geometry(options.bsize or DEFAULT_BSIZE)
    blocks = size_bytes // geo.bsize
    if options.fssize is not None:
        if options.fssize > blocks:
            raise MkfsError(f"Specified size is bigger than the device.\nDevice size: "
                            f"{size_bytes / 2**30:.2f} GB ({blocks} blocks)")
        blocks = options.fssize
    align = _alignment(options, geo.bsize) or (alignment if options.align else None) or Alignment()
    jsize = journal_size_mb(options, geo.bsize, blocks)
    rgrps = plan_rgrps(geo, blocks, options.journals, jsize, options.rgsize_mb, align)
    return Plan(options, geo, size_bytes, jsize, rgrps, align)


def _alignment(options: MkfsOptions, bsize: int) -> Alignment | None:
    if not options.align or options.sunit is None or options.swidth is None:
        return None
    if options.sunit % bsize:
        raise MkfsError(f"Stripe unit ({options.sunit}) must be a multiple of block size ({bsize})")
    if options.sunit == 0 or options.swidth % options.sunit:
        raise MkfsError(f"Stripe width ({options.swidth}) must be a multiple of stripe unit "
                        f"({options.sunit})")
    return Alignment(options.swidth // bsize, options.sunit // bsize)


def make_fs(dev: MkfsDevice | str | os.PathLike[str], options: MkfsOptions, *,
            alignment: Alignment | None = None, progress: Progress = _nothing) -> Made:
    """Makes a file system on a device, or on the block device or image file of that name.

    What is there is overwritten unasked. Raises MkfsError when the request cannot be met or the device is in
    use, OSError from the device.
    """
    if isinstance(dev, str | os.PathLike):
        with open_device(dev) as opened:
            return make_fs(opened, options, alignment=alignment, progress=progress)
    return write_plan(dev, plan(dev.size_bytes, options, alignment), progress)


def write_plan(dev: MkfsDevice, what: Plan, progress: Progress = _nothing) -> Made:
    """Writes what plan() has worked out."""
    options, geo, rgrps = what.options, what.geo, what.rgrps
    alloc = Allocator(rgrps)
    journals = _allocate_journals(what, alloc)
    out = Blocks()
    master, root, total, used, dinodes = _build_metafs(what, alloc, journals, out)

    writer = Writer(dev, geo.bsize)
    writer.zero(0, geo.sb_block + 1)
    writer.drain()
    dev.flush()
    _write_rgrps(writer, what, journals, out, progress)
    writer.drain()
    dev.flush()
    progress("superblock", 0, 1)
    dev.write(geo.sb_block * geo.bsize, superblock(options, geo.bsize, master, root))
    dev.flush()
    last = rgrps[-1]
    return Made(bsize=geo.bsize, device_bytes=what.device_bytes, fs_blocks=last.data0 + last.data,
                journals=options.journals, jsize_mb=what.jsize_mb, rgrps=len(rgrps),
                lockproto=options.lockproto, locktable=options.locktable or "", uuid=options.uuid,
                root_addr=root.addr, master_addr=master.addr, total=total, free=total - used, dinodes=dinodes)


def superblock(options: MkfsOptions, bsize: int, master: Inode, root: Inode) -> bytes:
    """The superblock's block."""
    return structs.pack("sb", {
        "sb_fs_format": options.format, "sb_multihost_format": c.GFS2_FORMAT_MULTI,
        "sb_bsize": bsize, "sb_bsize_shift": bsize.bit_length() - 1,
        "sb_master_dir.no_formal_ino": master.formal_ino, "sb_master_dir.no_addr": master.addr,
        "sb_root_dir.no_formal_ino": root.formal_ino, "sb_root_dir.no_addr": root.addr,
        "sb_lockproto": options.lockproto.encode(), "sb_locktable": (options.locktable or "").encode(),
        "sb_uuid": options.uuid.bytes,
    }).ljust(bsize, b"\0")


def _allocate_journals(what: Plan, alloc: Allocator) -> list[tuple[int, int]]:
    """(formal inode number, address) of each journal: the first blocks of the first groups."""
    blocks = what.geo.blocks_for_file(what.jsize_mb * MIB)
    journals = []
    for rg in what.rgrps[:what.options.journals]:
        rg.used = blocks
        rg.dinodes = [0]
        journals.append((alloc.formal_ino(), rg.data0))
    return journals


def _build_metafs(what: Plan, alloc: Allocator, journals: list[tuple[int, int]],
                  out: Blocks) -> tuple[Directory, Directory, int, int, int]:
    """All inodes but the journals: (master, root, total blocks, used blocks, inodes)."""
    options, geo = what.options, what.geo
    now, system = options.now, c.GFS2_DIF_SYSTEM
    inodes: list[Inode] = []

    def keep(inode: Inode) -> None:
        inodes.append(inode)

    def file(parent: Directory, name: str, flags: int) -> Inode:
        inode = Inode(geo, alloc, out, stat.S_IFREG | 0o600, system | flags, now)
        parent.add(name, inode.formal_ino, inode.addr, inode.dirent_type)
        keep(inode)
        return inode

    def directory(parent: Directory, name: str) -> Directory:
        inode = Directory(geo, alloc, out, 0o700, system, now, parent)
        parent.add(name, inode.formal_ino, inode.addr, inode.dirent_type)
        parent.nlink += 1
        keep(inode)
        return inode

    master = Directory(geo, alloc, out, 0o755, system, now)
    keep(master)
    jindex = directory(master, "jindex")
    for j, (formal_ino, addr) in enumerate(journals):
        jindex.add(f"journal{j}", formal_ino, addr, c.DT_REG)

    per_node = directory(master, "per_node")
    qc_block = structs.pack("quota_change_block", {}).ljust(geo.bsize, b"\0")
    for j in range(options.journals):
        file(per_node, f"inum_range{j}", c.GFS2_DIF_JDATA).write_file(bytes(16))
        file(per_node, f"statfs_change{j}", c.GFS2_DIF_JDATA).write_file(bytes(24))
        file(per_node, f"quota_change{j}", 0).append_run(qc_block, options.qcsize_mb * MIB // geo.bsize)

    inum = file(master, "inum", c.GFS2_DIF_JDATA)
    statfs = file(master, "statfs", c.GFS2_DIF_JDATA)
    rindex = file(master, "rindex", c.GFS2_DIF_JDATA)
    rindex.payload_format = c.GFS2_FORMAT_RI
    # Growing appends an entry: room for one more is allocated now.
    rindex.write_file(b"".join(_rindex_entry(rg) for rg in what.rgrps), room=96)
    quota = file(master, "quota", c.GFS2_DIF_JDATA)
    quota.payload_format = c.GFS2_FORMAT_QU
    quota.write_file(structs.pack("quota", {"qu_value": 1}) * 2)  # user 0 and group 0 own the root directory

    root_flags = c.GFS2_DIF_INHERIT_JDATA if options.root_inherit_jdata else 0
    root = Directory(geo, alloc, out, 0o755, root_flags, now)
    keep(root)
    inum.write_file(alloc.next_formal_ino.to_bytes(8, "big"))
    total = sum(rg.data for rg in what.rgrps)
    used = sum(rg.used for rg in what.rgrps)
    dinodes = sum(len(rg.dinodes or ()) for rg in what.rgrps)
    statfs.write_file(structs.pack("statfs_change", {
        "sc_total": total, "sc_free": total - used, "sc_dinodes": dinodes}))
    for inode in inodes:
        inode.finish()
    return master, root, total, used, dinodes


def _rindex_entry(rg: Rgrp) -> bytes:
    return structs.pack("rindex", {
        "ri_addr": rg.addr, "ri_length": rg.length, "ri_data0": rg.data0, "ri_data": rg.data,
        "ri_bitbytes": rg.bitbytes,
    })


def _rgrp_header(rg: Rgrp) -> bytearray:
    raw = bytearray(structs.pack("rgrp", {
        "rg_free": rg.free, "rg_dinodes": len(rg.dinodes or ()), "rg_skip": rg.skip, "rg_data0": rg.data0,
        "rg_data": rg.data, "rg_bitbytes": rg.bitbytes,
    }))
    structs.seal("rgrp", raw)
    return raw


def bitmap(rg: Rgrp) -> bytes:
    """The group's bitmap: its first `used` blocks taken, some of them by inodes."""
    taken = bytearray(b"\x55" * (rg.used // 4))
    if rg.used % 4:
        taken.append((1 << 2 * (rg.used % 4)) // 3)
    for index in rg.dinodes or ():
        taken[index // 4] |= c.GFS2_BLKST_DINODE << 2 * (index % 4)
    return bytes(taken).ljust(rg.bitbytes, b"\0")


def _bitmap_blocks(geo: Geometry, rg: Rgrp) -> bytearray:
    """Header block and bitmap blocks, the header itself still zeros."""
    raw = bytearray(rg.length * geo.bsize)
    bits = bitmap(rg)
    continuation = structs.pack("rgrp_bitmap", {})
    for i in range(1, rg.length):
        raw[i * geo.bsize:i * geo.bsize + len(continuation)] = continuation
    for i, (offset, start, length) in enumerate(geo.bitmap_layout(rg.bitbytes)):
        raw[i * geo.bsize + offset:i * geo.bsize + offset + length] = bits[start:start + length]
    return raw


def _write_rgrps(writer: Writer, what: Plan, journals: list[tuple[int, int]], out: Blocks,
                 progress: Progress) -> None:
    """Headers, bitmaps, journals and the blocks of the inodes, ascending."""
    geo = what.geo
    end = geo.sb_block + 1
    empty: tuple[int, bytearray] | None = None  # the last unused group's length and its blocks
    pieces = out.pieces()
    piece = next(pieces, None)
    for index, rg in enumerate(what.rgrps):
        if rg.used or empty is None or empty[0] != rg.blocks:
            raw = _bitmap_blocks(geo, rg)
            if not rg.used:
                empty = (rg.blocks, raw)
        else:
            raw = empty[1]
        raw[:SIZEOF_RGRP] = _rgrp_header(rg)
        writer.zero(end, rg.addr - end)
        writer.put(rg.addr, raw)
        end = rg.data0 + rg.data
        if index < len(journals):
            progress("journals", index + 1, len(journals))
            _write_journal(writer, what, journals[index])
        else:
            progress("rgrps", index + 1, len(what.rgrps))
        while piece is not None and piece[0] < end:
            block, count, content = piece
            for at in range(0, count, WRITE_BYTES // geo.bsize):
                writer.put(block + at, bytes(content) * min(count - at, WRITE_BYTES // geo.bsize))
            piece = next(pieces, None)


def _tree_blocks(geo: Geometry, addr: int, counts: list[int]) -> Iterator[bytes]:
    """Pointers of the dinode, then the indirect blocks level by level, of a file that is one extent."""
    header = structs.pack("indirect", {})
    first = addr + 1
    for level, count in enumerate(counts):
        per_block = geo.diptrs if level == 0 else geo.inptrs
        for at in range(0, count, per_block):
            table = pointers(range(first + at, first + min(at + per_block, count)))
            yield table if level == 0 else (header + table).ljust(geo.bsize, b"\0")
        first += count


def _write_journal(writer: Writer, what: Plan, journal: tuple[int, int]) -> None:
    """A journal: dinode and indirect blocks, then every block a log header."""
    geo = what.geo
    formal_ino, addr = journal
    counts = geo.level_counts(what.jsize_mb * MIB)
    jblocks = counts[-1]
    blocks = 1 + sum(counts)
    jext0 = addr + blocks - jblocks
    tree = _tree_blocks(geo, addr, counts)
    head = dinode(addr, formal_ino, what.options.now, {
        "di_mode": stat.S_IFREG | 0o600, "di_nlink": 1, "di_size": what.jsize_mb * MIB, "di_blocks": blocks,
        "di_goal_meta": jext0 - 1, "di_goal_data": addr + blocks - 1, "di_flags": c.GFS2_DIF_SYSTEM,
        "di_height": len(counts),
    })
    writer.put(addr, (head + next(tree)).ljust(geo.bsize, b"\0"))
    for i, raw in enumerate(tree):
        writer.put(addr + 1 + i, raw)
    seq = what.options.rng.randrange(jblocks)
    step = WRITE_BYTES // geo.bsize
    buf = bytearray(WRITE_BYTES)
    for first in range(0, jblocks, step):
        count = min(step, jblocks - first)
        fill_journal(buf, geo.bsize, first, count, jblocks, jext0, addr, seq)
        writer.put(jext0 + first, memoryview(buf)[:count * geo.bsize])
