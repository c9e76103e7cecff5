"""What happens to whom and for how long, from a seed. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# Kind -> how often it is drawn, how long it lasts at most (s).
DECK = {
    "partition": (4, 8.0),      # into groups of any shape
    "one-way": (1, 6.0),        # nothing gets from the first group to the second
    "loss": (2, 6.0),           # of packets, between all
    "delay": (1, 6.0),
    "pause": (3, 6.0),          # all processes of a node stop, and go on if nobody has switched it off meanwhile
    "power": (2, 0.0),          # a node or two
    "gfs2d": (2, 0.0),          # killed
    "cman": (1, 0.0),
    "disk cut": (2, 5.0),       # every request fails
    "disk hang": (1, 5.0),      # every request waits
}
KINDS = tuple(DECK)
APART_MAX_S = 3.0               # between the two faults of a round
CALM_MAX_S = 1.5
TWO = 0.4                       # of the rounds have a second fault, which begins while the first one lasts


@dataclass(frozen=True, slots=True)
class Fault:
    """at_s: since the beginning of the round. groups: who; a partition has several. amount: percent or ms."""

    kind: str
    at_s: float
    lasts_s: float
    groups: tuple[tuple[str, ...], ...]
    amount: float = 0.0

    @property
    def nodes(self) -> tuple[str, ...]:
        return tuple(n for g in self.groups for n in g)

    def __str__(self) -> str:
        who = " | ".join(" ".join(g) for g in self.groups)
        amount = f" {self.amount:.0f}" if self.amount else ""
        return f"{self.kind}{amount} {who} at {self.at_s:.1f} for {self.lasts_s:.1f} s"


def split(rng: random.Random, nodes: Sequence[str], count: int) -> tuple[tuple[str, ...], ...]:
    """Into so many groups, none of them empty."""
    order = list(nodes)
    rng.shuffle(order)
    cuts = sorted(rng.sample(range(1, len(order)), count - 1))
    return tuple(tuple(order[a:b]) for a, b in zip([0, *cuts], [*cuts, len(order)], strict=True))


def drawn(rng: random.Random, kind: str, nodes: Sequence[str], at_s: float) -> Fault:
    lasts = DECK[kind][1] * (0.1 + 0.9 * rng.random())
    one = ((rng.choice(list(nodes)),),)
    match kind:
        case "partition":
            return Fault(kind, at_s, lasts, split(rng, nodes, rng.choice((2, 2, 2, 3, len(nodes)))))
        case "one-way":
            return Fault(kind, at_s, lasts, split(rng, nodes, 2))
        case "loss":
            return Fault(kind, at_s, lasts, (), rng.uniform(5, 60))
        case "delay":
            return Fault(kind, at_s, lasts, (), rng.uniform(5, 200))
        case "power":
            return Fault(kind, at_s, 0.0, (tuple(rng.sample(list(nodes), rng.choice((1, 1, 2)))),))
    return Fault(kind, at_s, lasts, one)


def rounds(seed: int, nodes: Sequence[str], kinds: Sequence[str] = KINDS) -> Iterator[tuple[Fault, ...]]:
    """Without an end: the faults of each round, in the order of their beginnings."""
    rng = random.Random(f"faults {seed}")
    while True:
        deck = [kind for kind in kinds for _ in range(DECK[kind][0])]
        rng.shuffle(deck)
        while deck:
            at = rng.random() * CALM_MAX_S
            found = [drawn(rng, deck.pop(), nodes, at)]
            if deck and rng.random() < TWO:
                found.append(drawn(rng, deck.pop(), nodes, at + rng.random() * APART_MAX_S))
            yield tuple(found)
