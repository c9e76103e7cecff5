"""Power-offs one after another in one room: each judged, each batch ended by both checkers."""

from __future__ import annotations

import random
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lab import Lab, LabError, Topology, guide_topology
from lab.etc import cluster_conf
from poweroffs.cluster import DEVICE, MOUNT, Cluster, Tail
from poweroffs.plan import KINDS, Round, keeps_quorum, rounds
from poweroffs.things import Wrong

Say = Callable[[str], object]

NODES, SIZE = 4, "512M"
PROGRESS_LIMIT_S, BOOT_LIMIT_S, MARK_LIMIT_S = 120.0, 120.0, 20.0
POLL_S = 0.01
BATCH = 10                      # rounds between two checks of the disk
# More than one of a kind: the first may have been on its way when the power went.
OPERATIONS = 2
BY_HAND = ("blocked", "all")    # rounds in which nobody has quorum to fence the dead
BLOCKED_MAX_S = 1.5             # how long a cluster without quorum is watched
# Who is slow to start is not fenced for that.
PATIENT = (('post_join_delay="3"', 'post_join_delay="100"'),)
# A dead master of the quorum disk is followed after some two seconds; who is silent for six is dead.
DISK_TIMES = (('interval="1" tko="10"', 'interval="0.3" tko="20" tko_up="2" master_wait="3"'),
              ("<cman ", '<cman quorum_dev_poll="1500" '))


def topology(nodes: int = NODES, qdisk: bool = False) -> Topology:
    """Four nodes of which the first has two votes: two others may die at once and quorum is kept. With a quorum disk
    each has one, and the last one can go on."""
    room = guide_topology(nodes, size=SIZE, qdisk_votes=nodes - 1 if qdisk else 0)
    if nodes == NODES and not qdisk:
        room = replace(room, nodes=tuple(replace(n, votes=2 if n == room.nodes[0] else 1) for n in room.nodes))
    conf = cluster_conf(room)
    for old, new in (*PATIENT, *DISK_TIMES) if qdisk else PATIENT:
        assert old in conf
        conf = conf.replace(old, new)
    return replace(room, cluster_conf=conf)


@dataclass
class Tally:
    """What there is to say at the end."""

    power_offs: int = 0
    rounds: int = 0
    daemons: int = 0
    pauses_s: dict[str, list[float]] = field(default_factory=dict)
    lasted_s: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{self.power_offs} power-offs and {self.daemons} deaths of a daemon in {self.rounds} rounds, "
                 f"{statistics.median(self.lasted_s):.1f} s each (median), {max(self.lasted_s):.1f} s at most."]
        lines += [f"  {kind:<12} {len(found):3}   survivors went on after {statistics.median(found):5.2f} s (median), "
                  f"{max(found):5.2f} s at most" for kind, found in sorted(self.pauses_s.items())]
        return "\n".join(lines)


class Campaign:
    """On a room that is up and has its cluster started."""

    def __init__(self, room: Lab, seed: int, say: Say, pause_ms: float) -> None:
        self.cluster = Cluster(room)
        self.room, self.seed, self.say, self.pause_ms = room, seed, say, pause_ms
        self.rng = random.Random(f"campaign {seed}")
        self.nodes = self.cluster.nodes
        self.disk = room.topology.qdisk_votes
        self.tally = Tally()

    def run(self, count: int, kinds: Sequence[str] = KINDS, once: bool = False) -> None:
        """Until so many nodes have lost their power; with `once`, each kind once. Raises Wrong, LabError."""
        in_batch = 0
        for r in rounds(self.seed, self.cluster.votes, kinds, disk=self.disk, once=once):
            if not in_batch:
                self.begin()
            self.round(r)
            in_batch += 1
            if self.tally.power_offs >= count or in_batch == BATCH:
                self.finish()
                in_batch = 0
            if self.tally.power_offs >= count:
                return
        if in_batch:
            self.finish()

    def begin(self) -> None:
        bsize, journal_mib = self.rng.choice((4096, 4096, 1024)), self.rng.choice((8, 16))
        self.say(f"mkfs with blocks of {bsize}, journals of {journal_mib} MiB")
        self.cluster.make(bsize, journal_mib)
        self.cluster.each(self.nodes, self._work)
        self.cluster.wait_progress(self.nodes, OPERATIONS, PROGRESS_LIMIT_S)

    def _work(self, node: str) -> None:
        self.cluster.work(node, self.seed, self.pause_ms)

    def finish(self) -> None:
        """Everybody stops, everything is judged at rest, and the checkers have to be silent."""
        cluster = self.cluster
        for node in self.nodes:
            cluster.tell_to_stop(node)
        for node in self.nodes:
            cluster.stopped(node)
        cluster.check_quiet()
        node = self.rng.choice(self.nodes)
        cluster.end_judge(node, cluster.start_judge(node))
        cluster.check_counters()
        cluster.each(self.nodes, cluster.umount)
        cluster.check_disk(node)
        self.say("both checkers are silent")

    # -- one round

    def round(self, r: Round) -> None:
        begun, cluster = time.monotonic(), self.cluster
        self.say(f"{self.tally.power_offs + 1}: {r}")
        cluster.watch(self.nodes, r.moment_s)
        before = cluster.boots()
        r = self._strike(r)
        struck = time.monotonic()
        survivors = [n for n in self.nodes if n not in r.victims]
        by_hand = r.kind in BY_HAND
        if by_hand:
            self._watch_blocked(r, before)
        else:
            cluster.wait_progress(survivors, OPERATIONS, PROGRESS_LIMIT_S)
            self.tally.pauses_s.setdefault(r.kind, []).append(time.monotonic() - struck)
        on = self.rng.choice(survivors) if not by_hand else ""
        judge = cluster.start_judge(on) if on else None
        try:
            cluster.each(r.victims, lambda node: self._revive(node, before[node][0], r.kind))
        finally:
            if judge is not None:
                self._end_judge(on, judge)
        cluster.wait_progress(self.nodes, OPERATIONS, PROGRESS_LIMIT_S)
        if by_hand:
            self._end_judge(self.nodes[0], cluster.start_judge(self.nodes[0]))
        self._check_boots(r, before)
        self.tally.rounds += 1
        self.tally.power_offs += r.power_offs
        self.tally.daemons += r.kind == "daemon"
        self.tally.lasted_s.append(time.monotonic() - begun - r.moment_s)

    def _end_judge(self, node: str, judge: subprocess.Popen[str]) -> None:
        self.cluster.end_judge(node, judge)

    def _watch_blocked(self, r: Round, before: dict[str, tuple[int, str]]) -> None:
        """Nobody has quorum: nobody may be fenced. Then a person switches the dead on."""
        self.cluster.watch((), self.rng.random() * BLOCKED_MAX_S)
        if self.cluster.boots() != {n: (b, s if n not in r.victims else "crashed (by request)")
                                    for n, (b, s) in before.items()}:
            raise Wrong(f"somebody was fenced without quorum: {self.cluster.boots()}, before {before}")
        self.cluster.each(r.victims, lambda node: self.room.power("on", node))

    def _check_boots(self, r: Round, before: dict[str, tuple[int, str]]) -> None:
        """The dead were booted once, nobody else was. Who is switched on by hand may be fenced: others were faster."""
        dead = () if r.kind == "daemon" else r.victims
        for node, (boots, state) in self.cluster.boots().items():
            times = boots - before[node][0]
            late = node in dead and r.kind in BY_HAND and times > 1
            if state != "up" or (times != (node in dead) and not late):
                raise Wrong(f"{node} is {state} and was booted {boots - before[node][0]} times in {r}")

    def _strike(self, r: Round) -> Round:
        """Do it. Returns what came of it: the second victim may be another one."""
        cluster, first = self.cluster, r.victims[0]
        match r.kind:
            case "off" | "two" | "three" | "blocked" | "all":
                cluster.crash(*r.victims, silent=r.silent)
            case "again":
                r = self._strike_again(r)
            case "mounting" | "unmounting":
                self._strike_between(r)
            case "daemon":
                cluster.sh(first, f"kill -9 {cluster.pid_of_gfs2d(first)}")
            case "manager":
                cluster.sh(first, f"kill -9 {cluster.pid_of_cman(first)}", check=False)
            case "frozen":
                self.room.freeze(first)
            case "cut":
                self.room.partition([first])
            case _:
                raise AssertionError(r.kind)
        return r

    def _strike_again(self, r: Round) -> Round:
        """One dies, then another, who is at work on the first one's recovery if a log line is waited for."""
        first, second = r.victims
        cluster = self.cluster
        tail = Tail(cluster, [n for n in self.nodes if n != first])
        try:
            cluster.crash(first, silent=r.silent)
            if r.mark:
                who = tail.wait(r.mark, MARK_LIMIT_S)
                if who and keeps_quorum(cluster.votes, (first, who), self.disk):
                    second = who
            else:
                cluster.watch((), r.second_s)
        finally:
            tail.close()
        cluster.crash(second, silent=r.silent)
        return replace(r, victims=(first, second))

    def _strike_between(self, r: Round) -> None:
        """In the middle of mount or umount."""
        node = r.victims[0]
        self.cluster.stopped(node)
        command = f"umount {MOUNT}"
        if r.kind == "mounting":
            self.cluster.umount(node)
            command = f"mount -t gfs2 {DEVICE} {MOUNT}"
        with self.room.popen(node, ["sh", "-c", command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL):
            self.cluster.watch((), r.second_s)
            self.cluster.crash(node, silent=r.silent)

    def _revive(self, node: str, boots: int, kind: str) -> None:
        """Booted by whoever fenced it; it joins, mounts and works on."""
        cluster = self.cluster
        if kind == "daemon":
            cluster.sh(node, f"umount {MOUNT} || umount -l {MOUNT}", check=False)
        else:
            self._wait_booted(node, boots)
        cluster.forget(node)
        if kind == "cut":
            self.room.heal()
        while True:
            lives = cluster.boots()[node][0]
            try:
                if kind != "daemon":
                    cluster.sh(node, "service cman start")
                cluster.mount(node)
                return self._work(node)
            except (Wrong, LabError):
                if kind not in BY_HAND:
                    raise
                # The others had quorum before it was back: they fenced it once more, as they must.
                self._wait_booted(node, lives)
                cluster.forget(node)

    def _wait_booted(self, node: str, boots: int) -> None:
        deadline = time.monotonic() + BOOT_LIMIT_S
        while (found := self.cluster.boots()[node])[0] <= boots or found[1] != "up":
            if time.monotonic() > deadline:
                raise Wrong(f"{node} was not fenced: {found}, before {boots}")
            time.sleep(POLL_S)


def evidence(campaign: Campaign, into: Path) -> None:
    """What somebody needs who looks for the reason: logs, ledgers, the disk as it is now."""
    room = campaign.room
    for machine in room.status()["machines"]:
        if machine["name"] in campaign.nodes and machine["state"] == "up":
            (into / f"{machine['name']}.state").write_text(campaign.cluster.state(machine["name"]))
    for node in campaign.nodes:
        shutil.copy(campaign.cluster.messages(node), into / f"{node}.messages")
        for path in room.path(node, "/var/log/cluster").iterdir():
            shutil.copy(path, into / f"{node}.{path.name}")
    shutil.copy(room.place.path / "room.log", into)
    shutil.copytree(room.place.shared, into / "lab", dirs_exist_ok=True)
    subprocess.run(["cp", "--sparse=always", str(room.place.disks / f"{Path(DEVICE).name}.img"), str(into)],
                   check=True)


def run(seed: int, count: int, say: Say, *, kinds: Sequence[str] = KINDS, once: bool = False, nodes: int = NODES,
        qdisk: bool = False, pause_ms: float = 30.0, keep: bool = False) -> Tally:
    """A room, so many power-offs, nothing left of it. keep: evidence of a failure. Raises Wrong, LabError."""
    say(f"seed {seed}")
    with Lab(topology(nodes, qdisk)) as room:
        campaign = Campaign(room, seed, say, pause_ms)
        try:
            campaign.cluster.start()
            campaign.run(count, kinds, once)
        except (Wrong, LabError) as e:
            say(f"seed {seed}, round {campaign.tally.rounds + 1}: {e}")
            if keep:
                into = Path(tempfile.mkdtemp(prefix="poweroffs-"))
                evidence(campaign, into)
                say(f"see {into}")
            raise
    return campaign.tally
