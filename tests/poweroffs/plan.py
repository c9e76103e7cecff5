"""Who dies when and how, from a seed. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# Kind -> how often it is in a deck, from which rounds are drawn until it is empty; then it is shuffled anew.
DECK = {
    "off": 2,           # one node loses its power
    "two": 1,           # two at the same moment; the others keep quorum
    "three": 1,         # all but one, which keeps quorum with the quorum disk
    "blocked": 1,       # two, and quorum with them: all waits until somebody switches them on
    "again": 2,         # one, and another while it is being recovered
    "mounting": 1,      # one in the middle of its own mount
    "unmounting": 1,    # one in the middle of its own umount
    "daemon": 2,        # only gfs2d of a node: nobody may be fenced for it
    "manager": 1,       # only cman of a node: which is fenced
    "frozen": 1,        # all processes stop where they are, and are fenced so
    "cut": 1,           # the network of a node is gone; it goes on until it is fenced
    "all": 1,           # every node at once
}
KINDS = tuple(DECK)
MOMENT_MAX_S = 1.0
SILENT = 0.5
# When the second of "again" dies: at a line in a survivor's log, or some time after the first.
MARKS = ("", "node .* lost", "fence .* success", "is gone", "Looking at journal", "Replayed")
AGAIN_MAX_S, MOUNT_MAX_S, UMOUNT_MAX_S = 2.5, 0.8, 0.3


@dataclass(frozen=True, slots=True)
class Round:
    """victims: in the order of their deaths. moment_s: how long all work before. second_s: the second's death after
    the first (again), or the power-off after mount or umount began; mark: instead, when a line with it is logged.
    silent: the network is cut a moment before the power, so that no connection is closed in the eyes of the others.
    """

    kind: str
    victims: tuple[str, ...]
    moment_s: float
    second_s: float = 0.0
    mark: str = ""
    silent: bool = False

    @property
    def power_offs(self) -> int:
        """How many nodes lose their power in it, by whose hand ever."""
        return 0 if self.kind == "daemon" else len(self.victims)

    def __str__(self) -> str:
        more = f" at /{self.mark}/" if self.mark else f" +{self.second_s:.2f} s" if self.second_s else ""
        silent = ", silently" if self.silent else ""
        return f"{self.kind} {' '.join(self.victims)} after {self.moment_s:.2f} s{more}{silent}"


def keeps_quorum(votes: dict[str, int], dead: Sequence[str], disk: int = 0) -> bool:
    """`disk`: the votes of the quorum disk, which are never lost."""
    return disk + sum(v for n, v in votes.items() if n not in dead) >= (disk + sum(votes.values())) // 2 + 1


def pairs(votes: dict[str, int], disk: int, keep: bool) -> list[tuple[str, ...]]:
    """Whose common death leaves the others with quorum, or without."""
    return [(a, b) for a in votes for b in votes if a != b and keeps_quorum(votes, (a, b), disk) == keep]


def drawn(rng: random.Random, kind: str, votes: dict[str, int], disk: int = 0) -> Round | None:
    """None when this cluster has nobody for it. The first victim alone never takes quorum away."""
    moment, silent = rng.random() * MOMENT_MAX_S, rng.random() < SILENT
    singles = [n for n in votes if keeps_quorum(votes, (n,), disk)]
    match kind:
        case "two" | "blocked":
            found = pairs(votes, disk, kind == "two")
            return Round(kind, rng.choice(found), moment, silent=silent) if found else None
        case "three":
            found = [tuple(n for n in votes if n != left) for left in votes]
            found = [dead for dead in found if keeps_quorum(votes, dead, disk)]
            return Round(kind, rng.choice(found), moment, silent=silent) if found else None
        case "again":
            found = [p for p in pairs(votes, disk, True) if p[0] in singles]
            mark = rng.choice(MARKS)
            second = 0.0 if mark else rng.random() * AGAIN_MAX_S
            return Round(kind, rng.choice(found), moment, second, mark, silent) if found else None
        case "all":
            return Round(kind, tuple(votes), moment)
        case "mounting" | "unmounting":
            most = MOUNT_MAX_S if kind == "mounting" else UMOUNT_MAX_S
            return Round(kind, (rng.choice(singles),), moment, rng.random() * most, silent=silent)
    return Round(kind, (rng.choice(singles),), moment, silent=silent)


def rounds(seed: int, votes: dict[str, int], kinds: Sequence[str] = KINDS, *, disk: int = 0, once: bool = False
           ) -> Iterator[Round]:
    """Without an end; each deck has all kinds. once: each kind once, and the end."""
    rng = random.Random(f"power-offs {seed}")
    while True:
        deck = [kind for kind in kinds for _ in range(1 if once else DECK[kind])]
        rng.shuffle(deck)
        for kind in deck:
            found = drawn(rng, kind, votes, disk)
            if found is not None:
                yield found
        if once:
            return
