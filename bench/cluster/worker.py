"""Runs in a node: one JSON request per line in, one JSON answer per line out.

    python -m bench.cluster.worker ROOT

A request names an operation, when it begins and when it ends (CLOCK_MONOTONIC, which the nodes of a lab share), and
its arguments; the answer has what was done and when it really began and ended. Paths are below the request's `root`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench import _driver, _shared

BATCH = 16                  # names between two looks at the clock
MIB = 1 << 20
BLOCK = 4096
SPIN_NS = 1_000_000         # the last part of waiting for the beginning is not slept


@contextmanager
def opened(path: str, flags: int) -> Iterator[int]:
    fd = os.open(path, flags, 0o644)
    try:
        yield fd
    finally:
        os.close(fd)


def wait_for(at: int) -> int:
    """Sleep until a moment; when it really is."""
    while (left := at - time.monotonic_ns()) > 0:
        if left > SPIN_NS:
            time.sleep((left - SPIN_NS) / 1e9)
    return time.monotonic_ns()


def done(begin: int, count: float, **more: object) -> dict[str, Any]:
    return {"begin": begin, "end": time.monotonic_ns(), "count": count, **more}


class Worker:
    """What it has made, so that later requests can look at it and remove it."""

    def __init__(self) -> None:
        self.batches: dict[tuple[str, str], int] = {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        operation: Callable[..., dict[str, Any]] = getattr(self, f"do_{request.pop('op')}")
        return operation(**request)

    def _batches(self, root: str, folder: str, op: str, names: Iterator[bytes], at: int, until: int,
                 size: int = 0) -> tuple[int, int]:
        """One operation on batches of names until the time is over; (when it began, how many batches)."""
        number = 0
        with opened(f"{root}/{folder}", os.O_RDONLY | os.O_DIRECTORY) as fd:
            begin = wait_for(at)
            for prefix in names:
                _driver.loop(op, fd, prefix, BATCH, size=size)
                number += 1
                if time.monotonic_ns() >= until:
                    break
        return begin, number

    def do_mkdir(self, root: str, folder: str) -> dict[str, Any]:
        begin = time.monotonic_ns()
        os.makedirs(f"{root}/{folder}", exist_ok=True)
        return done(begin, 1)

    def do_rmdir(self, root: str, folder: str) -> dict[str, Any]:
        begin = time.monotonic_ns()
        os.rmdir(f"{root}/{folder}")
        return done(begin, 1)

    def do_create(self, root: str, folder: str, tag: str, at: int, until: int, size: int = 0,
                  durable: bool = False) -> dict[str, Any]:
        """Files TAG0-0 .. in a directory; how many."""
        first = self.batches.get((folder, tag), 0)
        names = (b"%s%d-" % (tag.encode(), n) for n in range(first, 1 << 30))
        begin, number = self._batches(root, folder, "create_fsync" if durable else "create", names, at, until,
                                      size)
        answer = done(begin, number * BATCH, batches=first + number)
        self.batches[folder, tag] = first + number
        return answer

    def do_stat(self, root: str, folder: str, tag: str, batches: int, at: int, until: int,
                once: bool = False) -> dict[str, Any]:
        """stat() of files of that tag, again and again (or each once)."""
        def names() -> Iterator[bytes]:
            while True:
                yield from (b"%s%d-" % (tag.encode(), n) for n in range(batches))
                if once:
                    return
        begin, number = self._batches(root, folder, "stat", names(), at, until)
        return done(begin, number * BATCH)

    def do_unlink(self, root: str, folder: str, tag: str, at: int, until: int) -> dict[str, Any]:
        """All files of that tag; counted are those that were gone in time."""
        names = (b"%s%d-" % (tag.encode(), n) for n in range(self.batches.pop((folder, tag))))
        begin, number = self._batches(root, folder, "unlink", names, at, until)
        answer = done(begin, number * BATCH)
        with opened(f"{root}/{folder}", os.O_RDONLY | os.O_DIRECTORY) as fd:
            for prefix in names:
                _driver.loop("unlink", fd, prefix, BATCH)
        return answer

    def do_readdir(self, root: str, folder: str, at: int, until: int) -> dict[str, Any]:
        """Names read in listings from beginning to end."""
        seen, begin = 0, wait_for(at)
        while True:
            seen += _driver.list_entries(f"{root}/{folder}", 1)[0]
            if time.monotonic_ns() >= until:
                return done(begin, seen)

    def do_write(self, root: str, path: str, mib: int, at: int, until: int = 0) -> dict[str, Any]:
        """1 MiB at a time from the start, and one fsync: MiB."""
        data = os.urandom(MIB)
        with opened(f"{root}/{path}", os.O_CREAT | os.O_WRONLY) as fd:
            begin = wait_for(at)
            for n in range(mib):
                if os.pwrite(fd, data, n * MIB) != MIB:
                    raise OSError(5, "a short write", path)
            os.fsync(fd)
            return done(begin, mib)

    def do_read(self, root: str, path: str, at: int, until: int = 0) -> dict[str, Any]:
        """The whole file, 1 MiB at a time: MiB."""
        buffer = bytearray(MIB)
        total = 0
        with opened(f"{root}/{path}", os.O_RDONLY) as fd:
            begin = wait_for(at)
            while got := os.preadv(fd, [buffer], total):
                total += got
            return done(begin, total / MIB)

    def do_fsyncs(self, root: str, path: str, mib: int, at: int, until: int) -> dict[str, Any]:
        """4 KiB writes through a file that is there, an fsync after each."""
        data, blocks, count = os.urandom(BLOCK), mib * MIB // BLOCK, 0
        with opened(f"{root}/{path}", os.O_WRONLY) as fd:
            begin = wait_for(at)
            while time.monotonic_ns() < until:
                os.pwrite(fd, data, count % blocks * BLOCK)
                os.fsync(fd)
                count += 1
            return done(begin, count)

    def do_read_again(self, root: str, path: str, at: int, until: int) -> dict[str, Any]:
        """The first 4 KiB of a file that nobody changes, again and again."""
        buffer, count = bytearray(BLOCK), 0
        with opened(f"{root}/{path}", os.O_RDONLY) as fd:
            begin = wait_for(at)
            while time.monotonic_ns() < until:
                for _ in range(BATCH):
                    os.preadv(fd, [buffer], 0)
                count += BATCH
            return done(begin, count)

    def do_turns(self, root: str, path: str, me: int, of: int, at: int, until: int) -> dict[str, Any]:
        with opened(f"{root}/{path}", os.O_RDWR) as fd:
            begin = wait_for(at)
            return done(begin, _shared.turns(fd, me, of, until))

    def do_counter(self, root: str, path: str, value: int | None = None) -> dict[str, Any]:
        """Set the counter of `turns`, or read it."""
        begin = time.monotonic_ns()
        with opened(f"{root}/{path}", os.O_RDWR | os.O_CREAT) as fd:
            if value is not None:
                os.pwrite(fd, value.to_bytes(8, "little"), 0)
            return done(begin, int.from_bytes(os.pread(fd, 8, 0), "little"))

    def do_ping_pong(self, root: str, path: str, locks: int, at: int, until: int) -> dict[str, Any]:
        with opened(f"{root}/{path}", os.O_RDWR) as fd:
            begin = wait_for(at)
            return done(begin, _shared.ping_pong(fd, locks, until))

    def do_locked(self, root: str, path: str, kind: str, at: int, until: int) -> dict[str, Any]:
        with opened(f"{root}/{path}", os.O_RDWR | os.O_CREAT) as fd:
            begin = wait_for(at)
            return done(begin, _shared.lock_write_unlock(fd, kind, until))

    def do_packets(self) -> dict[str, Any]:
        """Packets that this node has sent."""
        begin = time.monotonic_ns()
        line = next(x for x in Path("/proc/net/dev").read_text().splitlines() if x.strip().startswith("eth0:"))
        return done(begin, int(line.split(":")[1].split()[9]))


def main() -> None:
    worker = Worker()
    print(json.dumps({"ready": os.getpid()}), flush=True)
    for line in sys.stdin:
        try:
            answer = worker.answer(json.loads(line))
        except OSError as e:
            answer = {"error": str(e), "errno": e.errno}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
