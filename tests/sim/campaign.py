"""Many seeds, one after the other, until so many cluster-hours or so much processor time are used."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from sim.kernel import S
from sim.options import draw
from sim.run_cluster import ClusterRun
from sim.run_lock import LockRun
from sim.run_qdisk import QdiskRun
from sim.run_totem import TotemRun

RUNS: dict[str, Callable[..., TotemRun | ClusterRun]] = {"totem": TotemRun, "cluster": ClusterRun, "lock": LockRun,
                                                          "qdisk": QdiskRun}
# Cluster time of one seed before peace is made.
SEED_S = 120
CALM_SEED_S = 4 * 3600


@dataclass
class Tally:
    """What a campaign was worth: hours say how long, faults how hard."""

    seeds: int = 0
    hours: float = 0.0
    events: int = 0
    faults: int = 0
    cpu_s: float = 0.0

    def __str__(self) -> str:
        per_minute = 60 / max(self.cpu_s, 0.001)
        return (f"{self.seeds} seeds, {self.hours:.1f} cluster-hours, {self.faults} faults, {self.events} events in "
                f"{self.cpu_s:.1f} s of processor time: {self.hours * per_minute:.0f} hours and "
                f"{self.faults * per_minute:.0f} faults a minute")


def campaign(stack: str, first_seed: int, calm: bool = False, hours: float = float("inf"),
             cpu_s: float = float("inf")) -> Tally:
    """Run seeds from first_seed on. Raises sim.checkers.Violation, with the seed and its options."""
    tally, begun_s, seed = Tally(), time.process_time(), first_seed
    while tally.hours < hours and tally.cpu_s < cpu_s:
        outcome = RUNS[stack](seed, draw(seed, calm)).run((CALM_SEED_S if calm else SEED_S) * S)
        seed += 1
        tally.seeds += 1
        tally.hours += outcome.hours
        tally.events += outcome.events
        tally.faults += outcome.faults
        tally.cpu_s = time.process_time() - begun_s
    return tally
