"""Several nodes on one disk: nothing stale is read, nothing is lost, and the disk is sound afterwards."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from coherence.cluster import Cluster
from coherence.history import Event, History
from coherence.storm import Storm
from gfs2py.engine._lockqueue import LockRequest

# gls.planted
NO_FLUSH, KEEP_VALID, KEEP_BUFFERS, NO_LVB, NO_DATA = 1, 2, 3, 4, 6


def storm(seed: int, nodes: int, *, planted: int = 0, steps: int = 150) -> list[str]:
    """One run in a shape drawn from the seed; what was wrong, the disk included."""
    rng = random.Random(seed)
    cluster = Cluster(nodes, seed, parking=rng.random() < 0.6, planted=planted, bsize=rng.choice((4096, 1024)),
                      delay_s=rng.choice((0.0, 0.0003, 0.002)), inodes=rng.choice((64, 4096)),
                      commit_ms=rng.choice((30000, 5)))
    with cluster:
        run = Storm(cluster, seed, steps=steps, until=time.monotonic() + 10)
        run.run()
        problems = run.problems()
        if problems:
            cluster.abandon()
            return problems
    return cluster.findings()


@pytest.mark.parametrize("number", range(6))
def test_storm(number: int, seed: int) -> None:
    problems = storm(seed + number, 2 + number % 3)
    assert not problems, (seed + number, problems[:5])


@pytest.mark.interop
@pytest.mark.parametrize("bsize", [1024, 4096])
def test_debians_checker_is_silent_too(bsize: int, seed: int, tmp_path: Path) -> None:
    with Cluster(3, seed, bsize=bsize, delay_s=0.0003) as c:
        run = Storm(c, seed, steps=200)
        run.run()
        assert run.problems() == []
    image = tmp_path / "image"
    with image.open("wb") as f:
        for at in range(0, c.disk.size_bytes, 1 << 20):
            f.write(c.disk.read(at, 1 << 20))
    done = subprocess.run(["fsck.gfs2", "-n", str(image)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("planted", [NO_FLUSH, KEEP_VALID, KEEP_BUFFERS, NO_LVB, NO_DATA])
def test_planted_bug_is_found(planted: int, seed: int) -> None:
    assert any(storm(seed + i, 3, planted=planted) for i in range(5))


def test_history_finds_stale_reads() -> None:
    history = History(b"0")
    history.writes = [Event(10, 20, b"1", "a"), Event(30, 40, b"2", "b")]
    history.reads = [Event(15, 18, b"0", "c"), Event(32, 36, b"2", "c"), Event(41, 43, b"2", "c")]
    assert history.problems() == []
    history.reads = [Event(41, 43, b"1", "c")]
    assert len(history.problems()) == 1
    history.reads = [Event(21, 22, b"0", "c")]
    assert len(history.problems()) == 1
    history.reads = [Event(31, 34, b"2", "c"), Event(35, 38, b"1", "d")]
    assert len(history.problems()) == 1
    history.reads = [Event(1, 2, b"7", "c")]
    assert len(history.problems()) == 1


@pytest.mark.parametrize("parking", [False, True])
def test_one_sees_what_the_other_did(parking: bool) -> None:
    with Cluster(3, 1, parking=parking) as c:
        one, two, three = (c.nodes[n].volume for n in range(3))
        one.mkdir("d")
        one.create("d/f", b"first")
        assert two.read("d/f") == b"first"
        two.write("d/f", 0, b"SECOND")
        assert three.read("d/f") == one.read("d/f") == b"SECOND"
        three.truncate("d/f", 3)
        assert one.stat("d/f").size == 3
        one.setxattr("d/f", b"user.x", b"y" * 3000)
        assert two.getxattr("d/f", b"user.x") == b"y" * 3000
        two.rename("d/f", "g")
        assert not one.exists("d/f")
        assert three.read("g") == b"SEC"
        one.create("d/h", bytes(300_000))
        three.rename("d", "e")
        assert two.read("e/h") == bytes(300_000)
        two.unlink("e/h")
        one.rmdir("e")
        assert three.listdir() == one.listdir()
    assert c.findings() == []


def test_a_file_that_another_node_made_first_is_opened() -> None:
    """open(2) with O_CREAT whose lookup came too early: the kernel looks again at ESTALE, and opens what is there."""
    with Cluster(2, 3) as c:
        one, two = c.nodes[0].volume, c.nodes[1].volume
        one.create("f", b"content")
        for flags, number in ((os.O_RDWR, errno.ESTALE), (os.O_RDWR | os.O_EXCL, errno.EEXIST)):
            with pytest.raises(OSError) as e:
                two.calls.create(1, b"f", flags=flags)
            assert e.value.errno == number
        assert two.read("f") == b"content"
    assert c.findings() == []


def test_open_and_unlinked_elsewhere() -> None:
    """Another node's unlink takes the name; the blocks go when the last opener has closed."""
    with Cluster(2, 2) as c:
        one, two = c.nodes[0].volume, c.nodes[1].volume
        one.create("f", b"x" * 100_000)
        one.sync()
        free = one.calls.statfs()[2]
        node, _ = one.calls.lookup(1, b"f")
        fh = one.calls.open(node)
        two.unlink("f")
        two.fs.drain()
        for _ in range(3):                  # others make and delete; nothing of it may land in the open file
            two.create("other", b"z" * 100_000)
            two.unlink("other")
            two.fs.drain()
        assert one.calls.read(node, 0, 100_000, fh) == b"x" * 100_000
        one.calls.write(node, 0, b"still mine", fh)
        assert one.calls.read(node, 0, 10, fh) == b"still mine"
        one.calls.release(node, fh)
        one.calls.forget(node)
        one.fs.drain()
        assert not one.exists("f")
    with Cluster.again(c) as alone:
        assert alone.nodes[0].volume.calls.statfs()[2] >= free
    assert alone.findings() == []


def test_several_know_an_unlinked_file() -> None:
    """Whoever is the last to know it deletes it; several that let go at the same moment do not delete it twice."""
    files, rounds = 60, 4
    with Cluster(3, 8, delay_s=0.0005) as c:
        one, others = c.nodes[0].volume, [c.nodes[n].volume for n in (1, 2)]
        for number in range(rounds):
            names = [b"f%d-%d" % (number, i) for i in range(files)]
            for name in names:
                one.create(name, b"content")
            known = [[v.calls.lookup(1, name)[0] for name in names] for v in others]
            for name in names:
                one.unlink(name)

            def forget(n: int, known: list[list[int]] = known) -> None:
                for node in known[n]:
                    others[n].calls.forget(node)
                others[n].fs.drain()

            threads = [threading.Thread(target=forget, args=(n,)) for n in (0, 1)]
            for thread in threads:
                thread.start()
            one.fs.drain()
            for thread in threads:
                thread.join()
            if why := [w for w in c.withdrawn().values() if w]:
                c.abandon()
                pytest.fail(why[0])
    assert c.findings() == []


@pytest.mark.parametrize(("known", "at", "field"), [(False, 0, "mh_magic"), (True, 0, "mh_magic"),
                                                    (False, 4, "mh_type"), (True, 32, "no_addr")])
def test_a_damaged_dinode_withdraws(known: bool, at: int, field: str) -> None:
    """It can be told from one that another node has deleted: its name is still there, or our kernel knows it."""
    with Cluster(2, 6) as c:
        c.nodes[0].volume.create("f", b"content")
        two = c.nodes[1].volume
        node, _ = two.calls.lookup(1, b"f")
        if not known:
            two.calls.forget(node)
        c.nodes[0].volume.write("f", 0, b"CONTENT")         # and so two has to read it again
        c.unmount(0)
        block = bytearray(c.disk.read(node * 4096, 4096))
        block[at:at + 8] = bytes(8)
        c.disk.write(node * 4096, bytes(block))
        look: Callable[[], object] = partial(two.calls.getattr, node) if known else partial(two.exists, "f")
        with pytest.raises(OSError, match="Input/output error") as e:
            look()
        assert e.value.errno == errno.EIO
        why = two.fs.withdrawn
        assert why is not None
        assert f"damaged block {node} " in why
        assert f"{field} is 0 (0x0), wanted" in why
        c.abandon()


def test_who_has_it_open_pokes_the_one_who_deletes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel node that wants the iopen lock waits five seconds, unless it is asked for the inode's lock meanwhile."""
    inode_lock, iopen_lock, try_1cb = 2, 5, 2
    with Cluster(2, 9) as c:
        one, two = c.nodes[0].volume, c.nodes[1].volume
        one.create("f", b"x")
        node, attr = one.calls.lookup(1, b"f")
        asked: list[tuple[int, int, int]] = []
        poked = threading.Event()
        handle = c.master._request

        def look(of: int, request: LockRequest) -> None:
            if request.number == attr.ino and not request.unlock:
                asked.append((of, request.type, request.flags))
                if asked[-1] == (0, inode_lock, try_1cb):
                    poked.set()
            handle(of, request)

        monkeypatch.setattr(c.master, "_request", look)
        two.unlink("f")
        two.fs.drain()
        assert (1, iopen_lock, try_1cb) in asked
        assert poked.wait(60)
        assert one.calls.read(node, 0, 1) == b"x"
        one.calls.forget(node)
    assert c.findings() == []


def test_creates_ask_nobody() -> None:
    """Files made in a directory of one's own cost no message; another node that looks finds them all."""
    with Cluster(2, 3) as c:
        one, two = c.nodes[0].volume, c.nodes[1].volume
        one.mkdir("mine")
        one.create("mine/first")
        before = c.master.messages
        for i in range(300):
            one.create(f"mine/f{i}", b"content")
        assert c.master.messages - before < 20
        assert len(two.listdir("mine")) == len(one.listdir("mine"))
        assert two.read("mine/f7") == b"content"
        two.write("mine/f7", 0, b"CONTENT")
        assert one.read("mine/f7") == b"CONTENT"
    assert c.findings() == []


def test_what_is_read_and_then_changed_is_asked_for_once() -> None:
    """Two nodes that take turns soon ask for EX without SH before it; two that only read soon share again."""
    turns = 40
    with Cluster(2, 9) as c:
        volumes = [c.nodes[n].volume for n in (0, 1)]
        volumes[0].create("f", bytes(8))
        nodes = [v.node("f") for v in volumes]

        def messages(write: bool) -> int:
            before = c.master.messages
            for i in range(turns):
                calls = volumes[i % 2].calls
                value = int.from_bytes(calls.read(nodes[i % 2], 0, 8), "little")
                assert value == (i if write else turns)
                if write:
                    calls.write(nodes[i % 2], 0, (value + 1).to_bytes(8, "little"))
            return c.master.messages - before

        # A request, the call to yield, the other's demotion and its answer, the grant.
        assert messages(write=True) <= 5 * turns + 20
        assert messages(write=False) <= 20
        for v, node in zip(volumes, nodes, strict=True):
            v.calls.forget(node)
    assert c.findings() == []


def test_df_of_a_node_that_does_nothing() -> None:
    """It learns what others have taken and given back."""
    with Cluster(2, 10) as c:
        one, two = c.nodes[0].volume, c.nodes[1].volume

        def agree() -> None:
            deadline = time.monotonic() + 60
            while one.calls.statfs() != two.calls.statfs():
                assert time.monotonic() < deadline, (one.calls.statfs(), two.calls.statfs())
                two.fs.drain()

        agree()
        before = two.calls.statfs()[2]
        one.create("f", bytes(4 << 20))
        agree()
        assert two.calls.statfs()[2] <= before - (4 << 20) // 4096
        one.unlink("f")
        one.fs.drain()
        agree()
        assert two.calls.statfs()[2] == before
    assert c.findings() == []


def test_mounts_come_and_go() -> None:
    with Cluster(3, 4) as c:
        c.nodes[0].volume.create("a", b"of 0")
        c.unmount(1)
        assert c.nodes[2].volume.read("a") == b"of 0"
        c.nodes[2].volume.write("a", 0, b"by 2")
        c.unmount(2)
        assert c.nodes[0].volume.read("a") == b"by 2"
        c.mount(1)
        c.unmount(0)
        assert c.nodes[1].volume.read("a") == b"by 2"
        c.nodes[1].volume.unlink("a")
        c.mount(2)
        assert not c.nodes[2].volume.exists("a")
    assert c.findings() == []


def test_directories_do_not_become_circles() -> None:
    """Two nodes move directories into each other for a while: none ends up below itself, none is lost."""
    with Cluster(2, 5, delay_s=0.0002) as c:
        for name in ("a", "b", "a/x", "b/y"):
            c.nodes[0].volume.mkdir(name)

        def move(n: int) -> None:
            rng = random.Random(n)
            places = ("a", "b", "a/x", "b/y", "a/x/b", "b/y/a", "x", "y")
            for _ in range(60):
                try:
                    c.nodes[n].volume.rename(rng.choice(places), rng.choice(places))
                except OSError:
                    continue

        threads = [threading.Thread(target=move, args=(n,)) for n in (0, 1)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert c.withdrawn() == {0: None, 1: None}
    assert c.findings() == []
