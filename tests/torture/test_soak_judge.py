"""The soak's verdict: bursts are no leak, what never goes away is one."""

from __future__ import annotations

import random

from torture.soak import Sample, wrong_with


def run(seed: int, minutes: int, leak: float = 0.0, what: str = "threads") -> list[Sample]:
    """A sample every half minute of a daemon whose threads come in bursts; `leak` more of something per minute."""
    rng = random.Random(seed)
    out = []
    for half in range(2 * minutes):
        more = {name: leak * half / 2 if name == what else 0.0 for name in ("resident_mib", "fds", "threads")}
        burst = rng.choice((0, 0, 0, 3, 20))
        out.append(Sample(half * 30.0, 90 + rng.random() * 5 + more["resident_mib"], 25 + int(more["fds"]),
                          20 + burst + int(more["threads"]), half * 3.0))
    return out


def test_bursts_are_no_leak(seed: int) -> None:
    for minutes in (1, 5, 20, 120):
        assert wrong_with(run(seed, minutes), 60.0, 150.0) == []


def test_what_stays_is_one(seed: int) -> None:
    for what, leak in (("threads", 0.3), ("fds", 0.3), ("resident_mib", 0.3)):
        wrong = wrong_with(run(seed, 120, leak, what), 60.0, 150.0)
        assert len(wrong) == 1, (what, wrong)
        assert what.split("_")[0] in wrong[0]


def test_bounds_hold_in_short_runs_too() -> None:
    assert wrong_with([Sample(5.0, 200.0, 20, 20, 1.0)], 1.0, 150.0) == ["resident 200.0 MiB, the bound is 150"]
    assert wrong_with([Sample(5.0, 20.0, 20, 81, 1.0)], 1.0, 150.0) == ["81 threads, the limit is 80"]
    assert wrong_with([Sample(5.0, 20.0, 89, 20, 1.0)], 1.0, 150.0) == ["89 fds, the limit is 88"]
