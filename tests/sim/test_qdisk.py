"""Simulated clusters with a quorum disk whose paths hang and fail; and the planted bugs that must be found."""

from __future__ import annotations

import pytest

from sim.checkers import Violation
from sim.kernel import S
from sim.qdisk_mutants import MACHINE_MUTANTS, VOTES_MUTANTS
from sim.run_qdisk import run_qdisk

RUN_S = 120


def test_same_seed_same_trace() -> None:
    """And what is judged does happen: masters of the disk in several lives, rings that count its votes."""
    (first, run), (second, _) = (run_qdisk(2, 60 * S) for _ in range(2))
    assert first == second
    assert len(run.checker.masters) >= 2
    assert run.checker.rings


# A seed that shows each; found by trying 0, 1, 2, ...
FOUND = {"ElectsBeforeTheLeaseIsOver": 19, "GivesNoWay": 27, "PromisesTooMuch": 2, "KeepsTheVotesWithoutTheMaster": 0}


@pytest.mark.parametrize("mutant", MACHINE_MUTANTS + VOTES_MUTANTS, ids=lambda m: m.__name__)
def test_planted_bug_is_found(mutant: type) -> None:
    number = FOUND[mutant.__name__]
    with pytest.raises(Violation):
        run_qdisk(number, RUN_S * S, **{"machine" if mutant in MACHINE_MUTANTS else "votes": mutant})


@pytest.mark.parametrize("number", sorted({*FOUND.values(), 60, 61, 102}))
def test_without_the_bug_the_seed_passes(number: int) -> None:
    run_qdisk(number, RUN_S * S)
