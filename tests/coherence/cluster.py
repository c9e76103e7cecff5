"""Several mounts of one disk in one process, each with a device handle of its own, and one lock master."""

from __future__ import annotations

import functools
import random
import uuid
from unittest import mock

from coherence.master import LockMaster
from gfs2py.block._faulty import FaultyDevice
from gfs2py.block._memory import MemoryDevice, Snapshot
from gfs2py.engine._calls import Calls
from gfs2py.engine.volume import Volume
from gfs2py.fsck.check import check
from gfs2py.mkfs import options
from gfs2py.mkfs.make import make_fs

LEGAL = ("di_unlinked", "journal_size")        # findings that are none after a crash or with small journals


@functools.cache
def formatted(bsize: int, mib: int, nodes: int) -> Snapshot:
    """An empty file system with a journal for every node."""
    device = MemoryDevice(mib << 20)
    with mock.patch.object(options, "MIN_JSIZE_MB", 1):
        make_fs(device, options.MkfsOptions(bsize=bsize, jsize_mb=2, qcsize_mb=1, journals=nodes, rgsize_mb=32,
                                            lockproto="lock_dlm", locktable="test:coherence",
                                            uuid=uuid.UUID(int=7), rng=random.Random(7), now=1_700_000_000))
    return device.snapshot()


class Node:
    """One mount and its device."""

    def __init__(self, number: int, volume: Volume, device: FaultyDevice) -> None:
        self.number, self.volume, self.device = number, volume, device

    @property
    def calls(self) -> Calls:
        return self.volume.calls


class Cluster:
    """Nodes 0 to n-1 with the journals of the same numbers; a context manager that unmounts what is mounted."""

    def __init__(self, nodes: int, seed: int, *, bsize: int = 4096, mib: int = 128, delay_s: float = 0.0,
                 parking: bool = True, planted: int = 0, inodes: int = 4096, commit_ms: int = 30000,
                 latency_s: float = 0.0, flags: tuple[str, ...] = ("relatime", "acl")) -> None:
        self.disk = MemoryDevice.from_snapshot(formatted(bsize, mib, max(nodes, 2)))
        self.master = LockMaster(seed, delay_s=delay_s)
        self.nodes: dict[int, Node] = {}
        self.crashed: list[int] = []
        self.count, self.parking, self.planted = nodes, parking, planted
        self.inodes, self.commit_ms, self.latency_s, self.flags = inodes, commit_ms, latency_s, flags

    @staticmethod
    def again(other: Cluster) -> Cluster:
        """One node alone on the disk of a cluster that has ended."""
        cluster = Cluster(1, 0)
        cluster.disk = other.disk
        return cluster

    def __enter__(self) -> Cluster:
        self.master.__enter__()
        for n in range(self.count):
            self.mount(n)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            for n in list(self.nodes):
                if kind is None:
                    self.unmount(n)
                else:
                    self.abandon()
        finally:
            self.master.__exit__()

    def mount(self, n: int) -> Node:
        device = FaultyDevice(self.disk, latency_s=self.latency_s)
        locks = self.master.join(n)
        volume = Volume(device, flags=self.flags, jid=n, quiet=True, locks=locks, first=not self.nodes,
                        parking=self.parking, cache_bytes=8 << 20, inodes=self.inodes, commit_ms=self.commit_ms,
                        statfs_s=1)
        volume.fs.plant(self.planted)
        self.nodes[n] = Node(n, volume, device)
        return self.nodes[n]

    def unmount(self, n: int) -> None:
        node = self.nodes.pop(n)
        try:
            node.volume.close()
        finally:
            self.master.leave(n)

    def abandon(self) -> None:
        """All mounts end without writing anything more."""
        for n in list(self.nodes):
            self.nodes.pop(n).volume.abandon()
            self.master.leave(n)

    def crash(self, n: int) -> None:
        """The node loses its disk and is gone; the others hold still until recovered()."""
        node = self.nodes.pop(n)
        node.device.arm(fail_at=1, sticky=True)
        self.master.crash(n)
        self.crashed.append(n)
        node.volume.abandon()

    def recovered(self) -> None:
        """The journals of those that crashed have been replayed: their locks may go."""
        while self.crashed:
            self.master.release(self.crashed.pop())

    def withdrawn(self) -> dict[int, str | None]:
        return {n: node.volume.fs.withdrawn for n, node in self.nodes.items()}

    def findings(self) -> list[str]:
        """What our checker says of the disk, after everybody has unmounted."""
        assert not self.nodes
        return [f.text for f in check(self.disk).findings if f.code not in LEGAL]
