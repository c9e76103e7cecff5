"""Several nodes' mounts of one disk in memory, on the kernel's FUSE, the lock manager between them; in one process.

    python -m coherence.mounts '{"nodes": 3, "seed": 1, "seconds": 5, "planted": 0}'

The process is to have a mount namespace of its own, in which the nodes are at <directory>/0, /1 ...; programs that use
them are its children. Python code of this process must not touch the mounts: what they wait for may need its GIL.
Prints one line of JSON with the numbers of its FUSE connections, and one with what was found.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from types import TracebackType
from typing import Any

from coherence.cluster import Cluster
from coherence.over_dlm import DlmMaster
from gfs2py.fuse import _mount, control, mount
from gfs2py.fuse._session import Session

HERE = os.path.dirname(os.path.abspath(__file__))
END_S = float(os.environ.get('END_S', '60'))
POLL_S = 0.01


class Mounts:
    """A cluster whose nodes are mounted; unmounted and gone at the end."""

    def __init__(self, directory: str, nodes: int, seed: int, planted: int = 0, **shape: Any) -> None:
        self.directory = directory
        self.cluster = Cluster(nodes, seed, parking=False, planted=planted, **shape)
        self.cluster.master = DlmMaster(nodes)      # type: ignore[assignment]
        self.sessions: dict[int, Session] = {}
        self.connections: dict[int, mount.Connection] = {}

    def root(self, n: int) -> str:
        return f"{self.directory}/{n}"

    def __enter__(self) -> Mounts:
        self.cluster.__enter__()
        for n, node in self.cluster.nodes.items():
            os.makedirs(self.root(n), exist_ok=True)
            connection = mount.connect(f"node{n}", 0, plain=True)
            session = Session(node.volume.fs, connection.fd)
            session.start()
            connection.attach(self.root(n))
            connection.forget_mount()
            self.sessions[n], self.connections[n] = session, connection
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        if kind is not None:
            self.abort()
        for n, session in self.sessions.items():
            _mount.umount(os.fsencode(self.root(n)))
            deadline = time.monotonic() + END_S
            while not session.wait(POLL_S):
                assert time.monotonic() < deadline, "the session does not end with its mount"
            session.close()
        self.cluster.__exit__(kind, value, trace)

    def abort(self) -> None:
        """Whoever waits for an answer gets an error."""
        for connection in self.connections.values():
            control.abort_connection(connection.number)

    def report(self) -> str:
        """Who waits for what."""
        lines = [f"withdrawn: {self.cluster.withdrawn()}"]
        for n, node in self.cluster.nodes.items():
            lines += [f"node {n}: {request}" for request in self.sessions[n].in_flight()]
            lines += [f"node {n}: {line}" for line in node.volume.fs.glocks()]
        return "\n".join(lines)

    def requests(self, n: int) -> dict[str, int]:
        """How many requests of each kind node n has answered."""
        return {name: int(entry["count"]) for name, entry in self.sessions[n].statistics()["opcodes"].items()}


def python(*args: str) -> subprocess.Popen[str]:
    """A program that may use the mounts."""
    return subprocess.Popen([sys.executable, *args], stdout=subprocess.PIPE, text=True,
                            env=os.environ | {"PYTHONPATH": os.path.dirname(HERE)})


def do(statement: str, root: str) -> str:
    """Runs Python there (`import os, mmap` is done, the current directory is the mount) and returns what it prints."""
    process = python("-c", f"import os, mmap, sys\nos.chdir({root!r})\n{statement}")
    out, _ = process.communicate(timeout=END_S)
    assert process.returncode == 0, statement
    return out


class Broken(Exception):
    """The run could not be judged; what was wrong."""


def ended(mounts: Mounts, process: subprocess.Popen[str], limit_s: float) -> bool:
    """Waits for a program. A node that has withdrawn keeps its locks, so others may wait for it for ever."""
    deadline = time.monotonic() + limit_s
    while process.poll() is None:
        if time.monotonic() > deadline:
            return False
        if any(mounts.cluster.withdrawn().values()):
            print(mounts.cluster.withdrawn(), file=sys.stderr, flush=True)
            mounts.abort()
        time.sleep(POLL_S)
    return True


def torture(mounts: Mounts, job: dict[str, Any]) -> list[str]:
    """`workers` per node; everything that is wrong."""
    do(f"from coherence.torture import prepare; prepare({mounts.root(0)!r})", "/")
    nodes, each = len(mounts.sessions), job.get("workers", 2)
    outs = []
    processes = []
    for number in range(nodes * each):
        out = f"{mounts.directory}/result{number}"
        outs.append(out)
        processes.append(python(f"{HERE}/torture.py", json.dumps({
            "root": mounts.root(number % nodes), "who": f"n{number % nodes}w{number}", "number": number,
            "of": nodes * each, "seed": job["seed"], "seconds": job["seconds"], "steps": job.get("steps", 100_000),
            "only": job.get("only"), "out": out})))
    bad = []
    for number, process in enumerate(processes):
        if not ended(mounts, process, job["seconds"] + END_S):
            bad.append(f"worker {number} hangs\n{mounts.report()}")
            mounts.abort()
        if process.wait():
            bad.append(f"worker {number} ended with {process.returncode}")
    bad += [f"node {n} withdrew: {why}" for n, why in mounts.cluster.withdrawn().items() if why]
    if bad:
        raise Broken(bad)
    results = []
    for out in outs:
        with open(out) as f:
            results.append(json.load(f))
    judged = [json.loads(do(f"import json; from coherence import judge; print(json.dumps("
                            f"[judge.contents({mounts.root(n)!r}), open('log').read()]))", mounts.root(n)))
              for n in range(nodes)]
    from coherence import judge

    found = judge.problems(results, judged[0][1].encode())
    if any(j != judged[0] for j in judged):
        found.append("nodes see different contents")
    print(json.dumps({"events": sum(len(r["events"]) + len(r["names"]) + len(r["listings"]) + len(r["appended"])
                                    for r in results), "requests": mounts.requests(0),
                      "statistics": mounts.cluster.nodes[0].volume.fs.statistics()}), file=sys.stderr)
    return found




def play(mounts: Mounts, name: str) -> list[str]:
    from coherence import scenarios

    try:
        scenarios.ALL[name](mounts)
    except AssertionError as e:
        return [f"{name}: {e}\n{''.join(traceback.format_tb(e.__traceback__)[-1:])}"]
    return []


def main(job: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        try:
            with Mounts(directory, job["nodes"], job["seed"], job.get("planted", 0),
                        flags=tuple(job.get("flags", ("relatime", "acl")))) as mounts:
                print(json.dumps([c.number for c in mounts.connections.values()]), flush=True)
                found = play(mounts, job["play"]) if "play" in job else torture(mounts, job)
            found += mounts.cluster.findings()
        except Broken as e:
            found = e.args[0]
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
