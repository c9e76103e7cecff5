"""ACL values: the grammar, the mode they stand for, inheritance and chmod, against a slow twin."""

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfs2py.engine import _acl

USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 1, 2, 4, 8, 16, 32
NO_ID = 0xFFFFFFFF
Entry = tuple[int, int, int]


def pack(entries: list[Entry], version: int = 2) -> bytearray:
    return bytearray(struct.pack("<I", version) + b"".join(struct.pack("<HHI", *e) for e in entries))


def unpack(value: bytes) -> list[Entry]:
    return [struct.unpack_from("<HHI", value, at) for at in range(4, len(value), 8)]


@st.composite
def acls(draw: st.DrawFn) -> list[Entry]:
    perm = st.integers(0, 7)
    users = draw(st.lists(st.tuples(st.just(USER), perm, st.integers(0, 99)), max_size=3))
    groups = draw(st.lists(st.tuples(st.just(GROUP), perm, st.integers(0, 99)), max_size=3))
    mask = [(MASK, draw(perm), NO_ID)] if users or groups or draw(st.booleans()) else []
    return [(USER_OBJ, draw(perm), NO_ID), *users, (GROUP_OBJ, draw(perm), NO_ID), *groups, *mask,
            (OTHER, draw(perm), NO_ID)]


def perm_of(entries: list[Entry], tag: int) -> int | None:
    return next((p for t, p, _ in entries if t == tag), None)


def group_class(entries: list[Entry]) -> int:
    mask = perm_of(entries, MASK)
    group = perm_of(entries, GROUP_OBJ)
    assert group is not None
    return group if mask is None else mask


def mode_of(entries: list[Entry]) -> int:
    return (perm_of(entries, USER_OBJ) or 0) << 6 | group_class(entries) << 3 | (perm_of(entries, OTHER) or 0)


@given(acls(), st.integers(0, 0o177777))
def test_mode_of_an_acl(entries: list[Entry], mode: int) -> None:
    value = pack(entries)
    assert _acl.py_parse(value) == len(entries)
    assert _acl.py_to_mode(value, mode) == (mode & ~0o777 | mode_of(entries), len(entries) == 3)


@given(acls(), st.integers(0, 0o777))
def test_inheriting_grants_no_more_than_both(entries: list[Entry], mode: int) -> None:
    value = pack(entries)
    new, stored = _acl.py_inherit(value, 0o100000 | mode)
    after = unpack(value)
    assert new == 0o100000 | mode & mode_of(entries)
    assert mode_of(after) == new & 0o777
    assert stored == (len(entries) > 3)
    assert [e for e in after if e[0] in (USER, GROUP)] == [e for e in entries if e[0] in (USER, GROUP)]
    if perm_of(entries, MASK) is not None:
        assert perm_of(after, GROUP_OBJ) == perm_of(entries, GROUP_OBJ)


@given(acls(), st.integers(0, 0o777))
def test_chmod_sets_the_three_classes(entries: list[Entry], mode: int) -> None:
    value = pack(entries)
    _acl.py_chmod(value, 0o100000 | mode)
    after = unpack(value)
    assert mode_of(after) == mode
    assert [(t, i) for t, _, i in after] == [(t, i) for t, _, i in entries]
    assert [e for e in after if e[0] in (USER, GROUP)] == [e for e in entries if e[0] in (USER, GROUP)]


U, G, O, M = (USER_OBJ, 7, NO_ID), (GROUP_OBJ, 5, NO_ID), (OTHER, 0, NO_ID), (MASK, 7, NO_ID)  # noqa: E741


@pytest.mark.parametrize("entries", [
    [U], [U, G], [G, U, O], [U, O], [U, G, O, O], [U, U, G, O], [U, G, M], [U, G, M, M, O], [U, G, O, M],
    [U, (USER, 7, 5), G, O], [U, (USER, 7, NO_ID), G, M, O], [U, G, (USER, 7, 5), M, O],
    [U, (GROUP, 7, 5), G, M, O], [(USER_OBJ, 8, NO_ID), G, O], [U, G, (3, 1, 1), O], [U, G, (0, 0, 0), O],
    [U, G, (64, 0, 0)], [U, G, M, (GROUP, 7, 5), O],
])
def test_what_is_no_acl(entries: list[Entry]) -> None:
    with pytest.raises(OSError) as caught:
        _acl.py_parse(pack(entries))
    assert caught.value.errno == errno.EINVAL


def test_sizes_and_version() -> None:
    for bad in (b"", b"\2\0\0", pack([U, G, O])[:-1], pack([U, G, O]) + b"\0"):
        with pytest.raises(OSError) as caught:
            _acl.py_parse(bad)
        assert caught.value.errno == errno.EINVAL
    with pytest.raises(OSError) as caught:
        _acl.py_parse(pack([U, G, O], version=1))
    assert caught.value.errno == errno.EOPNOTSUPP
    assert _acl.py_parse(pack([])) == 0
