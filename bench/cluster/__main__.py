"""Builds a room, mounts every file system on its nodes, runs the rows in turns, reports medians."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from bench.__main__ import RESULTS, idle_poll
from bench.cluster import claims
from bench.cluster.crew import SETTLE_LIMIT_S, Crew
from bench.cluster.peers import PEERS, ClusterPeer, Gfs2, Gfs2Alone
from bench.cluster.rows import GROUPS, ONCE, Run
from bench.report import OURS, Results, Samples, lines, save, table
from lab import Lab, LabError, Topology, guide_topology
from lab.topology import Disk

NODES_MAX = 4
GIB = 1 << 30
SMOKE_PEERS = (Gfs2.name, Gfs2Alone.name)


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    names = [p.name for p in PEERS]
    parser = argparse.ArgumentParser(prog="python -m bench.cluster", description="Several nodes, one file system.")
    parser.add_argument("--smoke", action="store_true", help="seconds of it: does every row still run?")
    parser.add_argument("--only", default=",".join(GROUPS), help="of: " + " ".join(GROUPS))
    parser.add_argument("--peers", default="", help="file systems, of: " + " ".join(names))
    parser.add_argument("--nodes", type=int, default=NODES_MAX)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each timed row")
    parser.add_argument("--mib", type=int, default=256, help="of each node's large file")
    parser.add_argument("--idle-poll", action="store_true", help="keep idle processors from halting")
    args = parser.parse_args(argv)
    args.groups = args.only.split(",")
    wanted = args.peers.split(",") if args.peers else names
    if args.smoke:
        wanted = wanted if args.peers else list(SMOKE_PEERS)
        args.nodes, args.repeats, args.seconds, args.mib = min(args.nodes, 3), 1, 0.1, 4
    if unknown := (set(args.groups) - set(GROUPS)) | (set(wanted) - set(names)):
        parser.error(f"unknown: {' '.join(sorted(unknown))}")
    if not 1 <= args.nodes <= NODES_MAX:
        parser.error(f"--nodes is 1 to {NODES_MAX}")
    args.kinds = []
    for kind in (p for p in PEERS if p.name in wanted):
        if missing := kind.missing():
            print(f"bench: without {kind.name}: {', '.join(missing)} not found", file=sys.stderr)
        else:
            args.kinds.append(kind)
    return args


def topology(nodes: int, kinds: Sequence[type[ClusterPeer]], size: int) -> Topology:
    """The guide's room with a disk for each brick and file system."""
    names = ["sdb5", *sorted({d for k in kinds for d in k.disks} - {"sdb5"})]
    return dataclasses.replace(guide_topology(nodes), disks=tuple(Disk(name, size) for name in names))


class Bench:
    """A room in use."""

    def __init__(self, room: Lab, crew: Crew, args: argparse.Namespace) -> None:
        self.room, self.crew, self.args = room, crew, args
        self.peers: list[ClusterPeer] = [kind(room) for kind in args.kinds]
        self.results: Results = {}

    def prepare(self) -> None:
        for peer in self.peers:
            begin = time.monotonic()
            peer.make()
            for node in peer.members():
                peer.mount(node)
            say(f"{peer.name} is mounted, {time.monotonic() - begin:.1f} s")

    def revive(self, node: str) -> None:
        """Power, the cluster, mounts: as before its crash."""
        self.room.heal()
        self.crew.dismiss(node)
        self.room.power("cycle", node)
        for peer in self.peers:
            peer.again(node) if not peer.alone else None
            if node in peer.members():
                peer.mount(node)
        self.crew.hire(node)

    def group(self, peer: ClusterPeer, name: str) -> None:
        begin = time.monotonic()
        counts = range(1, len(self.crew.nodes) + 1)
        run = Run(self.crew, peer, (1, 2) if self.args.smoke else counts, self.args.seconds, self.args.mib,
                  self.revive, self.args.smoke)
        for row, value, unit in GROUPS[name](run):
            self.results.setdefault(row, {}).setdefault(peer.name, Samples(unit)).values.append(value)
        say(f"{peer.name} {name} {time.monotonic() - begin:.1f} s")

    def all(self) -> None:
        for repeat in range(self.args.repeats):
            for name in self.args.groups:
                # Each repeat begins with another one, so that a slow minute hits all alike.
                at = repeat % len(self.peers)
                for peer in [*self.peers[at:], *self.peers[:at]]:
                    if name == "crash" and repeat and peer.name != OURS:
                        continue        # three quarters of a minute each
                    if name not in ONCE or peer.name == OURS:
                        self.group(peer, name)


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def room_of(args: argparse.Namespace) -> Iterator[Bench]:
    size = GIB // 2 if args.smoke else 4 * GIB
    with Lab(topology(args.nodes, args.kinds, size)) as room:
        room.start_cluster()
        with Crew(room, 0.1 if args.smoke else SETTLE_LIMIT_S) as crew:
            bench = Bench(room, crew, args)
            bench.prepare()
            yield bench


def cost(row: str) -> bool:
    return row.endswith((": processor", ": packets"))


def main(argv: Sequence[str] | None = None) -> int:
    args = options(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)       # as Ctrl-C: what was measured is not lost
    results: Results = {}
    failed = False
    with idle_poll(args.idle_poll), room_of(args) as bench:
        results = bench.results
        try:
            bench.all()
        except KeyboardInterrupt:
            failed = True
            say("interrupted; what was measured until now:")
        except (LabError, OSError, RuntimeError) as e:
            failed = True
            say(f"failed: {e}; what was measured until now:")
    names = [k.name for k in args.kinds]
    kinds: list[Callable[[str], bool]] = [lambda row: not cost(row), cost]
    for wanted in kinds:
        print(table({row: by for row, by in results.items() if wanted(row)}, names), end="\n\n")
    print(claims.table(results))
    if not args.smoke:
        print("\n".join(lines(results)))
        for path in save(results, names, RESULTS, time.strftime("cluster-%Y%m%d-%H%M%S")):
            say(f"wrote {path}")
    return 1 if failed or not results else 0


if __name__ == "__main__":
    sys.exit(main())
