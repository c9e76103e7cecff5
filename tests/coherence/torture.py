"""A program on one node of several: works on files that all share, and notes what it saw and when. See judge.py.

    torture.py '{"root": ..., "who": ..., "number": ..., "of": ..., "seed": ..., "seconds": ..., "steps": ...,
                 "out": ...}'

`number` of `of` workers makes values unique. All nodes have one kernel here, and so one monotonic clock.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import random
import sys
import time
from collections.abc import Callable
from typing import Any

CELLS = 8               # 8 bytes each; two pages apart from each other so that some share one
CELL_AT = [0, 8, 4088, 4096, 5000, 8192, 12280, 12288]
FILE_BYTES = 16384
NAMES = 12
CONTENT = 300           # how often a value stands in a file that is renamed into place


def prepare(root: str) -> None:
    """What the workers share; made by one node before they start."""
    for name in ("cells", "maps"):
        with open(f"{root}/{name}", "wb") as f:
            f.write(bytes(FILE_BYTES))
    for name in ("log", "sizes", "times", "attrs"):
        open(f"{root}/{name}", "wb").close()
    os.utime(f"{root}/times", ns=(0, 0))
    os.setxattr(f"{root}/attrs", "user.x", b"0")
    for name in ("shared", "d", "first"):
        os.mkdir(f"{root}/{name}")
    with open(f"{root}/d/target", "wb") as f:
        f.write(b"0\n" * CONTENT)


class Worker:
    """One process on one node."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.job, self.root, self.who = job, job["root"], job["who"]
        self.rng = random.Random(f"{job['seed']} {self.who}")
        self.count = 0
        self.events: list[tuple[str, str, int, int, str]] = []          # register, r or w, began, ended, value
        self.names: list[tuple[str, int, int, bool]] = []               # name, began, ended, is there afterwards
        self.listings: list[tuple[int, int, list[str]]] = []
        self.appended: list[str] = []
        self.won: list[str] = []
        self.tried: list[str] = []
        self.mine: set[str] = set()
        self.read_fd = {n: os.open(f"{self.root}/{n}", os.O_RDONLY) for n in ("cells", "maps", "sizes", "times")}
        self.write_fd = os.open(f"{self.root}/cells", os.O_WRONLY)
        self.both_fd = os.open(f"{self.root}/cells", os.O_RDWR)
        self.log_fd = os.open(f"{self.root}/log", os.O_WRONLY | os.O_APPEND)
        map_fd = os.open(f"{self.root}/maps", os.O_RDWR)
        self.map = mmap.mmap(map_fd, FILE_BYTES)
        os.close(map_fd)
        self.mapped = mmap.mmap(self.read_fd["cells"], FILE_BYTES, prot=mmap.PROT_READ)

    def unique(self) -> int:
        self.count += 1
        return self.count * self.job["of"] + self.job["number"]

    def wrote(self, register: str, value: int, act: Callable[[], object]) -> None:
        began = time.monotonic_ns()
        act()
        self.events.append((register, "w", began, time.monotonic_ns(), str(value)))

    def saw(self, register: str, act: Callable[[], object], how: str = "") -> None:
        began = time.monotonic_ns()
        value = act()
        self.events.append((register, "r" + how, began, time.monotonic_ns(), str(value)))

    # -- steps

    def cells(self) -> None:
        """write(2) here; read(2) through the page cache, around it, and a mapping there."""
        i = self.rng.randrange(CELLS)
        at = CELL_AT[i]
        how = self.rng.randrange(6)
        if how < 2:
            value = self.unique()
            fd = self.write_fd if how else self.both_fd
            self.wrote(f"cell{i}", value, lambda: os.pwrite(fd, value.to_bytes(8, "little"), at))
        elif how < 5:
            fd = (self.read_fd["cells"], self.read_fd["cells"], self.both_fd)[how - 2]
            self.saw(f"cell{i}", lambda: int.from_bytes(os.pread(fd, 8, at), "little"))
        else:
            self.saw(f"cell{i}", lambda: int.from_bytes(self.mapped[at:at + 8], "little"))

    def maps(self) -> None:
        """Stores through a mapping; seen through others' mappings and by read(2)."""
        i = self.rng.randrange(CELLS)
        cell = ctypes.c_uint64.from_buffer(self.map, CELL_AT[i])
        how = self.rng.randrange(3)
        if how == 0:
            value = self.unique()

            def store() -> None:
                cell.value = value

            self.wrote(f"map{i}", value, store)
        elif how == 1:
            self.saw(f"map{i}", lambda: cell.value)
        else:
            fd, at = self.read_fd["maps"], CELL_AT[i]
            self.saw(f"map{i}", lambda: int.from_bytes(os.pread(fd, 8, at), "little"))

    def append(self) -> None:
        record = f"{self.who} {len(self.appended)} ".ljust(self.rng.randrange(40, 9000), "=") + "\n"
        os.write(self.log_fd, record.encode())
        self.appended.append(record)

    def sizes(self) -> None:
        # Not lseek(2) to the end: if the kernel is told to forget while its question for the size is being answered, it
        # throws the answer away and takes the size that it had (fs/fuse/file.c, fuse_file_llseek).
        path, fd = f"{self.root}/sizes", self.read_fd["sizes"]
        how = self.rng.randrange(3)
        if how == 0:
            value = self.unique()
            self.wrote("size", value, lambda: os.truncate(path, value))
        elif how == 1:
            self.saw("size", lambda: os.stat(path).st_size, "stat")
        else:
            self.saw("size", lambda: os.fstat(fd).st_size, "fstat")

    def times(self) -> None:
        path, fd = f"{self.root}/times", self.read_fd["times"]
        if self.rng.randrange(4) == 0:
            value = self.unique()
            self.wrote("mtime", value, lambda: os.utime(path, ns=(0, value)))
        else:
            self.saw("mtime", lambda: os.fstat(fd).st_mtime_ns)

    def attrs(self) -> None:
        path = f"{self.root}/attrs"
        if self.rng.randrange(3) == 0:
            value = self.unique()
            self.wrote("xattr", value, lambda: os.setxattr(path, "user.x", str(value).encode() * self.rng.choice((1,))))
        else:
            self.saw("xattr", lambda: os.getxattr(path, "user.x").decode())

    def target(self) -> None:
        """A name that always means one whole file."""
        path = f"{self.root}/d/target"
        if self.rng.randrange(3) == 0:
            value = self.unique()
            with open(f"{self.root}/d/{self.who}", "wb") as f:
                f.write(b"%d\n" % value * CONTENT)
            self.wrote("target", value, lambda: os.rename(f"{self.root}/d/{self.who}", path))
        else:
            self.saw("target", lambda: self.whole(path))

    def whole(self, path: str) -> str:
        with open(path, "rb") as f:
            lines = f.read().decode().split("\n")
        if lines[-1] != "" or len(lines) != CONTENT + 1 or len(set(lines[:-1])) != 1:
            raise AssertionError(f"{path} is not one whole file: {len(lines)} lines, {sorted(set(lines))[:5]}")
        return lines[0]

    def own_names(self) -> None:
        name = f"{self.who}-{self.rng.randrange(NAMES)}"
        path = f"{self.root}/shared/{name}"
        began = time.monotonic_ns()
        if name not in self.mine:
            with open(path, "x") as f:
                f.write(self.who * self.rng.randrange(100))
            self.mine.add(name)
        elif self.rng.random() < 0.5:
            os.unlink(path)
            self.mine.discard(name)
        else:
            new = f"{self.who}-{self.rng.randrange(NAMES)}"
            os.rename(path, f"{self.root}/shared/{new}")
            if new != name:
                ended = time.monotonic_ns()
                self.mine.discard(name)
                self.names.append((name, began, ended, False))
                self.mine.add(new)
                name = new
        self.names.append((name, began, time.monotonic_ns(), name in self.mine))

    def listing(self) -> None:
        began = time.monotonic_ns()
        got = os.listdir(f"{self.root}/shared")
        self.listings.append((began, time.monotonic_ns(), got))

    def first(self) -> None:
        """Who makes a file first: exactly one."""
        name = f"k{self.rng.randrange(2000)}"
        self.tried.append(name)
        try:
            os.close(os.open(f"{self.root}/first/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            self.won.append(name)
        except FileExistsError:
            pass

    STEPS = (cells, cells, cells, maps, maps, append, sizes, times, attrs, target, own_names, own_names, listing, first)

    def run(self) -> None:
        until = time.monotonic() + self.job["seconds"]
        steps = [s for s in self.STEPS if not self.job.get("only") or s.__name__ in self.job["only"]]
        for _ in range(self.job["steps"]):
            if time.monotonic() > until:
                break
            self.rng.choice(steps)(self)

    def result(self, errors: list[str]) -> dict[str, Any]:
        return {"who": self.who, "errors": errors, "events": self.events, "names": self.names, "won": self.won,
                "listings": self.listings, "appended": self.appended, "tried": self.tried}


def main(job: dict[str, Any]) -> None:
    errors: list[str] = []
    worker = Worker(job)
    try:
        worker.run()
    except (OSError, AssertionError, ValueError) as e:
        errors.append(f"{worker.who}: {type(e).__name__}: {e} ({errno.errorcode.get(getattr(e, 'errno', 0) or 0, '')})")
    with open(job["out"], "w") as f:
        json.dump(worker.result(errors), f)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
