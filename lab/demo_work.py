"""What `lab demo` runs on the nodes: one kind of work for some seconds, or a look at what the others have done.

    python3 -IS demo_work.py create|stream|append|read|log TARGET NODE SECONDS [COUNT]
    python3 -IS demo_work.py files|records|fill TARGET

The first form opens its file and says "ready", waits for a line on its standard input, and ends with one JSON line:
how many operations were acknowledged (for a stream: MiB), in how many seconds, and the longest pause between two. With
0 for SECONDS it goes on until a second line comes. While it runs, the number stands in the file COUNT. The second form
prints what is there: for each node how many files or records, after every one of them has been looked at; it fails at
the first that is wrong. `fill` makes the file that `read` reads.
"""

from __future__ import annotations

import json
import os
import random
import select
import sys
import time
from collections.abc import Callable, Generator

BLOCK_BYTES = 4096
PIECE_BYTES = 1 << 20
STREAM_PIECES_MAX = 256         # then from the start again
STREAM_SHARE = 16               # all streams together leave room for others
RECORD_BYTES = 64
READ_BLOCKS = 4096              # size of the file that is read
READ_BYTES = 1 << 20


class Wrong(Exception):
    """Something is not there, or not as it was written."""


def record(node: str, number: int) -> bytes:
    """A line of RECORD_BYTES that tells its writer and number twice: half of one cannot pass for a whole."""
    name = f"{node} {number:010d}".encode()
    return name + b" ".ljust(RECORD_BYTES - 2 * len(name) - 1, b".") + name + b"\n"


def content(name: str) -> bytes:
    return (name + "\n").encode() * (BLOCK_BYTES // (len(name) + 1))


def block(number: int) -> bytes:
    return b"%016d" % number * (BLOCK_BYTES // 16)


# Each opens what it needs and yields for the first time: it is ready. Then it yields after each operation.

def create(directory: str, node: str) -> Generator[None, None, None]:
    """Files of about a block each, all the data in one write."""
    yield
    number = 0
    while True:
        name = f"{node}-{number:07d}"
        fd = os.open(os.path.join(directory, name), os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            written(fd, content(name))
        finally:
            os.close(fd)
        number += 1
        yield


def stream(directory: str, node: str) -> Generator[None, None, None]:
    """A MiB at a time into one large file, which is durable in the end."""
    data = random.Random(node).randbytes(PIECE_BYTES)
    fd = os.open(os.path.join(directory, f"stream-{node}"), os.O_WRONLY | os.O_CREAT)
    space = os.fstatvfs(fd)
    pieces = min(STREAM_PIECES_MAX, 1 + space.f_bavail * space.f_frsize // (STREAM_SHARE * PIECE_BYTES))
    yield
    number = 0
    try:
        while True:
            os.lseek(fd, number % pieces * PIECE_BYTES, os.SEEK_SET)
            written(fd, data)
            number += 1
            yield
    finally:
        os.fsync(fd)


def append(path: str, node: str) -> Generator[None, None, None]:
    """Records at the end of a file that others append to as well."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    yield
    number = 0
    while True:
        written(fd, record(node, number))
        number += 1
        yield


def log(path: str, node: str) -> Generator[None, None, None]:
    """As append, each record made durable."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    yield
    number = 0
    while True:
        written(fd, record(node, number))
        os.fdatasync(fd)
        number += 1
        yield


def read(path: str, node: str) -> Generator[None, None, None]:
    """Blocks in random order, each compared."""
    rng = random.Random(node)
    fd = os.open(path, os.O_RDONLY)
    yield
    while True:
        number = rng.randrange(READ_BLOCKS)
        if os.pread(fd, BLOCK_BYTES, number * BLOCK_BYTES) != block(number):
            raise Wrong(f"{path}: block {number} is not what was written")
        yield


def written(fd: int, data: bytes) -> None:
    """Raises Wrong for a short write: a record would be torn."""
    if os.write(fd, data) != len(data):
        raise Wrong("a write was cut short")


def measure(work: Generator[None, None, None], seconds: float, count_fd: int = -1) -> dict[str, float]:
    """Do it for that long, or until there is something to read; the last operation may take longer."""
    start = last = time.monotonic()
    count, longest = 0, 0.0
    while last - start < seconds or (not seconds and not select.select([0], [], [], 0)[0]):
        next(work)
        now = time.monotonic()
        longest = max(longest, now - last)
        last = now
        count += 1
        if count_fd >= 0:
            os.pwrite(count_fd, b"%d" % count, 0)
    work.close()
    return {"count": count, "seconds": time.monotonic() - start, "longest_s": longest}


def files(directory: str) -> dict[str, int]:
    """How many of each node's files there are; all are read."""
    found: dict[str, int] = {}
    for name in os.listdir(directory):
        node, dash, number = name.rpartition("-")
        if not dash or not number.isdigit():
            raise Wrong(f"{directory}: nobody made {name}")
        with open(os.path.join(directory, name), "rb") as f:
            if f.read() != content(name):
                raise Wrong(f"{directory}/{name} has not the content that {node} wrote")
        found[node] = found.get(node, 0) + 1
    for node, count in found.items():
        if not os.path.exists(os.path.join(directory, f"{node}-{count - 1:07d}")):
            raise Wrong(f"{directory}: a file of {node} is missing")
    return found


def records(path: str) -> dict[str, int]:
    """How many of each node's records there are: each whole, once, and in its node's order."""
    found: dict[str, int] = {}
    if not os.path.exists(path):
        return found
    size, at = os.stat(path).st_size, 0
    with open(path, "rb") as f:
        while data := f.read(READ_BYTES):
            for offset in range(0, len(data), RECORD_BYTES):
                line = data[offset:offset + RECORD_BYTES]
                node = line.partition(b" ")[0].decode(errors="replace")
                number = found.get(node, 0)
                if line != record(node, number):
                    raise Wrong(f"{path}: at {at + offset}: {line[:30]!r} where record {number} of {node} should be")
                found[node] = number + 1
            at += len(data)
    if at != size:
        raise Wrong(f"{path}: {at} bytes can be read, its size is {size}")
    return found


def fill(path: str) -> dict[str, int]:
    """The file that is read."""
    with open(path, "wb") as f:
        for number in range(READ_BLOCKS):
            f.write(block(number))
    return {"blocks": READ_BLOCKS}


WORK: dict[str, Callable[[str, str], Generator[None, None, None]]] = {
    "create": create, "stream": stream, "append": append, "log": log, "read": read}
LOOKS: dict[str, Callable[[str], dict[str, int]]] = {"files": files, "records": records, "fill": fill}


def main(argv: list[str]) -> int:
    try:
        if argv[0] in LOOKS:
            print(json.dumps(LOOKS[argv[0]](argv[1])))
            return 0
        work = WORK[argv[0]](argv[1], argv[2])
        next(work)
        print("ready", flush=True)
        if not os.read(0, PIECE_BYTES):
            return 1
        count_fd = os.open(argv[4], os.O_WRONLY | os.O_CREAT) if argv[4:] else -1
        print(json.dumps(measure(work, float(argv[3]), count_fd)), flush=True)
    except (OSError, Wrong) as e:
        print(e, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
