"""Several lockspaces in one process: no rule of locking is broken, whatever arrives when and whoever dies."""

from __future__ import annotations

import pytest
from dlm_campaign import campaign

SHAPES = {
    "one node": {"nodes": 1, "crashes": 0, "steps": 600},
    "two nodes": {"nodes": 2, "crashes": 0, "steps": 1000},
    "two nodes, one resource, five changes": {"nodes": 2, "crashes": 5, "steps": 1000, "names": 1},
    "three nodes, six changes": {"nodes": 3, "crashes": 6, "steps": 1500, "names": 2},
    "four nodes, twelve changes": {"nodes": 4, "crashes": 12, "steps": 3000, "names": 3},
}
RUNS = 25


@pytest.mark.parametrize("name", SHAPES)
def test_campaign(name: str, seed: int) -> None:
    counts: dict[str, int] = {}
    for at in range(RUNS):
        for what, n in campaign(seed * 1000 + at, **SHAPES[name]).counts.items():
            counts[what] = counts.get(what, 0) + n
    # The runs are worth something: all of this has happened.
    for what in ("cast 0", "cast -65538", "cast -65537", "bast", "write", "value read", "recovered"):
        assert counts.get(what, 0) > RUNS / 5, (what, counts)


# Each has once found a bug; what, is said in the fix.
@pytest.mark.parametrize(("seed", "name"), [
    (40290, "four nodes, twelve changes"),  # a forced unlock over a conversion between PR and CW, whose master died
    (40338, "four nodes, twelve changes"),
    (40503, "four nodes, twelve changes"),  # a cancel that the grant outran, whose master died
    (40519, "three nodes, six changes"),    # a void value that became valid because its reader outlived the master
    (70557, "four nodes, twelve changes"),  # a conversion with NOQUEUE that recovery had queued waited for ever
    (71141, "four nodes, twelve changes"),  # a conversion that waited for recovery was refused as busy
    (40090, "three nodes, six changes"),    # a conversion cancelled in recovery, the new master still had its mode
    (81408, "three nodes, six changes"),    # a conversion between PR and CW without a known mode was in nobody's way
    (80256, "four nodes, twelve changes"),  # two PR/CW conversions that recovery queued waited for each other
    (1002464, "four nodes, twelve changes"),    # the same with one from PR to EX
    (9000038, "three nodes, six changes"),  # HEADQUE before a conversion: who was in its way was not told
    (1001878, "four nodes, twelve changes"),    # a node that was back became master, and was taken for its dead self
])
def test_found_before(seed: int, name: str) -> None:
    campaign(seed, **SHAPES[name])
