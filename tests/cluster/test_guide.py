"""The guide's commands as typed on the nodes of the lab, and what they print, field by field (shared guide, chapters on
cman_tool, clustat and ccs_tool; mount and its refusals)."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace

import pytest

from cluster.rooms import assert_gone, pids_of, wait_until
from lab import Lab, guide_topology

pytestmark = [pytest.mark.mount, pytest.mark.slow]

CONF = "/etc/cluster/cluster.conf"
# `Version` is that of our own cman; Nodes, votes and Quorum are those of four nodes without a quorum disk.
STATUS = """Version: 7.0.0
Config Version: 35
Cluster Name: mycluster
Cluster Id: 56756
Cluster Member: Yes
Cluster Generation: N
Membership state: Cluster-Member
Nodes: 4
Expected votes: 4
Total votes: 4
Quorum: 3
Active subsystems: N
Flags:
Ports Bound: 0
Node name: web1
Node ID: 4
Multicast addresses: 239.192.221.146
Node addresses: 192.168.12.230
"""
NODES = """Node  Sts   Inc   Joined               Name
   1   M      N   DATE  web2
       Addresses: 192.168.12.240
   2   M      N   DATE  Mysql1
       Addresses: 192.168.12.231
   3   M      N   DATE  Mysql2
       Addresses: 192.168.12.232
   4   M      N   DATE  web1
       Addresses: 192.168.12.230
"""
CLUSTAT = """Cluster Status for mycluster @ DATE
Member Status: Quorate

 Member Name                              ID   Status
 ------ ----                              ---- ------
 web2                                        1 Online
 Mysql1                                      2 Online
 Mysql2                                      3 Online
 web1                                        4 Online, Local

"""
MKFS = "mkfs.gfs2 -O -q -p lock_dlm -t {} -j 1 -J 8 /dev/sdb5"


def typed(room: Lab, node: str, command: str, status: int = 0) -> str:
    """What a command prints on its screen."""
    done = room.exec(node, ["timeout", "60", "sh", "-c", f"{command} 2>&1"])
    assert done.returncode == status, done.stdout
    return done.stdout


def plain(text: str) -> str:
    """Without what differs from run to run: dates, generations, counts; and without blanks at the ends of lines."""
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "DATE", text)
    text = re.sub(r"[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4}", "DATE", text)
    text = re.sub(r"(?m)^(Cluster Generation|Active subsystems): \d+$", r"\1: N", text)
    text = re.sub(r"(?m)^( +\d   [MX]  )( *)(\d+)   ", r"\1    N   ", text)
    return re.sub(r"(?m) +$", "", text)


@pytest.fixture(scope="module")
def four() -> Iterator[Lab]:
    """The guide's four nodes, the cluster up, version 35 of the configuration."""
    with Lab(replace(guide_topology(4, size="128M"), config_version=35)) as room:
        room.start_cluster()
        wait_until(lambda: "Nodes: 4\n" in typed(room, "web1", "cman_tool status"), "four members")
        yield room
        print((room.place.path / "room.log").read_text())
        pids = pids_of(room.place)
    assert_gone(room.place, pids)


def test_cman_tool(four: Lab) -> None:
    assert plain(typed(four, "web1", "cman_tool status")) == STATUS
    assert plain(typed(four, "web1", "cman_tool nodes -a")) == NODES
    assert typed(four, "web1", "service cman status") == "cman is running.\n"


def test_clustat(four: Lab) -> None:
    assert plain(typed(four, "web1", "clustat")) == plain(typed(four, "web1", "clustat -l")) == CLUSTAT
    assert typed(four, "web2", "clustat -m web1").splitlines()[2].split() == ["web1", "4", "Online"]
    assert typed(four, "web2", "clustat -m web2").splitlines()[2].split() == ["web2", "1", "Online,", "Local"]
    assert typed(four, "web2", "clustat -I") == "1\n"
    assert typed(four, "web2", "clustat -Q") == ""
    assert typed(four, "web2", "clustat -m web9", 1) == "clustat: web9 is no member of cluster mycluster\n"
    assert "no rgmanager runs" in typed(four, "web1", "clustat -s webserver", 1)
    with four.popen("web1", ["clustat", "-i", "0.05"], stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        shown = "".join(running.stdout.readline() for _ in range(2 * len(CLUSTAT.splitlines())))
        running.kill()
    assert plain(shown) == 2 * CLUSTAT


def test_ccs_tool(four: Lab) -> None:
    """The very texts of the guide."""
    def lines(text: str) -> list[str]:
        return [line.strip() for line in text.splitlines() if line.strip()]

    assert lines(typed(four, "web1", f"ccs_tool update {CONF}", 1)) == [
        "Proposed updated config file does not have greater version number.", "Current config_version :: 35",
        "Proposed config_version:: 35", "Failed to update config file."]
    typed(four, "web1", f"""sed -i 's/config_version="35"/config_version="36"/' {CONF}""")
    assert lines(typed(four, "web1", f"ccs_tool update {CONF}")) == [
        "Config file updated from version 35 to 36", "Update complete."]
    text = four.path("web1", CONF).read_text()
    for node in ("web2", "Mysql1", "Mysql2"):
        wait_until(lambda n=node: four.path(n, CONF).read_text() == text, f"the new file on {node}")
        assert "Config Version: 36\n" in typed(four, node, "cman_tool status")


def test_mount(four: Lab) -> None:
    """The steps of -v, what holds cman meanwhile, both names for umount; then what is refused, a line for each."""
    assert typed(four, "web1", "mount -t gfs2 /dev/sdb5 /gfs2", 32) == \
        "mount.gfs2: /dev/sdb5 has no GFS2 superblock (block at byte 65536): not a GFS2 file system\n"
    typed(four, "web1", MKFS.format("mycluster:my-gfs2"))
    steps = typed(four, "web1", "mount -t gfs2 /dev/sdb5 /gfs2 -v").splitlines()
    assert steps[0] == "mount.gfs2: device /dev/sdb5, mount point /gfs2, options rw"
    assert "mount.gfs2: joining lockspace my-gfs2" in steps
    assert "mount.gfs2: lockspace my-gfs2 joined: jid=0:id=4:first=1" in steps
    assert steps[-1] == "mount.gfs2: mounted /dev/sdb5 on /gfs2"
    assert "Flags: Dirty\n" in typed(four, "web1", "cman_tool status")
    assert "subsystems are in use: dlm:my-gfs2" in typed(four, "web1", "service cman stop", 1)
    assert typed(four, "web2", "mount -t gfs2 /dev/sdb5 /gfs2", 32) == \
        "mount.gfs2: no journal is free: the file system has 1, and other nodes have taken them (gfs2_jadd adds more)\n"
    typed(four, "web1", "umount /dev/sdb5")
    typed(four, "web1", "mount /gfs2 && umount /gfs2")          # by /etc/fstab
    typed(four, "web1", "mount -t fuse.gfs2 /dev/sdb5 /gfs2 && umount /gfs2")
    typed(four, "web1", MKFS.format("other:fs"))
    assert typed(four, "web1", "mount -t gfs2 /dev/sdb5 /gfs2", 32) == \
        "mount.gfs2: the file system belongs to cluster other, this node to mycluster (lock table other:fs)\n"
    typed(four, "web1", MKFS.format("mycluster:my-gfs2"))
    four.power("crash", "Mysql1", "Mysql2")
    wait_until(lambda: "Nodes: 2\n" in typed(four, "web1", "cman_tool status"), "the loss of two nodes")
    assert "Quorum: 3 Activity blocked\n" in typed(four, "web1", "cman_tool status")
    assert "Member Status: Inquorate\n" in typed(four, "web1", "clustat")
    typed(four, "web1", "clustat -Q", 1)
    assert typed(four, "web1", "mount -t gfs2 /dev/sdb5 /gfs2", 32) == \
        "mount.gfs2: cluster mycluster is not quorate (2 votes, 3 are needed): lockspace my-gfs2 is not joined\n"
    typed(four, "web1", "service cman stop")
    assert typed(four, "web1", "service cman status", 3) == "cman is stopped\n"
    assert typed(four, "web1", "clustat", 1).startswith("Could not connect to CMAN: no cman answers")
    assert "no cman answers" in typed(four, "web1", "mount -t gfs2 /dev/sdb5 /gfs2", 32)
