"""The printer on a made file system, and on garbage: it says what is wrong, it never falls over."""

import random
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gfs2py.block._memory import MemoryDevice
from gfs2py.edit import patch, targets
from gfs2py.edit.journal import find_head
from gfs2py.edit.reader import Reader
from gfs2py.edit.show import hexdump, show_block, show_struct
from gfs2py.edit.targets import UnknownTarget, find_target, show_target
from gfs2py.mkfs.make import make_fs
from gfs2py.mkfs.options import MIB, MkfsOptions
from gfs2py.ondisk import structs
from gfs2py.ondisk.spec import BY_METATYPE, STRUCTURES, Kind

NAMES = ("sb", "root", "master", "jindex", "per_node", "inum", "statfs", "quota", "rindex", "rgs", "journals",
         "size", "journal0", "inum_range1", "statfs_change0", "quota_change1", "jindex/journal1", "/", "0x80")


@pytest.fixture(scope="module")
def made() -> MemoryDevice:
    dev = MemoryDevice(64 * MIB)
    make_fs(dev, MkfsOptions(bsize=512, lockproto="lock_nolock", journals=2, rng=random.Random(1)))
    return dev


def copy_of(dev: MemoryDevice) -> MemoryDevice:
    return MemoryDevice.from_snapshot(dev.snapshot())


@pytest.mark.parametrize("name", NAMES)
def test_names(made: MemoryDevice, name: str) -> None:
    reader = Reader(made)
    lines = list(show_target(reader, find_target(reader, name)))
    assert lines
    assert not [line for line in lines if line.startswith("  !")]


@pytest.mark.parametrize("which", sorted(STRUCTURES))
def test_every_field_is_shown(which: str) -> None:
    struct = STRUCTURES[which]
    raw = bytes(range(256))[:struct.size].ljust(struct.size, b"a")
    shown = [line.split()[0] for line in show_struct(struct, raw)]
    assert shown == [f.name for f in struct.fields if f.kind is not Kind.RESERVED]


def test_a_found_damage_is_marked(made: MemoryDevice) -> None:
    dev = copy_of(made)
    reader = Reader(dev)
    group = targets.rgrp_addrs(reader)[1]
    patch.patch_field(dev, group, "rgrp", "rg_free", 7)
    assert "rg_crc: wanted" in "\n".join(show_block(reader, group))
    patch.patch_field(dev, reader.root_addr, "dinode", "di_height", 11)
    assert "di_height: wanted at most 10, found 11" in "\n".join(show_block(reader, reader.root_addr))


def test_journal_head_skips_broken_headers(made: MemoryDevice) -> None:
    dev = copy_of(made)
    reader = Reader(dev)
    journal = reader.system("jindex/journal0")
    head = find_head(reader, journal)
    assert head is not None
    assert head.clean
    patch.patch_bytes(dev, head.block, 300, b"x")
    below = find_head(reader, journal)
    assert below is not None
    assert below.sequence == head.sequence - 1


@pytest.mark.parametrize(("damage", "message"), [
    (lambda d, r: patch.patch_field(d, r.system("rindex").addr, "dinode", "di_size", 100), "multiple of 96"),
    (lambda d, r: patch.patch_field(d, r.master_addr, "dinode", "mh_type", 5), "mh_type"),
    (lambda d, r: patch.patch_field(d, r.master_addr, "dinode", "di_size", 1 << 50), "for its depth"),
    (lambda d, r: patch.patch_bytes(d, r.master_addr, 232, b"\xff" * 8), "address"),
    (lambda d, r: patch.patch_field(d, 128, "sb", "sb_fs_format", 9), "sb_fs_format"),
])
def test_damage_on_the_way_is_reported(made: MemoryDevice, damage: Callable[[MemoryDevice, Reader], object],
                                       message: str) -> None:
    dev = copy_of(made)
    damage(dev, Reader(dev))
    reader = Reader(dev, lenient=True)
    with pytest.raises(structs.DamageError, match=message):
        list(show_target(reader, find_target(reader, "rgs")))


def test_a_tree_that_bites_its_tail_ends(made: MemoryDevice) -> None:
    dev = copy_of(made)
    reader = Reader(dev)
    journal = reader.system("jindex/journal0")
    first = next(addr for _, addr in reader.tree_level(journal, 1))
    patch.patch_bytes(dev, first, 24, first.to_bytes(8, "big") * 60)
    with pytest.raises(structs.DamageError, match="used twice"):
        list(reader.data_blocks(reader.system("jindex/journal0")))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from([0, *BY_METATYPE]), body=st.binary(min_size=512, max_size=512),
       sparse=st.booleans())
def test_garbage_of_every_type(made: MemoryDevice, kind: int, body: bytes, sparse: bool) -> None:
    dev = copy_of(made)
    raw = bytearray(body)
    if kind:
        raw[:24] = structs.pack(BY_METATYPE[kind], {})[:24]
    if sparse:
        raw[40:400] = bytes(360)
    dev.write(1000 * 512, bytes(raw))
    assert list(show_block(Reader(dev), 1000))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(NAMES), hits=st.lists(st.tuples(
    st.integers(0, 600), st.integers(0, 511), st.binary(min_size=1, max_size=8)), min_size=1, max_size=12))
def test_a_peppered_disk(made: MemoryDevice, name: str, hits: list[tuple[int, int, bytes]]) -> None:
    dev = copy_of(made)
    root = Reader(made).root_addr
    for block, at, data in hits:
        # The system files lie around the root directory.
        patch.patch_bytes(dev, root - 500 + block, min(at, 512 - len(data)), data, bsize=512)
    reader = Reader(dev, lenient=True)
    try:
        lines = list(show_target(reader, find_target(reader, name)))
    except (structs.DamageError, UnknownTarget) as e:
        lines = [str(e)]
    assert lines


def test_hexdump_folds_equal_lines() -> None:
    lines = list(hexdump(b"GFS2" + bytes(60)))
    assert lines[0].startswith("  00000000  47 46 53 32 00 00 00 00  00")
    assert lines[0].endswith("[GFS2............]")
    assert lines[2] == "*"
    assert lines[-1].startswith("  00000030")
