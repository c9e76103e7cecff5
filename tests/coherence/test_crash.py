"""A node loses its disk: another replays its journal, and only then do new grants count. What was synced is there."""

from __future__ import annotations

import random
import threading
import time

import pytest

from coherence.cluster import Cluster
from coherence.master import EX, Resource
from gfs2py.block._faulty import FaultyDevice
from gfs2py.engine._lockmanager import LockManager
from gfs2py.engine.mount import Mounted
from gfs2py.errors import MountError
from gfs2py.options import MountOptions

JOURNAL = 9                             # the type of a journal's lock
NO_TAIL = 5                             # gls.planted
LIMIT_S = 60.0


@pytest.mark.parametrize("bsize", [1024, 4096])
def test_acknowledged_fsyncs_survive(bsize: int, seed: int) -> None:
    rng = random.Random(seed)
    kept = {}
    with Cluster(3, seed, bsize=bsize, commit_ms=rng.choice((5, 30000))) as c:
        dying = c.nodes[1].volume
        dying.mkdir("d")
        c.nodes[0].volume.create("d/of0", b"a")
        for i in range(60):
            name, data = f"d/f{i}", rng.randbytes(rng.randrange(20_000))
            dying.create(name, data)
            if rng.random() < 0.5:
                dying.fsync(name)
                kept[name] = data
            if rng.random() < 0.1:
                c.nodes[2].volume.exists(name)
        dying.fsync("d")
        c.crash(1)
        seen: dict[str, bytes] = {}

        def read() -> None:
            for name in kept:
                seen[name] = c.nodes[2].volume.read(name)

        reader = threading.Thread(target=read)
        reader.start()                  # gets nothing that the dead node may have changed, until the replay
        c.nodes[0].volume.fs.recover_jid(1)
        c.recovered()
        reader.join()
        assert seen == kept
        assert c.nodes[0].volume.fs.recover_jid(1) is None      # clean by now
        c.mount(1)
        assert {name: c.nodes[1].volume.read(name) for name in kept} == kept
    assert c.findings() == []


def replay_undoes_nothing(planted: int) -> bool:
    """A node dies whose journal has seen changes of blocks that others have changed since."""
    with Cluster(3, 1, planted=planted) as c:
        dies, lives = c.nodes[0].volume, c.nodes[1].volume
        for i in range(5):
            dies.create(f"f{i}", b"x")
            dies.setattr(f"f{i}", mode=0o600)
        for i in range(5):
            lives.setattr(f"f{i}", mode=0o640)
            lives.write(f"f{i}", 0, b"new content")
        lives.unlink("f4")
        c.unmount(1)                    # all of it is in place
        c.crash(0)
        c.nodes[2].volume.fs.recover_jid(0)
        c.recovered()
    try:
        with Cluster.again(c) as alone:
            volume = alone.nodes[0].volume
            good = not volume.exists("f4") and all(volume.read(f"f{i}") == b"new content" for i in range(4))
    except OSError:
        return False
    return good and alone.findings() == []


def test_replay_undoes_nothing_of_others() -> None:
    assert replay_undoes_nothing(0)


def test_old_copies_in_a_journal_are_found() -> None:
    """The planted bug: a lock is let go while the journal could still write old copies of its blocks."""
    assert not replay_undoes_nothing(NO_TAIL)


class Place:
    """A mount's side of the cluster, as far as a replay needs one."""

    first = False

    def __init__(self, locks: LockManager, jid: int) -> None:
        self.locks, self.jid = locks, jid

    def start(self) -> Place:
        return self

    def mounted(self, fs: Mounted) -> None:
        pass

    def unfreeze_at_end(self) -> None:
        pass

    def stop(self, *, dead: bool = False) -> None:
        pass


class Survivor(Mounted):
    """Node `n` of the cluster, with the log that its mount writes."""

    def __init__(self, c: Cluster, n: int) -> None:
        self.log: list[str] = []
        self.other: Survivor | None = None
        self.refused = 0
        super().__init__(FaultyDevice(c.disk), MountOptions(cache_size_bytes=8 << 20), self.note,
                         lambda table, lost: Place(c.master.join(n), n))    # type: ignore[arg-type, return-value]

    def note(self, line: str) -> None:
        """From within a replay, with the journal's lock held: the other survivor comes just now."""
        if line.startswith("jid=1: "):
            self.log.append(line)
            assert self.other is not None
            assert not self.other.replay(1)
            self.refused += 1

    def until_replayed(self) -> None:
        """As the cluster's side does it."""
        deadline = time.monotonic() + LIMIT_S
        while not self.replay(1):
            assert time.monotonic() < deadline


def test_one_survivor_replays_and_says_so_once() -> None:
    """The other one is refused as long as the first is at it, and finds nothing to do afterwards: what has been changed
    since then stays."""
    with Cluster(4, 1) as c:
        c.unmount(2)
        c.unmount(3)
        survivors = first, second = Survivor(c, 2), Survivor(c, 3)
        first.other, second.other = second, first
        c.nodes[1].volume.create("f", b"of the dead")
        c.nodes[1].volume.fsync("f")
        c.crash(1)
        for survivor in survivors:
            survivor.until_replayed()
        words = [line.split()[1] for line in first.log]
        assert words == ["Trying", "Looking", "Replayed", "Done"], first.log
        assert "Replayed 0 " not in first.log[2]
        assert first.refused == 4
        assert second.log == []
        c.recovered()
        c.nodes[0].volume.write("f", 0, b"CHANGED SINCE")
        c.nodes[0].volume.fsync("f")
        for survivor in survivors:
            survivor.until_replayed()
            survivor.close()
            c.master.leave(survivor.jid)
        assert (len(first.log), second.log) == (4, [])
        assert c.nodes[0].volume.read("f") == b"CHANGED SINCE"
    assert c.findings() == []


def test_a_mount_waits_for_its_journal() -> None:
    """A survivor may still look at the journal of a dead node whose place the new one has: nobody is refused for it."""
    with Cluster(2, 1) as c:
        c.unmount(1)
        journal, looks = (JOURNAL, 1), (99, 1)
        with c.master.lock:
            resource = c.master.resources.setdefault(journal, Resource(journal))
            resource.granted[looks] = EX
        failed: list[MountError] = []

        def mount() -> None:
            try:
                c.mount(1)
            except MountError as e:
                failed.append(e)

        mounting = threading.Thread(target=mount)
        mounting.start()
        deadline = time.monotonic() + LIMIT_S
        while not resource.waiting and mounting.is_alive() and time.monotonic() < deadline:
            time.sleep(0.001)
        with c.master.lock:
            c.master._purge(99)
        mounting.join()
        assert failed == []
        c.nodes[1].volume.create("here", b"x")
    assert c.findings() == []
