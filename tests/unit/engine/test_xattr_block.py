"""Attribute records in one block: a dict that can be full, the layout on disk, planted damage."""

import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfs2py.engine import _ea

HEADER = 24
keys = st.tuples(st.integers(1, 4), st.binary(min_size=1, max_size=20))


def fresh(bsize: int = 512) -> bytearray:
    block = bytearray(b"\xa5" * bsize)
    _ea.py_init(block)
    return block


def listing(block: bytearray) -> dict[tuple[int, bytes], bytes | int]:
    return {(kind, name): value for _, kind, name, value in _ea.py_records(block)}


@given(st.lists(st.tuples(keys, st.binary(max_size=100), st.booleans()), max_size=60),
       st.sampled_from([512, 1024]))
def test_block_is_a_dict_that_can_be_full(ops: list[tuple[tuple[int, bytes], bytes, bool]],
                                          bsize: int) -> None:
    block = fresh(bsize)
    model: dict[tuple[int, bytes], bytes | int] = {}
    for key, value, remove in ops:
        if remove:
            assert _ea.py_remove(block, *key) == (model.pop(key, None) is not None)
        elif key not in model and _ea.py_put(block, *key, value):
            model[key] = value
        assert listing(block) == model
        assert bytes(block[:HEADER]) == b"\xa5" * HEADER
    for key in list(model):
        assert _ea.py_remove(block, *key)
    assert _ea.py_records(block) == []
    assert _ea.py_put(block, 1, b"all", bytes(bsize - HEADER - 16 - 3))


def test_layout_is_as_on_disk() -> None:
    block = fresh()
    assert _ea.py_put(block, 1, b"abc", b"hello")
    assert _ea.py_put(block, 3, b"selinux", b"x" * 9)
    assert struct.unpack_from(">IIBBBB", block, HEADER) == (24, 5, 3, 1, 0, 0)
    assert block[HEADER + 16:HEADER + 24] == b"abchello"
    assert struct.unpack_from(">IIBBBB", block, HEADER + 24) == (512 - HEADER - 24, 9, 7, 3, 1, 0)
    _ea.py_remove(block, 1, b"abc")             # the first record stays, unused
    assert struct.unpack_from(">I", block, HEADER)[0] == 24
    assert block[HEADER + 9] == 0
    _ea.py_remove(block, 3, b"selinux")         # the last one's room and flag go to the record before it
    assert struct.unpack_from(">IIBBBB", block, HEADER)[::4] == (512 - HEADER, 1)


@pytest.mark.parametrize(("offset", "form", "value", "field"), [
    (0, ">I", 0, "ea_rec_len"), (0, ">I", 12, "ea_rec_len"), (0, ">I", 28, "ea_rec_len"),
    (0, ">I", 0xFFFFFFF8, "beyond"), (0, ">I", 16, "less than"), (0, ">I", 512 - HEADER, "LAST"),
    (4, ">I", 65537, "ea_data_len"), (4, ">I", 9, "less than"), (8, ">B", 255, "less than"),
    (9, ">B", 5, "ea_type"), (10, ">B", 1, "LAST"), (11, ">B", 2, "less than"),
])
def test_damage_is_named(offset: int, form: str, value: int, field: str) -> None:
    block = fresh()
    _ea.py_put(block, 1, b"abc", b"hello")
    _ea.py_put(block, 1, b"def", b"hello")
    struct.pack_into(form, block, HEADER + offset, value)
    with pytest.raises(ValueError, match=field):
        _ea.py_records(block)


def test_trusted_is_damage_in_the_older_format() -> None:
    block = fresh()
    _ea.py_put(block, 4, b"abc", b"hello")
    assert len(_ea.py_records(block, 4)) == 1
    with pytest.raises(ValueError, match="ea_type"):
        _ea.py_records(block, 3)


@pytest.mark.parametrize("seed", range(10))
def test_random_damage_is_refused_or_harmless(seed: int) -> None:
    rng = random.Random(seed)
    good = fresh(1024)
    for number in range(12):
        _ea.py_put(good, rng.randrange(1, 5), b"name%d" % number, rng.randbytes(rng.randrange(60)))
    for _ in range(400):
        arena = bytearray(b"\x5a" * 64) + good + bytearray(b"\x5a" * 64)
        view = memoryview(arena)[64:64 + 1024]
        for _ in range(rng.randrange(1, 5)):
            view[rng.randrange(HEADER, 1024)] = rng.choice([0, 1, 0x7F, 0xFF, rng.randrange(256)])
        for call in (lambda v=view: _ea.py_put(v, 1, b"new", b"value"),
                     lambda v=view: _ea.py_remove(v, 1, b"name3"), lambda v=view: _ea.py_records(v)):
            try:
                call()
            except ValueError:
                continue
        assert arena[:64 + HEADER] == b"\x5a" * 64 + good[:HEADER]
        assert arena[64 + 1024:] == b"\x5a" * 64
