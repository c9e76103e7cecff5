"""A node whose kernel has the lock manager: its DLM as a member of our lockspaces.

The kernel's DLM decides nothing about members. Who they are, where they are to be found, when locking stops and when
recovery begins is written into its configfs and sysfs. Here a group of cman says it, the same that processes with a
lock manager of their own are in (dlm.control): so kernel GFS2 and gfs2d mount one file system together.

    spaces/NAME/nodes/ID    the members of the next recovery
    comms/ID                a node's address; made anew, it is a node that has failed and come back
    NAME/control            0 stops locking, 1 begins the recovery
    NAME/event_done         answers the kernel's wish to join (online) or to leave (offline)

A kernel reaches its peers at the protocol's port only: a node shares lockspaces with kernel nodes from one process.

Source: Linux 6.1 fs/dlm/config.c, lockspace.c, member.c, midcomms.c; Documentation/ABI/testing/sysfs-dlm.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import os
import random
import struct
from collections.abc import Collection, Iterable
from typing import Protocol

import trio

from cman import client
from dlm.control import CmanPort, Control, global_id
from dlm.core import events
from dlm.membership import ControlError
from dlm.transport import DLM_PORT, Node

log = logging.getLogger("dlm.kernel")

CONFIG = "/sys/kernel/config/dlm/cluster"
SYSFS = "/sys/kernel/dlm"
LVB_BYTES = 32                  # of GFS2's lockspaces, and of those made through /dev/dlm-control
ADDRESS_BYTES = 128             # struct sockaddr_storage


class Files(Protocol):
    """The kernel's files. Each method raises OSError."""

    def put(self, path: str, data: bytes) -> None: ...
    def make(self, path: str) -> None: ...
    def drop(self, path: str) -> None: ...
    def names(self, path: str) -> list[str]: ...


class LocalFiles:
    """Those of this machine."""

    def put(self, path: str, data: bytes) -> None:
        """One write: the kernel takes each as a whole."""
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, data)
        finally:
            os.close(fd)

    def make(self, path: str) -> None:
        os.mkdir(path)

    def drop(self, path: str) -> None:
        os.rmdir(path)

    def names(self, path: str) -> list[str]:
        """What is in a directory; nothing when there is none."""
        try:
            return sorted(os.listdir(path))
        except FileNotFoundError:
            return []


def socket_address(address: str) -> bytes:
    """As the kernel wants it. Raises ControlError for what is no address."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError as e:
        raise ControlError(str(e)) from None
    if ip.version == 4:
        return struct.pack("=HH4s", 2, 0, ip.packed).ljust(ADDRESS_BYTES, b"\0")
    return struct.pack("=HHI16sI", 10, 0, 0, ip.packed, 0).ljust(ADDRESS_BYTES, b"\0")


class KernelSpace:
    """One lockspace of the kernel's, which it is about to join."""

    def __init__(self, files: Files, name: str) -> None:
        self.name = name
        self.members: dict[int, int] = {}       # node id: incarnation
        self.running = False                    # started last, not stopped
        self._files = files
        self._config = f"{CONFIG}/spaces/{name}"
        self._made = False

    @property
    def joined(self) -> bool:
        """The kernel has been told that it is in."""
        return self._made

    def stop(self) -> None:
        if self.running:
            self._files.put(f"{SYSFS}/{self.name}/control", b"0")
            self.running = False

    def start(self, nodes: Iterable[int], anew: Collection[int]) -> None:
        """With these members; those in `anew` are not the ones of the same number that were members before."""
        first = not self._made
        if first:
            self._files.make(self._config)
            self._files.put(f"{SYSFS}/{self.name}/id", str(global_id(self.name)).encode())
        wanted = set(nodes)
        have = {int(n) for n in self._files.names(f"{self._config}/nodes")}
        for node_id in sorted(have - wanted | have & set(anew)):
            self._files.drop(f"{self._config}/nodes/{node_id}")
        for node_id in sorted(wanted - have | wanted & set(anew)):
            where = f"{self._config}/nodes/{node_id}"
            self._files.make(where)
            self._files.put(f"{where}/nodeid", str(node_id).encode())
            self._files.put(f"{where}/weight", b"1")
        self._files.put(f"{SYSFS}/{self.name}/control", b"1")
        self.running = True
        if first:
            self.answer(0)
        self._made = True

    def answer(self, result: int) -> None:
        """To the wish to join or to leave: 0, or -errno."""
        self._files.put(f"{SYSFS}/{self.name}/event_done", str(result).encode())

    def forget(self) -> None:
        """What was configured for it."""
        for node in self._files.names(f"{self._config}/nodes"):
            self._files.drop(f"{self._config}/nodes/{node}")
        if self.name in self._files.names(f"{CONFIG}/spaces"):
            self._files.drop(self._config)
        self._made = False


class KernelDlm:
    """The kernel's DLM as a node; what dlm.node.DlmNode is for a process."""

    def __init__(self, files: Files, local: Node, cluster: str) -> None:
        self._local = local
        self.cluster = cluster
        self.files = files
        self.spaces: dict[str, KernelSpace] = {}
        self._addresses: dict[int, str] = {}

    @property
    def local(self) -> Node:
        return self._local

    def open(self) -> None:
        """Name the cluster and this node. Raises OSError.

        What a former process left there goes first. No lockspace may be left of it: the kernel takes none into a group
        that it is in already.
        """
        self._clear()
        self.files.make(CONFIG)
        for name, value in (("cluster_name", self.cluster), ("recover_callbacks", "1"), ("log_info", "1")):
            self.files.put(f"{CONFIG}/{name}", value.encode())
        self._addresses[self._local.node_id] = self._local.address
        self._meet(self._local.node_id)

    def close(self) -> None:
        """No lockspace is left: forget everything."""
        self._clear()

    def _clear(self) -> None:
        if "cluster_name" not in self.files.names(CONFIG):
            return
        for name in self.files.names(f"{CONFIG}/spaces"):
            KernelSpace(self.files, name).forget()
        for node in self.files.names(f"{CONFIG}/comms"):
            self.files.drop(f"{CONFIG}/comms/{node}")
        self.files.drop(CONFIG)

    def lockspace(self, name: str) -> KernelSpace:
        space = self.spaces[name] = KernelSpace(self.files, name)
        return space

    def _known(self) -> set[int]:
        return {int(n) for n in self.files.names(f"{CONFIG}/comms")}

    def _meet(self, node_id: int) -> None:
        where = f"{CONFIG}/comms/{node_id}"
        self.files.make(where)
        self.files.put(f"{where}/nodeid", str(node_id).encode())
        self.files.put(f"{where}/local", b"1" if node_id == self._local.node_id else b"0")
        self.files.put(f"{where}/addr", socket_address(self._addresses[node_id]))

    def _part(self, node_id: int) -> None:
        """What was said to a node and heard of it is forgotten; for lockspaces it was in, it has failed."""
        if node_id in self._known():
            for space in self.spaces.values():
                if node_id in space.members:
                    space.stop()        # not while locking goes on
            self.files.drop(f"{CONFIG}/comms/{node_id}")

    # -- what a Control wants of a node

    def expect(self, node_id: int) -> None:
        if node_id != self._local.node_id and not any(node_id in s.members for s in self.spaces.values()):
            self._part(node_id)

    def lose(self, space: KernelSpace, node_id: int) -> None:
        if node_id in space.members:
            self._part(node_id)
            del space.members[node_id]

    def know(self, name: str, nodes: Iterable[Node]) -> None:
        for node in nodes:
            if node.port != DLM_PORT:
                raise ControlError(
                    f"node {node.node_id} has lockspace {name} at port {node.port}: a kernel reaches it at {DLM_PORT} "
                    "only, so no other process there may have a lockspace before this one")
            self._addresses[node.node_id] = node.address
            if node.node_id not in self._known():
                self._meet(node.node_id)        # the kernel refuses connections of those that it does not know

    def start(self, space: KernelSpace, nodes: Iterable[events.Node], *, left: Collection[int] = ()) -> None:
        """Recover with these members. Raises OSError, ControlError."""
        now = {n.nodeid: n.comm_seq for n in nodes}
        changed = [n for n, incarnation in space.members.items() if now.get(n) != incarnation]
        space.stop()
        for node_id in changed:
            if node_id in now or node_id not in left:
                self._part(node_id)
        for node_id in sorted(set(now) - self._known()):
            self._meet(node_id)                 # parted from above, and back
        space.members = {n: i for n, i in now.items() if n != self._local.node_id}
        space.start(now, changed)


def _first(found: BaseException) -> BaseException:
    """Of a group of groups of exceptions."""
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


async def hold(cman: CmanPort, kernel: KernelDlm, name: str, leave: trio.Event, *, rng: random.Random) -> None:
    """Be in the group of a lockspace that the kernel wants to join, until it has left: `leave` is the wish to.

    Nothing is raised for what goes wrong with the group. While the kernel joins it is told; afterwards its locking
    stays stopped, and nothing helps but a reset of the node, as for any that has lost its cluster.
    """
    space = kernel.lockspace(name)
    try:
        async with cman.register(f"dlm:{name}"), cman.watch() as watch:
            group = await cman.join(f"dlm:{name}")
            control = Control(kernel, space, group, lvb_bytes=LVB_BYTES, flags=0, cluster=cman.cluster, rng=rng,
                              kernel=True)
            control.on_start = lambda: cman.report(f"dlm:{name}", control.started_view, "resume", True)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(control.run, watch)
                await leave.wait()
                await group.leave()         # the control ends with that
    except* (client.CmanError, ControlError, OSError) as found:
        why = _first(found)
        log.error("lockspace=%s: %s", name, why)
        if not space.joined:
            with contextlib.suppress(OSError):
                space.answer(-errno.ENOTCONN)
        else:
            with contextlib.suppress(OSError):
                space.stop()
            await leave.wait()
    if space.joined:
        space.answer(0)
    space.forget()
    del kernel.spaces[name]
