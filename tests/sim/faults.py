"""Faults by chance: what the options allow, begun and ended at times drawn from the seed's own stream."""

from __future__ import annotations

import random
from collections.abc import Callable

from sim.kernel import MS, Kernel
from sim.options import Options


class Faults:
    """Begins a fault now and then; each takes care of its own end. stop() ends them all."""

    def __init__(self, kernel: Kernel, options: Options, rng: random.Random) -> None:
        self.kernel = kernel
        self.options = options
        self.rng = rng
        self.begun: dict[str, int] = {}
        self.on = True
        self._do: dict[str, Callable[[], None]] = {
            "crash": self.crash, "crash_all": self.crash_all, "partition": self.partition, "isolate": self.isolate,
            "one_way": self.one_way, "lossy": self.lossy, "pause": self.pause, "freeze": self.freeze,
            "leave": self.leave, "clock": self.clock}

    def begin(self) -> None:
        if self.options.faults:
            self.kernel.after(self.wait(self.options.fault_every_ns), self.strike)

    def wait(self, mean_ns: int) -> int:
        return int(self.rng.expovariate(1.0) * mean_ns) + MS

    def lasts(self) -> int:
        return self.wait(self.options.fault_lasts_ns)

    def strike(self) -> None:
        if not self.on:
            return
        name = self.rng.choice(self.options.faults)
        self.begun[name] = self.begun.get(name, 0) + 1
        self.kernel.note(name.encode())
        self._do[name]()
        self.kernel.after(self.wait(self.options.fault_every_ns), self.strike)

    def stop(self) -> None:
        """Heal everything and give all nodes power."""
        self.on = False
        self.kernel.network.heal()
        for node in self.kernel.nodes.values():
            if node.paused:
                self.kernel.resume(node.node_id)
            self.kernel.power_on(node.node_id)
            node.set_rate(1.0, self.kernel.now_ns)

    def one(self) -> int:
        return self.rng.choice(list(self.kernel.nodes))

    def crash(self) -> None:
        node_id = self.one()
        self.kernel.power_off(node_id)
        # A quarter comes back before anybody can have noticed.
        quick = self.rng.random() < 0.25
        self.kernel.after(self.wait(20 * MS) if quick else self.lasts(), self.kernel.power_on, node_id)

    def crash_all(self) -> None:
        for node_id in self.kernel.nodes:
            self.kernel.power_off(node_id)
            self.kernel.after(self.lasts(), self.kernel.power_on, node_id)

    def partition(self) -> None:
        sides: tuple[list[int], list[int]] = ([], [])
        for node_id in self.kernel.nodes:
            sides[self.rng.randrange(2)].append(node_id)
        self.kernel.network.partition(tuple(sides[0]), tuple(sides[1]))
        self.kernel.after(self.lasts(), self.kernel.network.heal)

    def isolate(self) -> None:
        alone = self.one()
        self.kernel.network.partition((alone,), tuple(n for n in self.kernel.nodes if n != alone))
        self.kernel.after(self.lasts(), self.kernel.network.heal)

    def one_way(self) -> None:
        for _ in range(self.rng.randint(1, 3)):
            a, b = self.one(), self.one()
            if a != b:
                self.kernel.network.cut_link(a, b)
        self.kernel.after(self.lasts(), self.kernel.network.heal)

    def lossy(self) -> None:
        for _ in range(self.rng.randint(1, 6)):
            self.kernel.network.lossy[(self.one(), self.one())] = self.rng.random()
        self.kernel.after(self.lasts(), self.kernel.network.heal)

    def pause(self) -> None:
        """Stopped and continued; the clock goes on."""
        node_id = self.one()
        self.kernel.pause(node_id)
        self.kernel.after(self.lasts(), self.kernel.resume, node_id)

    def freeze(self) -> None:
        """Stopped with its clock: it believes that no time has passed."""
        node_id = self.one()
        self.kernel.pause(node_id)
        self.kernel.after(self.lasts(), self.kernel.resume, node_id, True)

    def leave(self) -> None:
        """In peace, then off, then back."""
        node_id = self.one()
        self.kernel.call(node_id, lambda process, now_ns: process.machine.leave(now_ns))
        self.kernel.power_off(node_id)
        self.kernel.after(self.lasts(), self.kernel.power_on, node_id)

    def clock(self) -> None:
        node = self.kernel.nodes[self.one()]
        node.set_rate(self.rng.choice([0.9, 0.99, 1.0, 1.01, 1.1]), self.kernel.now_ns)
