"""A node's worker: one thread for each kind of thing raises its versions until it is told to stop.

    python -S -m poweroffs.work setup MOUNT NODES
    python -S -m poweroffs.work run MOUNT LEDGERS NODES NODE SEED PAUSE_MS

`run` first finds out what the disk has of this node's things, which has to agree with its ledger; says "ready" when
every thread has; and ends after a line (or the end) of its standard input. The first thread that meets an error ends
the process with status 1 and one line.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import random
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

from poweroffs.judge import Place, Raw, bounds, look, version
from poweroffs.things import (
    ATTRIBUTE,
    BLOCK,
    COUNTER_BYTES,
    COUNTERS,
    KINDS,
    SLOTS,
    Ledger,
    Wrong,
    acknowledged_path,
    block,
    content,
    counter,
    counter_value,
    ledger_path,
    pattern,
    record,
    size_of,
)

LOCK_BYTE = 1000                # beyond the counter
Steps = Generator[None, None, None]


class Worker:
    """One life of a node."""

    def __init__(self, place: Place, ledgers: Path, node: str) -> None:
        self.place, self.ledgers, self.node = place, ledgers, node
        self.at = place.nodes.index(node)
        self.ledger = Ledger(ledger_path(ledgers, node))

    def path(self, kind: str, slot: int = 0, side: int = 0) -> str:
        return self.place.path(kind, self.node, slot, side)

    def found(self, kind: str, slot: int = 0) -> tuple[int, Raw]:
        """The version that the disk has, and what it looks like. Raises Wrong when it is none that it may be."""
        notes = {self.node: self.ledger}
        low, high = bounds(kind, self.node, slot, notes, notes)
        raw = look(self.place, kind, self.node, slot)
        try:
            return version(kind, self.node, slot, raw, low, high), raw
        except Wrong as e:
            raise Wrong(f"found at the start: thing {slot}: {e}") from None

    def resume(self, kind: str, slot: int = 0) -> int:
        """The same, as the version to go on from. What may be there in part is made whole before (by the caller)."""
        found, _ = self.found(kind, slot)
        self.ledger.settle(kind, slot, found)
        return found

    def opened(self, kind: str, flags: int = os.O_RDWR) -> int:
        return os.open(self.path(kind), flags | os.O_CREAT, 0o644)


def written(fd: int, data: bytes) -> None:
    """Raises Wrong for a short write: it could not be whole."""
    if os.write(fd, data) != len(data):
        raise Wrong("a write was cut short")


def synced_directory(path: str) -> None:
    fd = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# ---- the kinds: each yields once when it has resumed, then after every operation

def records_of(kind: str, together: int) -> Callable[[Worker, random.Random], Steps]:
    """Appended to a file of its own (log) or of all nodes (shared), up to so many with one fsync."""
    def steps(w: Worker, rng: random.Random) -> Steps:
        number = w.resume(kind)
        fd = w.opened(kind, os.O_WRONLY | os.O_APPEND)
        yield
        while True:
            for _ in range(rng.randrange(together) + 1):
                number += 1
                w.ledger.begin(kind, 0, number)
                written(fd, record(w.node, w.at, kind, number))
            (os.fsync if rng.random() < 0.5 else os.fdatasync)(fd)
            w.ledger.done(kind, 0, number)
            yield
    return steps


def register(w: Worker, rng: random.Random) -> Steps:
    """A file replaced by rename(2), as programs do that want the old or the new one."""
    v = w.resume("register")
    path = w.path("register")
    yield
    while True:
        v += 1
        w.ledger.begin("register", 0, v)
        fd = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        written(fd, content(w.node, "register", 0, v))
        os.fsync(fd)
        os.close(fd)
        os.rename(f"{path}.new", path)
        synced_directory(path)
        w.ledger.done("register", 0, v)
        yield


def blocks(w: Worker, rng: random.Random) -> Steps:
    """Blocks of a file in which others' blocks lie between them, overwritten in place."""
    versions = [w.resume("blocks", slot) for slot in range(SLOTS["blocks"])]
    fd = w.opened("blocks")
    yield
    while True:
        chosen = rng.sample(range(len(versions)), rng.randrange(1, 4))
        for slot in chosen:
            versions[slot] += 1
            w.ledger.begin("blocks", slot, versions[slot])
            if os.pwrite(fd, block(w.node, "blocks", slot, versions[slot]), w.place.block_at(w.node, slot)) != BLOCK:
                raise Wrong("a write was cut short")
        os.fdatasync(fd)
        for slot in chosen:
            w.ledger.done("blocks", slot, versions[slot])
        yield


def files(w: Worker, rng: random.Random) -> Steps:
    """Made and removed in a directory of all nodes."""
    versions = []
    for slot in range(SLOTS["files"]):
        v, raw = w.found("files", slot)
        if v % 2 and raw != content(w.node, "files", slot, v):
            os.unlink(w.path("files", slot))        # it was being made
            synced_directory(w.path("files", slot))
            v -= 1
        w.ledger.settle("files", slot, v)
        versions.append(v)
    yield
    while True:
        slot = rng.randrange(len(versions))
        versions[slot] += 1
        v, path = versions[slot], w.path("files", slot)
        w.ledger.begin("files", slot, v)
        if v % 2:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            written(fd, content(w.node, "files", slot, v))
            os.fsync(fd)
            os.close(fd)
        else:
            os.unlink(path)
            synced_directory(path)
        w.ledger.done("files", slot, v)
        yield


def moves(w: Worker, rng: random.Random) -> Steps:
    """Renamed from one directory of all nodes to another and back."""
    versions = [w.resume("moves", slot) for slot in range(SLOTS["moves"])]
    yield
    while True:
        slot = rng.randrange(len(versions))
        versions[slot] += 1
        v = versions[slot]
        w.ledger.begin("moves", slot, v)
        os.rename(w.path("moves", slot, (v - 1) % 2), w.path("moves", slot, v % 2))
        synced_directory(w.path("moves", slot, v % 2))
        w.ledger.done("moves", slot, v)
        yield


def counted(kind: str, lock: Callable[[int], None], unlock: Callable[[int], None]
            ) -> Callable[[Worker, random.Random], Steps]:
    """A number of all nodes, raised under a lock. Nobody may write a value that another one has made durable."""
    def steps(w: Worker, rng: random.Random) -> Steps:
        fd = w.opened(kind)
        told = os.open(acknowledged_path(w.ledgers, w.node, kind), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        yield
        while True:
            lock(fd)
            value = counter_value(os.pread(fd, COUNTER_BYTES, 0)) + 1
            if value <= w.ledger.durable(kind):
                raise Wrong(f"the counter says {value - 1}, this node has made {w.ledger.durable(kind)} durable")
            w.ledger.begin(kind, 0, value)
            if os.pwrite(fd, counter(value), 0) != COUNTER_BYTES:
                raise Wrong("a write was cut short")
            os.fsync(fd)
            os.write(told, b"%d\n" % value)
            w.ledger.done(kind, 0, value)
            unlock(fd)
            yield
    return steps


def attribute(w: Worker, rng: random.Random) -> Steps:
    v = w.resume("attribute")
    fd = w.opened("attribute")
    yield
    while True:
        v += 1
        w.ledger.begin("attribute", 0, v)
        os.setxattr(fd, ATTRIBUTE, b"%d" % v)
        os.fsync(fd)
        w.ledger.done("attribute", 0, v)
        yield


def size(w: Worker, rng: random.Random) -> Steps:
    """A file that is written longer and cut off in turns. An unfinished life may have left it in between."""
    v, _ = w.found("size")
    fd = w.opened("size")
    os.ftruncate(fd, min(size_of(w.node, v), os.fstat(fd).st_size))
    written_from(fd, 0, size_of(w.node, v))
    os.fsync(fd)
    w.ledger.settle("size", 0, v)
    yield
    while True:
        v += 1
        w.ledger.begin("size", 0, v)
        if v % 2:
            written_from(fd, os.fstat(fd).st_size, size_of(w.node, v))
        else:
            os.ftruncate(fd, size_of(w.node, v))
        os.fsync(fd)
        w.ledger.done("size", 0, v)
        yield


def written_from(fd: int, start: int, end: int) -> None:
    data = pattern(start, end) if end > start else b""
    if os.pwrite(fd, data, start) != len(data):
        raise Wrong("a write was cut short")


def mapped(w: Worker, rng: random.Random) -> Steps:
    """Blocks of a file of its own, written through shared memory."""
    versions = [w.found("mapped", slot)[0] for slot in range(SLOTS["mapped"])]
    fd = w.opened("mapped")
    memory = mmap.mmap(fd, BLOCK * len(versions))
    for slot, v in enumerate(versions):     # what was found may be half of the next one
        memory[slot * BLOCK:(slot + 1) * BLOCK] = block(w.node, "mapped", slot, v)
    memory.flush()
    for slot, v in enumerate(versions):
        w.ledger.settle("mapped", slot, v)
    yield
    while True:
        slot = rng.randrange(len(versions))
        versions[slot] += 1
        w.ledger.begin("mapped", slot, versions[slot])
        memory[slot * BLOCK:(slot + 1) * BLOCK] = block(w.node, "mapped", slot, versions[slot])
        memory.flush(slot * BLOCK, BLOCK)
        w.ledger.done("mapped", slot, versions[slot])
        yield


WORK: dict[str, Callable[[Worker, random.Random], Steps]] = {
    "log": records_of("log", 3), "shared": records_of("shared", 5), "register": register, "blocks": blocks,
    "files": files, "moves": moves,
    "fcntl": counted("fcntl", lambda fd: fcntl.lockf(fd, fcntl.LOCK_EX, 1, LOCK_BYTE),
                     lambda fd: fcntl.lockf(fd, fcntl.LOCK_UN, 1, LOCK_BYTE)),
    "flock": counted("flock", lambda fd: fcntl.flock(fd, fcntl.LOCK_EX), lambda fd: fcntl.flock(fd, fcntl.LOCK_UN)),
    "attribute": attribute, "size": size, "mapped": mapped}
assert tuple(WORK) == KINDS


# ---- the process

class Crew:
    """The threads of a life."""

    def __init__(self, worker: Worker, seed: str, pause_s: float) -> None:
        self._worker, self._seed, self._pause_s = worker, seed, pause_s
        self._stop = threading.Event()
        self._ready = threading.Semaphore(0)

    def run(self) -> None:
        """Until there is something on standard input, or its end."""
        threads = [threading.Thread(target=self._work, args=(kind,), daemon=True) for kind in KINDS]
        for thread in threads:
            thread.start()
        for _ in threads:
            self._ready.acquire()
        print("ready", flush=True)
        sys.stdin.readline()
        self._stop.set()
        for thread in threads:
            thread.join()

    def _work(self, kind: str) -> None:
        worker = self._worker
        rng = random.Random(f"{self._seed} {worker.node} {kind}")
        try:
            steps = WORK[kind](worker, rng)
            next(steps)
            self._ready.release()
            while not self._stop.wait(rng.expovariate(1 / self._pause_s) if self._pause_s else 0):
                next(steps)
                worker.ledger.moved(kind)
        except (Wrong, OSError) as e:
            print(f"{worker.node}: {kind}: {e}", file=sys.stderr, flush=True)
            os._exit(1)


def setup(place: Place) -> None:
    """Directories, and files that must be there from the beginning."""
    for name in ("own", "registers", "files", "side0", "side1"):
        os.mkdir(f"{place.mount}/{name}")
    made = {place.path("blocks"): bytes(BLOCK * SLOTS["blocks"] * len(place.nodes)), place.path("shared"): b""}
    made.update((place.path(kind), counter(0)) for kind in COUNTERS)
    for node in place.nodes:
        os.mkdir(f"{place.mount}/own/{node}")
        made.update((place.path(kind, node), b"") for kind in ("log", "attribute", "size"))
        made[place.path("mapped", node)] = bytes(BLOCK * SLOTS["mapped"])
        made.update((place.path("moves", node, slot), b"") for slot in range(SLOTS["moves"]))
    for path, data in made.items():
        with open(path, "xb") as f:
            f.write(data)
    fd = os.open(place.mount, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def main(argv: Sequence[str]) -> int:
    if argv[0] == "setup":
        setup(Place(argv[1], argv[2].split(",")))
        return 0
    _, mount, ledgers, nodes, node, seed, pause_ms = argv
    Crew(Worker(Place(mount, nodes.split(",")), Path(ledgers), node), seed, float(pause_ms) / 1000).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
