"""Packing and unpacking are inverses; garbage is named, not swallowed."""

import errno
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfs2py.ondisk import structs
from gfs2py.ondisk.constants import GFS2_MAGIC
from gfs2py.ondisk.spec import STRUCTURES, Kind, Structure, structure

ALL = sorted(STRUCTURES.values(), key=lambda s: s.name)
BLOCK_HEADS = [s for s in ALL if s.mh_type is not None]


@pytest.mark.parametrize("which", ALL, ids=lambda s: s.name)
@given(data=st.data())
def test_bytes_survive_unpack_and_pack(which: Structure, data: st.DataObject) -> None:
    raw = data.draw(st.binary(min_size=which.size, max_size=which.size))
    at = data.draw(st.integers(0, 9))
    assert structs.pack(which, structs.unpack(which, bytes(at) + raw, at)) == raw


@pytest.mark.parametrize("which", ALL, ids=lambda s: s.name)
@given(data=st.data())
def test_one_field_changes_only_its_bytes(which: Structure, data: st.DataObject) -> None:
    raw = data.draw(st.binary(min_size=which.size, max_size=which.size))
    field = data.draw(st.sampled_from([f for f in which.fields if f.is_number]))
    bits = 8 * field.width
    signed = field.kind is Kind.INT
    lowest = -(1 << bits - 1) if signed else 0
    value = data.draw(st.integers(lowest, lowest + (1 << bits) - 1))
    buf = bytearray(raw)
    structs.put(which, buf, field.name, value)
    assert structs.get(which, buf, field.name) == value
    assert buf[:field.offset] == raw[:field.offset]
    assert buf[field.end:] == raw[field.end:]


@pytest.mark.parametrize("which", BLOCK_HEADS, ids=lambda s: s.name)
def test_a_block_head_packed_from_nothing_is_identified(which: Structure) -> None:
    raw = structs.pack(which, {})
    found = structs.identify(raw)
    assert found is which
    assert not [p for p in structs.check(which, raw) if p.field.startswith("mh_")]


@pytest.mark.parametrize("which", BLOCK_HEADS, ids=lambda s: s.name)
@given(data=st.data())
def test_garbage_is_rejected(which: Structure, data: st.DataObject) -> None:
    raw = data.draw(st.binary(min_size=which.size, max_size=which.size).filter(
        lambda b: int.from_bytes(b[:4], "big") != GFS2_MAGIC))
    with pytest.raises(structs.DamageError) as caught:
        structs.checked(which, raw, block=77)
    assert caught.value.errno == errno.EUCLEAN
    assert "block 77" in str(caught.value)
    assert caught.value.field == "mh_magic"
    assert structs.identify(raw) is None


@pytest.mark.parametrize("which", ALL, ids=lambda s: s.name)
def test_too_short_is_rejected(which: Structure) -> None:
    with pytest.raises(structs.DamageError, match="size"):
        structs.unpack(which, bytes(which.size - 1))
    with pytest.raises(structs.DamageError):
        structs.unpack(which, bytes(which.size), at=1)


@pytest.mark.parametrize(("which", "field", "value"), [
    ("sb", "sb_fs_format", 1800), ("sb", "sb_multihost_format", 1), ("sb", "sb_bsize", 513),
    ("dinode", "di_height", 11), ("dinode", "di_depth", 18), ("dinode", "di_flags", 0x1000),
    ("dinode", "di_mtime_nsec", 1_000_000_000), ("leaf", "lf_depth", 18), ("leaf", "lf_dirent_format", 7),
    ("dirent", "de_name_len", 256), ("ea_header", "ea_type", 5), ("ea_header", "ea_flags", 2),
    ("ea_header", "ea_data_len", 65537), ("log_descriptor", "ld_type", 299), ("rgrp", "rg_flags", 0x20),
    ("rgrp", "mh_type", 3), ("rgrp", "mh_format", 201), ("quota_change", "qc_flags", 2),
    ("rgrp_lvb", "rl_magic", 1),
])
def test_values_the_table_forbids_are_found(which: str, field: str, value: int) -> None:
    good = {"sb_fs_format": 1802, "sb_multihost_format": 1900, "sb_bsize": 4096} if which == "sb" else {}
    good |= {"lf_dirent_format": 1200} if which == "leaf" else {}
    good |= {"ld_type": 300} if which == "log_descriptor" else {}
    good |= {"rl_magic": GFS2_MAGIC} if which == "rgrp_lvb" else {}
    assert structs.check(which, structs.pack(which, good)) == []
    assert [p.field for p in structs.check(which, structs.pack(which, good | {field: value}))] == [field]


def test_a_number_too_large_is_refused() -> None:
    buf = bytearray(232)
    with pytest.raises(ValueError, match="di_height has 2 bytes"):
        structs.put("dinode", buf, "di_height", 65536)
    with pytest.raises(ValueError, match="is a number"):
        structs.put("dinode", buf, "di_height", b"1")
    with pytest.raises(ValueError, match="64 bytes"):
        structs.put("sb", bytearray(272), "sb_lockproto", b"x" * 65)
    assert buf == bytes(232)


def test_sums_are_sealed_and_checked() -> None:
    rg = bytearray(structs.pack("rgrp", {"rg_free": 5}).ljust(512, b"\xaa"))
    structs.seal("rgrp", rg)
    assert structs.get("rgrp", rg, "rg_crc") == zlib.crc32(rg[:64] + bytes(4) + rg[68:128])
    assert structs.check("rgrp", rg) == []
    rg[28] ^= 1
    assert [p.field for p in structs.check("rgrp", rg)] == ["rg_crc"]

    lh = bytearray(structs.pack("log_header", {"lh_sequence": 9}).ljust(512, b"\0"))
    structs.seal("log_header", lh)
    assert structs.check("log_header", lh) == []
    lh[500] ^= 1
    assert [p.field for p in structs.check("log_header", lh)] == ["lh_crc"]
    lh[25] ^= 1
    assert [p.field for p in structs.check("log_header", lh)] == ["lh_hash", "lh_crc"]


def test_reserved_space_is_looked_at_on_demand() -> None:
    raw = bytearray(structs.pack("dinode", {}))
    raw[190] = 1
    assert structs.check("dinode", raw) == []
    assert [p.field for p in structs.check("dinode", raw, reserved=True)] == ["di_reserved"]


def test_signed_fields_keep_their_sign() -> None:
    raw = structs.pack("quota_change", {"qc_change": -3})
    assert raw[:8] == b"\xff" * 7 + b"\xfd"
    assert structs.number("quota_change", raw, "qc_change") == -3
    assert structure("quota_change").field("qc_change").kind is Kind.INT
