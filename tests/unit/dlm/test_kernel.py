"""The kernel's DLM driven from a group: what is written into its files, in which order. The files are a double."""

from __future__ import annotations

import errno
import random
import struct
from collections.abc import Awaitable, Callable

import pytest
import trio

from cman.client import Reason
from dlm.control import global_id
from dlm.controld import Daemon, Wish, check_kernel, parse
from dlm.core.errors import DlmError
from dlm.kernel import CONFIG, SYSFS, KernelDlm, hold, socket_address
from dlm.membership import ControlError
from dlm.transport import DLM_PORT, Node
from dlm_nodes import LIMIT_S, until
from fake_cman import FakeCluster

ME = 2
CONTROL, DONE = f"{SYSFS}/fs/control", f"{SYSFS}/fs/event_done"


class FakeFiles:
    """Directories with the attributes that the kernel makes in them; every change is noted."""

    def __init__(self) -> None:
        self.directories = {"/sys/kernel/config", "/sys/kernel/config/dlm", SYSFS}
        self.content: dict[str, bytes] = {}
        self.done: list[tuple[str, str]] = []

    def online(self, name: str) -> None:
        """What the kernel makes when it wants to join."""
        self.directories.add(f"{SYSFS}/{name}")

    def put(self, path: str, data: bytes) -> None:
        assert path.rpartition("/")[0] in self.directories, path
        self.content[path] = data
        self.done.append((path, data.decode("latin-1")))

    def make(self, path: str) -> None:
        parent = path.rpartition("/")[0]
        if path in self.directories:
            raise FileExistsError(errno.EEXIST, "exists", path)
        assert parent in self.directories, path
        self.directories.add(path)
        if path == CONFIG:
            self.directories |= {f"{CONFIG}/comms", f"{CONFIG}/spaces"}
            self.content[f"{CONFIG}/cluster_name"] = b""
        elif parent == f"{CONFIG}/spaces":
            self.directories.add(f"{path}/nodes")
        self.done.append((path, "+"))

    def drop(self, path: str) -> None:
        own = [f"{path}/{n}" for n in ("nodes", "comms", "spaces")]
        assert not [d for o in (own or [path]) for d in self.directories if d.startswith(o + "/")], f"{path} is in use"
        self.directories -= {path, *own}
        for name in [c for c in self.content if c.startswith(path + "/")]:
            del self.content[name]
        self.done.append((path, "-"))

    def names(self, path: str) -> list[str]:
        found = {*self.directories, *self.content}
        return sorted({f.removeprefix(path + "/").partition("/")[0] for f in found if f.startswith(path + "/")})

    def nodes(self, name: str = "fs") -> list[int]:
        return [int(n) for n in self.names(f"{CONFIG}/spaces/{name}/nodes")]

    def comms(self) -> list[int]:
        return [int(n) for n in self.names(f"{CONFIG}/comms")]

    def since(self, mark: int, *paths: str) -> list[tuple[str, str]]:
        return [d for d in self.done[mark:] if d[0] in paths]


class KernelNode:
    """One kernel, and who speaks for it."""

    def __init__(self, cluster: FakeCluster, nursery: trio.Nursery, node: int) -> None:
        self.node, self.cluster, self.nursery = node, cluster, nursery
        self.files = FakeFiles()
        self.kernel = KernelDlm(self.files, Node(node, f"127.0.0.{node}", DLM_PORT), "test")
        self.kernel.open()
        self.files.online("fs")
        self.leave, self.ended = trio.Event(), trio.Event()

    def join(self) -> None:
        self.nursery.start_soon(self._hold)

    async def _hold(self) -> None:
        await hold(self.cluster.process(self.node), self.kernel, "fs", self.leave, rng=random.Random(self.node))
        self.ended.set()


class Scene(KernelNode):
    """The node that is looked at; others beside it."""

    def __init__(self, nursery: trio.Nursery) -> None:
        super().__init__(FakeCluster(), nursery, ME)

    def begin(self, node: int) -> KernelNode:
        other = KernelNode(self.cluster, self.nursery, node)
        other.join()
        return other


def run(test: Callable[[Scene], Awaitable[None]]) -> None:
    async def main() -> None:
        with trio.fail_after(LIMIT_S):
            async with trio.open_nursery() as nursery:
                await test(Scene(nursery))
                nursery.cancel_scope.cancel()
    trio.run(main)


def test_alone() -> None:
    async def main(s: Scene) -> None:
        s.join()
        await until(lambda: s.files.content.get(DONE))
        assert s.files.content[f"{SYSFS}/fs/id"] == str(global_id("fs")).encode()
        assert s.files.nodes() == s.files.comms() == [ME]
        assert s.files.content[f"{CONFIG}/comms/{ME}/local"] == b"1"
        assert s.files.since(0, CONTROL, DONE) == [(CONTROL, "1"), (DONE, "0")]
        s.leave.set()
        await s.ended.wait()
        assert s.files.since(0, CONTROL, DONE) == [(CONTROL, "1"), (DONE, "0"), (DONE, "0")]
        assert s.files.names(f"{CONFIG}/spaces") == []
        s.kernel.close()
        assert s.files.names("/sys/kernel/config/dlm") == []
    run(main)


def test_a_member_comes_and_fails() -> None:
    """Stopped before anything else; the dead one's address is made anew when it is back, never kept."""
    async def main(s: Scene) -> None:
        s.join()
        await until(lambda: s.files.content.get(DONE))
        mark = len(s.files.done)
        s.begin(3)
        await until(lambda: s.files.nodes() == [ME, 3])
        comm = f"{CONFIG}/comms/3"
        assert s.files.since(mark, CONTROL, comm) == [(CONTROL, "0"), (comm, "+"), (CONTROL, "1")]
        assert s.files.content[f"{comm}/addr"][:8] == struct.pack("=HH4B", 2, 0, 127, 0, 0, 3)
        mark = len(s.files.done)
        s.cluster.kill(3)
        await until(lambda: s.files.nodes() == [ME])
        assert s.files.since(mark, CONTROL, comm) == [(CONTROL, "0"), (comm, "-"), (CONTROL, "1")]
    run(main)


def test_who_leaves_in_order_is_not_taken_for_dead() -> None:
    """Its address stays, by which the kernel tells the two apart; it is made anew when the node comes back."""
    async def main(s: Scene) -> None:
        s.join()
        await until(lambda: s.files.content.get(DONE))
        other = s.begin(3)
        await until(lambda: s.files.nodes() == [ME, 3])
        mark, comm = len(s.files.done), f"{CONFIG}/comms/3"
        other.leave.set()
        await until(lambda: s.files.nodes() == [ME])
        assert s.files.since(mark, CONTROL, comm) == [(CONTROL, "0"), (CONTROL, "1")]
        assert s.files.comms() == [ME, 3]
        s.begin(3)
        await until(lambda: s.files.nodes() == [ME, 3])
        assert s.files.since(mark, comm) == [(comm, "-"), (comm, "+")]
    run(main)


def test_another_port_is_refused() -> None:
    """A kernel finds its peers at one port: the mount fails, nobody waits for ever."""
    files = FakeFiles()
    kernel = KernelDlm(files, Node(ME, "127.0.0.2", DLM_PORT), "test")
    kernel.open()
    with pytest.raises(ControlError, match=r"node 3 has lockspace fs at port 40000: a kernel reaches it at 21064"):
        kernel.know("fs", [Node(3, "127.0.0.3", 40000)])


def test_the_join_fails_without_a_cluster() -> None:
    async def main(s: Scene) -> None:
        s.join()
        s.cluster.set_quorate(False)
        await until(lambda: s.cluster.groups.get("dlm:fs"))
        s.cluster.kill(ME, Reason.NODEDOWN)
        await s.ended.wait()
        assert s.files.since(0, CONTROL, DONE) == [(DONE, str(-errno.ENOTCONN))]
    run(main)


def test_the_cluster_is_lost() -> None:
    """Locking stops and never goes on; the kernel may still leave."""
    async def main(s: Scene) -> None:
        s.join()
        await until(lambda: s.files.content.get(DONE))
        mark = len(s.files.done)
        s.cluster.kill(ME, Reason.NODEDOWN)
        await until(lambda: s.files.since(mark, CONTROL) == [(CONTROL, "0")])
        assert not s.ended.is_set()
        s.leave.set()
        await s.ended.wait()
        assert s.files.since(mark, CONTROL, DONE) == [(CONTROL, "0"), (DONE, "0")]
    run(main)


def test_nobody_recovers_from_a_kernel_that_goes_on() -> None:
    """Its daemon is dead: only when the whole node is out of the cluster others take over what it had."""
    async def main(s: Scene) -> None:
        s.join()
        s.begin(3)
        await until(lambda: s.files.nodes() == [ME, 3])
        s.cluster.kill(3, Reason.PROCDOWN)
        await until(lambda: s.files.content[CONTROL] == b"0")
        for _ in range(20):
            await trio.lowlevel.checkpoint()
        assert s.files.nodes() == [ME, 3]
        s.cluster.members = [1, 2]
        s.cluster.set_quorate(True)             # tells the change
        await until(lambda: s.files.nodes() == [ME] and s.files.content[CONTROL] == b"1")
    run(main)


def test_what_a_killed_daemon_left_is_cleared() -> None:
    files = FakeFiles()
    local = Node(ME, "127.0.0.2", DLM_PORT)
    first = KernelDlm(files, local, "test")
    first.open()
    files.online("fs")
    first.know("fs", [local, Node(3, "127.0.0.3", DLM_PORT)])
    first.lockspace("fs").start([ME, 3], [])
    with pytest.raises(DlmError, match="lockspaces that no dlm_controld speaks for: fs"):
        check_kernel(files)
    files.directories.discard(f"{SYSFS}/fs")
    for name in [c for c in files.content if c.startswith(f"{SYSFS}/fs/")]:
        del files.content[name]
    check_kernel(files)
    KernelDlm(files, local, "test").open()
    assert files.comms() == [ME]
    assert files.names(f"{CONFIG}/spaces") == []


def test_the_daemon_follows_the_kernel() -> None:
    """Two lockspaces; one is left and joined again before the daemon has put its first life away."""
    async def main(s: Scene) -> None:
        s.files.online("other")
        daemon = Daemon(s.cluster.process(ME), s.kernel, random.Random(1))
        send, receive = trio.open_memory_channel[Wish](10)
        s.nursery.start_soon(daemon.run, receive)
        for name in ("fs", "other"):
            await send.send(Wish(name, True))
        await until(lambda: set(s.files.names(f"{CONFIG}/spaces")) == {"fs", "other"} and len(s.cluster.groups) == 2)
        await until(lambda: s.files.content.get(DONE) and s.files.content.get(f"{SYSFS}/other/event_done"))
        mark = len(s.files.done)
        await send.send(Wish("fs", False))
        await send.send(Wish("fs", True))
        await until(lambda: s.files.since(mark, DONE) == [(DONE, "0"), (DONE, "0")])
        assert s.files.names(f"{CONFIG}/spaces") == ["fs", "other"]
        assert sorted(daemon.held) == ["fs", "other"]
    run(main)


def test_uevents() -> None:
    text = b"online@/kernel/dlm/fs\0ACTION=online\0DEVPATH=/kernel/dlm/fs\0SUBSYSTEM=dlm\0LOCKSPACE=fs\0SEQNUM=7\0"
    assert parse(text) == Wish("fs", True)
    assert parse(text.replace(b"online", b"offline")) == Wish("fs", False)
    for other in (b"", b"\0\0=", text.replace(b"=dlm", b"=block"), text.replace(b"=online", b"=add"),
                  text.replace(b"LOCKSPACE=fs", b"LOCKSPACE=.."), text.replace(b"fs", b"\xff"),
                  text.replace(b"LOCKSPACE=fs", b"")):
        assert parse(other) is None, other


def test_addresses() -> None:
    assert len(socket_address("192.168.12.1")) == len(socket_address("fd00::1")) == 128
    assert socket_address("fd00::1")[:24] == struct.pack("=HHI16s", 10, 0, 0, bytes([0xfd, *[0] * 14, 1]))
    with pytest.raises(ControlError):
        socket_address("web1")
