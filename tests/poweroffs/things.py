"""What is written in the file system, and what is noted of it outside: things with versions.

Every thing (a slot of a kind, of a node) has a version that only its owner raises. Before an operation the owner notes
the version it goes for ("begun"), after the sync that makes it durable the same once more ("durable"). So at any
moment, whoever is dead: durable <= what the disk has <= begun. The notes are numbers in a file of the host, mapped by
the worker: what a killed process has stored there is there.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from array import array
from collections.abc import Sequence
from pathlib import Path

# Kind -> how many things of it each node has; see `work` for what they are.
SLOTS = {"log": 1, "shared": 1, "register": 1, "blocks": 16, "files": 16, "moves": 8, "fcntl": 1, "flock": 1,
         "attribute": 1, "size": 1, "mapped": 4}
KINDS = tuple(SLOTS)
COUNTERS = ("fcntl", "flock")           # one thing for all nodes; each notes the values that it has written
BLOCK = 4096
READ_BYTES = 1 << 20
RECORD = struct.Struct("<4sIIHH")       # magic, number, crc of the rest, node, length of the rest
MAGIC = b"REC!"
RECORD_MOST, REGISTER_MOST, FILE_MOST, SIZE_MOST = 300, 20_000, 30_000, 200_000
COUNTER_BYTES = 32
ATTRIBUTE = "user.version"

_FIRST: dict[str, int] = {}
_at = len(KINDS)
for _kind, _count in SLOTS.items():
    _FIRST[_kind] = _at
    _at += 2 * _count
WORDS = _at


class Wrong(Exception):
    """Something is not as it must be."""


class Notes:
    """The numbers of one node, as they are or as they were: operations done per kind, then begun and durable."""

    def __init__(self, words: memoryview | array[int]) -> None:
        self._words = words

    def progress(self, kind: str) -> int:
        return self._words[KINDS.index(kind)]

    def begun(self, kind: str, slot: int = 0) -> int:
        return self._words[_FIRST[kind] + 2 * slot]

    def durable(self, kind: str, slot: int = 0) -> int:
        return self._words[_FIRST[kind] + 2 * slot + 1]


class Ledger(Notes):
    """The live ones. Each number is stored by one instruction: nobody sees half of one."""

    def __init__(self, path: Path) -> None:
        fd = os.open(path, os.O_RDWR)
        try:
            self._map = mmap.mmap(fd, WORDS * 8)
        finally:
            os.close(fd)
        super().__init__(memoryview(self._map).cast("q"))

    @staticmethod
    def create(path: Path) -> None:
        path.write_bytes(bytes(WORDS * 8))

    def copy(self) -> Notes:
        return Notes(array("q", self._words))

    def moved(self, kind: str) -> None:
        self._words[KINDS.index(kind)] += 1

    def begin(self, kind: str, slot: int, version: int) -> None:
        self._words[_FIRST[kind] + 2 * slot] = version

    def done(self, kind: str, slot: int, version: int) -> None:
        self._words[_FIRST[kind] + 2 * slot + 1] = version

    def settle(self, kind: str, slot: int, version: int) -> None:
        """A new life has found this version on the disk: nothing of the old life is under way any more."""
        assert self.durable(kind, slot) <= version <= self.begun(kind, slot)
        self.begin(kind, slot, version)
        self.done(kind, slot, version)


def ledger_path(folder: Path, node: str) -> Path:
    return folder / f"{node}.ledger"


def acknowledged_path(folder: Path, node: str, kind: str) -> Path:
    """Every value of a counter that this node has made durable, in text."""
    return folder / f"{node}.{kind}"


def text(node: str, kind: str, slot: int, version: int, size: int) -> bytes:
    """`size` bytes that no other thing or version has."""
    unit = f"{node} {kind} {slot} {version}\n".encode()
    return (unit * (size // len(unit) + 1))[:size]


def drawn(node: str, kind: str, slot: int, version: int, most: int) -> int:
    """A size that depends on nothing else."""
    return zlib.crc32(f"{node} {kind} {slot} {version}".encode()) % most


def record(node: str, at: int, kind: str, number: int) -> bytes:
    """A line of a log; `at`: the node's place among all."""
    rest = text(node, kind, 0, number, 20 + drawn(node, kind, 0, number, RECORD_MOST))
    return RECORD.pack(MAGIC, number, zlib.crc32(rest), at, len(rest)) + rest


def content(node: str, kind: str, slot: int, version: int) -> bytes:
    """Of a file that is written at once."""
    most = REGISTER_MOST if kind == "register" else FILE_MOST
    return text(node, kind, slot, version, 64 + drawn(node, kind, slot, version, most))


def block(node: str, kind: str, slot: int, version: int) -> bytes:
    return text(node, kind, slot, version, BLOCK) if version else bytes(BLOCK)


def size_of(node: str, version: int) -> int:
    """Of the file that grows with odd versions and shrinks with even ones."""
    if not version:
        return 0
    some = drawn(node, "size", 0, version, SIZE_MOST)
    return 30_000 + some if version % 2 else some % 20_000


def pattern(start: int, end: int) -> bytes:
    """What stands in the file of sizes, byte by byte, wherever its end is."""
    first = start // 8
    numbers = b"".join(b"%07d\n" % n for n in range(first, end // 8 + 1))
    return numbers[start - first * 8:end - first * 8]


def counter(value: int) -> bytes:
    body = b"%012d" % value
    return (body + b" %08x" % zlib.crc32(body)).ljust(COUNTER_BYTES, b".")


def counter_value(data: bytes) -> int:
    """Raises Wrong."""
    if not data[:12].isdigit() or data != counter(int(data[:12])):
        raise Wrong(f"{data!r} is no value of a counter")
    return int(data[:12])


def read_all(path: str) -> bytes | None:
    """A file as it is read to its end; None without such a file."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        pieces = []
        while piece := os.read(fd, READ_BYTES):
            pieces.append(piece)
        return b"".join(pieces)
    finally:
        os.close(fd)


def records(path: str, nodes: Sequence[str], kind: str) -> dict[str, int]:
    """How many records of each node there are: all whole, each node's from 1 on without a gap. Raises Wrong."""
    found = dict.fromkeys(nodes, 0)
    data = read_all(path) or b""
    at = 0
    while at < len(data):
        head = data[at:at + RECORD.size]
        magic, number, _, who, length = RECORD.unpack(head) if len(head) == RECORD.size else (b"", 0, 0, 0, 0)
        if magic != MAGIC or who >= len(nodes):
            raise Wrong(f"{path}: at {at} of {len(data)}: {data[at:at + 40]!r} where a record should begin")
        node = nodes[who]
        if data[at:at + RECORD.size + length] != record(node, who, kind, number):
            raise Wrong(f"{path}: at {at} of {len(data)}: record {number} of {node} is torn")
        if number != found[node] + 1:
            raise Wrong(f"{path}: at {at} of {len(data)}: record {number} of {node} after {found[node]}")
        found[node] = number
        at += RECORD.size + length
    return found
