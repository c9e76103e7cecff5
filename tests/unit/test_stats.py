"""Percentiles, differences and tables; the buckets are judged by the compiled code that fills them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfs2py import stats
from gfs2py.daemon_observe import Observer, SlowRequests
from gfs2py.fuse._ops import FileSystemHandle
from gfs2py.fuse._stat import histogram

TIMES = st.lists(st.integers(0, 2**63) | st.integers(0, 10**6), min_size=1, max_size=200)
SECOND = 10**9


@given(TIMES)
def test_nothing_is_lost(times: list[int]) -> None:
    h = histogram(times)
    assert h["count"] == sum(count for _, count in h["buckets"]) == len(times)
    assert h["ns"] == sum(times) % 2**64
    assert h["max_ns"] == max(times)
    assert [highest for highest, _ in h["buckets"]] == sorted({highest for highest, _ in h["buckets"]})


@given(TIMES, st.sampled_from([1, 50, 90, 99, 100]))
def test_a_percentile_is_at_most_a_quarter_too_high(times: list[int], percent: int) -> None:
    times = [t % (2**39) for t in times]        # beyond 9 minutes there is one bucket
    exact = sorted(times)[max(0, -(-len(times) * percent // 100) - 1)]
    told = stats.percentile_ns(histogram(times), percent)
    assert exact <= told <= max(exact * 1.25, exact + 1)


@pytest.mark.parametrize("edge", [1 << n for n in range(2, 39)])
def test_bucket_edges(edge: int) -> None:
    """The last of a bucket and the first of the next do not share one."""
    (last, _), (first, _) = histogram([edge - 1, edge])["buckets"]
    assert edge - 1 <= last < edge <= first


def test_nothing_counted() -> None:
    assert stats.summary(histogram([])) == dict.fromkeys(
        ("count", "total_ns", "mean_ns", "p50_ns", "p90_ns", "p99_ns", "max_ns"), 0)


@given(TIMES, TIMES)
def test_changes_of_a_histogram(before: list[int], after: list[int]) -> None:
    before, after = [t >> 10 for t in before], [t >> 10 for t in after]
    old, new = histogram(before), histogram(before + after)
    added = stats.changes({"took": new}, {"took": old})["took"]
    alone = histogram(after)
    assert added["count"] == alone["count"]
    assert added["ns"] == alone["ns"]
    assert added["buckets"] == alone["buckets"]
    assert added["max_ns"] <= new["max_ns"]


def test_changes_of_counters_and_levels() -> None:
    old = {"engine": {"log_commits": 5, "inodes": 10, "name": "x"}, "requests": {}}
    new = {"engine": {"log_commits": 7, "inodes": 12, "name": "x"}, "requests": {"READ": {"errors": 2}}}
    assert stats.changes(new, old) == {"engine": {"log_commits": 2, "inodes": 12, "name": "x"},
                                       "requests": {"READ": {"errors": 2}}}


@pytest.mark.parametrize(("ns", "text"), [
    (0, "0ns"), (999, "999ns"), (1000, "1us"), (12345, "12.3us"), (999_499, "999us"), (999_600, "1ms"),
    (4_560_000, "4.56ms"), (99_960_000, "100ms"), (1.2e9, "1.2s"), (3600e9, "3600s")])
def test_times(ns: float, text: str) -> None:
    assert stats.time_text(ns) == text


@pytest.mark.parametrize(("amount", "text"), [
    (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536 << 20, "1.5 GiB"), (5000 << 40, "5000.0 TiB")])
def test_amounts(amount: int, text: str) -> None:
    assert stats.bytes_text(amount) == text


def sample() -> dict[str, Any]:
    return {"uptime_s": 12.5, "requests": {"READ": histogram([10_000] * 99 + [SECOND]) | {"errors": 1, "bytes": 4096}},
            "latencies": {"commit": histogram([]), "inode_lock_wait": histogram([5000])},
            "engine": {"cache_hits": 3, "device_read_bytes": 1 << 20}, "session": {"workers": 2},
            "process": {"rss_bytes": 100, "user_s": 0.25}}


def test_the_report() -> None:
    lines = stats.report(sample())
    assert lines[0] == "up 12 s"
    read = next(line.split() for line in lines if line.startswith("READ"))
    assert read == ["READ", "100", "10ms", "10.2us", "10.2us", "10.2us", "1s", "1", "4.0", "KiB"]
    assert next(line.split() for line in lines if line.startswith("commit")) == ["commit", "0", *"-----"]
    assert "   device read bytes 1048576 (1.0 MiB)"[2:] in "\n".join(lines)
    assert any(line.split() == ["user", "s", "0.25"] for line in lines)


def test_json_has_percentiles() -> None:
    told = stats.with_percentiles(sample())
    read = told["requests"]["READ"]
    assert (read["count"], read["errors"], read["p50_ns"], read["max_ns"]) == (100, 1, 10239, SECOND)
    assert read["buckets"][-1][1] == 1
    assert told["engine"] == sample()["engine"]


def slow(unique: int, age_s: float, opcode: str = "WRITE", **more: Any) -> dict[str, Any]:
    return {"unique": unique, "opcode": opcode, "node": 77, "pid": 1, "age_ns": int(age_s * SECOND), "state": "running",
            "waits_for": None, **more}


def test_a_slow_request_is_told_once_and_again_when_twice_as_old() -> None:
    watch = SlowRequests(30 * SECOND)
    assert watch.look([slow(1, 29.9)]) == []
    assert len(watch.look([slow(1, 31)])) == 1
    assert [len(watch.look([slow(1, age)])) for age in (36, 61, 63, 100, 127)] == [0, 0, 1, 0, 1]
    assert len(watch.look([slow(1, 130), slow(2, 40)])) == 1
    assert watch.look([]) == []
    assert len(watch.look([slow(1, 31)])) == 1, "a number that is used again is another request"


def test_what_a_slow_request_says() -> None:
    waits = {"kind": "inode lock", "what": 77, "ns": 35 * SECOND}
    (line,) = SlowRequests().look([slow(5, 36, waits_for=waits)])
    assert line == ("slow request opcode=WRITE inode=77 pid=1 age=36s running waits for inode lock 77 for 35.0 s")


@pytest.mark.parametrize(("waits", "text"), [
    (None, "nothing known"), ({"kind": "device flush", "what": 0, "ns": 12 * SECOND}, "device flush for 12.0 s")])
def test_waits_in_words(waits: dict[str, Any] | None, text: str) -> None:
    assert stats.waiting_text(waits) == text


def test_whoever_waits_for_anothers_file_lock_is_not_slow() -> None:
    assert SlowRequests().look([slow(5, 1000, "SETLKW")]) == []


class Hanging:
    """A session with one request that hangs."""

    def __init__(self) -> None:
        self.age_s = 1.0

    def oldest_request_ns(self) -> int:
        return int(self.age_s * SECOND)

    def in_flight(self, min_age_ns: int) -> list[dict[str, Any]]:
        return [one for one in [slow(9, self.age_s, "FSYNC")] if one["age_ns"] >= min_age_ns]


def test_the_log_gets_a_line_for_a_request_that_hangs(capfd: pytest.CaptureFixture[str]) -> None:
    session = Hanging()
    observer = Observer(session, FileSystemHandle(), {"device": 0})  # type: ignore[arg-type]
    observer.look()
    assert capfd.readouterr().err == ""
    session.age_s = 31
    observer.look()
    observer.look()
    (line,) = capfd.readouterr().err.splitlines()
    assert line.endswith(": WARNING slow request opcode=FSYNC inode=77 pid=1 age=31s running waits for nothing known")
    observer.stop()
