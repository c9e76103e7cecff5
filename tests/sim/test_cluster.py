"""Simulated clusters with groups, quorum and fencing; and the planted bugs that must be found."""

from __future__ import annotations

import pytest

from sim.checkers import Violation
from sim.kernel import S
from sim.mutants import CPG_MUTANTS, QUORUM_MUTANTS
from sim.run_cluster import run_cluster


def test_same_seed_same_trace() -> None:
    first, second = (run_cluster(3, 30 * S) for _ in range(2))
    assert first == second
    assert first.fenced


# A seed that shows each; found by trying 0, 1, 2, ...
FOUND = {"HearsEverybody": 0, "TalksBeforeTheSync": 21, "ForgetsTheDead": 3, "ListsWhatItKnows": 0,
         "ForgivesTheLost": 2}


@pytest.mark.parametrize("mutant", CPG_MUTANTS + QUORUM_MUTANTS, ids=lambda m: m.__name__)
def test_planted_bug_is_found(mutant: type) -> None:
    """With the bug the seed fails, without it the same seed passes."""
    number = FOUND[mutant.__name__]
    with pytest.raises(Violation):
        run_cluster(number, 60 * S, **{"cpg" if mutant in CPG_MUTANTS else "quorum": mutant})
    run_cluster(number, 60 * S)
