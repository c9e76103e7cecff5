"""A node of three loses its path to the disk under load, or meets damage there; all three are frozen under load: real
daemons in the lab."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable

import pytest

from cluster.rooms import START_S, explained, wait_until
from gfs2py.block import FileDevice
from gfs2py.edit.patch import patch_bytes, patch_field
from gfs2py.edit.reader import Reader, pointers
from gfs2py.ondisk.constants import GFS2_MAGIC
from lab import Lab, guide_topology

pytestmark = [pytest.mark.mount, pytest.mark.slow]

NODES = ("web1", "web2", "Mysql1")
MKFS = "mkfs.gfs2 -O -q -p lock_dlm -t mycluster:my-gfs2 -j 3 -J 8 /dev/sdb5"
FILES = "/run/gfs2/mycluster:my-gfs2"
CHECK = "fsck.gfs2 -n /dev/sdb5 && /usr/sbin/fsck.gfs2 -n /dev/sdb5"
Plant = Callable[[FileDevice, Reader], tuple[int, bytes, str, int, int]]
LOAD = r"""
import os, sys
me, count = sys.argv[1], 0
acked = os.open(f"/tmp/acked.{me}", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
own = os.open(f"/gfs2/log.{me}", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
shared = os.open("/gfs2/shared", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
try:
    while not os.path.exists("/tmp/enough"):
        line = b"%s %d\n" % (me.encode(), count)
        os.write(own, line)
        os.write(shared, line)
        os.fsync(own)
        os.write(acked, line)
        with open(f"/gfs2/d.{me}/{count % 20}", "w") as f:
            f.write(str(count))
        count += 1
except OSError as e:
    print(f"ended errno {e.errno}", flush=True)
"""


def sh(room: Lab, node: str, script: str) -> str:
    done = room.exec(node, ["timeout", "100", "sh", "-c", script])
    assert done.returncode == 0, f"{node}: {script}: {done.stdout}{done.stderr}"
    return done.stdout


def begin(room: Lab) -> None:
    room.start_cluster()
    sh(room, "web1", MKFS)
    for node in NODES:
        sh(room, node, "mount -t gfs2 /dev/sdb5 /gfs2")
        room.exec(node, ["sh", "-c", "cat > /tmp/load.py"], input=LOAD, check=True)
        sh(room, node, f"mkdir /gfs2/d.{node}")
    for node in NODES:
        sh(room, node, f"rm -f /tmp/enough; python3 -IS /tmp/load.py {node} < /dev/null > /tmp/load.out 2>&1 &")
    for node in NODES:
        working(room, node)


def working(room: Lab, node: str) -> None:
    wait_until(lambda: acked(room, node) >= 5, f"{node} to write")
    wait_until(lambda: "freeze" in sh(room, node, f"ls {FILES} || true"), "the control files")


def acked(room: Lab, node: str) -> int:
    return int(sh(room, node, f"cat /tmp/acked.{node} | wc -l"))


def nothing_lost(room: Lab, reader: str, node: str) -> None:
    """What node was told to be durable, another one reads, in order and whole."""
    told = sh(room, node, f"cat /tmp/acked.{node}")
    assert sh(room, reader, f"cat /gfs2/log.{node}").startswith(told)


def goes_on(room: Lab, node: str) -> None:
    before = acked(room, node)
    wait_until(lambda: acked(room, node) > before + 3, f"{node} to go on")


def replays(room: Lab, jid: str = r"\d+") -> list[str]:
    """What all nodes have logged of replays of this journal, or of all: of the one survivor that found it in use."""
    logs = [sh(room, node, "cat /var/log/messages").splitlines() for node in NODES]
    return [line for log in logs for line in log if re.search(f" jid={jid}: Replayed ", line)]


def end(room: Lab, *nodes: str) -> None:
    for node in nodes:
        sh(room, node, "touch /tmp/enough; while pgrep -f '[l]oad.py' > /dev/null; do sleep 0.05; done")


def test_a_node_loses_its_disk_under_load() -> None:
    """It withdraws and says why, the others replay its journal and go on; it is mounted again when the disk is back."""
    with Lab(guide_topology(3, size="256M", post_join_delay=START_S)) as room, explained(room, *NODES):
        begin(room)
        room.disk("web2", cut=True)
        wait_until(lambda: "ended errno" in sh(room, "web2", "cat /tmp/load.out"), "web2 to fail")
        assert f"ended errno {errno.EIO}" in sh(room, "web2", "cat /tmp/load.out")
        # What failed may have been a file's data only; the next commit is what cannot be done without.
        sh(room, "web2", "touch /gfs2/never || true; sync -f /gfs2 || true")
        wait_until(lambda: "Withdrawn because" in sh(room, "web2", f"cat {FILES}/status"), "web2 to withdraw")
        for node in ("web1", "Mysql1"):
            goes_on(room, node)
        status = sh(room, "web2", f"cat {FILES}/status")
        assert re.search(r"^Withdrawn: +1$", status, re.MULTILINE), status
        assert re.search(r"^Withdrawn because: +.*(failed at block \d+ of|damaged block)", status, re.MULTILINE), status
        assert len(replays(room, "1")) == 1, "exactly one of them replays it, and says so once"
        assert sh(room, "web1", "cman_tool nodes").count(" M ") == 3, "nobody was fenced"
        nothing_lost(room, "web1", "web2")
        failed = room.exec("web2", ["timeout", "60", "sh", "-c", "cat /gfs2/shared > /dev/null; ls /gfs2"])
        assert failed.returncode not in (0, 124)
        assert "Input/output error" in failed.stdout + failed.stderr
        room.disk("web2", cut=False)
        sh(room, "web2", "umount /gfs2 && mount -t gfs2 /dev/sdb5 /gfs2 && echo back > /gfs2/back && sync /gfs2/back")
        assert sh(room, "Mysql1", "cat /gfs2/back") == "back\n"
        end(room, "web1", "Mysql1")
        for node in NODES:
            nothing_lost(room, "web2", node)
        for node in NODES:
            sh(room, node, "umount /gfs2")
        sh(room, "web1", CHECK)


class Damage:
    """One block of the shared disk changed while nobody writes, and the line of a node that reads it.

    plant: changes one block; returns its number, what it was, and what the line says: structure and field, found,
    wanted.
    """

    def __init__(self, room: Lab, by: str, plant: Plant) -> None:
        self.image = room.place.disks / "sdb5.img"
        # When frozen, nothing is in anybody's journal or waits to be written over the damage.
        sh(room, by, "gfs2_tool freeze /gfs2")
        with FileDevice(self.image, direct=False) as dev:
            self.block, self.was, what, found, wanted = plant(dev, Reader(dev))
        sh(room, by, "gfs2_tool unfreeze /gfs2")
        self.line = f"damaged block {self.block} ({self.block:#x}): {what} is {found} ({found:#x}), wanted {wanted} "

    def repair(self) -> None:
        with FileDevice(self.image, direct=False) as dev:
            patch_bytes(dev, self.block, 0, self.was)


def no_dinode(dev: FileDevice, r: Reader) -> tuple[int, bytes, str, int, int]:
    """A file's own block is none any more."""
    ino = r.path("small")
    patch_field(dev, ino.addr, "dinode", "mh_magic", 0xBAD)
    return ino.addr, ino.block, "dinode.mh_magic", 0xBAD, GFS2_MAGIC


def pointer_beyond_the_end(dev: FileDevice, r: Reader) -> tuple[int, bytes, str, int, int]:
    """The last level of a file's tree leads out of the file system."""
    block = next(p for p in pointers(r.path("far").block[232:]) if p)
    was = r.block(block)
    at = next(i for i, p in enumerate(pointers(was[24:])) if p)
    patch_bytes(dev, block, 24 + 8 * at, (r.blocks + 77).to_bytes(8, "big"))
    return block, was, "indirect.pointer", r.blocks + 77, r.blocks - 1


def meets(room: Lab, node: str, path: str, damage: Damage) -> None:
    """The node reads it: it withdraws and says where it was, and nothing of its mount hangs."""
    for script in (f"cat {path}", "echo x > /gfs2/x", "ls /gfs2", "df /gfs2", "sync -f /gfs2"):
        done = room.exec(node, ["timeout", "60", "sh", "-c", script])
        assert done.returncode not in (0, 124), f"{node}: {script}: {done.stdout}{done.stderr}"
        assert "Input/output error" in done.stderr, f"{node}: {script}: {done.stderr}"
    log, status = sh(room, node, "cat /var/log/messages"), sh(room, node, f"cat {FILES}/status")
    assert log.count(damage.line) == 2, f"the error, and what the others are told; wanted {damage.line}"
    assert re.search(f"^Withdrawn because: +{re.escape(damage.line)}", status, re.MULTILINE), status


def test_damage_that_several_nodes_meet() -> None:
    """Only who reads a damaged block withdraws, each for that reason; once it is what it was they mount again."""
    with Lab(guide_topology(3, size="256M", post_join_delay=START_S)) as room, explained(room, *NODES):
        begin(room)
        sh(room, "web1", "echo content > /gfs2/small; truncate -s 8M /gfs2/far; echo end >> /gfs2/far")
        damage = Damage(room, "Mysql1", no_dinode)
        goes_on(room, "web2")           # so that there is something in its journal again
        meets(room, "web2", "/gfs2/small", damage)
        for node in ("web1", "Mysql1"):
            goes_on(room, node)
        meets(room, "Mysql1", "/gfs2/small", damage)
        goes_on(room, "web1")
        assert sh(room, "web1", "cat /gfs2/small") == "content\n", "who has read it before"
        nothing_lost(room, "web1", "web2")
        nothing_lost(room, "web1", "Mysql1")
        damage.repair()
        assert [len(replays(room, jid)) for jid in ("1", "2")] == [1, 1]
        for node in ("web2", "Mysql1"):
            sh(room, node, "umount /gfs2 && mount -t gfs2 /dev/sdb5 /gfs2")
            assert sh(room, node, "cat /gfs2/small") == "content\n"
        damage = Damage(room, "web1", pointer_beyond_the_end)
        meets(room, "web2", "/gfs2/far", damage)
        goes_on(room, "web1")
        sh(room, "Mysql1", "echo works > /gfs2/others; sync /gfs2/others")
        damage.repair()
        sh(room, "web2", "umount /gfs2 && mount -t gfs2 /dev/sdb5 /gfs2")
        assert sh(room, "web2", "tail -c 4 /gfs2/far; cat /gfs2/others") == "end\nworks\n"
        assert len(replays(room)) == 2, "there was nothing in its journal this time"
        assert sh(room, "web1", "cman_tool nodes").count(" M ") == 3, "nobody was fenced"
        end(room, "web1")
        for node in NODES:
            sh(room, node, "umount /gfs2")
        sh(room, "web1", CHECK)


def test_a_copy_while_all_are_frozen() -> None:
    """From three nodes under load: the journals in the copy are clean, the checkers find nothing; then all go on."""
    with Lab(guide_topology(3, size="256M", post_join_delay=START_S)) as room, explained(room, *NODES):
        begin(room)
        supported = room.exec("web1", ["timeout", "60", "fsfreeze", "-f", "/gfs2"])
        assert supported.returncode != 0, "the kernel knows how to freeze FUSE now: hand it over to gfs2_tool freeze"
        sh(room, "web1", "gfs2_tool freeze /gfs2")
        assert {sh(room, node, f"cat {FILES}/freeze") for node in NODES} == {"1\n"}
        still = [acked(room, node) for node in NODES]
        sh(room, "Mysql1", "dd if=/dev/sdb5 of=/tmp/copy bs=1M iflag=direct 2> /dev/null")
        assert [acked(room, node) for node in NODES] == still, "nobody has written"
        for node in NODES:      # reads go on, also of what another node has written last
            assert sh(room, node, "cat /gfs2/log.web2").startswith(sh(room, "web2", "cat /tmp/acked.web2"))
        for node, by in (("web2", "another node|node 4"), ("web1", "this node")):
            told = sh(room, node, "gfs2_tool waits /gfs2")
            assert re.search(rf"python3 \(pid \d+, \w+\) waits for the thaw for .*: frozen by ({by}) ", told), told
        sh(room, "web2", "sh -c 'echo x > /gfs2/x' & pid=$!; sleep 0.2; kill -9 $pid; wait $pid || true")
        for node, command in (("web1", "freeze"), ("web2", "unfreeze")):
            refused = room.exec(node, ["timeout", "60", "gfs2_tool", command, "/gfs2"])
            assert refused.returncode == 1
            assert "frozen" in refused.stderr
        sh(room, "Mysql1", "fsck.gfs2 -n /tmp/copy && /usr/sbin/fsck.gfs2 -n /tmp/copy && rm /tmp/copy")
        sh(room, "web1", "gfs2_tool unfreeze /gfs2")
        for node in NODES:
            goes_on(room, node)
        # Who freezes and dies is no reason to stand still.
        sh(room, "web2", "gfs2_tool freeze /gfs2")
        sh(room, "web2", "kill -9 $(pgrep -x gfs2d)")
        for node in ("web1", "Mysql1"):
            goes_on(room, node)
        # Who freezes and unmounts thaws; who unmounts while another has frozen it writes nothing more.
        end(room, "web1", "Mysql1")
        sh(room, "Mysql1", "gfs2_tool freeze /gfs2")
        sh(room, "web1", "umount /gfs2")
        sh(room, "Mysql1", "umount /gfs2")
        sh(room, "web1", CHECK)
