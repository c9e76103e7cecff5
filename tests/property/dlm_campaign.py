"""Random runs of several lockspaces: clients, packets, crashes and returns in any order, all from one seed."""

from __future__ import annotations

import random
from collections import deque

from dlm_net import Broken, Lock, Net

from dlm.core.packets import Flag, LockMode

MODES = [LockMode.NL, LockMode.CR, LockMode.CW, LockMode.PR, LockMode.PW, LockMode.EX]


class Campaign:
    """One run. `crashes`: how many membership changes there may be; `nodes`: how many nodes at most."""

    def __init__(self, seed: int, nodes: int = 3, names: int = 3, steps: int = 400, crashes: int = 3) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.net = Net()
        self.names = [b"name%d" % i for i in range(names)]
        self.node_ids = list(range(1, nodes + 1))
        self.steps = steps
        # Spread over the run: what happens in recovery matters when there is something to recover.
        self.crash_at = set(self.rng.sample(range(steps), crashes))
        self.plan: deque[tuple[str, int]] = deque()
        self.target: set[int] = set()

    def run(self) -> Net:
        try:
            self.begin()
            for at in range(self.steps):
                self.step(at)
            self.end()
        except Broken as error:
            raise Broken(f"seed {self.seed}: {error}") from error
        return self.net

    def begin(self) -> None:
        for n in self.node_ids:
            self.net.add(n)
        self.change(set(self.node_ids))

    def end(self) -> None:
        while self.plan:
            self.control()
        self.net.settle(choose=self.rng.choice)
        self.net.check_quiet()
        self.net.drain()

    # ---- steps

    def step(self, at: int) -> None:
        dice = self.rng.random()
        links = self.net.busy_links()
        if at in self.crash_at:
            self.membership()
        elif dice < 0.6 and links:
            for _ in range(self.rng.randrange(1, 6)):
                if links := self.net.busy_links():
                    self.net.deliver(self.rng.choice(links))
        elif dice < 0.65:
            self.net.tick()
        elif dice < 0.72 and self.plan:
            self.control()
        elif dice < 0.73:
            self.net.now_ns += self.rng.randrange(12 * 10**9)
            for ls in self.net.nodes.values():
                ls.handle_timer(self.net.now_ns)
            self.net.flush()
        else:
            self.client()

    def control(self) -> None:
        what, node = self.plan.popleft()
        if node not in self.net.nodes:
            return
        if what == "stop":
            self.net.stop(node)
        else:
            self.net.start(node, self.target)

    def change(self, members: set[int]) -> None:
        """All stop before any starts, in any order, with anything in between."""
        self.target = members
        nodes = sorted(members)
        self.plan = deque([("stop", n) for n in self.rng.sample(nodes, len(nodes))]
                          + [("start", n) for n in self.rng.sample(nodes, len(nodes))])

    def membership(self) -> None:
        alive = sorted(self.net.nodes)
        dead = sorted(set(self.node_ids) - set(alive))
        back: list[int] = []
        for n in self.rng.sample(alive, min(len(alive) - 1, self.rng.choice([0, 1, 1, 1, 2]))):
            self.net.crash(n)
            if self.rng.random() < 0.5:
                self.net.drop_from(n)
            if self.rng.random() < 0.3:
                back.append(n)
        back += [n for n in dead if self.rng.random() < 0.7]
        for n in back:
            for link in self.net.links:
                if n in link:
                    self.net.links[link].clear()
            self.net.add(n)
        self.change(set(self.net.nodes))

    # ---- clients

    def client(self) -> None:
        node = self.rng.choice(sorted(self.net.nodes))
        mine = [x for x in self.net.locks.values() if x.node == node]
        if len(mine) < 6 and (not mine or self.rng.random() < 0.35):
            self.request(node)
            return
        lock = self.rng.choice(mine)
        if lock.pending:
            if self.rng.random() < 0.15:
                self.give_up(lock)
        elif self.rng.random() < 0.3:
            self.net.unlock(lock)
        else:
            self.convert(lock)

    def request(self, node: int) -> None:
        flags = self.rng.choice([0, 0, 0, Flag.NOQUEUE, Flag.NOQUEUE | Flag.NOQUEUEBAST, Flag.HEADQUE, Flag.NOORDER,
                                 Flag.ALTPR, Flag.ALTCW, Flag.PERSISTENT])
        mode = self.rng.choice(MODES)
        if mode == LockMode.NL and self.rng.random() < 0.3:
            flags = Flag.EXPEDITE
        self.net.lock(node, self.rng.choice(self.names), mode, flags)

    def convert(self, lock: Lock) -> None:
        mode = self.rng.choice([m for m in MODES if m != lock.holds])
        flags = self.rng.choice([0, 0, 0, Flag.NOQUEUE, Flag.NOQUEUE | Flag.NOQUEUEBAST, Flag.CONVDEADLK,
                                 Flag.QUECVT, Flag.HEADQUE, Flag.NOORDER])
        self.net.convert(lock, mode, flags)

    def give_up(self, lock: Lock) -> None:
        if lock.pending == "unlock":
            return
        if self.rng.random() < 0.6:
            self.net.cancel(lock)
        else:
            self.net.force_unlock(lock)


def campaign(seed: int, **shape: int) -> Net:
    return Campaign(seed, **shape).run()
