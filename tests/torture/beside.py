"""The race "beside": a page is written back while a piece of it is being punched, zeroed or copied over.

A neighbour owns the first bytes of the page. It stores there through a mapping and has the page written back, at a
random moment of somebody else's fallocate or copy_file_range of what follows. The page may go with what was in that
piece before, behind the change: FUSE takes no lock against it. What the disk has afterwards must be the new content.
"""

from __future__ import annotations

import mmap
import os
import random
from pathlib import Path

from torture.guard import Guard
from torture.place import Place, crowd
from torture.sys_calls import KEEP_SIZE, PUNCH, ZERO, fallocate, sync_file_range

LIMIT_S = 600.0
PAGE = mmap.PAGESIZE
OWN = 8                         # bytes of the neighbour
SIZES = (700, 3000, 100_000)    # how much is changed: the longer it takes, the later is the neighbour right
SPINS = 8000                    # some tenths of a millisecond
OPS_PER_ROUND = 10              # a round costs as much as ten operations of other races


def _neighbour(path: Path, rng: random.Random, go: int, done: int) -> None:
    fd = os.open(path, os.O_RDWR)
    with mmap.mmap(fd, PAGE) as mapping:
        counter = memoryview(mapping).cast("Q")     # one move of 8 bytes; struct would write zeros first
        count = 0
        while os.read(go, 1):
            count += 1
            for _ in range(rng.randrange(SPINS)):
                pass
            counter[0] = count
            sync_file_range(fd, 0, PAGE)
            mapping.madvise(mmap.MADV_DONTNEED)     # a page that is mapped stays in memory whatever fadvise says
            os.write(done, b"x")
        counter.release()
    os.close(fd)


def _change(kind: str, fd: int, source: int, rng: random.Random, at: int, size: int) -> bytes:
    """Returns what has to be there now."""
    if kind == "copy":
        start = rng.randrange(SIZES[-1])
        assert os.copy_file_range(source, fd, size, start, at) == size
        return os.pread(source, size, start)
    fallocate(fd, (PUNCH if kind == "punch" else ZERO) | KEEP_SIZE, at, size)
    return bytes(size)


def _rounds(path: Path, source: int, rng: random.Random, guard: Guard, rounds: int, go: int, done: int) -> None:
    fd = os.open(path, os.O_RDWR)
    for n in range(1, rounds + 1):
        kind, size = rng.choice(("punch", "zero", "copy")), rng.choice(SIZES)
        at = rng.randrange(OWN, PAGE - 100)
        before = rng.randbytes(size)
        assert os.pwrite(fd, before, at) == size
        os.fsync(fd)
        os.write(go, b"x")
        wanted = _change(kind, fd, source, rng, at, size)
        assert os.read(done, 1), "the neighbour is gone"
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        got = os.pread(fd, size, at)
        if got != wanted:
            wrong = [i for i in range(size) if got[i] != wanted[i]]
            old = all(got[i] == before[i] for i in wrong)
            raise AssertionError(f"{path}, round {n}, {kind} of {size} bytes at {at}: {len(wrong)} bytes from "
                                 f"{at + wrong[0]} to {at + wrong[-1]} are {'as before' if old else 'something else'}")
        # A store right before the end of a copy is lost: the kernel then throws its pages away (fs/fuse/file.c).
        count = int.from_bytes(os.pread(fd, OWN, 0), "little")
        assert count == n or kind == "copy", f"{path}, round {n}, {kind}: the neighbour's count is {count}"
        guard.tick()
    os.close(fd)


def beside(where: Place, guard: Guard, seed: int, ops: int, procs: int, bsize: int) -> str:
    rounds = max(1, ops // OPS_PER_ROUND)
    top = where.root / "beside"
    top.mkdir()
    (top / "source").write_bytes(random.Random(f"{seed}/beside").randbytes(2 * SIZES[-1]))

    def process(number: int) -> None:
        path = top / str(number)
        path.write_bytes(bytes(PAGE + SIZES[-1]))
        (go, tell), (done, say) = os.pipe(), os.pipe()

        def other(_: int) -> None:
            os.close(tell)
            os.close(done)
            _neighbour(path, random.Random(f"{seed}/beside/{number}/neighbour"), go, say)

        join = crowd(1, other, LIMIT_S)
        os.close(go)
        os.close(say)
        source = os.open(top / "source", os.O_RDONLY)
        _rounds(path, source, random.Random(f"{seed}/beside/{number}"), guard, rounds, tell, done)
        os.close(source)
        os.close(tell)
        join()

    pairs = max(1, procs // 2)
    crowd(pairs, process, LIMIT_S)()
    return f"{pairs * rounds} changes"
