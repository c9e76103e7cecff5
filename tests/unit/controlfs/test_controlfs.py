"""The tree of control files, what may be written, and who is named as holder and waiter."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio

from dlm.core.events import LockDump, ResourceDump
from gfs2py.controlfs import formats
from gfs2py.controlfs.files import make_tree
from gfs2py.controlfs.holders import Requests, lock_name, nodes_of, waited_for
from gfs2py.controlfs.place import folder_name
from gfs2py.controlfs.tree import File, Folder, Tree, number_of, value_of
from gfs2py.engine._inspect import BusyGlock
from rhcs_tools import gfs2_files


def request(unique: int, opcode: str, node: int, *, pid: int, tid: int = 0, state: str = "running",
            sleeps: tuple[str, int] | None = None, age_ns: int = 5) -> dict[str, Any]:
    waits = None if sleeps is None else {"kind": sleeps[0], "what": sleeps[1], "ns": 1}
    return {"unique": unique, "opcode": opcode, "node": node, "pid": pid, "age_ns": age_ns, "state": state, "tid": tid,
            "waits_for": waits}


def glock(number: int = 7, *, writer: int = 0, readers: int = 0, state: int = 1,
          waiters: tuple[tuple[int, int, int], ...] = ()) -> BusyGlock:
    return BusyGlock(b"G:  s:SH n:2/7\n", b" I: n:1/7\n", 2, number, state, -1, -1, 0, 0, writer, readers, waiters)


@dataclass
class FakeView:
    """A mount as the files see it."""

    requests: list[dict[str, Any]] = field(default_factory=list)
    found: list[bytes | BusyGlock] = field(default_factory=list)
    met: list[ResourceDump] = field(default_factory=list)
    shared: dict[str, Any] = field(default_factory=dict)
    device: int = os.makedev(7, 3)
    mount_point: str = "/gfs2"
    table: str = "c:fs"
    withdrawn: str | None = None
    tunables: dict[str, int] = field(default_factory=lambda: {"statfs_quantum": 30})
    served: int = 0
    asked: list[bool] = field(default_factory=list)
    cold: dict[str, Any] | None = None

    def describe(self) -> Mapping[str, Any]:
        return {"jid": 1, "withdrawn": self.withdrawn, "lockproto": "lock_dlm", "spectator": False, "read_only": False}

    def uuid(self) -> bytes:
        return bytes(range(16))

    def in_flight(self) -> Sequence[Mapping[str, Any]]:
        return self.requests

    def root_number(self) -> int:
        return 7

    def glocks(self, waited: frozenset[tuple[int, int]], only_busy: bool) -> Sequence[bytes | BusyGlock]:
        return [one for one in self.found if not only_busy or not isinstance(one, bytes)]

    def glock_statistics(self) -> bytes:
        return b""

    def type_statistics(self) -> Sequence[Sequence[int]]:
        return [[n * 10 + i for i in range(8)] for n in range(1, 11)]

    def resource_groups(self) -> bytes:
        return b""

    def path(self, number: int) -> str | None:
        return "/a"

    def cluster(self) -> Mapping[str, Any]:
        return self.shared

    def resources(self) -> Sequence[ResourceDump]:
        return self.met

    def tune(self) -> Mapping[str, int]:
        return self.tunables

    def set_tune(self, name: str, value: int) -> None:
        if value == 0:
            raise ValueError("not 0")
        self.tunables[name] = value

    def withdraw(self) -> None:
        self.withdrawn = "by request"

    def frozen(self) -> Mapping[str, Any] | None:
        return self.cold

    def freeze(self) -> None:
        if self.cold is not None:
            raise OSError(errno.EBUSY, "frozen already")
        self.cold = {"state": 2, "for_ns": 5_000_000_000, "parked": [41], "by": "here"}

    def unfreeze(self) -> None:
        if self.cold is None:
            raise OSError(errno.EINVAL, "not frozen")
        self.cold = None

    def ask_sync(self, quota: bool) -> int:
        self.asked.append(quota)
        return len(self.asked) if self.served >= 0 else 0

    def sync_done(self, ticket: int) -> bool:
        self.served += 1
        return self.served > 1


def node_at(tree: Tree, path: str) -> File:
    number = 1
    for name in path.split("/"):
        number = tree.lookup(number, name)
    found = tree.node(number)
    assert isinstance(found, File)
    return found


def read(tree: Tree, path: str) -> bytes:
    reader = node_at(tree, path).read
    assert reader is not None
    return reader()


def write(tree: Tree, path: str, text: str) -> None:
    writer = node_at(tree, path).write
    assert writer is not None
    trio.run(writer, text)


@pytest.mark.parametrize(("text", "value"), [("0", 0), ("10", 10), ("0x10", 16), ("010", 8), ("+3", 3), ("-3", -3)])
def test_numbers_are_the_kernels(text: str, value: int) -> None:
    assert number_of(text, -10, 100) == value


@pytest.mark.parametrize("text", ["", " 1", "1 ", "1.0", "0x", "08", "1e3", "one", "--1", "101", "-11", "1\0"])
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(OSError) as caught:
        number_of(text, -10, 100)
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize("data", [b"", b"\n", b"1\n\n", b"1\n2\n", b"\xff\n", b"1\0", b"9" * 5000])
def test_one_value_to_a_write(data: bytes) -> None:
    with pytest.raises(OSError) as caught:
        value_of(data)
    assert caught.value.errno == errno.EINVAL
    assert value_of(b"12\n") == value_of(b"12") == "12"


def test_a_tree_by_names() -> None:
    leaf = File(lambda: b"x")
    tree = Tree(Folder({"a": Folder({"b": leaf}), "c": leaf}))
    a = tree.lookup(1, "a")
    assert tree.node(tree.lookup(a, "b")) is leaf
    assert (tree.lookup(a, ".."), tree.lookup(a, "."), tree.lookup(1, "..")) == (1, a, 1)
    assert [name for name, _ in tree.children(1)] == ["a", "c"]
    for parent, name, code in ((1, "x", errno.ENOENT), (tree.lookup(1, "c"), "x", errno.ENOTDIR),
                               (99, "x", errno.ENOENT)):
        with pytest.raises(OSError) as caught:
            tree.lookup(parent, name)
        assert caught.value.errno == code


@pytest.mark.parametrize(("table", "name"), [("c:fs", "c:fs"), ("a/b", "a_b"), ("", "_"), ("..", "_.."),
                                             ("gfs2d-7.1.sock", "_gfs2d-7.1.sock"), (".x", "_.x")])
def test_a_directory_for_every_table(table: str, name: str) -> None:
    assert folder_name(table) == name


def test_small_files() -> None:
    view = FakeView()
    tree = make_tree(view)
    assert read(tree, "id") == b"7:3\n"
    assert read(tree, "fsname") == b"c:fs.1\n"
    assert read(tree, "uuid") == b"00010203-0405-0607-0809-0A0B0C0D0E0F\n"
    assert read(tree, "lock_module/jid") == b"1\n"
    assert read(tree, "lock_module/recover_done") == b"-1\n"
    with pytest.raises(OSError):
        tree.lookup(1, "dlm_locks")         # there is no lock manager
    assert read(make_tree(FakeView(shared={"nodeid": 2, "blocked": True})), "lock_module/block") == b"1\n"


def test_tunables_and_commands() -> None:
    view = FakeView()
    tree = make_tree(view)
    write(tree, "tune/statfs_quantum", "0x20")
    assert read(tree, "tune/statfs_quantum") == b"32\n"
    for path, text in (("tune/statfs_quantum", "0"), ("tune/statfs_quantum", "-1"), ("withdraw", "0"),
                       ("withdraw", "2"), ("quota_sync", "0"), ("freeze", "2")):
        with pytest.raises(OSError) as caught:
            write(tree, path, text)
        assert caught.value.errno == errno.EINVAL, path
    assert view.withdrawn is None
    write(tree, "withdraw", "1")
    assert read(tree, "withdraw") == b"1\n"
    write(tree, "quota_sync", "1")
    write(tree, "statfs_sync", "1")
    assert view.asked == [True, False]
    assert view.served >= 2                 # it was waited for
    view.served = -1
    with pytest.raises(OSError) as caught:
        write(tree, "statfs_sync", "1")
    assert caught.value.errno == errno.EROFS


def test_freezing() -> None:
    """Written as in sysfs; whoever waits for the thaw is told why."""
    view = FakeView(requests=[request(40, "READ", 7, pid=100),
                              request(41, "WRITE", 7, pid=os.getpid(), state="parked")])
    tree = make_tree(view)
    assert read(tree, "freeze") == b"0\n"
    with pytest.raises(OSError) as caught:
        write(tree, "freeze", "0")
    assert caught.value.errno == errno.EINVAL
    write(tree, "freeze", "1")
    assert read(tree, "freeze") == b"1\n"
    assert b"Frozen:                   1\n" in read(tree, "status")
    with pytest.raises(OSError) as caught:
        write(tree, "freeze", "1")
    assert caught.value.errno == errno.EBUSY
    lines = read(tree, "glocks.json").decode().splitlines()
    (line,) = gfs2_files.waits(lines)
    assert f"(pid {os.getpid()}, WRITE) waits for the thaw for " in line
    assert line.endswith("frozen by this node for 5s (gfs2_tool unfreeze)")
    view.requests = []
    (line,) = gfs2_files.waits(read(tree, "glocks.json").decode().splitlines())
    assert line == "nobody waits, but the file system is frozen by this node for 5s (gfs2_tool unfreeze)"
    assert view.cold is not None
    view.cold["by"] = "another node"
    view.met = [ResourceDump(lock_name(1, 2), 2, 2, False, None, 0, False, (lock(3, "master", "granted", 5, -1, 70),))]
    (line,) = gfs2_files.waits(read(tree, "glocks.json").decode().splitlines())
    assert "frozen by node 3 for 5s (gfs2_tool unfreeze there)" in line
    write(tree, "freeze", "0")
    assert read(tree, "freeze") == b"0\n"


def test_why_it_withdrew() -> None:
    view = FakeView(withdrawn="damaged block 7 (0x7): dinode.di_height is 77 (0x4d), wanted 10 (0xa)")
    assert read(make_tree(view), "status").decode().endswith(f"Withdrawn because:        {view.withdrawn}\n")


def test_holders_and_waiters() -> None:
    """A writer by its thread, sharers by what they work on, parked requests by number, sleepers by what they say."""
    found = [request(1, "WRITE", 7, pid=100, tid=555), request(2, "READ", 7, pid=101, state="parked", age_ns=9),
             request(3, "GETATTR", 1, pid=102, tid=556, sleeps=("inode lock", 7), age_ns=20),
             request(4, "LOOKUP", 8, pid=103, tid=557, sleeps=("resource group lock", 7))]
    assert waited_for(found) == {(2, 7), (3, 7)}
    requests = Requests(found, root=7)
    told = requests.holders(glock(writer=555, waiters=((2, 1, 0), (99, 3, 1))))
    assert [(h.state, h.flags, h.pid, h.what) for h in told] == [
        ("EX", "H", 100, "WRITE"), ("SH", "W", 102, "GETATTR"), ("SH", "W", 101, "READ"), ("EX", "tW", 0, "gfs2d")]
    shared = requests.holders(glock(readers=2))
    assert [(h.state, h.pid) for h in shared if not h.waits] == [("SH", 100), ("SH", 0)]


def test_lines_as_the_kernel_prints_them() -> None:
    me = os.getpid()
    view = FakeView(found=[b"G:  s:EX n:3/11\n", glock(waiters=((2, 3, 0),))],
                    requests=[request(2, "WRITE", 7, pid=me, state="parked")])
    comm = formats.comm_of(me)
    assert formats.glocks(view).decode() == (
        f"G:  s:EX n:3/11\nG:  s:SH n:2/7\n H: s:EX f:W e:0 p:{me} [{comm}] WRITE\n I: n:1/7\n")
    lines = formats.sbstats(view).decode().splitlines()
    assert lines[0] == "type            cpu:               0"
    assert len(lines) == 1 + 8 * 10
    assert lines[1 + 8 * 2].split() == ["inode", "srtt:", "20"]


def lock(node: int, kind: str, queue: str, gr: int, rq: int, pid: int) -> LockDump:
    return LockDump(lkid=0x10, remid=0x20, nodeid=node, kind=kind, queue=queue, grmode=gr, rqmode=rq, exflags=0,
                    flags=0, pid=pid, wait_type=0, since_ns=1000, lvbseq=0)


def test_the_nodes_at_a_lock() -> None:
    """As the master tells it: what others hold is theirs, what is local ours."""
    met = ResourceDump(lock_name(2, 7), 2, 2, False, None, 0, False,
                       (lock(1, "master", "granted", 5, -1, 70), lock(0, "local", "waiting", -1, 3, 80)))
    view = FakeView(found=[glock()], met=[met], shared={"nodeid": 2})
    (told,) = [json.loads(line) for line in formats.glocks_json(view).splitlines()]
    assert (told["type"], told["path"], told["state"]) == ("inode", "/a", "SH")
    assert told["nodes"] == {"here": 2, "master": 2, "granted": [{"node": 1, "mode": "EX", "pid": 70}],
                             "waiting": [{"node": 2, "mode": "PR", "pid": 80}]}
    assert nodes_of(None, 2) is None
    text = formats.dlm_locks(view, lambda: 3_001_000).decode().splitlines()
    assert text[1:] == ['10 1 20 70 0 0 0 2 5 -1 3000 2 24 "       2               7"',
                        '10 0 20 80 0 0 0 1 -1 3 3000 2 24 "       2               7"']


def test_waits_for_a_person() -> None:
    """The longest first; local holders by their processes, others by their nodes, or who could tell."""
    def one(path: str | None, holders: list[dict[str, Any]], nodes: dict[str, Any] | None) -> str:
        return json.dumps({"type": "inode", "number": 7, "path": path, "holders": holders, "nodes": nodes})

    def holder(pid: int, waits: bool, for_ns: int = 0) -> dict[str, Any]:
        return {"state": "SH" if waits else "EX", "waits": waits, "pid": pid, "comm": f"p{pid}", "command": "",
                "request": "READ" if waits else "WRITE", "for_ns": for_ns}

    lines = [one(None, [holder(1, True, 10**9)],
                 {"here": 1, "master": 3, "granted": [{"node": 1, "mode": "PR", "pid": 8}], "waiting": []}),
             one("/a", [holder(5, False), holder(2, True, 2 * 10**9)],
                 {"here": 1, "master": 1, "granted": [{"node": 4, "mode": "EX", "pid": 9}], "waiting": []}),
             one("/b", [holder(6, False)], None), one("/c", [holder(3, True)], None)]
    assert list(gfs2_files.waits(lines)) == [
        "p2 (pid 2, READ) waits for SH of inode 7 (/a) for 2s: p5 (pid 5, WRITE) holds EX here, node 4 holds EX",
        "p1 (pid 1, READ) waits for SH of inode 7 for 1s: node 3 knows (it masters the lock)",
        "p3 (pid 3, READ) waits for SH of inode 7 (/c) for 0ns: nobody that is known here"]
