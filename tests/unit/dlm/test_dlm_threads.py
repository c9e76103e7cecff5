"""Threads without the GIL that share one lockspace, as the file system's workers do."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from bench import _dlmcore
from dlm.core._lockspace import Lockspace
from dlm.core.events import Node

THREADS = 4
TURNS = 3000


def alone() -> Lockspace:
    ls = Lockspace("threads", 1, 1)
    ls.stop()
    ls.start([Node(1)], 0)
    return ls


def test_threads_exclude_each_other_and_hear_of_each_completion_once() -> None:
    """The completion of one thread's conversion is called by the thread that let go."""
    ls, turns = alone(), _dlmcore.Turns()
    with ThreadPoolExecutor(THREADS) as pool:
        assert list(pool.map(lambda _: turns.run(ls, TURNS), range(THREADS))) == [0] * THREADS
    assert turns.count() == THREADS * TURNS
    stats = ls.statistics()
    assert stats.casts == THREADS * (2 * TURNS + 2)
    assert stats.locks == 0


def test_threads_on_locks_of_their_own() -> None:
    ls = alone()
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda t: _dlmcore.lock_unlock(ls, t, 20_000, 100), range(THREADS)))
        list(pool.map(lambda t: _dlmcore.convert(ls, t, 20_000, 100), range(THREADS)))
    stats = ls.statistics()
    assert (stats.locks, stats.tossed) == (0, THREADS * 100)
    assert stats.converts == THREADS * 20_000
