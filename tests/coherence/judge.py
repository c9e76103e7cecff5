"""What torture.py noted on all nodes, judged: one order of everything explains it, or what is wrong in words."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from typing import Any

from coherence.history import Event, History

FIRST = {"size": b"0", "mtime": b"0", "xattr": b"0", "target": b"0"}
SHOWN = 3               # findings of a kind


def registers(results: list[dict[str, Any]]) -> list[str]:
    """Everything that holds one value: cells of files, sizes, times, attributes, a name."""
    histories: dict[str, History] = {}
    for result in results:
        for name, kind, began, ended, value in result["events"]:
            history = histories.setdefault(name, History(FIRST.get(name, b"0")))
            event = Event(began, ended, value.encode(), f"{result['who']} {kind[1:]}".rstrip())
            (history.writes if kind == "w" else history.reads).append(event)
    out = []
    for name in sorted(histories):
        out += [f"{name}: {p}" for p in histories[name].problems()[:SHOWN]]
    return out


def listings(results: list[dict[str, Any]]) -> list[str]:
    """A name that was there all the while is listed, one that was not is not, none twice."""
    changes: dict[str, list[tuple[int, int, bool]]] = {}
    for result in results:
        for name, began, ended, there in result["names"]:
            changes.setdefault(name, []).append((began, ended, there))
    out = []
    for result in results:
        for began, ended, names in result["listings"]:
            twice = [n for n, times in Counter(names).items() if times > 1]
            if twice:
                out.append(f"{result['who']}: listed twice: {twice}")
            listed = set(names)
            for name, moves in changes.items():
                if any(b <= ended and began <= e for b, e, _ in moves):
                    continue
                before = [m for m in moves if m[1] < began]
                there = before[-1][2] if before else False
                if there != (name in listed):
                    out.append(f"{result['who']}: {name} is {'not ' if there else ''}listed, "
                               f"{(began - before[-1][1]) // 1000 if before else 0} us after its last change")
    return out[:SHOWN]


def exclusive(results: list[dict[str, Any]]) -> list[str]:
    won = Counter(name for result in results for name in result["won"])
    tried = {name for result in results for name in result["tried"]}
    return [f"{name} was made first by {won[name]}" for name in sorted(tried) if won[name] != 1][:SHOWN]


def contents(root: str) -> dict[str, str]:
    """Everything below a directory, for comparison between nodes."""
    out = {}
    for path, dirs, files in os.walk(root):
        dirs.sort()
        for name in sorted(files):
            with open(f"{path}/{name}", "rb") as f:
                out[os.path.relpath(f"{path}/{name}", root)] = hashlib.sha256(f.read()).hexdigest()
    return out


def logs(results: list[dict[str, Any]], log: bytes) -> list[str]:
    """Every record appended is there once, whole, in its writer's order; nothing else is."""
    out = []
    lines = log.decode().splitlines(keepends=True)
    for result in results:
        mine = [line for line in lines if line.startswith(result["who"] + " ")]
        if mine != result["appended"]:
            out.append(f"{result['who']} appended {len(result['appended'])} records, {len(mine)} are there or others")
    if len(log) != sum(len(r) for result in results for r in result["appended"]):
        out.append("the log has bytes that nobody appended, or lacks some")
    return out


def problems(results: list[dict[str, Any]], log: bytes) -> list[str]:
    errors = [e for result in results for e in result["errors"]]
    if errors:
        return errors
    return registers(results) + listings(results) + exclusive(results) + logs(results, log)
