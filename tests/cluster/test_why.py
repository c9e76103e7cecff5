"""`cman_tool why` on nodes of the lab: a fence that fails until it does not, a lock of another node's process, a daemon
that hangs, quorum that is gone."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

import pytest

from cluster.rooms import START_S, assert_gone, pids_of, wait_until
from lab import Lab, guide_topology
from lab.topology import SWITCH

pytestmark = [pytest.mark.mount, pytest.mark.slow]

TABLE = "mycluster:my-gfs2"
NOTHING, BLOCKED = 0, 3

HOLD = """
import fcntl, sys, signal
f = open("/gfs2/f", "r+")
fcntl.lockf(f, fcntl.LOCK_EX)
open("/tmp/" + sys.argv[1], "w").write("got it")
signal.pause()
"""


def sh(room: Lab, node: str, script: str) -> str:
    return room.exec(node, ["timeout", "60", "sh", "-c", script], check=True).stdout


def why(room: Lab, node: str, kind: str = "") -> list[dict[str, Any]]:
    """What is blocked in the cluster as this node tells it; of one kind only."""
    done = room.exec(node, ["cman_tool", "why", "--json"])
    found: list[dict[str, Any]] = json.loads(done.stdout)["blocked"]
    assert done.returncode == (BLOCKED if found else NOTHING), done.stderr
    return [one for one in found if kind in ("", one["kind"])]


def until_well(room: Lab, node: str, what: str = "nothing to be blocked") -> None:
    """On a loaded machine an answer may come too late, or a lock be waited for longer than usual."""
    wait_until(lambda: why(room, node) == [], what)


def file(room: Lab, node: str) -> str:
    """The control file; it comes a moment after the mount."""
    return sh(room, node, "until cat /run/gfs2/*/why 2> /dev/null; do sleep 0.1; done")


def start(room: Lab, node: str, name: str) -> int:
    """A process that wants an exclusive fcntl lock on /gfs2/f and keeps it; its pid there."""
    command = shlex.join(["python3", "-c", HOLD, name])
    return int(sh(room, node, f"{command} > /dev/null 2>&1 < /dev/null & echo $!"))


def has(room: Lab, node: str, name: str) -> bool:
    return room.exec(node, ["test", "-s", f"/tmp/{name}"]).returncode == 0


def test_why() -> None:
    with Lab(guide_topology(3, size="256M", post_join_delay=START_S)) as room:
        room.start_cluster()
        sh(room, "web1", f"mkfs.gfs2 -O -q -p lock_dlm -t {TABLE} -j 3 -J 8 /dev/sdb5")
        for node in ("web1", "web2", "Mysql1"):
            sh(room, node, "mount -t gfs2 /dev/sdb5 /gfs2")
        until_well(room, "Mysql1")
        wait_until(lambda: sh(room, "web1", "cman_tool why || true") + file(room, "web1")
                   == "Nothing is blocked.\n" * 2, "it in words")
        a_lock(room)
        a_hung_daemon(room)
        a_fence_that_fails(room)
        pids = pids_of(room.place)
    assert_gone(room.place, pids)


def a_lock(room: Lab) -> None:
    """web2 holds, web1 waits: Mysql1 can say who is who."""
    sh(room, "web2", "touch /gfs2/f")
    holder = start(room, "web2", "first")
    wait_until(lambda: has(room, "web2", "first"), "the lock")
    waiter = start(room, "web1", "second")
    named = f"python3 (pid {holder} fcntl) on web2"
    wait_until(lambda: named in [f["waits_for"] for f in why(room, "Mysql1", "lock")], f"word of {named}")
    (one,) = [f for f in why(room, "Mysql1", "lock") if f["what"].startswith("fcntl")]
    assert re.fullmatch(rf"fcntl lock on /f \(inode \d+ of {TABLE}\)", one["what"])
    assert one["blocked"] == [f"python3 (pid {waiter} SETLKW) on web1 wants EX"]
    assert one["do"] == [f"let it end, or on web2: kill {holder}"]
    assert one["for_ms"] >= 1000
    wait_until(lambda: f"kill {holder}" in file(room, "web1"), "what web1 knows by itself")
    sh(room, "web2", f"kill {holder}")
    wait_until(lambda: has(room, "web1", "second"), "the lock to be handed on")
    sh(room, "web1", f"kill {waiter}")
    until_well(room, "Mysql1")


def a_hung_daemon(room: Lab) -> None:
    """Somebody who does not answer is named, by its own node and by others."""
    pid = int(sh(room, "web2", "pgrep -x gfs2d"))
    sh(room, "web2", f"kill -STOP {pid}")
    try:
        told = f"gfs2d (dlm:my-gfs2, gfs2:my-gfs2) pid {pid} on web2 does not answer"
        for node in ("web2", "web1"):
            wait_until(lambda n=node: told in [f["what"] for f in why(room, n)], told)          # type: ignore[misc]
    finally:
        sh(room, "web2", f"kill -CONT {pid}")
    until_well(room, "web1", "it to answer again")


def a_fence_that_fails(room: Lab) -> None:
    """The switch is out of reach: the file system waits, and everybody says for what; then it is back."""
    nodes = ("web1", "Mysql1")
    room.partition(["web1", "web2", "Mysql1"], [SWITCH])
    room.power("crash", "web2")
    blocked = [f"file system {TABLE} (/gfs2) on {n}" for n in sorted(nodes)]
    seen: dict[str, dict[str, Any]] = {}

    def told(node: str) -> bool:
        """A try has failed, and both file systems say that they wait."""
        found = why(room, node, "fence")
        for one in found:
            if " try" in one["waits_for"] and sorted(one["blocked"]) == blocked:
                seen[node] = one
        return node in seen

    for node in nodes:
        wait_until(lambda n=node: told(n), "a try that has failed")     # type: ignore[misc]
        one = seen[node]
        assert one["what"] == "fencing of web2 (node 1, lost)"
        assert re.search(r"(second|third|\dth) try.*the last one failed: method 1: fence_wti on WTI-Fence: \w",
                         one["waits_for"]), one
        assert "fence_ack_manual web2" in one["do"][1]
        status = sh(room, node, "cman_tool status")
        assert re.search(r"^Blocked: fencing of web2 \(node 1, lost\) for [^:]+: waits for ", status, re.MULTILINE)
        assert "waits for: " in file(room, node)
    over = re.compile('recovery from the loss of "web2": fence takes longer than its budget of 2.0 s')
    wait_until(lambda: over.search(sh(room, "Mysql1", "cat /var/log/messages")) is not None, "a word about the budget")
    room.heal()
    for node in nodes:
        until_well(room, node, "nothing to be blocked any more")
        (past,) = json.loads(sh(room, node, "cman_tool status --json"))["history"]
        assert (past["name"], list(past["phases_ms"])) == (
            "web2", ["detection", "eviction", "fence", "dlm", "journal", "resume"])
        assert past["text"] in sh(room, node, "cman_tool status; cat /var/log/messages")
        assert past["phases_ms"]["fence"] > 2000
        sh(room, node, "echo on > /gfs2/" + node)
    the_guides_lines(room, nodes)
    metrics(room)


def the_guides_lines(room: Lab, nodes: tuple[str, ...]) -> None:
    """What the guide shows of a crash, in its order; one survivor replays the journal."""
    logs = {node: sh(room, node, "cat /var/log/messages") for node in nodes}
    for log in logs.values():
        assert re.search(r"entering GATHER state.*entering RECOVERY state.*entering OPERATIONAL state"
                         r".*CLM CONFIGURATION CHANGE.*Members Left:.* r\(0\) ip\(192\.168\.12\.240\)"
                         r'.*fencing node "web2".*fence "web2" failed.*fence "web2" success', log, re.DOTALL), log
        assert "dlm: closing connection to node 1" in log
    replay = re.compile(r'fence "web2" success.*GFS2: fsid=mycluster:my-gfs2\.\d: jid=1: Trying to acquire journal lock'
                        r"\.\.\..*jid=1: Looking at journal\.\.\..*jid=1: Done", re.DOTALL)
    assert len([log for log in logs.values() if replay.search(log)]) == 1, logs


def metrics(room: Lab) -> None:
    """After one loss, with all well again."""
    told = sh(room, "web1", "cluster_exporter -1")
    where = 'mount_point="/gfs2",table="mycluster:my-gfs2"'
    for line in ("cman_quorate 1.0", "cman_members 2.0", 'cman_node_member{node="web2"} 0.0', "cman_losses_total 1.0",
                 "cman_recoveries_total 1.0", f"gfs2_up{{{where}}} 1.0", f"gfs2_locks_blocked{{{where}}} 0.0",
                 'dlm_running{lockspace="my-gfs2",process="gfs2d"} 1.0'):
        assert line in told, line
    counted = rf'gfs2_request_duration_seconds_count{{mount_point="/gfs2",opcode="CREATE",table="{TABLE}"}} [1-9]'
    assert re.search(counted, told), told


def test_without_quorum() -> None:
    """Two of four are not enough: told, with what is missing; when they come back all is well."""
    with Lab(guide_topology(4, size="128M", post_join_delay=START_S)) as room:
        room.start_cluster()
        sh(room, "web1", f"mkfs.gfs2 -O -q -p lock_dlm -t {TABLE} -j 2 -J 8 /dev/sdb5; mount -t gfs2 /dev/sdb5 /gfs2")
        room.power("crash", "web2", "Mysql1", "Mysql2")
        wait_until(lambda: "no quorum on web1" in [f["what"] for f in why(room, "web1")], "the loss of quorum")
        (one,) = why(room, "web1", "quorum")
        assert one["waits_for"].startswith("2 more votes (it has 1, quorum is 3); missing: ")
        assert one["blocked"] in ([], [f"file system {TABLE} (/gfs2) on web1"])
        assert one["do"][0].endswith(": service cman start")
        pids = pids_of(room.place)
    assert_gone(room.place, pids)
