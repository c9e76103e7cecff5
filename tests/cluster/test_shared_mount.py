"""One file system mounted by several nodes of the lab at once: real daemons, real locks, the kernel's FUSE."""

from __future__ import annotations

import re

import pytest

from cluster.rooms import START_S, assert_gone, pids_of, wait_until
from lab import Lab, guide_topology

pytestmark = [pytest.mark.mount, pytest.mark.slow]

MKFS = "mkfs.gfs2 -O -q -p lock_dlm -t {} -j {} -J 8 /dev/sdb5"


def sh(room: Lab, node: str, script: str) -> str:
    return room.exec(node, ["timeout", "60", "sh", "-c", script], check=True).stdout


def mount(room: Lab, node: str) -> str:
    return sh(room, node, "mount -t gfs2 /dev/sdb5 /gfs2 -v")


def refused(room: Lab, node: str, script: str) -> str:
    done = room.exec(node, ["timeout", "60", "sh", "-c", script])
    assert done.returncode not in (0, 124), done.stdout
    return done.stdout + done.stderr


def test_three_nodes_one_disk() -> None:
    """Written on one, read on the others; a journal each, and no mount without one."""
    with Lab(guide_topology(3, size="256M", post_join_delay=START_S)) as room:
        sh(room, "web1", MKFS.format("mycluster:my-gfs2", 2))
        assert "no cman answers" in refused(room, "web1", "mount -t gfs2 /dev/sdb5 /gfs2")
        room.start_cluster()
        assert "jid=0:id=4:first=1" in mount(room, "web1")
        assert "jid=1:id=1:first=0" in mount(room, "web2")
        assert "journal" in refused(room, "Mysql1", "mount -t gfs2 /dev/sdb5 /gfs2")       # two of them, both taken
        sh(room, "web2", "mkdir /gfs2/d; echo one > /gfs2/d/a; for i in $(seq 100); do echo $i > /gfs2/d/f$i; done")
        assert sh(room, "web1", "cat /gfs2/d/a; ls /gfs2/d | wc -l") == "one\n101\n"
        sh(room, "web1", "echo two >> /gfs2/d/a; mv /gfs2/d/f1 /gfs2/moved; rm /gfs2/d/f2")
        assert sh(room, "web2", "cat /gfs2/d/a /gfs2/moved; ls /gfs2/d | wc -l") == "one\ntwo\n1\n99\n"
        sh(room, "web1", "flock /gfs2/d/a true; gfs2_tool df /gfs2 | grep 'Local flocks = FALSE'")
        sh(room, "web2", "echo kept > /gfs2/d/kept; umount /gfs2")
        assert "first=0" in mount(room, "Mysql1")           # its journal is free now
        assert sh(room, "Mysql1", "cat /gfs2/d/kept") == "kept\n"
        for node in ("web1", "Mysql1"):
            sh(room, node, "umount /gfs2")
        sh(room, "Mysql1", "fsck.gfs2 -n /dev/sdb5; /usr/sbin/fsck.gfs2 -n /dev/sdb5")
        pids = pids_of(room.place)
    assert_gone(room.place, pids)


def test_a_node_crashes() -> None:
    """Its journal is replayed by the other, which goes on; nothing that was synced is lost; the node can go, too."""
    with Lab(guide_topology(3, size="256M", post_join_delay=START_S)) as room:
        room.start_cluster()
        sh(room, "web1", MKFS.format("mycluster:my-gfs2", 3))
        for node in ("web1", "web2", "Mysql1"):
            mount(room, node)
        sh(room, "web2", "mkdir /gfs2/d; echo one > /gfs2/d/a; for i in $(seq 100); do echo $i > /gfs2/d/f$i; done")
        sh(room, "web2", "echo kept > /gfs2/d/kept; sync /gfs2/d/kept; echo perhaps > /gfs2/d/perhaps")
        room.power("crash", "web2")
        assert sh(room, "web1", "cat /gfs2/d/kept; echo two >> /gfs2/d/a; cat /gfs2/d/a") == "kept\none\ntwo\n"
        # Nobody may replay the journal of a node that is not known to be off.
        in_order = re.compile('fencing node "web2".*fence "web2" success.*jid=1: node 1 is gone.*recover generation',
                              re.DOTALL)
        for node in ("web1", "Mysql1"):
            wait_until(lambda n=node: in_order.search(sh(room, n, "cat /var/log/messages")), f"{in_order} on {node}")
        assert sh(room, "Mysql1", "cat /gfs2/d/a; ls /gfs2/d | grep -c f") == "one\ntwo\n100\n"
        for node in ("web1", "Mysql1"):
            sh(room, node, "umount /gfs2")
        sh(room, "Mysql1", "fsck.gfs2 -n /dev/sdb5; /usr/sbin/fsck.gfs2 -n /dev/sdb5")
        pids = pids_of(room.place)
    assert_gone(room.place, pids)


def test_another_clusters_file_system() -> None:
    with Lab(guide_topology(1, size="128M", post_join_delay=START_S)) as room:
        room.start_cluster()
        sh(room, "web1", MKFS.format("other:fs", 1))
        assert "belongs to cluster other, this node to mycluster" in refused(room, "web1",
                                                                             "mount -t gfs2 /dev/sdb5 /gfs2")
        sh(room, "web1", "cman_tool leave")         # nothing of the refused mount holds it
