"""A made file system read back: every structure, every bitmap bit, every log header, the order of writing."""

import random
import uuid
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gfs2py.block._file import FileDevice
from gfs2py.block._memory import MemoryDevice
from gfs2py.edit.reader import Inode, Reader
from gfs2py.mkfs._journal import fill_journal
from gfs2py.mkfs.make import make_fs
from gfs2py.mkfs.metafs import Allocator, Blocks, Directory
from gfs2py.mkfs.options import MIB, MkfsError, MkfsOptions
from gfs2py.mkfs.plan import Alignment, Rgrp, plan_rgrps
from gfs2py.ondisk import constants as c
from gfs2py.ondisk import structs
from gfs2py.ondisk._checksum import py_dir_hash
from gfs2py.ondisk.geometry import geometry


def options(**changes: object) -> MkfsOptions:
    made = MkfsOptions(lockproto="lock_nolock", jsize_mb=8, rng=random.Random(7))
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def file_blocks(reader: Reader, inode: Inode) -> set[int]:
    """All blocks of an inode, itself included."""
    found = {inode.addr}
    for level in range(1, inode.height + 1):
        found.update(addr for _, addr in reader.tree_level(inode, level))
    if inode.is_dir and inode.is_hashed:
        found.update(addr for addr, _ in reader.leaves(inode))
    return found


def bitmap_states(reader: Reader) -> dict[int, int]:
    """{block: state} of every block that is not free."""
    states = {}
    for ri in reader.rindex():
        addr, data0 = structs.num(ri, "ri_addr"), structs.num(ri, "ri_data0")
        rg = structs.checked("rgrp", reader.block(addr), block=addr)
        assert (rg["rg_data0"], rg["rg_data"], rg["rg_bitbytes"]) == (
            ri["ri_data0"], ri["ri_data"], ri["ri_bitbytes"])
        used = 0
        for i, (offset, start, length) in enumerate(reader.geo.bitmap_layout(structs.num(ri, "ri_bitbytes"))):
            raw = reader.block(addr + i)
            if i:
                structs.checked("rgrp_bitmap", raw, block=addr + i)
            for byte in range(length):
                for slot in range(4) if raw[offset + byte] else ():
                    state = raw[offset + byte] >> 2 * slot & 3
                    if state:
                        states[data0 + 4 * (start + byte) + slot] = state
                        used += 1
        assert rg["rg_free"] == structs.num(ri, "ri_data") - used
    return states


@pytest.mark.parametrize("fmt", [1801, 1802])
@pytest.mark.parametrize(("bsize", "mib", "journals"), [
    (512, 64, 1), (512, 200, 8), (1024, 64, 2), (2048, 64, 1), (4096, 64, 1), (4096, 200, 8),
])
def test_everything_read_back(bsize: int, mib: int, journals: int, fmt: int) -> None:
    dev = MemoryDevice(mib * MIB)
    u = uuid.uuid4()
    made = make_fs(dev, options(bsize=bsize, journals=journals, format=fmt, uuid=u, locktable="c:n"))
    reader = Reader(dev)
    assert (reader.sb["sb_fs_format"], reader.sb["sb_multihost_format"]) == (fmt, 1900)
    assert reader.sb["sb_uuid"] == u.bytes
    assert structs.text(reader.sb["sb_lockproto"]) == "lock_nolock"
    assert structs.text(reader.sb["sb_locktable"]) == "c:n"

    # Walk from the two roots; every block found must be marked, and every mark must be found.
    wanted: dict[int, int] = {}
    links: dict[int, int] = {}
    inodes: dict[int, Inode] = {}
    todo = [reader.master_addr, reader.root_addr]
    while todo:
        inode = reader.inode(todo.pop())
        if inode.addr in inodes:
            continue
        inodes[inode.addr] = inode
        blocks = file_blocks(reader, inode)
        assert inode.number("di_blocks") == len(blocks)
        assert not blocks & wanted.keys()
        wanted.update(dict.fromkeys(blocks, c.GFS2_BLKST_USED))
        wanted[inode.addr] = c.GFS2_BLKST_DINODE
        if inode.is_dir:
            entries = list(reader.dirents(inode))
            assert len(entries) == inode.number("di_entries")
            for entry in entries:
                assert entry.hash == py_dir_hash(entry.name)
                links[entry.addr] = links.get(entry.addr, 0) + 1
                target = reader.inode(entry.addr)
                assert target.number("di_num.no_formal_ino") == entry.formal_ino
                assert target.mode >> 12 == entry.type
                todo.append(entry.addr)
    assert bitmap_states(reader) == wanted
    assert {a: i.number("di_nlink") for a, i in inodes.items()} == links
    formal = sorted(i.number("di_num.no_formal_ino") for i in inodes.values())
    assert formal == list(range(1, len(inodes) + 1))

    assert int.from_bytes(reader.data(reader.system("inum")), "big") == len(inodes) + 1
    statfs = structs.unpack("statfs_change", reader.data(reader.system("statfs")))
    total = sum(structs.num(ri, "ri_data") for ri in reader.rindex())
    assert statfs == {"sc_total": total, "sc_free": total - len(wanted), "sc_dinodes": len(inodes)}
    assert (made.total, made.free, made.dinodes) == tuple(statfs.values())
    quota = reader.data(reader.system("quota"))
    assert [structs.unpack("quota", quota, at)["qu_value"] for at in (0, 88)] == [1, 1]


@pytest.mark.parametrize("bsize", c.BLOCK_SIZES)
def test_journals_are_contiguous_and_clean(bsize: int) -> None:
    dev = MemoryDevice(100 * MIB)
    make_fs(dev, options(bsize=bsize, journals=2))
    reader = Reader(dev)
    for j in range(2):
        inode = reader.system(f"jindex/journal{j}")
        where = list(reader.data_blocks(inode))
        assert len(where) == 8 * MIB // bsize
        assert [addr - where[0][1] for _, addr in where] == list(range(len(where)))
        seq = set()
        for lblock, addr in where[:70] + where[-3:]:
            lh = structs.checked("log_header", reader.block(addr), block=addr)
            assert (lh["lh_blkno"], lh["lh_addr"], lh["lh_jinode"]) == (lblock, addr, inode.addr)
            assert lh["lh_flags"] == c.GFS2_LOG_HEAD_UNMOUNT | c.GFS2_LOG_HEAD_USERSPACE
            assert lh["lh_crc"] != 0
            seq.add((structs.num(lh, "lh_sequence") - lblock) % len(where))
        assert len(seq) == 1
        qc = reader.system(f"per_node/quota_change{j}")
        assert qc.size == MIB
        for _, addr in reader.data_blocks(qc):
            structs.checked("quota_change_block", reader.block(addr), block=addr)


@given(st.sampled_from(c.BLOCK_SIZES), st.integers(0, 50), st.integers(1, 60), st.integers(0, 1 << 40))
def test_log_headers_are_those_of_the_slow_twin(bsize: int, first: int, count: int, seq: int) -> None:
    buf = bytearray(b"\xee" * (64 * bsize))
    fill_journal(buf, bsize, first, count, 120, 10_000, 9_990, seq)
    for i in range(count):
        want = bytearray(structs.pack("log_header", {
            "lh_flags": 0x80000001, "lh_jinode": 9_990, "lh_sequence": (seq + first + i) % 120,
            "lh_blkno": first + i, "lh_addr": 10_000 + first + i}).ljust(bsize, b"\0"))
        structs.seal("log_header", want)
        assert buf[i * bsize:(i + 1) * bsize] == want
    assert not any(buf[count * bsize:])


def test_nonsense_journals_are_refused() -> None:
    for bad in ((513, 0, 1, 10), (512, 5, 6, 10), (512, 0, 3, 10), (512, 0, 0, 10), (512, 0, 1, 0)):
        with pytest.raises(ValueError, match="block"):
            fill_journal(bytearray(1024), *bad, 0, 0, 0)


class Recorder:
    """Notes what is done in which order."""

    def __init__(self, size: int) -> None:
        self.size_bytes = size
        self.log: list[tuple[str, int, int]] = []
        self.sb = b""

    def write(self, off: int, data: bytes | bytearray | memoryview, /) -> None:
        self.log.append(("write", off, len(data)))
        if off <= c.SB_BYTE_ADDR < off + len(data):
            self.sb = bytes(data)[c.SB_BYTE_ADDR - off:][:4]

    def flush(self) -> None:
        self.log.append(("flush", 0, 0))


def test_the_superblock_is_wiped_first_and_written_last() -> None:
    dev = Recorder(300 * MIB)
    make_fs(dev, options(journals=3))
    wipe, flush, *body, flush_body, sb, last = dev.log
    assert wipe == ("write", 0, c.SB_BYTE_ADDR + 4096)
    assert flush == flush_body == last == ("flush", 0, 0)
    assert sb == ("write", c.SB_BYTE_ADDR, 4096)
    assert dev.sb == bytes.fromhex("01161970")
    ends = 0
    for what, off, length in body:
        assert what == "write"
        assert off >= ends  # ascending, nothing twice
        ends = off + length
    assert len(body) < 40


def test_a_tebibyte_costs_little() -> None:
    dev = MemoryDevice(1 << 40)
    made = make_fs(dev, options())
    assert made.fs_blocks > (1 << 28) - 100
    assert dev.used_bytes < 400 * MIB
    reader = Reader(dev)
    assert len(reader.rindex()) == made.rgrps == 4097


def test_stripes() -> None:
    dev = MemoryDevice(2000 * MIB)
    make_fs(dev, options(sunit=65536, swidth=262144))
    for ri in Reader(dev).rindex():
        assert structs.num(ri, "ri_addr") % 16 == 0
    with pytest.raises(MkfsError, match="multiple of block size"):
        make_fs(dev, options(sunit=1000, swidth=2000))
    with pytest.raises(MkfsError, match="multiple of stripe unit"):
        make_fs(dev, options(sunit=8192, swidth=12288))


def test_block_count_and_root_flags() -> None:
    dev = MemoryDevice(500 * MIB)
    made = make_fs(dev, options(fssize=20_000, root_inherit_jdata=True))
    assert made.fs_blocks <= 20_000
    reader = Reader(dev)
    assert reader.path("/").number("di_flags") == c.GFS2_DIF_JDATA | c.GFS2_DIF_INHERIT_JDATA
    with pytest.raises(MkfsError, match="bigger than the device"):
        make_fs(dev, options(fssize=128_001))


@settings(max_examples=25)
@given(st.sampled_from((512, 1024)), st.sets(st.binary(min_size=1, max_size=40), min_size=1, max_size=300))
def test_directories_hold_what_was_added(bsize: int, names: set[bytes]) -> None:
    geo = geometry(bsize)
    rgrps = [Rgrp(130, 60_000, 60, 200, 50_000)]
    alloc, out = Allocator(rgrps), Blocks()
    directory = Directory(geo, alloc, out, 0o755, 0, 1)
    texts = {n.hex() for n in names}
    for i, name in enumerate(sorted(texts)):
        directory.add(name, 1000 + i, 5000 + i, c.DT_REG)
    directory.finish()
    dev = MemoryDevice(32 * MIB)
    dev.write(c.SB_BYTE_ADDR, structs.pack("sb", {
        "sb_bsize": bsize, "sb_fs_format": 1802, "sb_multihost_format": 1900}))
    for block, content in out.single.items():
        assert len(content) == bsize
        dev.write(block * bsize, content)
    reader = Reader(dev)
    inode = reader.inode(directory.addr)
    found = {e.name.decode(): (e.formal_ino, e.addr) for e in reader.dirents(inode)}
    assert found.pop(".") == found.pop("..") == (directory.formal_ino, directory.addr)
    assert found == {n: (1000 + i, 5000 + i) for i, n in enumerate(sorted(texts))}
    assert inode.number("di_entries") == len(texts) + 2
    assert inode.number("di_blocks") == len(file_blocks(reader, inode)) == rgrps[0].used
    if inode.is_hashed:
        depth = inode.number("di_depth")
        assert inode.size == 8 << depth
        leaves = dict(reader.leaves(inode))
        table = reader.data(inode)
        for entry in reader.dirents(inode):
            index = entry.hash >> 32 - depth
            chain = int.from_bytes(table[8 * index:8 * index + 8], "big")
            assert entry.block == chain or structs.get("leaf", leaves[chain], "lf_next")


def test_a_path_is_opened_for_us_alone(tmp_path: Path) -> None:
    image = tmp_path / "image"
    with image.open("wb") as f:
        f.truncate(64 * MIB)
    made = make_fs(image, options())
    with FileDevice(image, direct=False, exclusive=True) as dev:
        assert Reader(dev).root_addr == made.root_addr
        with pytest.raises(MkfsError, match="busy"):
            make_fs(image, options())


def test_space_runs_out_with_a_message() -> None:
    alloc = Allocator([Rgrp(0, 10, 1, 1, 8)])
    assert alloc.take(5) == (1, 5)
    assert alloc.take(5) == (6, 3)
    with pytest.raises(MkfsError, match="will not fit"):
        alloc.block()


def test_alignment_leaves_no_group_behind_the_end() -> None:
    groups = plan_rgrps(geometry(4096), 60_000, 1, 8, 32, Alignment(256, 64))
    assert groups[-1].addr + groups[-1].blocks <= 60_000
