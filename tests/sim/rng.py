"""One seed, many streams: a draw more in one of them leaves the others as they were."""

from __future__ import annotations

import random


def stream(seed: int, name: str) -> random.Random:
    """The generator of that name; the same for the same seed on every machine."""
    return random.Random(f"{seed}/{name}")
