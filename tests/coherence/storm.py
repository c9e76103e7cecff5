"""Threads on several nodes at work on the same files, each step drawn from a seed; afterwards everything is judged."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from coherence.cluster import Cluster, Node
from coherence.history import History

RECORD = 64
O_APPEND = 0o2000
Step = Callable[[Node, random.Random, str], None]


@dataclass(slots=True)
class Storm:
    """One run: `threads` per node for `steps` each, or until the time is over."""

    cluster: Cluster
    seed: int
    threads: int = 2
    steps: int = 100
    until: float | None = None          # monotonic
    errors: list[str] = field(default_factory=list)
    history: dict[str, History] = field(default_factory=dict)
    appended: dict[str, list[bytes]] = field(default_factory=dict)
    made: dict[str, set[str]] = field(default_factory=dict)     # names that must be there at the end, by worker
    lock: threading.Lock = field(default_factory=threading.Lock)

    REGISTERS = 6

    def prepare(self) -> None:
        volume = next(iter(self.cluster.nodes.values())).volume
        volume.mkdir("shared")
        volume.create("regs", bytes(RECORD * self.REGISTERS))
        volume.create("wide", b"")              # its blocks are far apart: indirect blocks and data pass between nodes
        volume.create("log", b"")
        for i in range(self.REGISTERS):
            self.history[f"regs{i}"] = History(bytes(RECORD))

    def register(self, node: Node, rng: random.Random, who: str) -> None:
        i = rng.randrange(self.REGISTERS)
        history = self.history[f"regs{i}"]
        if rng.random() < 0.5:
            value = f"{who} {rng.getrandbits(60):x}".encode().ljust(RECORD, b".")
            history.write(who, value, lambda: node.volume.write("regs", i * RECORD, value))
        else:
            history.read(who, lambda: node.volume.read("regs", i * RECORD, RECORD))

    def append(self, node: Node, rng: random.Random, who: str) -> None:
        record = f"{who} {len(self.appended[who])} ".encode().ljust(rng.randrange(40, 3000), b"=") + b"\n"
        ino = node.volume.node("log")
        node.calls.write(ino, 0, record, open_flags=2 | O_APPEND)
        node.calls.forget(ino)
        self.appended[who].append(record)

    def names(self, node: Node, rng: random.Random, who: str) -> None:
        mine = self.made[who]
        name = f"{who}-{rng.randrange(30)}"
        if name in mine:
            if rng.random() < 0.5:
                node.volume.unlink(f"shared/{name}")
                mine.discard(name)
            else:
                new = f"{name}-r" if f"{name}-r" not in mine else name
                if new != name:
                    node.volume.rename(f"shared/{name}", f"shared/{new}")
                    mine.discard(name)
                    mine.add(new)
        else:
            node.volume.create(f"shared/{name}", who.encode() * rng.randrange(200))
            mine.add(name)

    def look(self, node: Node, rng: random.Random, who: str) -> None:
        """Everybody's own names are there for themselves; a listing has no name twice."""
        names = node.volume.listdir("shared")
        if len(names) != len(set(names)):
            raise AssertionError(f"{who}: a name twice in {sorted(names)}")
        missing = self.made[who] - {n.decode() for n in names}
        if missing:
            raise AssertionError(f"{who}: {missing} not in the listing")

    def grow(self, node: Node, rng: random.Random, who: str) -> None:
        if rng.random() < 0.4:
            at = rng.randrange(64) * 65536
            node.volume.write("wide", at, who.encode()[:1] * rng.randrange(1, 9000))
        elif rng.random() < 0.2:
            node.volume.truncate("wide", rng.randrange(1 << 20))
        else:
            node.volume.read("wide", rng.randrange(1 << 22), 5000)

    def work(self, node: Node, number: int) -> None:
        who = f"n{node.number}t{number}"
        rng = random.Random(f"{self.seed} {who}")
        with self.lock:
            self.appended[who], self.made[who] = [], set()
        steps: tuple[Step, ...] = (self.register, self.register, self.append, self.names, self.names, self.look,
                                   self.grow)
        try:
            for _ in range(self.steps):
                if self.until is not None and time.monotonic() > self.until:
                    break
                rng.choice(steps)(node, rng, who)
        except (OSError, AssertionError, ValueError) as e:
            self.errors.append(f"{who}: {type(e).__name__}: {e}")

    def run(self) -> None:
        self.prepare()
        threads = [threading.Thread(target=self.work, args=(node, i))
                   for node in self.cluster.nodes.values() for i in range(self.threads)]
        for t in threads:
            t.start()
        for t in threads:
            while t.is_alive():
                t.join(0.1)
                if any(self.cluster.withdrawn().values()):
                    self._stop()

    def _stop(self) -> None:
        """A node withdrew: its locks stand, so the others would wait for ever."""
        for n, node in self.cluster.nodes.items():
            if node.volume.fs.withdrawn:
                self.errors.append(f"node {n} withdrew: {node.volume.fs.withdrawn}")
        for node in self.cluster.nodes.values():
            if not node.volume.fs.withdrawn:
                node.volume.fs.withdraw("another node withdrew")

    def problems(self) -> list[str]:
        """What is wrong, while all are still mounted."""
        out = list(self.errors)
        for name, history in self.history.items():
            out += [f"{name}: {p}" for p in history.problems()]
        for n, reason in self.cluster.withdrawn().items():
            if reason:
                out.append(f"node {n} withdrew: {reason}")
        if out:
            return out
        want = set().union(*self.made.values())
        contents = set()
        for node in self.cluster.nodes.values():
            got = {x.decode() for x in node.volume.listdir("shared")}
            if got != want:
                out.append(f"node {node.number} lists {got ^ want} more or less than was made")
            contents.add((node.volume.read("log"), node.volume.read("regs"), node.volume.read("wide")))
        if len(contents) != 1:
            out.append("nodes see different contents")
        log = next(iter(contents))[0]
        for who, records in self.appended.items():
            mine = [line + b"\n" for line in log.split(b"\n") if line.startswith(who.encode() + b" ")]
            if mine != records:
                out.append(f"{who} appended {len(records)} records, {len(mine)} are there or they differ")
        if len(log) != sum(len(r) for records in self.appended.values() for r in records):
            out.append("the log has bytes that nobody appended, or lacks some")
        return out
