"""A room whose nodes all work while faults strike; every round they have to come back; then one order is looked for."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from histories import linear, models, work
from histories.faults import KINDS, Fault, rounds
from histories.models import NEVER, UNKNOWN, Op
from lab import Lab, LabError
from poweroffs.campaign import topology
from poweroffs.cluster import CLUSTER_FS, DEVICE, MESSAGES, MOUNT, Cluster
from poweroffs.things import Wrong

Say = Callable[[str], object]

FOLDER = "histories"            # of /lab, where the notes are
OPERATIONS = 3                  # of every node, for the service to be there again
RETURN_LIMIT_S = 180.0          # nodes may have to be fenced and booted first, on a machine that is busy
BY_HAND_S = 40.0                # then what is still off gets switched on: it may be that nobody has the quorum to fence
TRY_LIMIT_S = "60"
POLL_S, RETRY_S = 0.02, 0.2
JOURNAL_MIB = 8
EXPECTED, FOUND = 1, 3          # how a worker ends: it met an error; it read what nobody wrote


@dataclass
class Tally:
    seed: int
    rounds: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)
    unknown: int = 0
    lives: int = 0
    returned_s: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        worst = max(self.returned_s, default=0.0)
        return (f"seed {self.seed}: {self.rounds} rounds, {self.faults.total()} faults "
                f"({', '.join(f'{n} {kind}' for kind, n in sorted(self.faults.items()))}), "
                f"{self.operations.total()} operations ({self.unknown} of unknown end) in {self.lives} lives, "
                f"all nodes back {worst:.1f} s after the end of a fault at most: one order explains everything")


class Keeper:
    """Keeps one node at work: whatever ended its worker, the node is brought back and gets another one.

    Its thread tries until it succeeds; what it meets meanwhile is no finding: the campaign waits for progress,
    and tells its last error when none comes.
    """

    def __init__(self, campaign: Campaign, node: str) -> None:
        self.campaign, self.node = campaign, node
        self.cluster = campaign.cluster
        self.worker: subprocess.Popen[str] | None = None
        self.lives: list[str] = []
        self.finding = ""
        self.last_error = ""
        self.over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=node, daemon=True)

    def start(self) -> None:
        self._begin()
        self._thread.start()

    def notes(self) -> Path:
        return self.campaign.folder / f"{self.lives[-1]}.jsonl"

    def noted(self) -> int:
        """Bytes of notes of this life: they grow while it works."""
        with contextlib.suppress(FileNotFoundError):
            return self.notes().stat().st_size
        return 0

    def _begin(self) -> None:
        """A worker on a mount that is there. Raises Wrong."""
        who = f"{self.node}-{len(self.lives)}"
        # Its name stands before it begins: what it notes must have an owner.
        self.lives.append(who)
        self.campaign.begun(self.node, who)
        arguments = ("run", MOUNT, f"/lab/{FOLDER}/{who}.jsonl", who, str(self.campaign.seed),
                     str(self.campaign.pause_ms))
        with (self.campaign.folder / f"{who}.errors").open("wb") as errors:
            self.worker = self.campaign.room.popen(self.node, self.campaign.python(*arguments),
                                                   env=self.cluster.environment, stdin=subprocess.PIPE,
                                                   stdout=subprocess.PIPE, stderr=errors, text=True)
        assert self.worker.stdout is not None
        if self.worker.stdout.readline() != "ready\n":
            raise Wrong(f"{who} did not start")

    def _run(self) -> None:
        while not self.over.is_set():
            assert self.worker is not None
            status = self.worker.poll()
            if status is None:
                time.sleep(POLL_S)
                continue
            self._close()
            if status == FOUND:
                self.finding = (self.campaign.folder / f"{self.lives[-1]}.errors").read_text().strip()
                return
            self._bring_back()

    def _bring_back(self) -> None:
        while not self.over.is_set():
            try:
                self._try()
                return
            except (Wrong, LabError, OSError) as e:
                self.last_error = str(e)
                self.over.wait(RETRY_S)

    def _try(self) -> None:
        """Boot is whoever fenced it's business, or the campaign's. Raises Wrong, LabError."""
        # Of a mount that has withdrawn stat(2) fails, which is what mountpoint(1) looks with.
        self._sh(f"! grep -q ' {MOUNT} ' /proc/mounts || umount {MOUNT} || umount -l {MOUNT}")
        self._sh("service cman status || service cman start")
        self._sh(self.campaign.mounting)
        self._begin()

    def _sh(self, script: str) -> None:
        done = self.campaign.room.exec(self.node, ["timeout", "-k", "5", TRY_LIMIT_S, "sh", "-c", f"{script} 2>&1"])
        if done.returncode:
            raise Wrong(f"{self.node}: {script}: status {done.returncode}: {done.stdout.strip()}{done.stderr.strip()}")

    def _close(self) -> None:
        assert self.worker is not None
        for pipe in (self.worker.stdin, self.worker.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def let_go(self) -> None:
        self.over.set()
        if self._thread.ident is not None:
            self._thread.join()
        if self.worker is not None:
            self.worker.wait()
            self._close()

    def stop(self) -> None:
        """In order. Raises Wrong when it does not end so."""
        self.over.set()
        self._thread.join()
        assert self.worker is not None
        if self.worker.poll() is None:
            assert self.worker.stdin is not None
            self.worker.stdin.close()
            try:
                status = self.worker.wait(RETURN_LIMIT_S)
            except subprocess.TimeoutExpired:
                raise Wrong(f"{self.node}: its worker does not end: {self.cluster.stuck(self.node)}") from None
            if status:
                errors = (self.campaign.folder / f"{self.lives[-1]}.errors").read_text().strip()
                raise Wrong(f"{self.node}: its worker ended with {status}: {errors}")


class Campaign:
    """On a room whose cluster is started."""

    def __init__(self, room: Lab, seed: int, say: Say, pause_ms: float, options: str) -> None:
        self.room, self.seed, self.say, self.pause_ms = room, seed, say, pause_ms
        self.mounting = f"mount -t gfs2 -o {options} {DEVICE} {MOUNT}"
        self.cluster = Cluster(room)
        self.nodes = self.cluster.nodes
        self.folder = room.place.shared / FOLDER
        self.keepers = {node: Keeper(self, node) for node in self.nodes}
        self.lives: dict[str, list[tuple[str, float]]] = {node: [] for node in self.nodes}
        self.tally = Tally(seed)

    def python(self, *arguments: str) -> list[str]:
        return ["nice", "-n", "5", sys.executable, "-S", "-m", "histories.work", *arguments]

    def begun(self, node: str, who: str) -> None:
        self.lives[node].append((who, float(time.monotonic_ns())))

    def run(self, seconds: float, kinds: Sequence[str] = KINDS) -> None:
        """Raises Wrong, LabError."""
        self.folder.mkdir()
        table = f"{self.room.topology.cluster}:{CLUSTER_FS}"
        self.cluster.sh(self.nodes[0], f"mkfs.gfs2 -O -q -p lock_dlm -t {table} -j {len(self.nodes)} -J {JOURNAL_MIB} "
                                       f"{DEVICE}")
        self.cluster.each(self.nodes, lambda node: self.cluster.sh(node, self.mounting))
        done = self.room.exec(self.nodes[0], self.python("setup", MOUNT), env=self.cluster.environment)
        if done.returncode:
            raise Wrong(f"setup: {done.stderr}")
        for keeper in self.keepers.values():
            keeper.start()
        end = time.monotonic() + seconds
        self.wait_progress()
        for faults in rounds(self.seed, self.nodes, kinds):
            self.round(faults)
            if time.monotonic() > end:
                break
        for keeper in self.keepers.values():
            keeper.stop()
        self.judge()
        self.cluster.each(self.nodes, self.cluster.umount)
        self.cluster.check_disk(random.Random(self.seed).choice(self.nodes))
        self.say("both checkers are silent")

    def let_go(self) -> None:
        """The room is gone, and with it everything that ran in it."""
        for keeper in self.keepers.values():
            keeper.let_go()

    # -- faults

    def round(self, faults: Sequence[Fault]) -> None:
        self.say(f"{self.tally.rounds + 1}: {'; '.join(map(str, faults))}")
        begun = time.monotonic()
        steps = sorted([(f.at_s, True, n) for n, f in enumerate(faults)] +
                       [(f.at_s + f.lasts_s, False, n) for n, f in enumerate(faults)])
        for at_s, begins, n in steps:
            while time.monotonic() < begun + at_s:
                time.sleep(POLL_S)
            with contextlib.suppress(LabError):         # the node of it is down by then
                (self.strike if begins else self.lift)(faults[n])
        self.whole()
        lifted = time.monotonic()
        self.wait_progress()
        self.tally.rounds += 1
        self.tally.faults.update(f.kind for f in faults)
        self.tally.returned_s.append(time.monotonic() - lifted)

    def strike(self, fault: Fault) -> None:
        room, node = self.room, fault.nodes[0] if fault.nodes else ""
        match fault.kind:
            case "partition" | "one-way":
                room.partition(*fault.groups, one_way=fault.kind == "one-way")
            case "loss":
                room.loss(fault.amount)
            case "delay":
                room.delay(fault.amount)
            case "pause":
                room.freeze(node)
            case "power":
                self.cluster.crash(*fault.nodes)
            case "gfs2d" | "cman":
                with contextlib.suppress(Wrong):        # it does not run there at this moment
                    pid = (self.cluster.pid_of_gfs2d if fault.kind == "gfs2d" else self.cluster.pid_of_cman)(node)
                    room.exec(node, ["kill", "-9", str(pid)])
            case "disk cut":
                room.disk(node, cut=True)
            case "disk hang":
                room.hang_disk(node, "sdb5")

    def lift(self, fault: Fault) -> None:
        room = self.room
        match fault.kind:
            case "partition" | "one-way" | "loss" | "delay":
                room.loss(0)
                room.delay(0)
                room.heal()
            case "pause":
                room.thaw(*fault.nodes)
            case "disk cut" | "disk hang":
                room.disk(fault.nodes[0], cut=False)

    def whole(self) -> None:
        """Nothing is wrong with any machine any more, but with those that are down."""
        for machine in self.room.status()["machines"]:
            if machine["name"] in self.nodes and machine["state"] == "frozen":
                self.room.thaw(machine["name"])
        self.room.heal()

    def wait_progress(self) -> None:
        """Until every node has done something since now. Raises Wrong: the service did not come back, and why."""
        deadline = time.monotonic() + RETURN_LIMIT_S
        by_hand = time.monotonic() + BY_HAND_S
        before = {node: (len(k.lives), k.noted()) for node, k in self.keepers.items()}
        left = set(self.nodes)
        while left:
            for node in sorted(left):
                keeper = self.keepers[node]
                if keeper.finding:
                    raise Wrong(keeper.finding)
                if keeper.lives and keeper.worker is not None and keeper.worker.poll() is None:
                    lives, noted = before[node]
                    if keeper.noted() - (noted if len(keeper.lives) == lives else 0) > 200 * OPERATIONS:
                        left.discard(node)
            if time.monotonic() > by_hand:
                by_hand = NEVER
                self._switch_on()
            if time.monotonic() > deadline:
                node = sorted(left)[0]
                raise Wrong(f"{node} is not at work {RETURN_LIMIT_S:.0f} s after the end of all faults: "
                            f"{self.keepers[node].last_error}; {self.cluster.stuck(node)}")
            time.sleep(POLL_S)

    def _switch_on(self) -> None:
        """What the cluster would, had it the quorum to fence it."""
        for machine in self.room.status()["machines"]:
            if machine["name"] in self.nodes and machine["state"] not in ("up", "frozen"):
                self.say(f"{machine['name']} is {machine['state']}: switched on by hand")
                with contextlib.suppress(LabError):
                    self.room.power("on", machine["name"])

    # -- judging

    def judge(self) -> None:
        """Raises Wrong."""
        reader = self.nodes[0]
        by_key: dict[str, list[Op]] = {key: [] for key in work.things()}
        for node in self.nodes:
            for who, _ in self.lives[node]:
                path = self.folder / f"{who}.jsonl"
                for key, op in noted(who, path) if path.exists() else ():
                    by_key[key].append(op)
                    self.tally.operations[op.what] += 1
                    self.tally.unknown += op.result == UNKNOWN
        self.tally.lives = sum(len(found) for found in self.lives.values())
        for key, ops in by_key.items():
            ops = linear.closed(ops, self.lives)
            if key.startswith("list"):
                raw = self.cluster.sh(reader, f"cat {MOUNT}/{key}").encode()
                final = [work.value_of(raw[at:at + work.RECORD]) for at in range(0, len(raw), work.RECORD)]
                found = linear.appended(ops, final)
            else:
                found = linear.linearizable(ops, model_of(key))
            if found:
                raise Wrong(f"{key}: {found}")


def model_of(key: str) -> models.Model:
    if key.startswith("register"):
        return models.Register()
    return models.Place(work.NAMES[0]) if key.startswith("place") else models.Counter()


def noted(who: str, path: Path) -> list[tuple[str, Op]]:
    """A worker's notes as operations. The last line may have been cut by its end."""
    out: list[tuple[str, Op]] = []
    begun: dict[str, Any] | None = None
    for text in path.read_text().splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            break
        if "f" in line:
            begun = line
        elif begun is not None:
            value = tuple(begun["v"]) if isinstance(begun["v"], list) else begun["v"]
            out.append((begun["k"], Op(who, begun["n"], begun["f"], value, begun["t"], line["t"], line["r"])))
            begun = None
    if begun is not None:
        value = tuple(begun["v"]) if isinstance(begun["v"], list) else begun["v"]
        out.append((begun["k"], Op(who, begun["n"], begun["f"], value, begun["t"], NEVER, UNKNOWN)))
    return out


def evidence(campaign: Campaign, into: Path) -> None:
    """What somebody needs who looks for the reason: logs, notes, the disk as it is now."""
    room = campaign.room
    for machine in room.status()["machines"]:
        if machine["name"] in campaign.nodes and machine["state"] == "up":
            (into / f"{machine['name']}.state").write_text(campaign.cluster.state(machine["name"]))
    for node in campaign.nodes:
        shutil.copy(room.path(node, MESSAGES), into / f"{node}.messages")
    shutil.copy(room.place.path / "room.log", into)
    shutil.copytree(room.place.shared, into / "lab", dirs_exist_ok=True)
    subprocess.run(["cp", "--sparse=always", str(room.place.disks / f"{Path(DEVICE).name}.img"), str(into)], check=True)


def run(seed: int, seconds: float, say: Say, *, kinds: Sequence[str] = KINDS, pause_ms: float = 20.0,
        options: str = "defaults", keep: bool = False) -> Tally:
    """A room, so many seconds of rounds, nothing left of it. options: of mount. keep: evidence of a failure.

    Raises Wrong, LabError.
    """
    say(f"seed {seed}")
    with contextlib.ExitStack() as last, Lab(topology()) as room:
        room.start_cluster()
        campaign = Campaign(room, seed, say, pause_ms, options)
        last.callback(campaign.let_go)
        try:
            campaign.run(seconds, kinds)
        except (Wrong, LabError) as e:
            say(f"seed {seed}, round {campaign.tally.rounds + 1}: {e}")
            if keep:
                into = Path(tempfile.mkdtemp(prefix="histories-"))
                evidence(campaign, into)
                say(f"see {into}")
            raise
        finally:
            for keeper in campaign.keepers.values():
                keeper.over.set()
    return campaign.tally
