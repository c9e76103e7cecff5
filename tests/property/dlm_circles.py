"""Transactions on several lockspaces in one process that run into deadlocks: who is told so, and is it true?

One heap of choices from a seed: packets between two nodes keep their order, messages of the group have one order for
all and come to each node when it pleases; transactions ask, convert, give up; time passes. The judge sees the queues
of all masters at once and follows the waits by itself.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from dlm_net import compatible

from dlm.core._lockspace import Lockspace
from dlm.core.errors import DlmError
from dlm.core.events import Cast, Node, ResourceDump
from dlm.core.packets import ECANCEL, Flag, LockMode
from dlm.deadlock import AFTER_NS, AGAIN_MAX_NS, Break, Cancel, Detector, Hop, Message, Party, Say

EAGAIN, EDEADLK = 11, 35
MODES = [LockMode.CR, LockMode.PR, LockMode.PR, LockMode.PW, LockMode.EX, LockMode.EX]
Id = tuple[int, int]            # node, lock id there
Edges = set[tuple[Party, Party]]


class Untrue(AssertionError):
    """A victim without a deadlock, or a deadlock without a victim."""


@dataclass
class Asked:
    """A lock of a transaction, and the operation that it waits for."""

    party: Party
    name: bytes
    mode: int = LockMode.IV
    serial: int = 0             # 0: nothing is under way


@dataclass
class Transaction:
    party: Party
    steps: int
    tasks: int
    locks: list[Id] = field(default_factory=list)
    ending: bool = False


class Watched(Detector):
    """Each verdict is judged when it is made, by what was true when the first look had ended."""

    judge: Callable[[Break, Edges], None]
    edges: Callable[[], Edges]
    seen: dict[int, Edges]
    now: Edges

    def _circle(self, number: int, path: tuple[Hop, ...]) -> None:
        wait = self._begun.get(number)
        self.now = self.seen.get(wait.serial, set()) if wait is not None else set()
        super()._circle(number, path)
        if wait is not None and wait.suspect:
            self.seen[wait.serial] = self.edges()

    def _send(self, message: Message) -> None:
        if isinstance(message, Break):
            self.judge(message, self.now)
        super()._send(message)


class OneNode:
    """What a node's detector may look at."""

    def __init__(self, world: World, me: int) -> None:
        self.world, self.me = world, me
        self.machine = Lockspace("circles", me, 7, rcom_seq=me << 32)

    def owner(self, lkid: int) -> Party | None:
        asked = self.world.asked.get((self.me, lkid))
        return asked.party if asked is not None else None

    def place(self, lkid: int) -> tuple[int, int] | None:
        return self.machine.place(lkid)

    def blockers(self, node: int, lkid: int) -> list[tuple[int, int]]:
        return self.machine.blockers(node, lkid)


class World:
    def __init__(self, seed: int, nodes: int, names: int, detector: type[Watched] = Watched) -> None:
        self.rng = random.Random(seed)
        self.names = [b"name %d" % i for i in range(names)]
        self.now_ns = 1
        self.serial = 0
        self.asked: dict[Id, Asked] = {}
        self.transactions: dict[Party, Transaction] = {}
        self.links: dict[Id, deque[bytes]] = {}
        self.group: list[bytes] = []
        self.nodes = {i: OneNode(self, i) for i in range(1, nodes + 1)}
        self.heard = dict.fromkeys(self.nodes, 0)
        self.detectors: dict[int, Watched] = {}
        self.counts: dict[str, int] = {}
        for i, node in self.nodes.items():
            self.detectors[i] = detector(i, node)
            self.detectors[i].judge, self.detectors[i].edges, self.detectors[i].seen = self.judge, self.edges, {}
        self.restart()
        self.quiet()

    def count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    # ---- machinery

    def restart(self) -> None:
        for node in self.nodes.values():
            node.machine.stop()
        for node in self.nodes.values():
            node.machine.start([Node(i) for i in self.nodes], self.now_ns)
        self.flush()

    def flush(self) -> None:
        moved = True
        while moved:
            moved = False
            for i, node in self.nodes.items():
                for to, packet in node.machine.take_output():
                    self.links.setdefault((i, to), deque()).append(packet)
                for event in node.machine.take_events():
                    if isinstance(event, Cast):
                        self.ended(i, event)
                        moved = True
                for effect in self.detectors[i].effects():
                    moved = True
                    if isinstance(effect, Say):
                        self.group.append(effect.data)
                    else:
                        self.victim(i, effect)

    def victim(self, i: int, effect: Cancel) -> None:
        asked = self.asked[i, effect.lkid]
        if asked.serial == effect.serial:
            self.nodes[i].machine.cancel(effect.lkid, deadlock=True)

    def busy(self) -> list[Callable[[], None]]:
        ways: list[Callable[[], None]] = [partial(self.packet, k) for k in sorted(self.links) if self.links[k]]
        return ways + [partial(self.message, i) for i in self.nodes if self.heard[i] < len(self.group)]

    def packet(self, link: Id) -> None:
        self.nodes[link[1]].machine.receive(link[0], self.links[link].popleft(), self.now_ns)
        self.flush()

    def message(self, i: int) -> None:
        self.heard[i] += 1
        self.detectors[i].delivered(self.group[self.heard[i] - 1])
        self.flush()

    def time(self, ns: int) -> None:
        self.now_ns += ns
        for i, node in self.nodes.items():
            node.machine.handle_timer(self.now_ns)
            self.detectors[i].handle_timer(self.now_ns)
        self.flush()

    def quiet(self) -> None:
        while True:
            while ways := self.busy():
                ways[0]()
            stopped = [n.machine.next_timer() for n in self.nodes.values() if not n.machine.running]
            due = [t for t in stopped if t is not None]
            if not due:
                return
            self.time(max(1, min(due) - self.now_ns))

    # ---- what the transactions do

    def begin(self) -> None:
        node = self.rng.choice(list(self.nodes))
        self.now_ns += 1
        party = Party(self.now_ns, node, len(self.counts))
        self.transactions[party] = Transaction(party, self.rng.randrange(2, 6), self.rng.choice([1, 1, 1, 2]))

    def act(self, t: Transaction) -> None:
        node = t.party.node
        idle = [k for k in t.locks if not self.asked[k].serial]
        if t.ending or len(t.locks) - len(idle) >= t.tasks:
            self.end(t)
            return
        if t.steps == 0:
            t.ending = True
            self.end(t)
            return
        t.steps -= 1
        mode = self.rng.choice(MODES)
        flags = Flag.NOQUEUE if self.rng.random() < 0.1 else Flag(0)
        if idle and self.rng.random() < 0.4:
            key = self.rng.choice(idle)
            if self.asked[key].mode != LockMode.IV:
                try:
                    self.nodes[node].machine.convert(key[1], mode, flags)
                except DlmError:
                    return              # a cancel that came too late is still under way
                self.waits(key)
        else:
            name = self.rng.choice(self.names)
            key = (node, self.nodes[node].machine.lock(name, mode, flags))
            self.asked[key] = Asked(t.party, name)
            t.locks.append(key)
            self.waits(key)
        self.flush()

    def waits(self, key: Id) -> None:
        self.serial += 1
        self.asked[key].serial = self.serial
        self.detectors[key[0]].begins(self.asked[key].party, key[1], self.serial, self.now_ns)

    def give_up(self) -> None:
        """Somebody does not want to wait any longer."""
        waiting = sorted(k for k, a in self.asked.items() if a.serial)
        if waiting:
            key = self.rng.choice(waiting)
            try:
                self.nodes[key[0]].machine.cancel(key[1])
            except DlmError:
                return
            self.count("given up")
            self.flush()

    def end(self, t: Transaction) -> None:
        """Lets go of what it has, once it waits for nothing."""
        if not t.ending or any(self.asked[k].serial for k in t.locks):
            return
        for key in list(t.locks):
            try:
                self.nodes[key[0]].machine.unlock(key[1])
            except DlmError:
                continue                # the same: later
            self.asked[key].serial = -1
        self.flush()

    def ended(self, i: int, cast: Cast) -> None:
        key = (i, cast.lkid)
        asked = self.asked[key]
        t = self.transactions[asked.party]
        self.detectors[i].ends(asked.serial)
        asked.serial, asked.mode = 0, cast.mode
        if cast.mode == LockMode.IV:
            t.locks.remove(key)
            del self.asked[key]
        if cast.status == -EDEADLK:
            self.count("deadlock")
        if cast.status in (-EDEADLK, -EAGAIN, -ECANCEL):
            t.ending = True
        if t.ending and not t.locks:
            self.transactions.pop(t.party, None)

    # ---- the judge

    def edges(self) -> Edges:
        """Who waits for whom, by the queues of all masters."""
        found = set()
        for i, node in self.nodes.items():
            if node.machine.running:
                for r in node.machine.dump():
                    found |= self.edges_of(i, r)
        return found

    def edges_of(self, i: int, r: ResourceDump) -> Edges:
        if r.master != i:
            return set()
        queues: dict[str, list[tuple[Id, int, int]]] = {"granted": [], "convert": [], "waiting": []}
        for lock in r.locks:
            key = (lock.nodeid, lock.remid) if lock.kind == "master" else (i, lock.lkid)
            if lock.queue in queues:
                queues[lock.queue].append((key, lock.grmode, lock.rqmode))
        found = set()
        have = queues["granted"] + queues["convert"]
        order = queues["convert"] + queues["waiting"]
        for at, (key, _, wants) in enumerate(order):
            waiter = self.asked.get(key)
            if waiter is None or not waiter.serial:
                continue
            others = [k for k, has, _ in have if k != key and has > LockMode.NL and not compatible(has, wants)]
            # Whoever may be served before it, whatever the rule.
            others += [k for k, _, _ in order[:at] + (queues["waiting"][:1] if at < len(queues["convert"]) else [])]
            found |= {(waiter.party, self.asked[k].party) for k in others if k in self.asked}
        return found

    def judge(self, verdict: Break, edges: Edges) -> None:
        """The victim is the last-born of a circle that there was."""
        graph: dict[Party, list[Party]] = {}
        for a, b in sorted(edges):
            if max(a, b) <= verdict.victim:
                graph.setdefault(a, []).append(b)
        reached: set[Party] = set()
        todo = list(graph.get(verdict.victim, []))
        while todo:
            at = todo.pop()
            if at not in reached:
                reached.add(at)
                todo += graph.get(at, [])
        self.count("verdict")
        if verdict.victim not in reached:
            raise Untrue(f"{verdict} is in no circle: {sorted(edges)}")


def campaign(seed: int, *, nodes: int, names: int, steps: int, transactions: int, restarts: float = 0.0,
             detector: type[Watched] = Watched) -> World:
    """Raises Untrue."""
    world = World(seed, nodes, names, detector)
    rng = world.rng
    for _ in range(steps):
        dice = rng.random()
        ways = world.busy()
        if dice < 0.6 and ways:
            rng.choice(ways)()
        elif dice < 0.7:
            world.time(rng.randrange(1, AFTER_NS))
        elif dice < 0.72:
            world.give_up()
        elif dice < 0.72 + restarts:
            world.restart()
        elif len(world.transactions) < transactions:
            world.begin()
        else:
            world.act(rng.choice(list(world.transactions.values())))
    # Peace: nobody asks for more, and everybody gets through.
    for _ in range(400):
        world.quiet()
        if not world.transactions:
            break
        for t in list(world.transactions.values()):
            if not any(world.asked[k].serial for k in t.locks):
                t.ending = True
                if t.locks:
                    world.end(t)
                else:
                    del world.transactions[t.party]
        world.time(AGAIN_MAX_NS)
    else:
        raise Untrue(f"still waiting: {sorted(world.edges())}")
    return world
