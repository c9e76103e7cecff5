"""Coherence of what the kernel caches, on nodes of the lab: real daemons, the real lock manager over the network."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cluster.rooms import START_S, assert_gone, pids_of
from coherence import judge
from lab import Lab, guide_topology

pytestmark = [pytest.mark.mount, pytest.mark.slow]

TESTS = Path(__file__).parents[1]
SECONDS, LIMIT_S = 15, 200
WORKERS = 2                             # per node


def python(room: Lab, node: str, code: str) -> str:
    done = room.exec(node, ["timeout", "100", "/usr/bin/python3", "-c",
                            f"import sys; sys.path.insert(0, {str(TESTS)!r})\n{code}"], check=True)
    return done.stdout


def torture(room: Lab, nodes: list[str], seed: int, out: Path) -> list[str]:
    python(room, nodes[0], "from coherence.torture import prepare; prepare('/gfs2')")
    running = []
    for number in range(len(nodes) * WORKERS):
        node = nodes[number % len(nodes)]
        job = {"root": "/gfs2", "who": f"{node}w{number}", "number": number, "of": len(nodes) * WORKERS, "seed": seed,
               "seconds": SECONDS, "steps": 100_000, "out": f"/tmp/result{number}"}
        argv = ["timeout", str(LIMIT_S), "/usr/bin/python3", str(TESTS / "coherence/torture.py"), json.dumps(job)]
        running.append((node, number, room.popen(node, argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)))
    results: list[dict[str, Any]] = []
    for node, number, process in running:
        _, said = process.communicate()
        assert process.returncode == 0, (node, said)
        results.append(json.loads(room.exec(node, ["cat", f"/tmp/result{number}"], check=True).stdout))
    seen = [json.loads(python(room, node, "import json; from coherence import judge\n"
                                          "print(json.dumps([judge.contents('/gfs2'), open('/gfs2/log').read()]))"))
            for node in nodes]
    found = judge.problems(results, seen[0][1].encode())
    if any(s != seen[0] for s in seen):
        found.append("nodes see different contents")
    return found


def test_torture(seed: int, tmp_path: Path) -> None:
    with Lab(guide_topology(4, size="512M", post_join_delay=START_S)) as room:
        nodes = [n.name for n in room.topology.nodes]
        room.start_cluster()
        room.exec(nodes[0], ["mkfs.gfs2", "-O", "-q", "-p", "lock_dlm", "-t", "mycluster:my-gfs2", "-j", "4", "-J", "8",
                             "/dev/sdb5"], check=True)
        for node in nodes:
            room.exec(node, ["timeout", "60", "mount", "-t", "gfs2", "/dev/sdb5", "/gfs2"], check=True)
        assert torture(room, nodes, seed, tmp_path) == [], seed
        for node in nodes:
            room.exec(node, ["timeout", "60", "umount", "/gfs2"], check=True)
        room.exec(nodes[0], ["sh", "-c", "fsck.gfs2 -n /dev/sdb5 && /usr/sbin/fsck.gfs2 -n /dev/sdb5"], check=True)
        pids = pids_of(room.place)
    assert_gone(room.place, pids)
