"""The share of every test run: many cluster-hours in calm, and as many faults as fit into some seconds of storm.

GFS2PY_SIM_HOURS and GFS2PY_SIM_STORM_S make it more; by hand see `python -m sim --help`.
"""

from __future__ import annotations

import os

import pytest

from sim.campaign import RUNS, campaign

CALM_HOURS = float(os.environ.get("GFS2PY_SIM_HOURS", "1000"))
STORM_S = float(os.environ.get("GFS2PY_SIM_STORM_S", "5"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_calm(seed: int) -> None:
    print(campaign("lock", seed * 1000, calm=True, hours=CALM_HOURS))


@pytest.mark.parametrize("stack", sorted(RUNS))
def test_storm(seed: int, stack: str) -> None:
    tally = campaign(stack, seed * 1000, cpu_s=STORM_S)
    print(tally)
    assert tally.faults
