"""Uncontended locks of the engine per second, from one thread and from several: `python -m bench.dlm [--smoke]`.

Prints JSON lines; times are processor time of the whole process per operation, and operations per second by the wall.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from bench import _dlmcore
from dlm.core._lockspace import Lockspace
from dlm.core.events import Node


def alone() -> Lockspace:
    """A lockspace with one member: everything is mastered here."""
    ls = Lockspace("bench", 1, 1)
    ls.stop()
    ls.start([Node(1)], 0)
    assert ls.running
    return ls


def measure(name: str, threads: int, per_thread: int, work: Callable[[Lockspace, int, int], int]) -> None:
    ls = alone()
    cpu, wall = time.process_time_ns(), time.monotonic_ns()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda t: work(ls, t, per_thread), range(threads)))
    cpu, wall = time.process_time_ns() - cpu, time.monotonic_ns() - wall
    n = threads * per_thread
    print(json.dumps({"name": name, "threads": threads, "n": n, "cpu_ns": round(cpu / n),
                      "per_second": round(n / wall * 1e9)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="few operations, to see that it runs")
    n = 20_000 if parser.parse_args().smoke else 2_000_000
    for threads in (1, 2):
        measure("lock EX + unlock, one name", threads, n, lambda ls, t, k: _dlmcore.lock_unlock(ls, t, k, 1))
        measure("lock EX + unlock, 10,000 names", threads, n, lambda ls, t, k: _dlmcore.lock_unlock(ls, t, k, 10_000))
        measure("convert EX <-> NL, one lock", threads, n, lambda ls, t, k: _dlmcore.convert(ls, t, k, 1))
        measure("convert EX <-> NL, 10,000 locks", threads, n, lambda ls, t, k: _dlmcore.convert(ls, t, k, 10_000))
        measure("new locks that stay, and their unlock", threads, n // 4, _dlmcore.keep)


if __name__ == "__main__":
    main()
