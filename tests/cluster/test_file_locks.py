"""File locks between nodes of the lab: ctdb's ping_pong with its counts, flock, signals, kills, a node that crashes."""

from __future__ import annotations

import shlex

import pytest

from cluster.rooms import START_S, assert_gone, pids_of, wait_until
from lab import Lab, guide_topology

pytestmark = [pytest.mark.mount, pytest.mark.slow]

NODES = ("web1", "web2", "Mysql1")
LIMIT_S = 120.0

# Says on standard output what it has got; with "keep" it keeps it until it is killed.
HOLD = """
import fcntl, signal, sys
f = open(sys.argv[1], "r+")
how = fcntl.LOCK_EX | (fcntl.LOCK_NB if "nb" in sys.argv[3:] else 0)
try:
    (fcntl.lockf if sys.argv[2] == "fcntl" else fcntl.flock)(f, how)
except OSError as e:
    print(e.strerror, flush=True)
else:
    print("got it", flush=True)
    signal.pause() if "keep" in sys.argv[3:] else None
"""

# Locks one byte of the file, waits until all have theirs, and wants the next one's.
CIRCLE = """
import fcntl, os, sys, time
f = open("/gfs2/f", "r+")
at, of = int(sys.argv[1]), int(sys.argv[2])
fcntl.lockf(f, fcntl.LOCK_EX, 1, at)
print("first", flush=True)
while not os.path.exists("/gfs2/go"):
    time.sleep(0.05)
try:
    fcntl.lockf(f, fcntl.LOCK_EX, 1, (at + 1) % of)
except OSError as e:
    print(e.strerror, flush=True)
else:
    print("second", flush=True)
"""


def sh(room: Lab, node: str, script: str) -> str:
    return room.exec(node, ["timeout", "60", "sh", "-c", script], check=True).stdout


def hold(*arguments: str) -> str:
    return shlex.join(["python3", "-c", HOLD, *arguments])


def start(room: Lab, node: str, command: str, out: str) -> int:
    """In the background, with its output in a file; its process id there."""
    return int(sh(room, node, f"rm -f {out}; {command} > {out} 2>&1 < /dev/null & echo $!"))


def says(room: Lab, node: str, out: str, what: str) -> bool:
    return what in sh(room, node, f"cat {out} 2>/dev/null | tr '\\r' '\\n'")


def ping_pong(room: Lab, options: str, wanted: str) -> None:
    """On all nodes at once until each of them has said it."""
    command = f"ping_pong {options} /gfs2/ping {len(NODES) + 1}"
    pids = {node: start(room, node, command, "/tmp/ping.out") for node in NODES}
    for node in NODES:
        wait_until(lambda node=node: (counts(room, node, wanted) if "-rw" in options       # type: ignore[misc]
                                      else says(room, node, "/tmp/ping.out", wanted)),
                   f"{wanted!r} of {command} on {node}", LIMIT_S)
    for node, pid in pids.items():
        sh(room, node, f"kill -9 {pid}; while kill -0 {pid} 2>/dev/null; do sleep 0.1; done")
        said = sh(room, node, "cat /tmp/ping.out")
        assert "fail" not in said, said


def counts(room: Lab, node: str, wanted: str) -> bool:
    """Whether that is the last count that it has said, for a while: a lost store shows in the next turn."""
    said = sh(room, node, "cat /tmp/ping.out 2>/dev/null | tr '\\r' '\\n'")
    last = said.rpartition("data increment")
    return wanted in last[1] + last[2] and last[2].count("locks/sec") >= 2


def test_file_locks() -> None:
    with Lab(guide_topology(len(NODES), size="256M", post_join_delay=START_S)) as room:
        room.start_cluster()
        sh(room, NODES[0], f"mkfs.gfs2 -O -q -p lock_dlm -t mycluster:my-gfs2 -j {len(NODES)} -J 8 /dev/sdb5")
        for node in NODES:
            sh(room, node, "mount -t gfs2 /dev/sdb5 /gfs2")
        sh(room, "web1", "touch /gfs2/f /gfs2/g")
        # Each of them sees the others' increments under the lock: one for each node that takes part.
        ping_pong(room, "-rw", f"data increment = {len(NODES)}")
        # The same through mappings of one page: stores, and no read(2) or write(2).
        ping_pong(room, "-rw -m", f"data increment = {len(NODES)}")
        ping_pong(room, "", "locks/sec")
        ping_pong(room, "-c", "locks/sec")
        for kind in ("fcntl", "flock"):
            exclusion(room, kind)
        circle(room)
        crash(room)
        for node in ("web1", "Mysql1"):
            sh(room, node, "umount /gfs2")
        sh(room, "web1", "fsck.gfs2 -n /dev/sdb5; /usr/sbin/fsck.gfs2 -n /dev/sdb5")
        pids = pids_of(room.place)
    assert_gone(room.place, pids)


def exclusion(room: Lab, kind: str) -> None:
    """Held on one node: refused on another, waited for, given up by a kill; a wait ends by a signal, too."""
    holder = start(room, "web1", hold("/gfs2/f", kind, "keep"), "/tmp/held")
    wait_until(lambda: says(room, "web1", "/tmp/held", "got it"), f"the first {kind} lock")
    assert "temporarily unavailable" in sh(room, "web2", hold("/gfs2/f", kind, "nb"))
    gives_up = start(room, "web2", hold("/gfs2/f", kind), "/tmp/wait1")
    waits = start(room, "Mysql1", hold("/gfs2/f", kind, "keep"), "/tmp/wait2")
    sh(room, "web2", f"sleep 0.5; kill -9 {gives_up}; while kill -0 {gives_up} 2>/dev/null; do sleep 0.1; done")
    assert not says(room, "web2", "/tmp/wait1", "got it")
    assert not says(room, "Mysql1", "/tmp/wait2", "got it")
    sh(room, "web1", f"kill -9 {holder}")
    wait_until(lambda: says(room, "Mysql1", "/tmp/wait2", "got it"), f"the {kind} lock of a killed process")
    sh(room, "Mysql1", f"kill -9 {waits}")


def circle(room: Lab) -> None:
    """Three nodes whose processes wait for each other: one of them is told, the others get their locks."""
    for at, node in enumerate(NODES):
        start(room, node, shlex.join(["python3", "-c", CIRCLE, str(at), str(len(NODES))]), "/tmp/circle")
        wait_until(lambda node=node: says(room, node, "/tmp/circle", "first"),       # type: ignore[misc]
                   f"the first lock of {node}")
    sh(room, "web1", "touch /gfs2/go")
    for node in NODES:
        wait_until(lambda node=node: says(room, node, "/tmp/circle", "second")       # type: ignore[misc]
                   or says(room, node, "/tmp/circle", "deadlock"), f"the end of the circle on {node}", LIMIT_S)
    assert sum(says(room, node, "/tmp/circle", "deadlock") for node in NODES) == 1


def crash(room: Lab) -> None:
    """A crashed node's locks stand until its journal is replayed, and are gone then; those of others stand."""
    for kind in ("fcntl", "flock"):
        start(room, "web2", hold("/gfs2/f", kind, "keep"), f"/tmp/crash-{kind}")
        wait_until(lambda kind=kind: says(room, "web2", f"/tmp/crash-{kind}", "got it"), kind)    # type: ignore[misc]
    keeps = start(room, "Mysql1", hold("/gfs2/g", "fcntl", "keep"), "/tmp/keeps")
    wait_until(lambda: says(room, "Mysql1", "/tmp/keeps", "got it"), "the lock that stays")
    room.power("crash", "web2")
    for kind in ("fcntl", "flock"):
        assert "got it" in sh(room, "web1", hold("/gfs2/f", kind))
    assert "temporarily unavailable" in sh(room, "web1", hold("/gfs2/g", "fcntl", "nb"))
    sh(room, "Mysql1", f"kill -9 {keeps}")
