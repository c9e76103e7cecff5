"""The guide's cluster with its quorum disk, in the lab: real daemons, a real shared disk, real fencing.

Three of four nodes crash one after another and the last one works on, which it does not without the disk; a disk path
that hangs; two nodes that lose sight of each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from cluster.rooms import assert_gone, pids_of, wait_until
from lab import Lab, guide_topology
from lab.etc import cluster_conf

pytestmark = [pytest.mark.mount, pytest.mark.slow]

# A silent node is dead after six seconds, because machines may be slow; a dead master is followed sooner.
TIMES = ('interval="1" tko="10"', 'interval="0.3" tko="20" tko_up="2" master_wait="3" status_file="/run/qdisk"')
FIT = ('label="myqdisk"/>', 'label="myqdisk"><heuristic program="test ! -e /run/unfit" interval="1"/></quorumd>')
POLL = ("<cman ", '<cman quorum_dev_poll="1500" ')
WHY = "cman_tool why 2>&1; dlm_tool lockdump my-gfs2 2>&1 | head -n 60"
# Nodes that are slow to start are not fenced for that.
PATIENT = ('post_join_delay="3"', 'post_join_delay="100"')
LOG = "/var/log/messages"
MKFS = "mkfs.gfs2 -O -q -p lock_dlm -t mycluster:my-gfs2 -j 4 -J 8 /dev/sdb5"


def sh(room: Lab, node: str, script: str) -> str:
    """Raises CalledProcessError."""
    return room.exec(node, ["timeout", "100", "sh", "-c", script], check=True).stdout


def status(room: Lab, node: str) -> dict[str, str]:
    """`cman_tool status` as field and value."""
    return dict(line.split(": ", 1) for line in sh(room, node, "cman_tool status").splitlines() if ": " in line)


def votes(room: Lab, node: str) -> tuple[str, ...]:
    told = status(room, node)
    return tuple(told.get(f, "") for f in ("Nodes", "Expected votes", "Quorum device votes", "Total votes", "Quorum"))


@contextmanager
def cluster(nodes: int, qdisk_votes: int) -> Iterator[Lab]:
    """The cluster is up, and the disk counts if there is one."""
    topology = replace(guide_topology(nodes, size="128M", qdisk_votes=qdisk_votes), config_version=35)
    conf = cluster_conf(topology)
    for old, new in (PATIENT, TIMES, POLL, FIT) if qdisk_votes else (PATIENT,):
        assert old in conf
        conf = conf.replace(old, new)
    with Lab(replace(topology, cluster_conf=conf)) as room:
        try:
            if qdisk_votes:
                sh(room, "web1", "mkqdisk -c /dev/sdb7 -l myqdisk -y")
            room.start_cluster()
            if qdisk_votes:
                for node in room.topology.nodes:
                    wait_until(lambda n=node: status(room, n.name).get("Quorum device votes") == str(qdisk_votes),
                               "the disk's votes")
            yield room
        except BaseException:
            for node in room.topology.nodes:
                if is_up(room, node.name):
                    told = room.exec(node.name, ["timeout", "20", "sh", "-c", WHY])
                    print(f"{node.name} says:\n{told.stdout}")
            raise
        finally:
            print((room.place.path / "room.log").read_text())
            for node in room.topology.nodes:                # shown when the test has failed
                print(f"{node.name}:", *log_of(room, node.name).splitlines(), sep="\n")
        pids = pids_of(room.place)
    assert_gone(room.place, pids)


def log_of(room: Lab, node: str) -> str:
    """Whether the node is up or not."""
    return room.path(node, LOG).read_text(errors="replace")


def is_up(room: Lab, node: str) -> bool:
    return any(m["name"] == node and m["state"] == "up" for m in room.status()["machines"])


def in_order(room: Lab, node: str, *texts: str) -> None:
    """These stand in a node's log, each behind the one before."""
    log, at = log_of(room, node), 0
    for text in texts:
        found = log.find(text, at)
        assert found >= 0, f"{text!r} is not behind {at} in:\n{log}"
        at = found


def test_the_last_of_four_works_on() -> None:
    with cluster(4, 2) as room:
        wait_until(lambda: votes(room, "web1") == ("4", "6", "2", "6", "4"), "the guide's numbers")
        wait_until(lambda: "   0   M      0   " in sh(room, "web1", "cman_tool nodes"), "node 0")
        assert "/dev/sdb7" in sh(room, "web1", "clustat -l | grep ' 0 .*line, Quorum Disk'")
        wait_until(lambda: "Quorate Set: { 1 2 3 4 }" in sh(room, "web1", "cat /run/qdisk"), "four that count")
        # The disk's master dies first: then the votes come with the next one, and only then anybody is fenced.
        number = int(sh(room, "web1", "service qdiskd status").split(", node ")[1].split()[0])
        names = {n.nodeid: n.name for n in room.topology.nodes}
        first, second, third, last = [names.pop(number), *names.values()]
        sh(room, last, MKFS)
        for node in room.topology.nodes:
            sh(room, node.name, "mount -t gfs2 /dev/sdb5 /gfs2")
        # One goes in order and comes back: nobody is fenced.
        sh(room, first, "umount /gfs2; service cman stop")
        wait_until(lambda: votes(room, last) == ("3", "6", "2", "5", "3"), "the votes of three")
        wait_until(lambda: any(f"Node {number} {word}" in log_of(room, last) for word in ("shutdown", "DOWN")),
                   "its goodbye on the disk, or, when it had no time for one, its end there")
        assert sh(room, last, "echo three > /gfs2/three; cat /gfs2/three") == "three\n"
        assert f'fencing node "{first}"' not in log_of(room, last)
        sh(room, first, "service cman start; mount -t gfs2 /dev/sdb5 /gfs2")
        wait_until(lambda: votes(room, last) == ("4", "6", "2", "6", "4"), "four again")
        wait_until(lambda: "Quorate Set: { 1 2 3 4 }" in sh(room, last, "cat /run/qdisk"), "four on the disk again")
        master = int(sh(room, last, "service qdiskd status").split(", node ")[1].split()[0])
        if master not in (number, room.topology.machine(last).nodeid):
            first, second, third = [n for n in (first, second, third) if room.topology.machine(n).nodeid == master] + [
                n for n in (first, second, third) if room.topology.machine(n).nodeid != master]
        for victim, counts in ((first, ("3", "6", "2", "5", "3")), (second, ("2", "6", "2", "4", "3")),
                               (third, ("1", "6", "2", "3", "2"))):
            sh(room, victim, f"echo {victim} > /gfs2/{victim}; sync /gfs2/{victim}; echo lost > /gfs2/{victim}-2")
            room.power("crash", victim)
            wait_until(lambda c=counts: votes(room, last) == c, f"the votes without {victim}")
            wait_until(lambda v=victim: f'fence "{v}" success' in log_of(room, last), "its fencing")
            assert sh(room, last, f"cat /gfs2/{victim}; echo {victim} >> /gfs2/log; tail -1 /gfs2/log") == \
                f"{victim}\n" * 2
            wait_until(lambda v=victim: f"Node {room.topology.machine(v).nodeid} evicted" in log_of(room, last),
                       "its eviction from the disk")
        in_order(room, last, f"node {first} lost", "quorum device registered", f'fencing node "{first}"',
                 f'fence "{first}" success', f"node {second} lost", f'fence "{second}" success',
                 f"node {third} lost", f'fencing node "{third}"', f'fence "{third}" success',
                 f"Writing eviction notice for node {room.topology.machine(third).nodeid}",
                 f"Node {room.topology.machine(third).nodeid} evicted")
        assert sh(room, last, "clustat -Q; cat /gfs2/log") == f"{first}\n{second}\n{third}\n"
        sh(room, last, "umount /gfs2; fsck.gfs2 -n /dev/sdb5")


def test_without_the_disk_the_last_of_four_does_not() -> None:
    with cluster(4, 0) as room:
        for victim, counts in (("web2", ("3", "4", "", "3", "2")), ("Mysql2", ("2", "4", "", "2", "2")),
                               ("Mysql1", ("1", "4", "", "1", "2 Activity blocked"))):
            room.power("crash", victim)
            wait_until(lambda c=counts: votes(room, "web1") == c, f"the votes without {victim}")
            if victim != "Mysql1":
                wait_until(lambda v=victim: f'fence "{v}" success' in log_of(room, "web1"), "its fencing")
        assert "Member Status: Inquorate" in sh(room, "web1", "clustat")
        refused = room.exec("web1", ["mount", "-t", "gfs2", "/dev/sdb5", "/gfs2"])
        assert refused.returncode
        assert 'fencing node "Mysql1"' not in log_of(room, "web1"), "nor may it fence"


def join(room: Lab, node: str, numbers: tuple[str, ...]) -> None:
    """A node that was fenced comes back, on the disk, too."""
    wait_until(lambda: is_up(room, node), f"{node} after its fencing")
    sh(room, node, "service cman start")
    nodes = " ".join(str(n) for n in sorted(n.nodeid for n in room.topology.nodes))
    for one in room.topology.nodes:
        wait_until(lambda n=one.name: votes(room, n) == numbers, "all votes again")
        wait_until(lambda n=one.name: f"Quorate Set: {{ {nodes} }}" in sh(room, n, "cat /run/qdisk"), "all on the disk")


def test_two_nodes_and_a_disk() -> None:
    """A node that is not fit restarts; a path that hangs evicts its node and stalls nobody's ring; of a partition the
    disk's master survives."""
    both = ("2", "3", "1", "3", "2")
    with cluster(2, 1) as room:
        wait_until(lambda: votes(room, "web1") == both, "two nodes and the disk")
        sh(room, "web1", "touch /run/unfit")
        wait_until(lambda: 'fence "web1" success' in log_of(room, "web2"), "the fencing of web1, which is not fit")
        assert "web1: reboot\n" in (room.place.path / "room.log").read_text(), "by itself, before it was fenced"
        join(room, "web1", both)
        room.hang_disk("web1", "sdb7")
        wait_until(lambda: log_of(room, "web2").count('fence "web1" success') > 1, "the fencing of web1")
        in_order(room, "web2", "Writing eviction notice for node 4", "is killed on request of web2",
                 'fencing node "web1"', 'fence "web1" success')
        # It heard the word of its end in the ring, while its disk hung.
        in_order(room, "web1", "(system call) has hung for", "more seconds, we will be evicted",
                 "this node is out of the cluster: killed on request of web2")
        assert "has hung" not in log_of(room, "web2")
        join(room, "web1", both)
        before = {node: log_of(room, node).count(' success') for node in ("web1", "web2")}
        room.partition(["web1"], ["web2"])

        def winners() -> list[str]:
            return [node for node in before if log_of(room, node).count(' success') > before[node]]

        wait_until(lambda: bool(winners()), "a winner")
        winner, = winners()
        loser = "web1" if winner == "web2" else "web2"
        assert f'fencing node "{winner}"' not in log_of(room, loser), "who has not the disk does not shoot"
        wait_until(lambda: votes(room, winner) == ("1", "3", "1", "2", "2"), "the winner goes on")
