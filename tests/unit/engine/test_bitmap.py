"""The bitmap kernels against a slow twin that looks at one state after another."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfs2py.engine._bitmap import (
    bitmap_count,
    bitmap_find,
    bitmap_find_free_word,
    bitmap_get,
    bitmap_run_end,
    bitmap_set_run,
)


def states_of(bits: bytes) -> list[int]:
    return [(byte >> shift) & 3 for byte in bits for shift in (0, 2, 4, 6)]


def slow_find(states: list[int], start: int, end: int, state: int) -> int | None:
    return next((i for i in range(start, end) if states[i] == state), None)


def slow_run_end(states: list[int], start: int, end: int, state: int) -> int:
    return next((i for i in range(start, end) if states[i] != state), end)


def slow_find_free_word(states: list[int], start: int, end: int) -> int | None:
    return next((i for i in range(start, end - 31) if i % 32 == 0 and not any(states[i : i + 32])), None)


@st.composite
def bitmaps(draw: st.DrawFn) -> tuple[bytes, int, int]:
    """A bitmap of long runs with specks in between, and a range of positions in it."""
    run = st.tuples(st.integers(0, 3), st.sampled_from([1, 2, 3, 4, 31, 32, 33, 100]))
    runs = draw(st.lists(run, max_size=12))
    states = [state for state, length in runs for _ in range(length)]
    states += [draw(st.integers(0, 3))] * (-len(states) % 4)
    bits = bytes(states[i] | states[i + 1] << 2 | states[i + 2] << 4 | states[i + 3] << 6
                 for i in range(0, len(states), 4))
    start = draw(st.integers(0, len(states)))
    return bits, start, draw(st.integers(start, len(states)))


@given(bitmaps(), st.integers(0, 3))
def test_searching_is_as_the_slow_twin(case: tuple[bytes, int, int], state: int) -> None:
    bits, start, end = case
    states = states_of(bits)
    assert bitmap_find(bits, start, end, state) == slow_find(states, start, end, state)
    assert bitmap_run_end(bits, start, end, state) == slow_run_end(states, start, end, state)
    assert bitmap_find_free_word(bits, start, end) == slow_find_free_word(states, start, end)
    assert bitmap_count(bits, start, end) == tuple(states[start:end].count(s) for s in range(4))


@given(bitmaps(), st.integers(0, 3))
def test_setting_changes_the_run_and_nothing_else(case: tuple[bytes, int, int], state: int) -> None:
    bits, start, end = case
    states = states_of(bits)
    changed = bytearray(bits)
    bitmap_set_run(changed, start, end, state)
    assert states_of(bytes(changed)) == states[:start] + [state] * (end - start) + states[end:]


@given(st.binary(min_size=1, max_size=64))
def test_lowest_bits_come_first(bits: bytes) -> None:
    assert [bitmap_get(bits, i) for i in range(4 * len(bits))] == states_of(bits)


def test_nothing_is_read_behind_the_end() -> None:
    """The states behind `end`, in its byte and after it, do not answer."""
    bits = bytes([0x55] * 9 + [0b00000001])
    assert bitmap_find(bits, 0, 37, 0) is None
    assert bitmap_find(bits, 0, 38, 0) == 37
    assert bitmap_run_end(bits, 0, 37, 1) == 37
    assert bitmap_count(bits, 3, 37) == (0, 34, 0, 0)


@pytest.mark.parametrize(("start", "end", "state"), [(-1, 4, 0), (0, 9, 0), (5, 4, 0), (0, 4, 4), (0, 4, -1)])
def test_positions_outside_are_refused(start: int, end: int, state: int) -> None:
    with pytest.raises(ValueError):
        bitmap_find(bytes(2), start, end, state)
    with pytest.raises(ValueError):
        bitmap_set_run(bytearray(2), start, end, state)


def test_empty_bitmap() -> None:
    assert bitmap_find(b"", 0, 0, 0) is None
    assert bitmap_count(b"", 0, 0) == (0, 0, 0, 0)
