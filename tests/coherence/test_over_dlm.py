"""The same storms with the lock manager itself below the glocks: lockspaces on loopback, compiled code all the way."""

from __future__ import annotations

import threading
import time

import pytest

from coherence.cluster import Cluster
from coherence.over_dlm import DlmMaster
from coherence.storm import Storm
from dlm.core._lockspace import Lockspace
from gfs2py.engine import _standstill
from gfs2py.lock_dlm._manager import DlmLocks

LIMIT_S = 60.0


def over_dlm(nodes: int, seed: int, **shape: bool) -> Cluster:
    c = Cluster(nodes, seed, **shape)
    c.master = DlmMaster(nodes)         # type: ignore[assignment]
    return c


@pytest.mark.parametrize("nodes", [2, 3, 4])
def test_storm(nodes: int, seed: int) -> None:
    with over_dlm(nodes, seed, parking=nodes != 3) as c:
        run = Storm(c, seed, steps=150, until=time.monotonic() + 10)
        run.run()
        assert run.problems() == []
        assert c.master.messages > 0
    assert c.findings() == []


def test_creates_ask_nobody() -> None:
    """Not even the lock manager on this node; another one that looks finds all files and may have them."""
    with over_dlm(2, 1) as c:
        one, two = c.nodes[0].volume, c.nodes[1].volume
        one.mkdir("mine")
        one.create("mine/first")
        before = c.master.messages
        for i in range(500):
            one.create(f"mine/f{i}", b"content")
        assert c.master.messages - before < 20
        assert len(two.listdir("mine")) == 501
        two.write("mine/f7", 0, b"CONTENT")
        assert one.read("mine/f7") == b"CONTENT"
        assert c.master.messages - before > 300
    assert c.findings() == []


def test_many_births_are_told_together() -> None:
    """Before others may look into a directory the lock manager is told of all inodes in it, 64 at a time; none is left
    in a batch that is not sent, and each can be had."""
    with over_dlm(2, 4) as c:
        volumes = [c.nodes[n].volume for n in (0, 1)]
        for n in (1, 63, 64, 65, 128, 129):
            one, two = volumes if n % 2 else volumes[::-1]
            one.mkdir(f"d{n}")
            for i in range(n):
                one.create(f"d{n}/{i}", b"content")
            assert len(two.listdir(f"d{n}")) == n
            for i in (0, n - 1):
                two.write(f"d{n}/{i}", 0, b"CONTENT")
                assert one.read(f"d{n}/{i}") == b"CONTENT"
    assert c.findings() == []


def test_mounts_come_and_go() -> None:
    """Unlocks of a mount that has ended are still under way when the next one begins."""
    with over_dlm(3, 2) as c:
        c.nodes[0].volume.create("a", b"of 0")
        for n in (1, 2, 0, 1, 2):
            c.unmount(n)
            other = c.nodes[(n + 1) % 3].volume
            other.write("a", 0, b"by %d" % n)
            c.mount(n)
            assert c.nodes[n].volume.read("a") == b"by %d" % n
    assert c.findings() == []


def test_a_crash() -> None:
    """What the dead node had under its locks is given out only when its journal has been replayed."""
    with over_dlm(3, 3) as c:
        dying, two = c.nodes[1].volume, c.nodes[2].volume
        dying.create("f", b"first")
        dying.write("f", 0, b"SECOND")
        dying.fsync("f")
        c.crash(1)
        seen: list[bytes] = []
        reader = threading.Thread(target=lambda: seen.append(two.read("f")))
        reader.start()
        c.nodes[0].volume.fs.recover_jid(1)
        assert seen == []
        c.recovered()
        reader.join()
        assert seen == [b"SECOND"]
    assert c.findings() == []


def test_a_replay_does_not_wait_for_who_waits_for_it() -> None:
    """A survivor folds its counts into the statfs file, whose lock the replay needs, too: it was granted it, was not
    told before all journals are replayed, and kept it from whoever replayed them."""
    with over_dlm(3, 4) as c:
        c.nodes[1].volume.create("f", b"of the dead")
        c.nodes[1].volume.fsync("f")
        c.nodes[2].volume.create("g", b"a change of the counts")
        c.unmount(0)
        c.mount(0)                          # it has read the statfs file last
        locks = c.master.locks[2]           # type: ignore[index]
        c.crash(1)
        leaver = threading.Thread(target=lambda: c.unmount(2))
        leaver.start()
        deadline = time.monotonic() + LIMIT_S
        while not (told := locks.statistics())["kept_back"] + told["declined"]:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        replay = threading.Thread(target=lambda: c.nodes[0].volume.fs.recover_jid(1), daemon=True)
        replay.start()
        replay.join(LIMIT_S)
        assert not replay.is_alive()
        c.recovered()
        leaver.join()
        c.mount(2)
    assert c.findings() == []


def test_iopen_locks_are_not_kept_back() -> None:
    """Whoever lets an inode go asks for one; kept back, it held up the demoter, and the replay that waited for that."""
    with over_dlm(2, 5) as c:
        one, two = c.nodes[0].volume, c.nodes[1].volume
        one.mkdir("d")
        one.create("d/f", b"x")
        assert two.read("d/f") == b"x"
        one.write("d/f", 0, b"y")
        one.create("d/g", b"the directory is ours again")
        locks = c.master.locks[0]           # type: ignore[index]
        before = locks.statistics()
        locks.block()
        one.unlink("d/f")
        one.fs.drain()
        after = locks.statistics()
        locks.unblock()
        assert after["asked"] > before["asked"]
        assert after["kept_back"] + after["declined"] == before["kept_back"] + before["declined"]
    assert c.findings() == []


def test_one_mount_each() -> None:
    locks = DlmLocks(Lockspace("a", 1, 1))
    assert not locks.blocked
    with pytest.raises(ValueError, match="value blocks of 32"):
        DlmLocks(Lockspace("b", 1, 2, lvblen=16))


@pytest.mark.parametrize("too_early", [False, True])
def test_a_withdraw(too_early: bool) -> None:
    """What a withdrawn node had under its locks is only in its journal: whoever gets the locks before that is replayed
    misses it, and this test would see it."""
    with over_dlm(3, 5) as c:
        withdrawn, two = c.nodes[1].volume, c.nodes[2].volume
        withdrawn.create("new", b"content")
        withdrawn.fsync("new")
        withdrawn.fs.withdraw("by a test")
        while _standstill.passing(withdrawn.fs):
            pass
        still = c.disk.read(0, c.disk.size_bytes)
        node = c.nodes.pop(1)
        c.master.crash(1)
        c.crashed.append(1)
        node.volume.abandon()
        assert c.disk.read(0, c.disk.size_bytes) == still
        if too_early:
            c.recovered()
            assert not two.exists("new")
        seen: list[bool] = []
        reader = threading.Thread(target=lambda: seen.append(two.exists("new")))
        reader.start()
        c.nodes[0].volume.fs.recover_jid(1)
        if not too_early:
            assert seen == []
        c.recovered()
        reader.join()
        assert seen == [not too_early]
        if not too_early:
            assert two.read("new") == b"content"
    assert too_early or c.findings() == []
