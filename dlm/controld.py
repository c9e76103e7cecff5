"""dlm_controld: on a node whose kernel mounts GFS2, takes the kernel's DLM into the lockspaces of our cluster.

The kernel says by a uevent that it wants to join a lockspace (a mount) or to leave it (the end of one); everything else
is dlm.kernel's. The device dlm-monitor is kept open: when this process dies the kernel stops its lockspaces, and the
other nodes take the node for lost, for the kernel goes on writing what it holds locks for.

Source: Linux 6.1 fs/dlm/lockspace.c (do_uevent), user.c (the monitor); lib/kobject_uevent.c.
"""

from __future__ import annotations

import errno
import logging
import os
import random
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from cman.client import open_cman
from cman.views import Cluster
from dlm.control import CmanPort
from dlm.core.errors import DlmError
from dlm.kernel import SYSFS, Files, KernelDlm, LocalFiles, hold
from dlm.transport import DLM_PORT, Node

log = logging.getLogger("dlm.controld")

CONFIGFS = "/sys/kernel/config"
MONITOR = "/dev/dlm-monitor"
NETLINK_KOBJECT_UEVENT = 15
KERNEL_GROUP = 1                # of netlink: what the kernel itself says
EVENT_BYTES_MAX = 8192
RECEIVE_BYTES = 4 << 20         # of the socket: events of a whole machine at once


@dataclass(frozen=True, slots=True)
class Wish:
    """The kernel wants to join a lockspace, or to leave it."""

    name: str
    join: bool


def parse(event: bytes) -> Wish | None:
    """What a uevent says to us; None for one of other things. Nothing is trusted about its form."""
    fields = dict(f.partition(b"=")[::2] for f in event.split(b"\0")[1:])
    action, path = fields.get(b"ACTION"), fields.get(b"DEVPATH", b"")
    if fields.get(b"SUBSYSTEM") != b"dlm" or action not in (b"online", b"offline"):
        return None
    try:
        name = fields.get(b"LOCKSPACE", b"").decode()
    except UnicodeDecodeError:
        return None
    if not name or not name.isprintable() or path != f"/kernel/dlm/{name}".encode():
        return None
    return Wish(name, action == b"online")


@asynccontextmanager
async def wishes() -> AsyncIterator[AsyncIterator[Wish]]:
    """The kernel's, from now on. Raises OSError, also from the iteration: ENOBUFS when some were lost."""
    with trio.socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, NETLINK_KOBJECT_UEVENT) as events:
        events.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        await events.bind((0, KERNEL_GROUP))

        async def each() -> AsyncIterator[Wish]:
            while True:
                event, sender = await events.recvfrom(EVENT_BYTES_MAX)
                if sender[0] == 0 and (wish := parse(event)) is not None:   # not from another process
                    yield wish

        yield each()


@dataclass(frozen=True, slots=True)
class Held:
    """A lockspace of the kernel's: `leave` is its wish, `ended` when that is done."""

    leave: trio.Event
    ended: trio.Event


class Daemon:
    """The lockspaces that the kernel is in."""

    def __init__(self, cman: CmanPort, kernel: KernelDlm, rng: random.Random) -> None:
        self._cman, self._kernel, self._rng = cman, kernel, rng
        self.held: dict[str, Held] = {}

    async def run(self, events: AsyncIterator[Wish]) -> None:
        """Until cancelled; lockspaces are not left for that."""
        async with trio.open_nursery() as nursery:
            async for wish in events:
                log.info("lockspace=%s the kernel %s", wish.name, "joins" if wish.join else "leaves")
                held = self.held.get(wish.name)
                if wish.join:
                    # A name may come again while its last life is being put away.
                    now = self.held[wish.name] = Held(trio.Event(), trio.Event())
                    nursery.start_soon(self._hold, wish.name, now, held)
                elif held is not None:
                    held.leave.set()
                else:
                    log.warning("lockspace=%s none that was joined here", wish.name)

    async def _hold(self, name: str, now: Held, before: Held | None) -> None:
        if before is not None:
            await before.ended.wait()
        await hold(self._cman, self._kernel, name, now.leave, rng=self._rng)
        now.ended.set()
        if self.held[name] is now:
            del self.held[name]


def own_node(cluster: Cluster) -> Node:
    """This node as other nodes' lock managers find it. Raises DlmError."""
    if cluster.state != "Cluster-Member" or not cluster.addresses:
        raise DlmError(errno.ENOTCONN, f"this node is no member of cluster {cluster.name} ({cluster.state})")
    return Node(cluster.nodeid, cluster.addresses[0], DLM_PORT)


def check_kernel(files: Files) -> None:
    """Raises DlmError when the kernel cannot be driven, or is in lockspaces that nobody speaks for."""
    if "dlm" not in files.names(CONFIGFS):
        raise DlmError(errno.ENODEV, "the kernel's DLM is not there: modprobe dlm; mount -t configfs configfs "
                                     "/sys/kernel/config")
    left = files.names(SYSFS)
    if left:
        raise DlmError(errno.EBUSY, f"the kernel is in lockspaces that no dlm_controld speaks for: {' '.join(left)}; "
                                    "this node has to be reset")


async def serve(ready: Callable[[], object]) -> None:
    """Be the daemon until SIGTERM comes while no lockspace is in use. Raises CmanError, DlmError, OSError.

    ready: called when mounts may come.
    """
    files = LocalFiles()
    check_kernel(files)
    async with open_cman() as cman, wishes() as events:
        cluster = await cman.cluster()
        kernel = KernelDlm(files, own_node(cluster), cluster.name)
        # First the monitor: with the rest in place and no monitor the kernel takes us for a daemon that has none.
        monitor = os.open(MONITOR, os.O_RDONLY | os.O_CLOEXEC)
        try:
            kernel.open()
            daemon = Daemon(cman, kernel, random.Random(int.from_bytes(os.urandom(16), "big")))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(daemon.run, events)
                log.info("node=%d address=%s ready", kernel.local.node_id, kernel.local.address)
                ready()
                await _asked_to_end(daemon)
                nursery.cancel_scope.cancel()
            kernel.close()
        finally:
            os.close(monitor)


async def _asked_to_end(daemon: Daemon) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as received:
        async for number in received:
            if not daemon.held:
                return
            log.warning("signal=%d refused: lockspaces are in use: %s", number, " ".join(daemon.held))
