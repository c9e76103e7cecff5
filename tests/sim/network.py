"""The network between the nodes: per link delay, loss, duplicates and cuts, each way on its own.

Reordering comes from the delays: two packets of one link are independent. Loss of multicasts may be set apart from
that of unicasts, because switches treat them apart. All draws come from one stream, made per packet and target.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

US = 1_000
MS = 1_000_000


@dataclass(frozen=True, slots=True)
class NetworkOptions:
    """Delays in ns: at least min, plus an exponential one; probabilities per packet and target."""

    delay_min_ns: int = 50 * US
    delay_mean_ns: int = 100 * US
    loss: float = 0.0
    multicast_loss: float = 0.0
    duplicate: float = 0.0
    # Now and then a packet waits very long in some queue.
    straggler: float = 0.0
    straggler_ns: int = 300 * MS


class Network:
    """Links between node ids; `cut` are the directed pairs that lose everything."""

    def __init__(self, options: NetworkOptions, rng: random.Random) -> None:
        self.set_options(options)
        self.cut: set[tuple[int, int]] = set()
        self.lossy: dict[tuple[int, int], float] = {}
        self.reset_ns = 200 * MS
        self.lost = 0
        self.sent = 0
        self._rng = rng

    def set_options(self, options: NetworkOptions) -> None:
        self.options = options
        self._plain = not (options.loss or options.multicast_loss or options.duplicate or options.straggler)

    def delay(self, source: int, dest: int) -> int:
        options = self.options
        return options.delay_min_ns + int(self._rng.expovariate(1.0) * options.delay_mean_ns)

    def datagram(self, source: int, dest: int, multicast: bool) -> list[int]:
        """The delays after which copies arrive: none when it is lost."""
        self.sent += 1
        link = (source, dest)
        if link in self.cut:
            self.lost += 1
            return []
        delay_ns = self.delay(source, dest)
        if self._plain and not self.lossy:
            return [delay_ns]
        options, rng = self.options, self._rng
        loss = max(options.multicast_loss if multicast else options.loss, self.lossy.get(link, 0.0))
        chance = rng.random()
        if chance < loss:
            self.lost += 1
            return []
        copies = [delay_ns]
        if options.duplicate and rng.random() < options.duplicate:
            copies.append(self.delay(source, dest) * 3)
        if options.straggler and rng.random() < options.straggler:
            copies[0] += int(rng.random() * options.straggler_ns)
        return copies

    def connected(self, a: int, b: int) -> bool:
        """Both ways, as a connection needs it."""
        return (a, b) not in self.cut and (b, a) not in self.cut

    def partition(self, *groups: tuple[int, ...]) -> None:
        """Cut both ways between the groups, nothing else."""
        self.cut = {(a, b) for one in groups for other in groups if one is not other for a in one for b in other}

    def cut_link(self, source: int, dest: int) -> None:
        """One way."""
        self.cut.add((source, dest))

    def heal(self) -> None:
        self.cut = set()
        self.lossy = {}
