"""The lock table against a model that keeps one owner-to-kind map per byte."""

from __future__ import annotations

import errno
import fcntl

from hypothesis import given, settings
from hypothesis import strategies as st

from gfs2py.fuse._locks import LockTable

SPAN_BYTES = 12
KINDS = (fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK)

request = st.tuples(st.integers(0, 3), st.sampled_from(KINDS), st.integers(0, SPAN_BYTES - 1),
                    st.integers(0, SPAN_BYTES - 1))


class Model:
    """What each byte is locked by: owner -> kind."""

    def __init__(self) -> None:
        self.bytes: list[dict[int, int]] = [{} for _ in range(SPAN_BYTES)]

    def blocked(self, owner: int, kind: int, start: int, end: int) -> bool:
        return any(other != owner and fcntl.F_WRLCK in (kind, held)
                   for at in self.bytes[start:end + 1] for other, held in at.items())

    def set(self, owner: int, kind: int, start: int, end: int) -> int:
        if kind != fcntl.F_UNLCK and self.blocked(owner, kind, start, end):
            return -errno.EAGAIN
        for at in self.bytes[start:end + 1]:
            at.pop(owner, None)
            if kind != fcntl.F_UNLCK:
                at[owner] = kind
        return 0

    def runs(self) -> int:
        """How many locks there are when neighbours of one kind are one."""
        count = 0
        for owner in range(4):
            previous = None
            for at in self.bytes:
                kind = at.get(owner)
                count += kind is not None and kind != previous
                previous = kind
        return count


@settings(max_examples=400)
@given(st.lists(request, max_size=40))
def test_ranges_split_and_merge(steps: list[tuple[int, int, int, int]]) -> None:
    table, model = LockTable(), Model()
    for owner, kind, a, b in steps:
        start, end = min(a, b), max(a, b)
        assert table.set(1, owner, kind, start, end) == model.set(owner, kind, start, end)
        assert table.counts()[0] == model.runs()
        for probe in range(SPAN_BYTES):
            for who in range(4):
                found = table.get(1, who, fcntl.F_WRLCK, probe, probe)
                assert (found is not None) == model.blocked(who, fcntl.F_WRLCK, probe, probe)
                found = table.get(1, who, fcntl.F_RDLCK, probe, probe)
                assert (found is not None) == model.blocked(who, fcntl.F_RDLCK, probe, probe)
    for owner in range(4):
        table.drop_owner(1, owner)
    assert table.counts() == (0, 0, 0)


def test_waiter_is_woken_when_the_way_is_free() -> None:
    t = LockTable()
    assert t.set(1, 1, fcntl.F_WRLCK, 0, 9) == 0
    assert t.set(1, 2, fcntl.F_WRLCK, 5, 5, sleep=True, unique=20) == t.WAIT
    assert t.set(1, 3, fcntl.F_RDLCK, 0, 0, sleep=True, unique=30) == t.WAIT
    assert t.set(1, 1, fcntl.F_UNLCK, 0, 4) == 0
    assert t.woken() == [30]
    assert t.set(1, 3, fcntl.F_RDLCK, 0, 0, sleep=True, unique=30) == 0
    t.drop_owner(1, 1)
    assert t.woken() == [20]
    assert t.set(1, 2, fcntl.F_WRLCK, 5, 5, sleep=True, unique=20) == 0
    assert t.counts()[1] == 0


def test_woken_waiter_that_loses_the_race_waits_on_in_its_place() -> None:
    t = LockTable()
    t.set(1, 1, fcntl.F_WRLCK)
    t.set(1, 2, fcntl.F_WRLCK, sleep=True, unique=20)
    t.set(1, 1, fcntl.F_UNLCK)
    assert t.woken() == [20]
    assert t.set(1, 3, fcntl.F_WRLCK) == 0
    assert t.set(1, 2, fcntl.F_WRLCK, sleep=True, unique=20) == t.WAIT
    assert t.counts()[1] == 1
    t.set(1, 3, fcntl.F_UNLCK)
    assert t.woken() == [20]


def test_cancelled_waiter_is_gone() -> None:
    t = LockTable()
    t.set(1, 1, fcntl.F_WRLCK, flock=True)
    assert t.set(1, 2, fcntl.F_RDLCK, flock=True, sleep=True, unique=5) == t.WAIT
    t.cancel(5)
    t.set(1, 1, fcntl.F_UNLCK, flock=True)
    assert t.woken() == []
    assert t.counts() == (0, 0, 0)


def test_deadlock_over_three_inodes() -> None:
    t = LockTable()
    for owner in (1, 2, 3):
        assert t.set(owner, owner, fcntl.F_WRLCK) == 0
    assert t.set(2, 1, fcntl.F_WRLCK, sleep=True, unique=11) == t.WAIT
    assert t.set(3, 2, fcntl.F_WRLCK, sleep=True, unique=12) == t.WAIT
    assert t.set(1, 3, fcntl.F_WRLCK, sleep=True, unique=13) == -errno.EDEADLK
    assert t.set(1, 4, fcntl.F_WRLCK, sleep=True, unique=14) == t.WAIT


def test_flock_conversion_gives_the_old_lock_up_first() -> None:
    t = LockTable()
    assert t.set(1, 1, fcntl.F_RDLCK, flock=True) == 0
    assert t.set(1, 2, fcntl.F_RDLCK, flock=True) == 0
    assert t.set(1, 3, fcntl.F_WRLCK, flock=True, sleep=True, unique=30) == t.WAIT
    assert t.set(1, 1, fcntl.F_WRLCK, flock=True) == -errno.EAGAIN
    assert t.counts()[0] == 1, "the shared lock of owner 1 is gone, as flock(2) says"


def test_flock_and_fcntl_do_not_meet() -> None:
    t = LockTable()
    assert t.set(1, 1, fcntl.F_WRLCK, flock=True) == 0
    assert t.set(1, 2, fcntl.F_WRLCK) == 0


def test_locks_go_with_their_open_file() -> None:
    t = LockTable()
    t.set(1, 1, fcntl.F_WRLCK, 0, 5, fh=70)
    t.set(1, 2, fcntl.F_WRLCK, 6, 9, fh=71)
    t.set(1, 3, fcntl.F_WRLCK, 0, 0, sleep=True, unique=30)
    t.drop_fh(1, 70)
    assert t.woken() == [30]
    assert t.get(1, 9, fcntl.F_WRLCK, 0, 5) is None
    assert t.get(1, 9, fcntl.F_WRLCK, 6, 6) is not None


def test_the_end_of_the_range_does_not_overflow() -> None:
    t = LockTable()
    top = 0xFFFFFFFFFFFFFFFF
    assert t.set(1, 1, fcntl.F_WRLCK, top, top) == 0
    assert t.set(1, 1, fcntl.F_WRLCK, 0, 0) == 0
    assert t.counts()[0] == 2
    assert t.set(1, 1, fcntl.F_UNLCK, 0, top) == 0
    assert t.counts() == (0, 0, 0)
    assert t.set(1, 1, fcntl.F_WRLCK, 5, 4) == -errno.EINVAL
    assert t.set(1, 1, 77, 0, 4) == -errno.EINVAL
