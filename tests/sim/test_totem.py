"""Simulated clusters of totem alone: regressions, the same seed twice, and the planted bugs that must be found."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.checkers import Violation
from sim.kernel import S
from sim.mutants import MUTANTS
from sim.run_cluster import run_cluster
from sim.run_lock import run_lock
from sim.run_totem import run_totem

RUN = {"totem": run_totem, "cluster": run_cluster, "lock": run_lock}
SEEDS = [line.split("#")[0].split() for line in (Path(__file__).parent / "seeds.txt").read_text().splitlines()
         if line.split("#")[0].strip()]


@pytest.mark.parametrize(("stack", "number", "seconds"), SEEDS)
def test_regression(stack: str, number: str, seconds: str) -> None:
    """Seeds that once broke a rule."""
    RUN[stack](int(number), int(seconds) * S)


def test_same_seed_same_trace() -> None:
    first, second = (run_totem(7, 30 * S) for _ in range(2))
    assert first == second
    assert run_totem(8, 30 * S).trace_hash != first.trace_hash


# A seed that shows each soon.
FOUND = {"DeliversOutOfOrder": 0, "SkipsRecovery": 3, "SkipsTheTail": 74, "TakesStaleTokens": 7, "ForgetsAMember": 0,
         "ReleasesEarly": 7, "KeepsHalfPayloads": 18, "ForgetsItsRingNumber": 2, "TakesOldJoins": 0, "NeverMerges": 2}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.__name__)
def test_planted_bug_is_found(mutant: type) -> None:
    """With the bug the seed fails, without it the same seed passes."""
    number = FOUND[mutant.__name__]
    with pytest.raises(Violation):
        run_totem(number, 60 * S, mutant)
    run_totem(number, 60 * S)
