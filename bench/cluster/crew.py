"""The workers of a room: one process in each node, told what to do at the same moment."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from lab import Lab, cgroups

AHEAD_NS = 20_000_000           # from the order to the beginning: time for all to hear it
ANSWER_S = 120.0
NS = 10 ** 9
# What a row leaves to be done later (inodes to delete, data to write back) must not be the next one's burden: a room
# has settled when it uses less than this part of a processor for that long.
SETTLED, SETTLE_STEP_S, SETTLE_LIMIT_S = 0.1, 0.1, 10.0


class WorkerError(OSError):
    """An operation failed in a node; errno as there."""


@dataclass(frozen=True)
class Outcome:
    """What the nodes did together."""

    counts: list[float]         # of each node
    begin: int
    end: int
    cpu_us: float               # processor time of everything in the room, servers included
    packets: float              # sent by all nodes
    answers: list[dict[str, Any]]

    @property
    def count(self) -> float:
        return sum(self.counts)

    @property
    def per_second(self) -> float:
        """Of all together, over the time from the first one's beginning to the last one's end."""
        return self.count * NS / (self.end - self.begin)


class Crew:
    """One worker per node of a room that is up."""

    def __init__(self, room: Lab, settle_limit_s: float = SETTLE_LIMIT_S) -> None:
        self.room, self.settle_limit_s = room, settle_limit_s
        self.nodes = [n.name for n in room.topology.nodes]
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._usage = Path(cgroups.path_of(room.place.name)) / "cpu.stat"

    def __enter__(self) -> Self:
        for node in self.nodes:
            self.hire(node)
        return self

    def __exit__(self, *_: object) -> None:
        for node in list(self._processes):
            self.dismiss(node)

    def hire(self, node: str) -> None:
        top = str(Path(__file__).resolve().parents[2])
        self._processes[node] = self.room.popen(
            node, [sys.executable, "-m", "bench.cluster.worker"], cwd=top, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, bufsize=1)
        self._hear(node)

    def dismiss(self, node: str) -> None:
        process = self._processes.pop(node)
        process.kill()
        process.communicate()

    def _hear(self, node: str) -> dict[str, Any]:
        out = self._processes[node].stdout
        assert out is not None
        if not select.select([out], [], [], ANSWER_S)[0]:
            raise RuntimeError(f"{node}: no answer in {ANSWER_S:.0f} s")
        line = out.readline()
        if not line:
            raise RuntimeError(f"{node}: its worker has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def send(self, node: str, **request: object) -> None:
        into = self._processes[node].stdin
        assert into is not None
        into.write(json.dumps(request) + "\n")
        into.flush()

    def hear(self, nodes: Sequence[str]) -> list[dict[str, Any]]:
        """The answers of all, so that none is left behind. Raises WorkerError for the first that failed."""
        answers = [self._hear(node) for node in nodes]
        for node, answer in zip(nodes, answers, strict=True):
            if "error" in answer:
                raise WorkerError(answer["errno"], f"{node}: {answer['error']}")
        return answers

    def one(self, node: str, **request: object) -> dict[str, Any]:
        """Something that is not measured."""
        self.send(node, **request)
        return self.hear([node])[0]

    def cpu_us(self) -> float:
        """Processor time of the whole room until now; 0 where nobody counts it."""
        try:
            return float(self._usage.read_text().split()[1])
        except OSError:
            return 0.0

    def settle(self) -> None:
        """Wait until the room has nothing left to do, or for so long."""
        deadline = time.monotonic() + self.settle_limit_s
        before, began = self.cpu_us(), time.monotonic()
        while time.monotonic() < deadline:
            time.sleep(SETTLE_STEP_S)
            now, at = self.cpu_us(), time.monotonic()
            if now - before < SETTLED * (at - began) * 1e6:
                return
            before, began = now, at

    def packets(self) -> float:
        for node in self.nodes:
            self.send(node, op="packets")
        return float(sum(a["count"] for a in self.hear(self.nodes)))

    def all(self, requests: dict[str, dict[str, Any]], seconds: float) -> Outcome:
        """One request to each of several nodes, carried out at the same time. Raises WorkerError."""
        self.settle()
        cpu, sent = self.cpu_us(), self.packets()
        at = time.monotonic_ns() + AHEAD_NS
        for node, request in requests.items():
            self.send(node, at=at, until=at + int(seconds * NS), **request)
        answers = self.hear(list(requests))
        return Outcome([a["count"] for a in answers], min(a["begin"] for a in answers),
                       max(a["end"] for a in answers), self.cpu_us() - cpu, self.packets() - sent, answers)
