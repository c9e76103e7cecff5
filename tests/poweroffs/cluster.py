"""The room under test: commands in nodes, mounts, workers, what the nodes' logs say. Raises Wrong, LabError."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lab import Lab
from poweroffs.things import COUNTERS, KINDS, Ledger, Wrong, acknowledged_path, ledger_path

DEVICE, MOUNT, CLUSTER_FS = "/dev/sdb5", "/gfs2", "my-gfs2"
DEBIAN_FSCK = "/usr/sbin/fsck.gfs2"
FOLDER = "poweroffs"            # of /lab, where the ledgers are
MESSAGES = "/var/log/messages"
COMMAND_LIMIT_S = 120           # a busy machine may take long; a hang is longer
POLL_S = 0.005
NICE = "5"                      # of the workers: the cluster's own daemons come first
# The pid of whoever listens on a unix socket.
LISTENER = ("import socket,struct,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); "
            "print(struct.unpack('iii', s.getsockopt(1, 17, 12))[0])")
CMAN_SOCKET = "/run/cman/cman.sock"


class Cluster:
    """Nodes that have the file system mounted, and a worker on each."""

    def __init__(self, room: Lab) -> None:
        self.room = room
        self.votes = {n.name: n.votes for n in room.topology.nodes}
        self.nodes = list(self.votes)
        self.folder = room.place.shared / FOLDER
        self.ledgers: dict[str, Ledger] = {}
        self.workers: dict[str, subprocess.Popen[str]] = {}
        self.floors: dict[str, int] = {}
        self._lives = 0

    # -- commands

    def sh(self, node: str, script: str, *, check: bool = True) -> str:
        """What it prints. Raises Wrong when it fails, if `check`, and when it does not end."""
        done = self.room.exec(node, ["timeout", "-k", "5", str(COMMAND_LIMIT_S), "sh", "-c", f"{script} 2>&1"])
        if done.returncode == 124 or (check and done.returncode):
            raise Wrong(f"{node}: {script}: status {done.returncode}: {done.stdout.strip()} {done.stderr.strip()}")
        return done.stdout

    def each(self, nodes: Iterable[str], do: Callable[[str], object]) -> None:
        """At the same time; the first failure is raised when all have ended."""
        names = list(nodes)
        with ThreadPoolExecutor(max(1, len(names))) as pool:
            for future in [pool.submit(do, name) for name in names]:
                future.result()

    def python(self, module: str, *arguments: str) -> list[str]:
        return ["nice", "-n", NICE, sys.executable, "-S", "-m", f"poweroffs.{module}", *arguments]

    @property
    def environment(self) -> dict[str, str]:
        return {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}

    def start(self) -> None:
        """cman on all nodes, and the quorum disk's votes, if there is one. Raises Wrong, LabError."""
        disk = self.room.topology.qdisk_votes
        if disk:
            self.sh(self.nodes[0], "mkqdisk -c /dev/sdb7 -l myqdisk -y")
        self.room.start_cluster()
        deadline = time.monotonic() + COMMAND_LIMIT_S
        for node in self.nodes if disk else ():
            while f"Quorum device votes: {disk}\n" not in self.sh(node, "cman_tool status"):
                if time.monotonic() > deadline:
                    raise Wrong(f"{node} has not the quorum disk's votes: {self.stuck(node)}")
                time.sleep(POLL_S)

    # -- the file system

    def make(self, bsize: int, journal_mib: int) -> None:
        """Anew, mounted everywhere, with what the workers need, and empty ledgers."""
        table = f"{self.room.topology.cluster}:{CLUSTER_FS}"
        self.sh(self.nodes[0], f"mkfs.gfs2 -O -q -p lock_dlm -t {table} -b {bsize} -j {len(self.nodes)} "
                               f"-J {journal_mib} {DEVICE}")
        self.each(self.nodes, self.mount)
        self.folder.mkdir(exist_ok=True)
        for node in self.nodes:
            Ledger.create(ledger_path(self.folder, node))
            self.ledgers[node] = Ledger(ledger_path(self.folder, node))
            for kind in COUNTERS:
                acknowledged_path(self.folder, node, kind).unlink(missing_ok=True)
        self.floors.clear()
        done = self.room.exec(self.nodes[0], self.python("work", "setup", MOUNT, ",".join(self.nodes)),
                              env=self.environment)
        if done.returncode:
            raise Wrong(f"setup: {done.stderr}")

    def mount(self, node: str) -> None:
        self.sh(node, f"mount -t gfs2 {DEVICE} {MOUNT}")

    def umount(self, node: str) -> None:
        self.sh(node, f"umount {MOUNT}")

    def check_disk(self, node: str) -> None:
        """Unmounted everywhere: what both checkers say. Raises Wrong when one of them says anything is wrong.

        Files without a name that the dead had still to remove are no fault in the eyes of ours; the next first mount
        removes them, and for Debian's they must have gone.
        """
        self.sh(node, f"fsck.gfs2 -n {DEVICE}")
        self.mount(node)
        self.umount(node)
        self.sh(node, f"fsck.gfs2 -n {DEVICE} && {DEBIAN_FSCK} -n {DEVICE}")

    # -- workers

    def work(self, node: str, seed: int, pause_ms: float) -> None:
        """Start a worker and wait until it has found all that it left behind."""
        self._lives += 1
        arguments = ("run", MOUNT, f"/lab/{FOLDER}", ",".join(self.nodes), node, f"{seed} {self._lives}",
                     str(pause_ms))
        with self.errors(node).open("wb") as errors:
            worker: subprocess.Popen[str] = self.room.popen(
                node, self.python("work", *arguments), env=self.environment, stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=errors, text=True)
        self.workers[node] = worker
        assert worker.stdout is not None
        if worker.stdout.readline() != "ready\n":
            raise Wrong(f"the worker did not start: {self.last_words(node)}")

    def errors(self, node: str) -> Path:
        return self.room.place.shared / f"{node}.errors"

    def last_words(self, node: str) -> str:
        status = self.workers[node].wait(COMMAND_LIMIT_S)
        return self.errors(node).read_text(errors="replace").strip() or f"{node}: the worker ended with {status}"

    def tell_to_stop(self, node: str) -> None:
        """What it is doing it still finishes."""
        worker = self.workers[node]
        assert worker.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            worker.stdin.close()

    def stopped(self, node: str) -> None:
        """Raises Wrong when its worker did not end in order."""
        self.tell_to_stop(node)
        worker = self.workers[node]
        try:
            status = worker.wait(COMMAND_LIMIT_S)
        except subprocess.TimeoutExpired:
            raise Wrong(f"{node}: the worker does not stop: {self.stuck(node)}") from None
        if status:
            raise Wrong(f"the worker failed: {self.last_words(node)}")
        self.forget(node)

    def forget(self, node: str) -> None:
        """Its worker has ended, or its node has."""
        worker = self.workers.pop(node, None)
        if worker is None:
            return
        try:
            worker.wait(COMMAND_LIMIT_S)
        except subprocess.TimeoutExpired:
            raise Wrong(f"{node}: its worker does not die") from None
        for pipe in (worker.stdin, worker.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def check_workers(self, nodes: Iterable[str]) -> None:
        for node in nodes:
            if self.workers[node].poll() is not None:
                raise Wrong(f"the worker failed: {self.last_words(node)}")

    def watch(self, nodes: Sequence[str], seconds: float) -> None:
        """For so long all goes well: the moment at which something is done to them is drawn, not waited for."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            time.sleep(POLL_S)
        self.check_workers(nodes)

    def wait_progress(self, nodes: Sequence[str], operations: int, limit_s: float) -> float:
        """Until each kind on each of these nodes has done so many operations more; how long it took."""
        begun = time.monotonic()
        goals = {(node, kind): self.ledgers[node].progress(kind) + operations for node in nodes for kind in KINDS}
        while left := [(n, k) for (n, k), goal in goals.items() if self.ledgers[n].progress(k) < goal]:
            self.check_workers(nodes)
            if time.monotonic() - begun > limit_s:
                which = ", ".join(f"{kind} on {node}" for node, kind in left[:10])
                raise Wrong(f"no progress in {limit_s:.0f} s: {which}; {self.stuck(left[0][0])}")
            time.sleep(POLL_S)
        return time.monotonic() - begun

    def stuck(self, node: str) -> str:
        """What somebody who looks at a node that waits would look at first."""
        return self.sh(node, f"cman_tool status; fence_tool ls; dlm_tool ls --json; gfs2_tool waits {MOUNT} | head -20",
                       check=False)

    def state(self, node: str) -> str:
        """All that its daemons have to tell."""
        return self.sh(node, f"cman_tool status; cman_tool nodes; fence_tool ls; dlm_tool ls --json; dlm_tool dump; "
                             f"gfs2_tool waits {MOUNT}; gfs2_tool inflight {MOUNT}; gfs2_tool counters {MOUNT}; "
                             f"dlm_tool lockdump -w {CLUSTER_FS}; dlm_tool lockdump {CLUSTER_FS}; "
                             f"gfs2_tool lockdump {MOUNT}; cat /run/dlm/* /run/cman/*.users; ps axf", check=False)

    # -- judging

    def start_judge(self, node: str) -> subprocess.Popen[str]:
        floors = self.folder / f"floors.{node}"
        floors.write_text(json.dumps(self.floors))
        folder = f"/lab/{FOLDER}"
        judge: subprocess.Popen[str] = self.room.popen(
            node, ["timeout", "-k", "5", str(COMMAND_LIMIT_S),
                   *self.python("judge", MOUNT, folder, ",".join(self.nodes), f"{folder}/{floors.name}")],
            env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        return judge

    def end_judge(self, node: str, judge: subprocess.Popen[str]) -> None:
        """What another node than its owner has seen must be there from now on. Raises Wrong."""
        out, error = judge.communicate()
        if judge.returncode:
            raise Wrong(f"judged on {node} (status {judge.returncode}): {error.strip()}")
        for name, version in json.loads(out).items():
            kind, owner, _ = name.split()
            if owner != node and kind not in COUNTERS:
                self.floors[name] = max(version, self.floors.get(name, 0))

    def check_counters(self) -> None:
        """No value was made durable twice: the lock excluded, and the next one saw what the last one wrote."""
        for kind in COUNTERS:
            seen: dict[int, str] = {}
            for node in self.nodes:
                path = acknowledged_path(self.folder, node, kind)
                for line in path.read_text().splitlines() if path.exists() else ():
                    if int(line) in seen:
                        raise Wrong(f"{kind}: {node} and {seen[int(line)]} have both written {line}")
                    seen[int(line)] = node

    def check_quiet(self) -> None:
        """Nobody works: nothing may be under way."""
        for node, ledger in self.ledgers.items():
            for kind in KINDS:
                if ledger.begun(kind) != ledger.durable(kind):
                    raise Wrong(f"{kind} on {node} ended in the middle of an operation")

    # -- machines

    def boots(self) -> dict[str, tuple[int, str]]:
        """How often each node was booted, and in which state it is."""
        return {m["name"]: (m["boots"], m["state"]) for m in self.room.status()["machines"] if m["name"] in self.votes}

    def crash(self, *nodes: str, silent: bool = False) -> None:
        """Power off: what the switch can turn on again. Returns when no process of theirs is left."""
        if silent:
            self.room.partition(list(nodes), [n for n in self.nodes if n not in nodes])
        self.each(nodes, lambda node: self.room.power("crash", node))
        if silent:
            self.room.heal()

    def pid_of_cman(self, node: str) -> int:
        return int(self.room.exec(node, [sys.executable, "-IS", "-c", LISTENER, CMAN_SOCKET], check=True).stdout)

    def pid_of_gfs2d(self, node: str) -> int:
        for line in self.sh(node, f"cat {CMAN_SOCKET}.users").splitlines():
            pid, _, names = line.split(" ", 2)
            if f"gfs2:{CLUSTER_FS}" in names:
                return int(pid)
        raise Wrong(f"{node}: no gfs2d has registered with cman")

    def messages(self, node: str) -> Path:
        return self.room.path(node, MESSAGES)


class Tail:
    """What is added to nodes' logs from now on."""

    def __init__(self, cluster: Cluster, nodes: Iterable[str]) -> None:
        self._files = {}
        for node in nodes:
            f = cluster.messages(node).open("rb")
            f.seek(0, os.SEEK_END)
            self._files[node] = f
        self._rest = dict.fromkeys(self._files, b"")

    def lines(self) -> list[tuple[str, str]]:
        """New ones: node and text."""
        found = []
        for node, f in self._files.items():
            *whole, self._rest[node] = (self._rest[node] + f.read()).split(b"\n")
            found += [(node, line.decode(errors="replace")) for line in whole]
        return found

    def wait(self, mark: str, limit_s: float) -> str:
        """The node that first logs a line with this pattern; empty when none did in time."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            for node, line in self.lines():
                if re.search(mark, line):
                    return node
            time.sleep(POLL_S)
        return ""

    def close(self) -> None:
        for f in self._files.values():
            f.close()
