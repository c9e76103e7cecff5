"""From a node's power loss to resumed I/O on the survivors, phase by phase.

    python -m bench.recovery [--rounds N] [--profile default|fast] [--journal-mib N] [--smoke]

Three nodes of the lab append to one file and have it written down how long they were held up; one of them loses network
and power at the same moment. The phases are those that cman logs (docs/design/explain.md), the pause is the worker's.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lab import Lab, LabError, Topology, guide_topology
from lab.etc import cluster_conf

NODES, DEVICE, MOUNT = 3, "/dev/sdb5", "/gfs2"
WORKER = Path(__file__).resolve().parents[1] / "lab" / "demo_work.py"
PHASES = ("detection", "eviction", "fence", "dlm", "journal", "resume")
LIMIT_S, POLL_S, BEFORE_S, AFTER_S = 120.0, 0.02, 1.0, 0.5
# docs/design/recovery.md says what these cost.
FAST_TOTEM = '<totem token="200" hold="60" consensus="180"/>'
# Off is what counts; on again without waiting for the boot.
FAST_AGENT = """#!/bin/sh
exec %s -IS - 3<&0 <<'END'
import os, socket
given = dict(line.split("=", 1) for line in os.fdopen(3).read().splitlines() if "=" in line)
s = socket.create_connection((given["ipaddr"], 23), 10)
def until(text):
    data = b""
    while text not in data:
        piece = s.recv(4096)
        if not piece:
            raise SystemExit("the switch closed the connection")
        data += piece
    return data
until(b"Password: ")
s.sendall(given["passwd"].encode() + b"\\r\\n")
until(b"IPS> ")
s.sendall(b"/OFF %%s,y\\r\\n" %% given["port"].encode())
if b"***" in until(b"IPS> "):
    raise SystemExit("the switch refused")
s.sendall(b"/ON %%s,y\\r\\n/X\\r\\n" %% given["port"].encode())
until(b"Goodbye")
END
"""


@dataclass(frozen=True)
class Loss:
    """One power-off: milliseconds by phase on the survivor that was last, and the longest pause of any survivor."""

    phases: dict[str, int]
    pause_ms: float


def topology(profile: str, size_mib: int) -> Topology:
    room = guide_topology(NODES, size=f"{size_mib}M")
    if profile == "default":
        return room
    text = re.sub('agent="fence_wti"', 'agent="fence_fast"', cluster_conf(room))
    return replace(room, cluster_conf=text.replace("  <clusternodes>", f"  {FAST_TOTEM}\n  <clusternodes>"))


class Bench:
    """A room with the file system mounted on all nodes."""

    def __init__(self, room: Lab, journal_mib: int) -> None:
        self.room = room
        self.nodes = [n.name for n in room.topology.nodes]
        agent = room.place.shared / "fence_fast"
        agent.write_text(FAST_AGENT % sys.executable)
        agent.chmod(0o755)
        for node in self.nodes:
            self.sh(node, "ln -s /lab/fence_fast /sbin/")
        room.start_cluster()
        table = f"{room.topology.cluster}:my-gfs2"
        self.sh(self.nodes[0], f"mkfs.gfs2 -O -q -p lock_dlm -t {table} -j {NODES} -J {journal_mib} {DEVICE}")
        for node in self.nodes:
            self.sh(node, f"mount -t gfs2 {DEVICE} {MOUNT}")

    def sh(self, node: str, script: str) -> str:
        return self.room.exec(node, ["timeout", "120", "sh", "-c", script], check=True).stdout

    def history(self, node: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.sh(node, "cman_tool status --json"))["history"]
        return found

    def append(self, node: str, number: int) -> subprocess.Popen[str]:
        worker: subprocess.Popen[str] = self.room.popen(
            node, [sys.executable, "-IS", str(WORKER), "append", f"{MOUNT}/records-{number}", node, "0"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert worker.stdout is not None
        if worker.stdout.readline() != "ready\n":
            raise LabError(f"{node}: the worker did not start")
        return worker

    def round(self, number: int) -> Loss:
        """One node dies while all append; it is back at the end."""
        victim, others = self.nodes[1], [n for n in self.nodes if n != self.nodes[1]]
        before = {node: len(self.history(node)) for node in others}
        boots = self._boots(victim)
        workers = {node: self.append(node, number) for node in self.nodes}
        for worker in workers.values():
            tell(worker)
        time.sleep(BEFORE_S)
        self.room.partition([victim], everything=True)
        self.room.power("crash", victim)
        self._wait(lambda: all(len(self.history(n)) > before[n] for n in others), "the recovery")
        time.sleep(AFTER_S)
        pauses = []
        for node in others:
            tell(workers[node])
            pauses.append(json.loads(workers[node].communicate()[0])["longest_s"] * 1000)
        workers[victim].communicate()
        self.room.heal()
        last = max((self.history(node)[-1] for node in others), key=lambda one: int(one["total_ms"]))
        self._wait(lambda: self._boots(victim) > boots, "the reboot")
        self.sh(victim, "ln -s /lab/fence_fast /sbin/; service cman start")
        self.sh(victim, f"mount -t gfs2 {DEVICE} {MOUNT}")
        return Loss({phase: int(last["phases_ms"].get(phase, 0)) for phase in PHASES}, max(pauses))

    def _boots(self, node: str) -> int:
        machine = next(m for m in self.room.status()["machines"] if m["name"] == node)
        return int(machine["boots"]) if machine["state"] == "up" else -1

    @staticmethod
    def _wait(condition: Any, what: str) -> None:
        deadline = time.monotonic() + LIMIT_S
        while not condition():
            if time.monotonic() > deadline:
                raise LabError(f"waited {LIMIT_S:.0f} s for {what}")
            time.sleep(POLL_S)


def tell(worker: subprocess.Popen[str]) -> None:
    assert worker.stdin is not None
    worker.stdin.write("\n")
    worker.stdin.flush()


def table(profile: str, losses: Sequence[Loss]) -> str:
    """Medians, and the range of the pause."""
    medians = [statistics.median(loss.phases[phase] for loss in losses) for phase in PHASES]
    pauses = [loss.pause_ms for loss in losses]
    head = " | ".join(["ms", *PHASES, "pause (median)", "pause (range)"])
    row = " | ".join([f"{profile}, {len(losses)} rounds", *(f"{m:.0f}" for m in medians),
                      f"{statistics.median(pauses):.0f}", f"{min(pauses):.0f} to {max(pauses):.0f}"])
    return f"| {head} |\n|{' --- |' * (len(PHASES) + 3)}\n| {row} |"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.recovery", description="Power loss to resumed I/O.")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--profile", choices=("default", "fast"), default="default")
    parser.add_argument("--journal-mib", type=int, default=32)
    parser.add_argument("--smoke", action="store_true", help="one round")
    args = parser.parse_args(argv)
    with Lab(topology(args.profile, 512 + NODES * args.journal_mib)) as room:
        bench = Bench(room, args.journal_mib)
        losses = []
        for number in range(1 if args.smoke else args.rounds):
            losses.append(bench.round(number))
            print(json.dumps({"round": number, "pause_ms": losses[-1].pause_ms, **losses[-1].phases}), flush=True)
        print(table(args.profile, losses))
    return 0


if __name__ == "__main__":
    sys.exit(main())
