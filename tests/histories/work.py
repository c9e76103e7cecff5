"""One life of a node: operations on what all nodes share, one at a time, each noted where no death of a node reaches.

    python -S -m histories.work setup MOUNT
    python -S -m histories.work run MOUNT NOTES WHO SEED PAUSE_MS

NOTES gets a line for each beginning and each end. What changes something is synced before its end is noted: what was
acknowledged must be there whoever dies. An error (the mount is gone, or its disk) ends the process with status 1, its
operation's end unknown; what no order could explain (a torn record, two names) with status 3. A line on standard
input, or its end, ends it in order.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import random
import select
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from histories.models import TOLD, digest

REGISTERS, LISTS, PLACES = 3, 2, 2
COUNTERS = ("fcntl", "flock")
NAMES = ("a", "b", "c", "d")
RECORD = 32                     # bytes of a value: itself, padding, and a newline
DIGITS = 12
LISTING_BYTES = 32768
RENAME_NOREPLACE = 1
LIBC = ctypes.CDLL(None, use_errno=True)


class Torn(Exception):
    """What was read is nothing that anybody wrote."""


def things() -> list[str]:
    return [*(f"register{n}" for n in range(REGISTERS)), *(f"list{n}" for n in range(LISTS)),
            *(f"place{n}" for n in range(PLACES)), *COUNTERS]


def setup(mount: str) -> None:
    for n in range(REGISTERS):
        create(f"{mount}/register{n}", b"")
    for n in range(LISTS):
        create(f"{mount}/list{n}", b"")
    for kind in COUNTERS:
        create(f"{mount}/{kind}", b"%0*d\n" % (DIGITS, 0))
    for n in range(PLACES):
        os.mkdir(f"{mount}/place{n}")
        create(f"{mount}/place{n}/{NAMES[0]}", b"here")
    fd = os.open(mount, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # Not sync(2): that waits for every mount of the machine.
        if LIBC.syncfs(fd):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), mount)
    finally:
        os.close(fd)


def create(path: str, data: bytes) -> None:
    with open(path, "xb") as f:
        f.write(data)


def record(value: str) -> bytes:
    return value.encode().ljust(RECORD - 1) + b"\n"


def value_of(data: bytes) -> str:
    """Raises Torn."""
    value = data.rstrip().decode(errors="replace")
    if record(value) != data or " " in value:
        raise Torn(f"record {data!r}")
    return value


class Worker:
    def __init__(self, mount: str, notes: str, who: str, seed: str) -> None:
        self.mount, self.who = mount, who
        self.notes = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.rng = random.Random(f"{seed} {who}")
        self.number = 0
        self.seen = {f"place{n}": NAMES[0] for n in range(PLACES)}

    def note(self, **line: Any) -> None:
        os.write(self.notes, json.dumps({"t": time.monotonic_ns(), "n": self.number, **line}).encode() + b"\n")

    def one(self) -> None:
        """Raises OSError, Torn."""
        key = self.rng.choice(things())
        what, value, do = self.drawn(key)
        self.number += 1
        self.note(k=key, f=what, v=value)
        self.note(r=do())

    def drawn(self, key: str) -> tuple[str, Any, Callable[[], Any]]:
        path = f"{self.mount}/{key}"
        mine = f"{self.who}.{self.number + 1}"
        look = self.rng.random() < 0.5
        if key.startswith("register"):
            return ("read", None, lambda: read_register(path)) if look else \
                ("write", mine, lambda: write_register(path, mine))
        if key.startswith("list"):
            return ("read", None, lambda: read_list(path)) if look else ("append", mine, lambda: append(path, mine))
        if key.startswith("place"):
            if look:
                return "look", None, lambda: self.look(key)
            source = self.seen[key] if self.rng.random() < 0.8 else self.rng.choice(NAMES)
            target = self.rng.choice([n for n in NAMES if n != source])
            return "move", [source, target], lambda: self.move(key, source, target)
        if look:
            return "read", None, lambda: count(path)
        return "add", None, lambda: add(path, key)

    def look(self, key: str) -> str:
        names = listed_at_once(f"{self.mount}/{key}")
        if len(names) != 1:
            raise Torn(f"{key} has {names}")
        self.seen[key] = names[0]
        return names[0]

    def move(self, key: str, source: str, target: str) -> str:
        top = os.open(f"{self.mount}/{key}", os.O_RDONLY | os.O_DIRECTORY)
        try:
            try:
                rename_noreplace(top, source, target)
            except FileNotFoundError:
                return "missing"
            except FileExistsError:
                return "exists"
            os.fsync(top)
        finally:
            os.close(top)
        self.seen[key] = target
        return "ok"


def listed_at_once(path: str) -> list[str]:
    """The names that one getdents64(2) returns. What later ones add may be newer, as POSIX has it: a file that moves
    meanwhile may be told twice, or never."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        data = ctypes.create_string_buffer(LISTING_BYTES)
        size = LIBC.getdents64(fd, data, LISTING_BYTES)
        if size < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
    finally:
        os.close(fd)
    names, at = [], 0
    while at < size:
        # struct linux_dirent64: inode, offset, length, type, name. Source: getdents(2).
        length = int.from_bytes(data.raw[at + 16:at + 18], sys.byteorder)
        names.append(data.raw[at + 19:at + length].split(b"\0", 1)[0].decode())
        at += length
    return [n for n in names if n not in (".", "..")]


def rename_noreplace(top: int, source: str, target: str) -> None:
    """A plain rename(2) may succeed and do nothing: Linux looks both names up one after the other, and when the file
    has moved from the one to the other meanwhile takes them for two links of one file (vfs_rename())."""
    if LIBC.renameat2(top, source.encode(), top, target.encode(), RENAME_NOREPLACE):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), f"{source} -> {target}")


def read_register(path: str) -> str:
    with open(path, "rb", buffering=0) as f:
        data = f.read(2 * RECORD) or b""
    return value_of(data) if data else ""


def write_register(path: str, value: str) -> str:
    fd = os.open(path, os.O_WRONLY)
    try:
        whole(os.pwrite(fd, record(value), 0), RECORD)
        os.fsync(fd)
    finally:
        os.close(fd)
    return "ok"


def read_list(path: str) -> list[Any]:
    """How many values it has, a digest of them all, and the last ones."""
    with open(path, "rb") as f:
        data = f.read()
    if len(data) % RECORD:
        raise Torn(f"{path} has {len(data)} bytes: the last record is {data[-(len(data) % RECORD):]!r}")
    values = [value_of(data[at:at + RECORD]) for at in range(0, len(data), RECORD)]
    return [len(values), digest(values), values[-TOLD:]]


def append(path: str, value: str) -> str:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        whole(os.write(fd, record(value)), RECORD)
        os.fdatasync(fd)
    finally:
        os.close(fd)
    return "ok"


def whole(wrote: int, length: int) -> None:
    if wrote != length:
        raise OSError(errno.EIO, f"a write of {length} bytes ended after {wrote}")


def number(data: bytes) -> int:
    if len(data) != DIGITS + 1 or not data[:-1].isdigit():
        raise Torn(f"counter {data!r}")
    return int(data)


def count(path: str) -> int:
    with open(path, "rb", buffering=0) as f:
        return number(f.read(2 * DIGITS) or b"")


def add(path: str, lock: str) -> int:
    """Read, and one more written, under a lock of the whole file."""
    fd = os.open(path, os.O_RDWR)
    try:
        (fcntl.lockf if lock == "fcntl" else fcntl.flock)(fd, fcntl.LOCK_EX)
        value = number(os.pread(fd, 2 * DIGITS, 0)) + 1
        whole(os.pwrite(fd, b"%0*d\n" % (DIGITS, value), 0), DIGITS + 1)
        os.fsync(fd)
    finally:
        os.close(fd)
    return value


def main(argv: Sequence[str]) -> int:
    if argv[0] == "setup":
        setup(argv[1])
        return 0
    worker = Worker(*argv[1:5])
    pause_s = float(argv[5]) / 1000
    print("ready", flush=True)
    while not select.select([sys.stdin], [], [], worker.rng.random() * 2 * pause_s)[0]:
        try:
            worker.one()
        except OSError as e:
            print(f"{worker.who}: operation {worker.number}: {e}", file=sys.stderr)
            return 1
        except Torn as e:
            print(f"{worker.who}: operation {worker.number}: {e}", file=sys.stderr)
            return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
