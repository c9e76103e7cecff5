"""Directory entries in one block: packing, removal, splitting, and blocks with planted damage."""

import itertools
import random
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collide import colliding_names
from gfs2py.engine import _dirent as de

DINODE, LEAF, HEADER = 232, 104, 40
names = st.binary(min_size=1, max_size=60).filter(lambda b: b"\0" not in b and b"/" not in b)


def size_of(name: bytes) -> int:
    return (HEADER + len(name) + 7) & ~7


def fresh(bsize: int, start: int) -> bytearray:
    block = bytearray(b"\xa5" * bsize)
    de.py_init(block, start)
    return block


def listing(block: bytearray, start: int) -> dict[bytes, int]:
    return {name: addr for _, name, addr, *_ in de.py_entries(block, start)}


@given(st.lists(st.tuples(names, st.booleans()), max_size=80), st.sampled_from([512, 1024]),
       st.sampled_from([DINODE, LEAF]))
def test_block_is_a_dict_that_can_be_full(ops: list[tuple[bytes, bool]], bsize: int, start: int) -> None:
    block = fresh(bsize, start)
    model: dict[bytes, int] = {}
    for number, (name, remove) in enumerate(ops, 1):
        if remove and model:
            victim = sorted(model)[number % len(model)]
            assert de.py_remove(block, start, victim)
            del model[victim]
        elif name not in model:
            if de.py_insert(block, start, name, number, number + 7, 8):
                model[name] = number
            else:
                assert sum(map(size_of, model)) + 2 * size_of(name) > (bsize - start) // 4
        assert de.py_check(block, start) == len(model)
        assert listing(block, start) == model
        assert bytes(block[:start]) == b"\xa5" * start
    for name, addr in model.items():
        assert de.py_find(block, start, name) == (addr, 8)
    assert not de.py_remove(block, start, b"never there")


def test_records_end_with_the_block_and_first_may_be_free() -> None:
    block = fresh(512, LEAF)
    for name in (b"a", b"bb", b"ccc"):
        assert de.py_insert(block, LEAF, name, 5, 6, 8)
    assert struct.unpack_from(">H", block, LEAF + 20)[0] == 48
    assert struct.unpack_from(">H", block, LEAF + 96 + 20)[0] == 512 - LEAF - 96
    de.py_remove(block, LEAF, b"a")
    assert struct.unpack_from(">QQ", block, LEAF) == (0, 0)
    de.py_remove(block, LEAF, b"bb")        # its room goes to the sentinel before it
    assert struct.unpack_from(">H", block, LEAF + 20)[0] == 96
    assert de.py_insert(block, LEAF, b"x" * 50, 9, 9, 4)
    assert [e[0] for e in de.py_entries(block, LEAF)] == [LEAF, LEAF + 96]


def test_fields_of_an_entry_are_as_on_disk() -> None:
    block = fresh(512, DINODE)
    de.py_insert(block, DINODE, b"hello", 0x1122334455667788, 0x99, 10)
    formal, addr, crc, rec, length, kind, ahead = struct.unpack_from(">QQIHHHH", block, DINODE)
    assert (formal, addr, crc) == (0x99, 0x1122334455667788, zlib.crc32(b"hello"))
    assert (rec, length, kind, ahead) == (512 - DINODE, 5, 10, 0)
    assert block[DINODE + 28:DINODE + HEADER] == bytes(12)
    assert block[DINODE + HEADER:DINODE + 48] == b"hello\0\0\0"


@given(st.lists(names, unique=True, max_size=40), st.integers(0, 2**32 - 1),
       st.lists(st.integers(0, 39), max_size=10))
def test_split_moves_lower_hashes_and_keeps_places(many: list[bytes], divider: int, gone: list[int]) -> None:
    old, new = fresh(2048, LEAF), fresh(2048, LEAF)
    for number, name in enumerate(many, 1):
        de.py_insert(old, LEAF, name, number, number, 8)
    for index in gone:
        if index < len(many):
            de.py_remove(old, LEAF, many[index])
    before = de.py_entries(old, LEAF)
    moved = de.py_split(old, new, divider)
    low, high = de.py_entries(new, LEAF), de.py_entries(old, LEAF)
    assert moved == len(low) == de.py_check(new, LEAF)
    assert low == [e for e in before if e[4] < divider]
    assert high == [e for e in before if e[4] >= divider]
    assert de.py_check(old, LEAF) == len(high)


def test_stuffed_entries_go_to_a_leaf_with_more_room() -> None:
    dinode, leaf = fresh(512, DINODE), fresh(512, LEAF)
    for number in itertools.count(1):
        if not de.py_insert(dinode, DINODE, b"%03d" % number, number, number, 8):
            break
    de.py_to_leaf(dinode, leaf)
    assert listing(leaf, LEAF) == listing(dinode, DINODE)
    assert de.py_insert(leaf, LEAF, b"one more", 99, 99, 8)


def plant(block: bytearray, offset: int, value: int, form: str = ">H") -> None:
    struct.pack_into(form, block, offset, value)


@pytest.mark.parametrize(("offset", "value", "field"), [
    (20, 0, "de_rec_len"), (20, 39, "de_rec_len"), (20, 44, "de_rec_len"), (20, 4096, "beyond"),
    (20, 0xFFF8, "beyond"), (22, 0, "de_name_len"), (22, 9, "de_name_len"), (22, 256, "de_name_len"),
    (22, 0xFFFF, "de_name_len"),
])
def test_damage_is_named(offset: int, value: int, field: str) -> None:
    block = fresh(512, LEAF)
    de.py_insert(block, LEAF, b"first", 1, 1, 8)
    de.py_insert(block, LEAF, b"second", 1, 1, 8)
    plant(block, LEAF + offset, value)
    with pytest.raises(ValueError, match=field):
        de.py_check(block, LEAF)
    with pytest.raises(ValueError, match=field):
        de.py_insert(block, LEAF, b"x" * 200, 1, 1, 8)
    with pytest.raises(ValueError, match=field):
        de.py_find(block, LEAF, b"third")


def test_only_the_first_record_may_be_free() -> None:
    block = fresh(512, LEAF)
    de.py_insert(block, LEAF, b"first", 1, 1, 8)
    de.py_insert(block, LEAF, b"second", 1, 1, 8)
    plant(block, LEAF + 48, 0, ">Q")
    with pytest.raises(ValueError, match="de_inum"):
        de.py_check(block, LEAF)


@pytest.mark.parametrize("seed", range(20))
def test_random_damage_is_refused_or_harmless(seed: int) -> None:
    """Whatever the bytes are: an answer or ValueError, and never a byte changed outside the entries' area."""
    rng = random.Random(seed)
    good = fresh(1024, LEAF)
    for number in range(1, 15):
        de.py_insert(good, LEAF, b"n" * rng.randrange(1, 30) + b"%d" % number, number, number, 8)
    for _ in range(300):
        arena = bytearray(b"\x5a" * 64) + good + bytearray(b"\x5a" * 64)
        view = memoryview(arena)[64:64 + 1024]
        for _ in range(rng.randrange(1, 6)):
            view[rng.randrange(LEAF, 1024)] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        other = fresh(1024, LEAF)
        calls = [lambda v=view: de.py_insert(v, LEAF, b"new name", 3, 3, 8),
                 lambda v=view: de.py_find(v, LEAF, b"new name"),
                 lambda v=view: de.py_remove(v, LEAF, b"new name"),
                 lambda v=view, o=other: de.py_split(v, o, 0x80000000),
                 lambda v=view: de.py_check(v, LEAF)]
        rng.shuffle(calls)
        for call in calls:
            try:
                call()
            except ValueError:
                continue
        assert arena[:64 + LEAF] == b"\x5a" * 64 + good[:LEAF]
        assert arena[64 + 1024:] == b"\x5a" * 64


def test_colliding_names_collide_and_differ_in_the_second_hash() -> None:
    some = list(itertools.islice(colliding_names(), 200))
    assert len(set(some)) == 200
    assert {zlib.crc32(name) for name in some} == {0x12345678}
    second = {de.py_second_hash(name) for name in some}
    assert len(second) > 195
    assert max(second) < 1 << 20
