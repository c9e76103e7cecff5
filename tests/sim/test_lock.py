"""The whole stack with locks on top: the same seed twice, and the planted bugs that must be found."""

from __future__ import annotations

import dataclasses

import pytest

from sim.checkers import Violation
from sim.kernel import S
from sim.lock_mutants import MUTANTS
from sim.network import MS, NetworkOptions
from sim.options import Options, draw, slow_totem
from sim.run_lock import PLAIN, LockOutcome, LockRun, Machines

SECONDS = 40
SEEDS_MAX = 25


def small(seed: int) -> Options:
    """Three nodes with little to say but what concerns locks: seconds of these runs are cheap."""
    return dataclasses.replace(
        draw(seed), nodes=3, totem=slow_totem(3), network=NetworkOptions(), size_max=0, burst_max=1,
        submit_every_ns=500 * MS, faults=("crash", "partition", "freeze", "leave"), fault_every_ns=4 * S,
        fault_lasts_ns=3 * S)


def run(seed: int, machines: Machines = PLAIN) -> LockOutcome:
    return LockRun(seed, small(seed), machines).run(SECONDS * S)


def test_same_seed_same_trace() -> None:
    first, second = run(0), run(0)
    assert first == second
    assert min(first.grants, first.reads, first.values, first.recoveries) > 0


@pytest.mark.parametrize("name", MUTANTS)
def test_planted_bug_is_found(name: str) -> None:
    """One of the first seeds fails with the bug; without it the same one passes."""
    for number in range(SEEDS_MAX):
        try:
            run(number, MUTANTS[name])
        except Violation:
            run(number)
            return
    pytest.fail(f"none of {SEEDS_MAX} seeds shows it")
