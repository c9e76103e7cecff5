"""What is measured on several nodes. A group of rows is a function of a mounted peer that yields figures by name.

Figures come as (row, value, unit). Every group leaves the mounts as it found them: mounted and empty.
"""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.cluster.crew import Crew, Outcome, WorkerError
from bench.cluster.peers import ClusterPeer, Gfs2

Figure = tuple[str, float, str]
Group = Callable[["Run"], Iterator[Figure]]
TOP = str(Path(__file__).resolve().parents[2])
LINK_PORTS = (21101, 21102, 21103)      # of two lockspaces and an echo, away from what is mounted
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
DEAD_LIMIT_S = 120.0


@dataclass
class Run:
    """A peer, and how much is to be done with it."""

    crew: Crew
    peer: ClusterPeer
    counts: Sequence[int]       # how many nodes are active
    seconds: float              # of a timed row
    mib: int                    # of a sequential row
    revive: Callable[[str], None]       # a node that has lost its power boots, and everything is mounted there again
    smoke: bool = False

    @property
    def nodes(self) -> list[str]:
        return self.peer.members()

    def sizes(self) -> list[int]:
        return [n for n in self.counts if n <= len(self.nodes)]

    def on(self, nodes: Sequence[str], op: str, seconds: float | None = None, **by_name: object) -> Outcome:
        """The same operation on several nodes; an argument that is a list has one value for each."""
        requests = {}
        for i, node in enumerate(nodes):
            arguments = {k: v[i] if isinstance(v, list) else v for k, v in by_name.items()}
            requests[node] = {"op": op, "root": self.peer.root, **arguments}
        return self.crew.all(requests, self.seconds if seconds is None else seconds)

    def one(self, node: str, op: str, **arguments: object) -> dict[str, object]:
        return self.crew.one(node, op=op, root=self.peer.root, **arguments)


def nodes_text(count: int) -> str:
    return f"{count} node{'s' if count > 1 else ''}"


def report(name: str, count: int, got: Outcome, unit: str = "op/s") -> Iterator[Figure]:
    """The sum of all nodes, and what one operation cost."""
    row = f"{name}, {nodes_text(count)}"
    yield row, got.per_second, unit
    if got.count:
        each = "MiB" if unit == "MiB/s" else "op"
        yield f"{row}: processor", got.cpu_us / got.count, f"us/{each}"
        yield f"{row}: packets", got.packets / got.count, f"1/{each}"


def metadata(run: Run) -> Iterator[Figure]:
    """Creates, stats, listings and unlinks, in a directory for each node and in one for all."""
    for shared in (False, True):
        where = "one directory" if shared else "own directories"
        for count in run.sizes():
            nodes = run.nodes[:count]
            folders = [f"{'all' if shared else f'own{i}'}-{count}" for i in range(count)]
            for node, folder in zip(nodes, folders, strict=True):
                run.one(node, "mkdir", folder=folder)
            tags = [f"n{i}-" for i in range(count)]
            made = run.on(nodes, "create", folder=folders, tag=tags)
            yield from report(f"create, {where}", count, made)
            batches = [int(a["batches"]) for a in made.answers]
            short = run.seconds / 2
            yield from report(f"stat of own files, {where}", count,
                              run.on(nodes, "stat", short, folder=folders, tag=tags, batches=batches))
            if count > 1:
                turned = [folders[1:] + folders[:1], tags[1:] + tags[:1], batches[1:] + batches[:1]]
                yield from report(f"stat of another's files, {where}", count, run.on(
                    nodes, "stat", short, folder=turned[0], tag=turned[1], batches=turned[2], once=True))
            yield from report(f"readdir, {where}", count, run.on(nodes, "readdir", short, folder=folders), "names/s")
            yield from report(f"unlink, {where}", count, run.on(nodes, "unlink", folder=folders, tag=tags))
            for node, folder in zip(nodes, folders, strict=True):
                if not shared or node == nodes[0]:
                    run.one(node, "rmdir", folder=folder)


def drop_caches() -> None:
    Path("/proc/sys/vm/drop_caches").write_text("3")


def data(run: Run) -> Iterator[Figure]:
    """Large files of each node, read by its neighbour; small durable writes; reads of what nobody changes."""
    for count in run.sizes():
        nodes = run.nodes[:count]
        paths = [f"data{i}" for i in range(count)]
        yield from report("sequential write + fsync", count, run.on(nodes, "write", path=paths, mib=run.mib), "MiB/s")
        readers = (run.nodes[1:] + run.nodes[:1])[:count]
        drop_caches()
        yield from report("sequential read of another's file", count, run.on(readers, "read", path=paths), "MiB/s")
        yield from report("write 4K + fsync each", count, run.on(nodes, "fsyncs", path=paths, mib=run.mib))
        yield from report("read 4K again", count, run.on(nodes, "read_again", run.seconds / 2, path=paths))
        for node, path in zip(nodes, paths, strict=True):
            remove(run, node, path)


def remove(run: Run, node: str, path: str) -> None:
    run.peer.sh(node, f"rm {run.peer.file(path)}")


def turns(run: Run) -> Iterator[Figure]:
    """Two nodes that take turns at one file, with nothing but reads and writes.

    With ours none may be lost; another file system that shows a node old data for a while takes its time, and is named.
    """
    pair = run.nodes[:2]
    if len(pair) < 2:
        return
    run.one(pair[0], "counter", path="turns", value=0)
    got = run.on(pair, "turns", path="turns", me=[0, 1], of=2)
    counted = run.one(pair[1], "counter", path="turns")["count"]
    if counted != got.count:
        said = f"{run.peer.name}: {got.count:.0f} turns were taken, a node that looks counts {counted}: stale data"
        if isinstance(run.peer, Gfs2):
            raise RuntimeError(said)
        print(f"bench: {said}", file=sys.stderr)
    yield "turns on one file, 2 nodes, of each", got.per_second / 2, "op/s"
    yield "turns on one file, 2 nodes: processor", got.cpu_us / max(got.count, 1), "us/op"
    yield "turns on one file, 2 nodes: packets", got.packets / max(got.count, 1), "1/op"
    remove(run, pair[0], "turns")


def locks(run: Run) -> Iterator[Figure]:
    """Locks of files: by one node alone, and in a circle between two (ctdb's ping_pong)."""
    for kind in ("flock", "fcntl"):
        try:
            got = run.on(run.nodes[:1], "locked", path="locked", kind=kind)
        except WorkerError as e:
            if e.errno not in NO_LOCKS:
                raise
            print(f"bench: {run.peer.name} has no {kind} locks", file=sys.stderr)
        else:
            yield from report(f"{kind} + write + unlock", 1, got)
            if kind == "fcntl":
                for count in [c for c in (1, 2) if c <= len(run.nodes)]:
                    got = run.on(run.nodes[:count], "ping_pong", path="locked", locks=count + 1)
                    yield from report("fcntl ping_pong", count, got)
    remove(run, run.nodes[0], "locked")


def mounting(run: Run) -> Iterator[Figure]:
    """How long mount(8) takes on the first node, and on the next while the others have it."""
    for node in run.nodes:
        run.peer.umount(node)
    for number, node in enumerate(run.nodes, 1):
        begin = time.monotonic()
        run.peer.mount(node)
        yield f"mount, node {number}", (time.monotonic() - begin) * 1000, "ms"


def idle(run: Run) -> Iterator[Figure]:
    """Processor time of the room while nobody does anything: all peers' daemons together, so it is one figure."""
    if not isinstance(run.peer, Gfs2) or run.peer.alone:
        return
    window = 1.0 if run.smoke else 30.0
    groups: dict[str, float] = {}
    for node in run.nodes:
        for name, cpu_s in processes(run, node).items():
            groups[name] = groups.get(name, 0) - cpu_s
    time.sleep(window)
    for node in run.nodes:
        for name, cpu_s in processes(run, node).items():
            groups[name] = groups.get(name, 0) + cpu_s
    for name in ("cman", "gfs2d", "glusterd", "glusterfs", "glusterfsd"):
        if name in groups:
            yield f"idle: {name}, of a processor and node", groups[name] / window / len(run.nodes) * 100, "%"


def processes(run: Run, node: str) -> dict[str, float]:
    """Processor seconds by the name of the program, in one node."""
    script = "for p in /proc/[0-9]*; do echo $(cat $p/comm) $(cut -d' ' -f1 $p/task/*/schedstat); done 2>/dev/null"
    out: dict[str, float] = {}
    for line in run.peer.sh(node, f"{script}; true").splitlines():
        words = line.split()
        numbers = [int(w) for w in words if w.isdigit()]
        if words and numbers:
            name = "glusterfs" if words[0].startswith("glfs") else words[0]
            out[name] = out.get(name, 0) + sum(numbers) / 1e9
    return out


def crash(run: Run) -> Iterator[Figure]:
    """A node loses power, and its network at the same moment; another one needs what it was busy with.

    From the loss to the first file that another node creates in the directory in which the dead one was creating.
    Nothing that the dead one had made durable may be missing.
    """
    if len(run.nodes) < 3 or run.peer.name == "glusterfs-1":
        return                          # a lone brick has nobody to go on
    victim, other = run.nodes[1], run.nodes[0]
    run.one(victim, "mkdir", folder="crash")
    made = run.on([victim], "create", 0.2, folder="crash", tag="dead-", size=4096, durable=True)
    room = run.crew.room
    begin = time.monotonic_ns()
    room.partition([victim], everything=True)
    room.power("crash", victim)
    got = run.one(other, "create", folder="crash", tag="alive-", at=0, until=0)
    yield "power loss to the next create in its directory", (int(str(got["end"])) - begin) / 1e6, "ms"
    run.one(other, "stat", folder="crash", tag="dead-", batches=int(made.answers[0]["batches"]), at=0,
            until=time.monotonic_ns() + 10 ** 12, once=True)
    run.revive(victim)
    run.peer.sh(other, f"rm -r {run.peer.file('crash')}")


def dlm(run: Run) -> Iterator[Figure]:
    """The lock manager alone: in one process, and between two nodes beside a TCP round trip over the same bridge."""
    if not isinstance(run.peer, Gfs2) or run.peer.alone:
        return
    yield from dlm_alone(run)
    if len(run.nodes) < 2:
        return
    room = run.crew.room
    addresses = [n.address for n in room.topology.nodes[:2]]
    common = [sys.executable, "-m", "bench.locks", "--addresses", ",".join(addresses), "--ports",
              ",".join(map(str, LINK_PORTS)), *(["--smoke"] if run.smoke else [])]
    with room.popen(run.nodes[1], [*common, "--side", "2"], cwd=TOP, stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE) as far:
        try:
            done = room.exec(run.nodes[0], [*common, "--side", "1"], cwd=TOP, check=True)
        finally:
            far.kill()
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            found = json.loads(line)
            yield found["name"], found["value"], found["unit"]


def dlm_alone(run: Run) -> Iterator[Figure]:
    done = run.crew.room.exec(run.nodes[0], [sys.executable, "-m", "bench.dlm", *(["--smoke"] if run.smoke else [])],
                              cwd=TOP, check=True)
    for line in done.stdout.splitlines():
        found = json.loads(line)
        yield f"dlm: {found['name']}, {found['threads']} threads", found["per_second"], "op/s"


GROUPS: dict[str, Group] = {
    "metadata": metadata, "data": data, "turns": turns, "locks": locks, "mount": mounting, "idle": idle, "dlm": dlm,
    "crash": crash,
}
# Of the room and not of a file system: once, in every repeat.
ONCE = ("idle", "dlm")
