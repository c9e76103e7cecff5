"""The file systems that several nodes mount at the same time, each behind the same few calls.

All live on disks of the room, which every node sees, and all stay mounted during the whole run, so that rows can take
turns between them. GlusterFS runs as a user would run it on such nodes: its daemons in the nodes' own namespaces, its
bricks on ext4 on a disk of the room, its mounts with the defaults of Debian's package.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from lab import Lab, LabError

LIMIT = ["timeout", "120", "sh", "-c"]
TRIES, PAUSE_S = 100, 0.1
MIB = 1 << 20


class ClusterPeer:
    """One file system of a room."""

    name = ""
    needs: tuple[str, ...] = ()     # programs without which the peer is left out
    disks: tuple[str, ...] = ()     # which of the room's disks it takes
    alone = False                   # one node mounts it, and no other

    def __init__(self, room: Lab) -> None:
        self.room = room
        self.nodes = [n.name for n in room.topology.nodes]
        self.root = f"/mnt/{self.name}"

    @classmethod
    def missing(cls) -> list[str]:
        return [p for p in cls.needs if shutil.which(p, path="/usr/sbin:/usr/bin:/sbin:/bin") is None]

    def sh(self, node: str, script: str) -> str:
        """Raises LabError."""
        return self.room.exec(node, [*LIMIT, script], check=True).stdout

    def make(self) -> None:
        """A new file system, not mounted."""
        raise NotImplementedError

    def mount(self, node: str) -> None:
        raise NotImplementedError

    def umount(self, node: str) -> None:
        self.sh(node, f"umount {self.root}")

    def members(self) -> list[str]:
        return self.nodes[:1] if self.alone else self.nodes

    def again(self, node: str) -> None:
        """The node has booted anew: what it needs before it can mount."""

    def file(self, path: str) -> Path:
        return Path(self.root) / path


class Gfs2(ClusterPeer):
    """Ours, mounted by all nodes through the lock manager."""

    name = "gfs2py"
    disks = ("sdb5",)
    mkfs = "-p lock_dlm -t {cluster}:bench -j {nodes} -J 64"

    def __init__(self, room: Lab) -> None:
        super().__init__(room)
        self.device = f"/dev/{self.disks[0]}"

    def make(self) -> None:
        options = self.mkfs.format(cluster=self.room.topology.cluster, nodes=len(self.nodes))
        self.sh(self.nodes[0], f"mkfs.gfs2 -O -q {options} {self.device}")

    def mount(self, node: str) -> None:
        self.sh(node, f"mkdir -p {self.root} && mount -t gfs2 {self.device} {self.root}")

    def again(self, node: str) -> None:
        self.sh(node, "service cman start")


class Gfs2Alone(Gfs2):
    """Ours with lock_nolock, for one node: what sharing costs is the difference."""

    name = "lock_nolock"
    disks = ("sdb6",)
    mkfs = "-p lock_nolock -J 64"
    alone = True


class Gluster(ClusterPeer):
    """One brick, on the first node."""

    name = "glusterfs-1"
    needs = ("glusterd", "gluster", "mount.glusterfs", "mkfs.ext4")
    disks: tuple[str, ...] = ("sdb7",)
    replica = ""

    def servers(self) -> list[str]:
        return self.nodes[:len(self.disks)]

    def start(self, node: str) -> None:
        """The management daemon, and the brick's disk."""
        disk = self.disks[self.servers().index(node)]
        self.sh(node, f"mkdir -p /srv/{disk} && mount /dev/{disk} /srv/{disk} && mkdir -p /srv/{disk}/brick")
        self.daemon(node)

    def daemon(self, node: str) -> None:
        self.sh(node, "pgrep -x glusterd >/dev/null || { mkdir -p /var/lib/glusterd /var/log/glusterfs /run/gluster; "
                      "glusterd; }")
        self.retry(node, "gluster --mode=script volume list >/dev/null 2>&1")

    def retry(self, node: str, script: str) -> None:
        """The daemon answers in its own time. Raises LabError when it never does."""
        for left in range(TRIES, 0, -1):
            try:
                self.sh(node, script)
                return
            except LabError:
                if left == 1:
                    raise
                time.sleep(PAUSE_S)

    def make(self) -> None:
        first = self.nodes[0]
        for node, disk in zip(self.servers(), self.disks, strict=True):
            self.sh(node, f"mkfs.ext4 -q -F -I 512 -E nodiscard,lazy_itable_init=0,lazy_journal_init=0 /dev/{disk}")
            self.start(node)
            if node != first:
                self.retry(first, f"gluster --mode=script peer probe {node}")
                self.retry(first, f"gluster pool list | grep -q '{node}.*Connected'")
        bricks = " ".join(f"{n}:/srv/{d}/brick" for n, d in zip(self.servers(), self.disks, strict=True))
        self.retry(first, f"gluster --mode=script volume create {self.name} {self.replica} {bricks} force")
        self.sh(first, f"gluster --mode=script volume start {self.name}")

    def mount(self, node: str) -> None:
        self.sh(node, f"mkdir -p {self.root} && mount -t glusterfs {self.nodes[0]}:/{self.name} {self.root} "
                      f"&& mountpoint -q {self.root}")

    def again(self, node: str) -> None:
        if node in self.servers():
            self.start(node)


class Gluster2(Gluster):
    """Two bricks with the same content, on the first two nodes: survives the loss of one of them."""

    name = "glusterfs-2"
    disks = ("sdb8", "sdb9")
    replica = "replica 2"


PEERS: tuple[type[ClusterPeer], ...] = (Gfs2, Gfs2Alone, Gluster, Gluster2)
