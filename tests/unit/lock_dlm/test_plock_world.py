"""fcntl locks among nodes that come, go and die, by seeds: no two in conflict, no wait for ever, all tables alike."""

from __future__ import annotations

import random

import pytest

from plock_world import World


@pytest.mark.parametrize("part", range(30))
def test_no_conflict_and_no_wait_for_ever(seed: int, part: int) -> None:
    granted = 0
    for n in range(10):
        rng = random.Random(f"{seed} {part} {n}")
        world = World(rng, nodes=rng.randrange(1, 4), files=rng.randrange(1, 5), processes=rng.randrange(1, 4))
        trouble = rng.choice((0.0, 0.002, 0.02))
        for _ in range(600):
            world.step(trouble)
        world.settle()
        world.same()
        granted += world.grants
    assert granted > 100
