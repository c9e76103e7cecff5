"""Simulated clusters of totem: a share of seeds in every run, and the same seed twice."""

from __future__ import annotations

import pytest

from sim.kernel import S
from sim.run_totem import run_totem


@pytest.mark.parametrize("number", range(8))
def test_random_cluster(seed: int, number: int) -> None:
    run_totem(seed * 1000 + number, 60 * S)


def test_same_seed_same_trace() -> None:
    first, second = (run_totem(7, 30 * S) for _ in range(2))
    assert first == second
    assert run_totem(8, 30 * S).trace_hash != first.trace_hash
