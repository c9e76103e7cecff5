"""Compares the disk with the ledgers: on any node, at any time, while others write or after they have died.

    python -S -m poweroffs.judge MOUNT LEDGERS NODE[,NODE...] FLOORS

Prints what was found as JSON: thing -> version. FLOORS is a JSON file of the same form: what another node has seen
before must not be gone (to show it, its owner had to put it on the disk), whether or not it was acknowledged.
Ends with status 1 and a line for each thing that is wrong.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from poweroffs.things import (
    ATTRIBUTE,
    BLOCK,
    COUNTERS,
    KINDS,
    SLOTS,
    Ledger,
    Notes,
    Wrong,
    block,
    content,
    counter_value,
    ledger_path,
    pattern,
    read_all,
    records,
    size_of,
)

LOOKS_MAX = 20
Raw = Any                       # what a look finds; Wrong instead when it makes no sense


class Place:
    """The mount and who writes there; where each kind has its things."""

    def __init__(self, mount: str, nodes: Sequence[str]) -> None:
        self.mount, self.nodes = mount, tuple(nodes)
        self._records: dict[str, dict[str, int]] = {}

    def path(self, kind: str, node: str = "", slot: int = 0, side: int = 0) -> str:
        match kind:
            case "log" | "attribute" | "size" | "mapped":
                return f"{self.mount}/own/{node}/{kind}"
            case "shared" | "blocks" | "fcntl" | "flock":
                return f"{self.mount}/{kind}"
            case "register":
                return f"{self.mount}/registers/{node}"
            case "files":
                return f"{self.mount}/files/{node}-{slot}"
            case "moves":
                return f"{self.mount}/side{side}/{node}-{slot}"
        raise AssertionError(kind)

    def records(self, kind: str, node: str) -> dict[str, int]:
        """Of a file of records, looked at once. Raises Wrong, OSError."""
        path = self.path(kind, node)
        if path not in self._records:
            self._records[path] = records(path, self.nodes, kind)
        return self._records[path]

    def block_at(self, node: str, slot: int) -> int:
        """In the file in which all nodes have blocks, side by side."""
        return (slot * len(self.nodes) + self.nodes.index(node)) * BLOCK


# ---- looking: one read of each thing, no opinion yet

def _pread(path: str, size: int, at: int) -> bytes:
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.pread(fd, size, at)
    finally:
        os.close(fd)


def _look_size(path: str) -> tuple[int, int, int]:
    """Size, and from where to where the content is zero instead of what it should be (-1, -1: nowhere).

    On the node that cuts it off at this moment a read may see the old size and zeros behind the new one: for FUSE the
    kernel learns of a new size after the fact. What is zero on the disk is so at the next look, too.
    """
    for _ in range(LOOKS_MAX):
        found = _size_and_zeros(path)
        if found[1] < 0:
            break
    return found


def _size_and_zeros(path: str) -> tuple[int, int, int]:
    """Raises Wrong when something else is there than what was written or zeros."""
    data = read_all(path) or b""
    wanted = pattern(0, len(data))
    if data == wanted:
        return len(data), -1, -1
    bad = [at for at in range(len(data)) if data[at] != wanted[at]]
    if any(data[at] for at in bad):
        raise Wrong(f"{len(data)} bytes, at {bad[0]} what was never written there")
    return len(data), bad[0], bad[-1] + 1


def _look_attribute(path: str) -> int:
    try:
        return int(os.getxattr(path, ATTRIBUTE))
    except OSError as e:
        if e.errno != errno.ENODATA:
            raise
        return 0


def _look_sides(place: Place, node: str, slot: int) -> tuple[bool, bool]:
    """In which of two directories the file is. It may be moved between the two looks: then once more."""
    for _ in range(LOOKS_MAX):
        here, there = (os.path.exists(place.path("moves", node, slot, side)) for side in (0, 1))
        if here != there:
            break
    return here, there


def look(place: Place, kind: str, node: str, slot: int = 0) -> Raw:
    """Raises Wrong, OSError."""
    path = place.path(kind, node, slot)
    match kind:
        case "log" | "shared":
            return place.records(kind, node)[node]
        case "register" | "files":
            return read_all(path)
        case "blocks":
            return _pread(path, BLOCK, place.block_at(node, slot))
        case "mapped":
            return _pread(path, BLOCK, slot * BLOCK)
        case "moves":
            return _look_sides(place, node, slot)
        case "fcntl" | "flock":
            return counter_value(read_all(path) or b"")
        case "attribute":
            return _look_attribute(path)
        case "size":
            return _look_size(path)
    raise AssertionError(kind)


# ---- judging: which version is it, of those that it may be?

def version(kind: str, node: str, slot: int, raw: Raw, low: int, high: int) -> int:
    """The version that was found, from `low` (durable before the look) to `high` (begun after it). Raises Wrong.

    Where several fit, the least.
    """
    assert low <= high, (kind, node, slot, low, high)
    match kind:
        case "log" | "shared" | "fcntl" | "flock" | "attribute":
            found = raw if low <= raw <= high else -1
        case "register":
            found = _first(low, high, lambda v: raw == (content(node, kind, slot, v) if v else None))
        case "files":
            found = _first(low, high, lambda v: _file_fits(node, slot, raw, v, v > low))
        case "blocks":
            found = _first(low, high, lambda v: raw == block(node, kind, slot, v))
        case "mapped":
            # A page that is being filled may be written back at any time, half done.
            found = _first(low, high, lambda v: raw == block(node, kind, slot, v) or v > low)
        case "moves":
            found = _first(low, high, lambda v: raw == (v % 2 == 0, v % 2 == 1))
        case "size":
            found = _size_version(node, raw, low, high)
        case _:
            raise AssertionError(kind)
    if found < 0:
        raise Wrong(f"durable {low}, begun {high}, on disk {shown(raw)}")
    return found


def _first(low: int, high: int, fits: Callable[[int], bool]) -> int:
    return next((v for v in range(low, high + 1) if fits(v)), -1)


def _file_fits(node: str, slot: int, raw: bytes | None, v: int, under_way: bool) -> bool:
    """Odd versions are there; one that is being made may be there in part."""
    if v % 2 == 0 or raw is None:
        return raw is None and v % 2 == 0
    wanted = content(node, "files", slot, v)
    return raw == wanted or (under_way and wanted.startswith(raw))


def _size_version(node: str, raw: tuple[int, int, int], low: int, high: int) -> int:
    size, zeros_at, zeros_end = raw
    sizes = [size_of(node, v) for v in range(low, high + 1)]
    # A truncation that is under way may have zeroed the rest of its last block already: data are written in place.
    if zeros_at >= 0 and (zeros_at not in sizes[1:] or zeros_end > (zeros_at // BLOCK + 1) * BLOCK):
        raise Wrong(f"{size} bytes, zero from {zeros_at} to {zeros_end}; durable {low}, begun {high}")
    if size in sizes:
        return low + sizes.index(size)
    # What is under way may have come half way.
    return low if low < high and min(sizes) < size < max(sizes) else -1


def shown(raw: Raw) -> str:
    if isinstance(raw, bytes):
        return f"{len(raw)} bytes {raw[:60]!r}"
    return repr(raw)


# ---- all of it

def judge(place: Place, ledgers: Path, floors: dict[str, int]) -> tuple[dict[str, int], list[str]]:
    """What was found, and what is wrong."""
    live = {node: Ledger(ledger_path(ledgers, node)) for node in place.nodes}
    before = {node: ledger.copy() for node, ledger in live.items()}
    raws: dict[tuple[str, str, int], Raw] = {}
    problems: list[str] = []
    for kind in KINDS:
        for node in place.nodes:
            for slot in range(SLOTS[kind]):
                try:
                    raws[kind, node, slot] = look(place, kind, node, slot)
                except (Wrong, OSError) as e:
                    problems.append(f"{kind} {node} {slot}: {e}")
    after = {node: ledger.copy() for node, ledger in live.items()}
    found: dict[str, int] = {}
    for (kind, node, slot), raw in raws.items():
        name = f"{kind} {node} {slot}"
        low, high = bounds(kind, node, slot, before, after)
        try:
            found[name] = version(kind, node, slot, raw, max(low, floors.get(name, 0)), high)
            if kind == "files" and raw is not None and raw != content(node, kind, slot, found[name]):
                found[name] -= 1        # there in part: whoever made it may still take it away
        except Wrong as e:
            problems.append(f"{name}: {e}" + (f" (seen before: {floors[name]})" if name in floors else ""))
    return found, problems


def bounds(kind: str, node: str, slot: int, before: dict[str, Notes], after: dict[str, Notes]) -> tuple[int, int]:
    """The least version that must be there, and the greatest that may.

    A new life that takes away what it finds in part takes back what was begun: of a look in between, the notes of
    before tell.
    """
    if kind in COUNTERS:
        return (max(n.durable(kind) for n in before.values()), max(n.begun(kind) for n in after.values()))
    return before[node].durable(kind, slot), max(n[node].begun(kind, slot) for n in (before, after))


def main(argv: Sequence[str]) -> int:
    mount, ledgers, nodes, floors = argv
    found, problems = judge(Place(mount, nodes.split(",")), Path(ledgers), json.loads(Path(floors).read_text()))
    for problem in problems:
        print(problem, file=sys.stderr)
    print(json.dumps(found))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
