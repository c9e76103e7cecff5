"""The guide's test chapter as it is written there: a node that goes in order, one that crashes, and shared data.

Its other scenarios: three crashes one after another are in test_quorum_disk.py.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace

import pytest

from cluster.rooms import assert_gone, pids_of, wait_until
from lab import Lab, guide_topology
from lab.etc import cluster_conf

pytestmark = [pytest.mark.mount, pytest.mark.slow]

# As in the guide the quorum disk notices first and the ring agrees last: there by twelve and twenty seconds.
TIMES = (('interval="1" tko="10"', 'interval="0.3" tko="10"'),
         ("</cluster>", '  <totem token="1000" consensus="12000"/>\n</cluster>'),
         ('post_join_delay="3"', 'post_join_delay="100"'))
MKFS = "mkfs.gfs2 -O -q -p lock_dlm -t mycluster:my-gfs2 -j 4 -J 8 /dev/sdb5"
NODES = ("web1", "web2", "Mysql1", "Mysql2")
HOLD = """import fcntl, sys
f = open("/gfs2/ixdba", "r+")
fcntl.flock(f, fcntl.LOCK_EX)
fcntl.lockf(f, fcntl.LOCK_EX)
print("editing", flush=True)
sys.stdin.read()
"""
EDIT = """import fcntl
f = open("/gfs2/ixdba", "r+")
for lock in (fcntl.flock, fcntl.lockf):
    try:
        lock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        print("free")
    except BlockingIOError:
        print("locked")
"""


def sh(room: Lab, node: str, script: str) -> str:
    done = room.exec(node, ["timeout", "100", "sh", "-c", script])
    assert done.returncode == 0, f"{node}: {script}: {done.stdout}{done.stderr}"
    return done.stdout


def log_of(room: Lab, node: str) -> str:
    return room.path(node, "/var/log/messages").read_text(errors="replace")


def state(room: Lab, node: str) -> str:
    return str({m["name"]: m["state"] for m in room.status()["machines"]}[node])


def counts(room: Lab, node: str) -> list[str]:
    told = dict(line.split(": ", 1) for line in sh(room, node, "cman_tool status").splitlines() if ": " in line)
    return [told.get(f, "") for f in ("Nodes", "Expected votes", "Quorum device votes", "Total votes", "Quorum")]


def in_order(log: str, *patterns: str) -> None:
    """Each behind the one before."""
    at = 0
    for pattern in patterns:
        found = re.compile(pattern).search(log, at)
        assert found, f"{pattern!r} is not behind {log[:at].splitlines()[-1:]} in:\n{log}"
        at = found.end()


@pytest.fixture(scope="module")
def room() -> Iterator[Lab]:
    """The guide's cluster: four nodes, the quorum disk, GFS2 mounted on all."""
    topology = guide_topology(4, size="128M", qdisk_votes=2)
    conf = cluster_conf(topology)
    for old, new in TIMES:
        assert old in conf
        conf = conf.replace(old, new)
    with Lab(replace(topology, cluster_conf=conf)) as made:
        try:
            sh(made, "web1", "mkqdisk -c /dev/sdb7 -l myqdisk -y")
            made.start_cluster()
            sh(made, "web1", MKFS)
            for node in NODES:
                sh(made, node, "mount -t gfs2 /dev/sdb5 /gfs2 -v")
            wait_until(lambda: counts(made, "web1") == ["4", "6", "2", "6", "4"], "the guide's numbers")
            yield made
            for node in NODES:
                sh(made, node, "! mountpoint -q /gfs2 || umount /gfs2")
            sh(made, "web1", "fsck.gfs2 -n /dev/sdb5 && /usr/sbin/fsck.gfs2 -n /dev/sdb5")
        finally:
            print((made.place.path / "room.log").read_text())
            for node in NODES:                              # shown when something has failed
                print(f"{node}:\n{log_of(made, node)}")
        pids = pids_of(made.place)
    assert_gone(made.place, pids)


def back(room: Lab, node: str) -> None:
    wait_until(lambda: state(room, node) == "up", f"{node} to be up")
    sh(room, node, "service cman start && mount /gfs2")
    wait_until(lambda: counts(room, "web1") == ["4", "6", "2", "6", "4"], "the guide's numbers again")


def test_shared_data(room: Lab) -> None:
    """Written on web2, read on web1; while one edits a file, another one is told that it is locked."""
    sh(room, "web2", 'echo "This is GFS2 Files test" > /gfs2/ixdba')
    assert sh(room, "web1", "cat /gfs2/ixdba") == "This is GFS2 Files test\n"
    editor = room.popen("web1", ["python3", "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert editor.stdout
    assert editor.stdout.readline() == "editing\n"
    sh(room, "web1", "set -C; echo web1 > /gfs2/.ixdba.swp")
    for node in NODES[1:]:
        assert sh(room, node, f"python3 -c '{EDIT}'") == "locked\nlocked\n"
        # What editors do: a file beside it that may not be there yet.
        assert room.exec(node, ["sh", "-c", "set -C; echo > /gfs2/.ixdba.swp"]).returncode, "made twice"
    assert editor.communicate("")[0] == ""
    sh(room, "web1", "rm /gfs2/.ixdba.swp")
    assert sh(room, "web2", f"python3 -c '{EDIT}'") == "free\nfree\n"
    sh(room, "web2", "set -C; echo web2 > /gfs2/.ixdba.swp; rm /gfs2/.ixdba.swp")


def test_a_node_without_services_shuts_down(room: Lab) -> None:
    """init 0: the members drop by one, nobody is fenced, the file system works on; it comes back."""
    start = len(log_of(room, "Mysql1"))
    sh(room, "web2", "echo kept > /gfs2/kept")
    room.exec("web2", ["init", "0"])
    wait_until(lambda: state(room, "web2") == "off", "web2 to be off")
    wait_until(lambda: counts(room, "web1") == ["3", "6", "2", "5", "3"], "the numbers of three")
    for node in ("web1", "Mysql1", "Mysql2"):
        assert sh(room, node, f"cat /gfs2/kept; echo {node} >> /gfs2/on").startswith("kept\n")
    assert sh(room, "Mysql2", "sort /gfs2/on") == "Mysql1\nMysql2\nweb1\n"
    log = log_of(room, "Mysql1")[start:]
    in_order(log, "Member 1 shutting down", "entering GATHER state", "entering COMMIT state", "Storing new sequence id",
             "entering RECOVERY state", "entering OPERATIONAL state", "CLM CONFIGURATION CHANGE", "Members Left:",
             r"r\(0\) ip\(192\.168\.12\.240\)", "This node is within the primary component and will provide service")
    assert "fencing node" not in log
    assert "token was lost" not in log
    assert "Replayed" not in log
    room.power("on", "web2")
    back(room, "web2")
    assert sh(room, "web2", "sort /gfs2/on") == "Mysql1\nMysql2\nweb1\n"


def test_a_node_crashes(room: Lab) -> None:
    """The guide's lines in the guide's order, on every survivor; one of them replays."""
    survivors = ("web1", "Mysql1", "Mysql2")
    starts = {n: len(log_of(room, n)) for n in survivors}
    jid = re.findall(r"joined: jid=(\d+):id=1", log_of(room, "web2"))[-1]
    sh(room, "web2", "echo durable > /gfs2/durable; sync /gfs2/durable; echo held > /gfs2/held")
    room.power("crash", "web2")
    for node in survivors:
        assert sh(room, node, f"cat /gfs2/durable; echo {node} >> /gfs2/held") == "durable\n"
    for node in survivors:
        wait_until(lambda n=node: "recovered from the loss" in log_of(room, n)[starts[n]:], "the end of the recovery")
        in_order(log_of(room, node)[starts[node]:], "entering GATHER state", "Node 1 evicted", "entering COMMIT state",
                 "Storing new sequence id", "entering RECOVERY state", "CLM CONFIGURATION CHANGE", "Members Left:",
                 r"r\(0\) ip\(192\.168\.12\.240\)", "Members Joined:",
                 'fencing node "web2"', 'fence "web2" success', "dlm: closing connection to node 1")
    logs = [log_of(room, n)[starts[n]:] for n in survivors]
    assert sum("web2 not a cluster member after 0 sec post_fail_delay" in log for log in logs) == 1, "one fences"
    replayed, = [log for log in logs if f"jid={jid}: Looking at journal..." in log]
    in_order(replayed, 'fence "web2" success', rf"jid={jid}: Trying to acquire journal lock\.\.\.",
             rf"jid={jid}: Looking at journal\.\.\.", rf"jid={jid}: Done")
    assert sh(room, "web1", "clustat -m web2").splitlines()[2].split() == ["web2", "1", "Offline"]
    back(room, "web2")
    assert sh(room, "web2", "cat /gfs2/durable") == "durable\n"
