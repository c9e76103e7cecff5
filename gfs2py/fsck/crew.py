"""Pass 1 by several threads; the compiled passes release the GIL."""

import os
from collections.abc import Callable

from gfs2py.fsck._check import Checker

WORTH_IT = 50_000  # inodes below which starting threads takes longer than they save
MOST = 4
GROUPS_AT_A_TIME = 16


def threads_for(inodes: int) -> int:
    """How many threads an inode table of that length is worth on this machine."""
    return min(len(os.sched_getaffinity(0)), MOST) if inodes >= WORTH_IT else 1


def walk_together(ck: Checker, threads: int, progress: Callable[[int, int], None]) -> bool:
    """Pass 1 with that many threads, this one included; `progress(groups done, of)` is called by this one.

    False: two inodes claim one block; nothing has been done, and the pass must be made by one thread.
    """
    import threading  # not needed by small file systems

    n = ck.n_rgrps
    step = max(1, min(GROUPS_AT_A_TIME, n // (threads * 8)))
    todo = iter(range(0, n, step))
    lock = threading.Lock()
    failed: list[Exception] = []

    def parts() -> int | None:
        with lock:
            return next(todo, None)

    def work(walk1: Callable[[int, int], None]) -> None:
        try:
            while (first := parts()) is not None:
                walk1(first, step)
        except (MemoryError, RuntimeError) as error:
            failed.append(error)

    mine = parts()  # before the others start: a small table would be done before this thread has a share, unreported
    workers = ck.share(threads - 1)
    crew = [threading.Thread(target=work, args=(worker.walk1,), daemon=True) for worker in workers]
    for thread in crew:
        thread.start()
    try:
        while mine is not None:
            ck.walk1(mine, step)
            progress(min(mine + step, n), n)
            mine = parts()
    finally:
        with lock:
            todo = iter(())
        for thread in crew:
            thread.join()
    if failed:
        raise failed[0]
    return ck.merge(workers)
