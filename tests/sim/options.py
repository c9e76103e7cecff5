"""Swarm options: each run draws its own cluster, network, load and faults, so that runs differ in style."""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass

from cman.totem import TotemConfig
from sim.network import MS, US, NetworkOptions
from sim.rng import stream

FAULTS = ("crash", "crash_all", "partition", "isolate", "one_way", "lossy", "pause", "freeze", "leave", "clock")


@dataclass(frozen=True, slots=True)
class Options:
    """All that a run is, beside its seed."""

    nodes: int
    network: NetworkOptions
    totem: TotemConfig
    # Faults that may happen, mean time between two, how long one lasts.
    faults: tuple[str, ...]
    fault_every_ns: int
    fault_lasts_ns: int
    # Submissions: mean time between two of a node, and sizes.
    submit_every_ns: int
    size_max: int
    burst_max: int

    def __str__(self) -> str:
        return " ".join(f"{f.name}={getattr(self, f.name)}" for f in dataclasses.fields(self))


def slow_totem(factor: int) -> TotemConfig:
    """The default timers, stretched: the same protocol with fewer idle rotations per hour."""
    base = TotemConfig()
    names = [f.name for f in dataclasses.fields(base) if f.name.endswith("_ms") and f.name != "pause_ms"]
    return dataclasses.replace(base, **{name: getattr(base, name) * factor for name in names})


def draw_network(rng: random.Random) -> NetworkOptions:
    if rng.random() < 0.4:
        return NetworkOptions(delay_mean_ns=rng.choice([50, 200]) * US)
    return NetworkOptions(
        delay_min_ns=rng.choice([20, 50, 500]) * US, delay_mean_ns=rng.choice([50, 200, 2000]) * US,
        loss=rng.choice([0.0, 0.001, 0.02, 0.1]), multicast_loss=rng.choice([0.0, 0.001, 0.05, 0.2]),
        duplicate=rng.choice([0.0, 0.01, 0.1]), straggler=rng.choice([0.0, 0.0, 0.001, 0.01]),
        straggler_ns=rng.choice([100, 3000]) * MS)


def draw(seed: int, calm: bool = False) -> Options:
    """The options of a seed. Calm runs have long timers and minutes between faults: many hours for little time."""
    rng = stream(seed, "options")
    nodes = rng.choice([1, 2, 2, 3, 3, 3, 4, 4, 5, 7])
    totem = slow_totem(rng.choice([40, 100] if calm else [1, 1, 3, 10]))
    if rng.random() < 0.5:
        totem = dataclasses.replace(totem, window_size=rng.choice([4, 16, 64]), max_messages=rng.choice([1, 4]),
                                    unacknowledged_max=rng.choice([64, 512]), mtu_bytes=rng.choice([512, 1400]))
    faults = tuple(f for f in FAULTS if rng.random() < 0.5)
    stretch = totem.token_ms / TotemConfig().token_ms
    size_max = rng.choice([0, 100, 3000, 20000])
    # Load that shows nothing new only costs events: large payloads come seldom.
    every_ms = rng.choice([20_000] if calm else [50, 500, 5000]) * (1 + size_max // 2000) * stretch
    return Options(
        nodes=nodes, network=draw_network(rng), totem=totem, faults=faults,
        fault_every_ns=int(rng.choice([30, 120] if calm else [1, 5, 20]) * stretch * 1000 * MS),
        fault_lasts_ns=int(rng.choice([0.3, 2, 8]) * stretch * 1000 * MS),
        submit_every_ns=int(every_ms * MS), size_max=size_max, burst_max=rng.choice([1, 1, 10]))
