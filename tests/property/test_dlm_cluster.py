"""Several lockspaces in one process: no rule of locking is broken, whatever arrives when and whoever dies."""

from __future__ import annotations

import pytest
from dlm_campaign import campaign

SHAPES = {
    "one node": {"nodes": 1, "crashes": 0, "steps": 600},
    "two nodes": {"nodes": 2, "crashes": 0, "steps": 1500},
    "three nodes, three changes": {"nodes": 3, "crashes": 3, "steps": 3000},
    "four nodes, ten changes": {"nodes": 4, "crashes": 10, "steps": 4000, "names": 2},
    "four nodes, few packets": {"nodes": 4, "crashes": 4, "steps": 1500, "names": 8},
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
@pytest.mark.parametrize(("seed", "shape"), [
    (35, {"nodes": 3, "crashes": 3}),                       # two completions of one lock, and the mode of the second
    (1164, {"nodes": 3, "crashes": 3, "steps": 3000}),      # cancel of a conversion that was demoted while it waited
    (41, {"nodes": 2, "crashes": 0}),                       # HEADQUE put one conversion before the one it waited for
    (26, {"nodes": 3, "crashes": 0}),                       # NOORDER overtook a request and was not told to yield
])
def test_found_before(seed: int, shape: dict[str, int]) -> None:
    campaign(seed, **shape)
