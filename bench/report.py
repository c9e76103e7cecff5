"""Results as JSON lines, one per row and file system, and as one markdown table with ratios."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

OURS = "gfs2py"
LESS_IS_BETTER = ("s", "ms", "us", "us/op", "us/MiB", "1/op", "1/MiB", "%")


@dataclass
class Samples:
    """The repeats of one row on one file system."""

    unit: str
    values: list[float] = field(default_factory=list)


Results = dict[str, dict[str, Samples]]     # row -> file system -> samples


def machine() -> dict[str, str | int]:
    return {"kernel": platform.release(), "cpus": os.cpu_count() or 0, "python": platform.python_version()}


def lines(results: Results) -> Iterator[str]:
    for name, by_peer in results.items():
        for peer, samples in by_peer.items():
            yield json.dumps({
                "name": name, "fs": peer, "value": round(statistics.median(samples.values), 3),
                "unit": samples.unit, "n": len(samples.values), "min": round(min(samples.values), 3),
                "max": round(max(samples.values), 3), **machine()})


def short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(results: Results, peers: Iterable[str]) -> str:
    """Medians; in brackets how ours compares (above 1: ours is ahead)."""
    columns = list(peers)
    out = ["| row | unit | " + " | ".join(columns) + " |", "| --- | --- |" + " ---: |" * len(columns)]
    for name, by_peer in results.items():
        cells = []
        ours = statistics.median(by_peer[OURS].values) if OURS in by_peer else None
        unit = next(iter(by_peer.values())).unit
        for peer in columns:
            if peer not in by_peer:
                cells.append("-")
                continue
            value = statistics.median(by_peer[peer].values)
            ahead = value / ours if ours and unit in LESS_IS_BETTER else (ours or 0) / value if value else 0
            cells.append(short(value) + (f" ({ahead:.2f})" if ahead and peer != OURS else ""))
        out.append(f"| {name} | {unit} | " + " | ".join(cells) + " |")
    return "\n".join(out)


def save(results: Results, peers: Iterable[str], into: Path, stamp: str) -> tuple[Path, Path]:
    into.mkdir(parents=True, exist_ok=True)
    json_path, md_path = into / f"{stamp}.jsonl", into / f"{stamp}.md"
    json_path.write_text("".join(line + "\n" for line in lines(results)))
    md_path.write_text(table(results, peers) + "\n")
    return json_path, md_path
