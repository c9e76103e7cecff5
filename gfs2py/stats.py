"""Statistics of a mount for people: percentiles of histograms, amounts and times in readable units, tables.

A histogram is what the daemon sends: {"count", "ns", "max_ns", "buckets": [[highest ns of the bucket, count], ...]}.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

PERCENTILES = (50, 90, 99)


def percentile_ns(histogram: Mapping[str, Any], percent: float) -> int:
    """`percent` of the events took no longer than this; at most a quarter too high. 0 when nothing was counted."""
    wanted = histogram["count"] * percent / 100
    seen = 0
    for highest, count in histogram["buckets"]:
        seen += count
        if seen >= wanted:
            return int(min(highest, histogram["max_ns"]))
    return int(histogram["max_ns"])


def summary(histogram: Mapping[str, Any]) -> dict[str, int]:
    """count, total_ns, mean_ns, p50_ns, p90_ns, p99_ns, max_ns."""
    count = histogram["count"]
    return {"count": count, "total_ns": histogram["ns"], "mean_ns": histogram["ns"] // count if count else 0,
            **{f"p{p}_ns": percentile_ns(histogram, p) for p in PERCENTILES}, "max_ns": histogram["max_ns"]}


# Not counters but levels: how much there is now.
LEVELS = frozenset("""
    cache_buffers cache_limit_buffers cache_allocated inodes inodes_limit nodes dirty_data_blocks pinned_buffers
    ail_buffers log_blocks log_free reservations reserved_blocks withdrawn workers runners readers readers_wanted parked
    idle_poll locks lock_waiters rss_bytes rss_max_bytes""".split())


def changes(new: Mapping[str, Any], old: Mapping[str, Any]) -> dict[str, Any]:
    """What was counted between two statistics; levels as they are now.

    A maximum cannot be taken apart: that of a histogram becomes the highest bucket that grew.
    """
    out: dict[str, Any] = {}
    for name, value in new.items():
        before = old.get(name)
        if isinstance(value, Mapping):
            inner = before if isinstance(before, Mapping) else {}
            out[name] = _histogram_changes(value, inner) if "buckets" in value else changes(value, inner)
        elif isinstance(value, int | float) and isinstance(before, int | float) and name not in LEVELS:
            out[name] = value - before
        else:
            out[name] = value
    return out


def _histogram_changes(new: Mapping[str, Any], old: Mapping[str, Any]) -> dict[str, Any]:
    before = dict(old.get("buckets", []))
    buckets = [[highest, count - before.get(highest, 0)] for highest, count in new["buckets"]]
    buckets = [pair for pair in buckets if pair[1] > 0]
    rest = {name: value - old.get(name, 0) for name, value in new.items() if name not in ("buckets", "max_ns")}
    highest = buckets[-1][0] if buckets else 0
    return {**rest, "max_ns": min(highest, new["max_ns"]), "buckets": buckets}


def time_text(ns: float) -> str:
    """A duration in at most 6 characters and a unit: 870ns, 12.3us, 4.56ms, 1.2s."""
    for unit, size in (("ns", 1), ("us", 1e3), ("ms", 1e6), ("s", 1e9)):
        value = ns / size
        if value < 999.5 or unit == "s":
            return f"{value:.0f}{unit}" if unit == "ns" or value >= 99.95 else f"{value:.3g}{unit}"
    raise AssertionError("unreachable")


def waiting_text(waits_for: Mapping[str, Any] | None) -> str:
    """What a request waits for, and how long it has."""
    if waits_for is None:
        return "nothing known"
    what = f" {waits_for['what']}" if waits_for["what"] else ""
    return f"{waits_for['kind']}{what} for {waits_for['ns'] / 1e9:.1f} s"


def bytes_text(amount: float) -> str:
    """An amount of bytes: 512 B, 4.0 KiB, 1.5 GiB."""
    value = float(amount)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1024 or unit == "TiB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("unreachable")


def table(rows: Iterable[Sequence[str]], header: Sequence[str]) -> list[str]:
    """Lines of columns: the first to the left, the others to the right."""
    everything = [list(header), *(list(row) for row in rows)]
    widths = [max(len(row[i]) for row in everything) for i in range(len(header))]
    return ["  ".join(cell.ljust(width) if i == 0 else cell.rjust(width)
                      for i, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
            for row in everything]


_LATENCY_HEADER = ("count", "mean", "p50", "p90", "p99", "max")


def _latency_cells(histogram: Mapping[str, Any]) -> list[str]:
    s = summary(histogram)
    return [str(s["count"]), *(time_text(s[name]) if s["count"] else "-"
                               for name in ("mean_ns", "p50_ns", "p90_ns", "p99_ns", "max_ns"))]


def _pairs(values: Mapping[str, Any]) -> list[str]:
    names = {name: name.replace("_", " ") for name in values}
    width = max((len(text) for text in names.values()), default=0)
    return [f"  {names[name].rjust(width)} {_value_text(name, value)}" for name, value in values.items()]


def _value_text(name: str, value: Any) -> str:
    if name.endswith("bytes"):
        return f"{value} ({bytes_text(value)})" if abs(value) >= 1024 else str(value)
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    return str(value)


def report(statistics: Mapping[str, Any]) -> list[str]:
    """All of a mount's statistics as lines for a person."""
    requests = statistics["requests"]
    lines = [f"up {statistics['uptime_s']:.0f} s", "", "requests"]
    rows = [[name, *_latency_cells(one), str(one["errors"]), bytes_text(one["bytes"]) if one["bytes"] else "-"]
            for name, one in sorted(requests.items(), key=lambda item: -item[1]["count"]) if one["count"]]
    lines += table(rows, ("", *_LATENCY_HEADER, "errors", "bytes")) if rows else ["  none"]
    lines += ["", "waits and device"]
    rows = [[name.replace("_", " "), *_latency_cells(one)] for name, one in statistics["latencies"].items()]
    lines += table(rows, ("", *_LATENCY_HEADER)) if rows else ["  none"]
    for title in ("engine", "session", "process"):
        lines += ["", title, *_pairs(statistics[title])]
    return lines


def with_percentiles(statistics: Mapping[str, Any]) -> dict[str, Any]:
    """The same with each histogram's percentiles beside its buckets, for JSON."""
    out: dict[str, Any] = {}
    for name, value in statistics.items():
        if isinstance(value, Mapping) and "buckets" in value:
            out[name] = {**value, **summary(value)}
            out[name].pop("ns", None)
        elif isinstance(value, Mapping):
            out[name] = with_percentiles(value)
        else:
            out[name] = value
    return out
