"""The checksums against the standard library and published check values."""

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfs2py.ondisk import _checksum as ck


def crc32c_bitwise(data: bytes, seed: int = 0xFFFFFFFF) -> int:
    """The slow twin: one bit at a time, kernel style."""
    crc = seed
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc


def test_check_value_of_the_castagnoli_polynomial() -> None:
    assert ck.py_crc32c(b"123456789") ^ 0xFFFFFFFF == 0xE3069283


@given(st.binary(max_size=300), st.integers(0, 0xFFFFFFFF))
def test_crc32c_instruction_and_table_agree_with_the_slow_twin(data: bytes, seed: int) -> None:
    wanted = crc32c_bitwise(data, seed)
    assert ck.py_crc32c(data, seed) == wanted
    assert ck.py_crc32c(data, seed, table=True) == wanted


@given(st.binary(max_size=300), st.integers(0, 0xFFFFFFFF))
def test_crc32_is_zlibs(data: bytes, seed: int) -> None:
    assert ck.py_crc32_zlib(data, seed) == zlib.crc32(data, seed)


@given(st.binary(max_size=255))
def test_directory_hash_is_plain_crc32(name: bytes) -> None:
    assert ck.py_dir_hash(name) == zlib.crc32(name)


@given(st.binary(min_size=128, max_size=128))
def test_rgrp_crc_takes_its_own_field_as_zero(raw: bytes) -> None:
    assert ck.py_rgrp_crc(raw) == zlib.crc32(raw[:64] + bytes(4) + raw[68:])


@given(st.binary(min_size=512, max_size=512))
def test_log_header_sums(raw: bytes) -> None:
    lh_hash, lh_crc = ck.py_log_header_sums(raw)
    assert lh_hash == zlib.crc32(raw[:44] + bytes(4))
    assert lh_crc == crc32c_bitwise(raw[52:])


def test_short_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="128"):
        ck.py_rgrp_crc(bytes(127))
    with pytest.raises(ValueError, match="journal"):
        ck.py_log_header_sums(bytes(511))
