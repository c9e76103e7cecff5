"""flock(2) among mounts of one disk, over the lock manager itself: exclusion, conversions, what a death leaves."""

from __future__ import annotations

import errno
import fcntl
import random
import threading

from coherence.cluster import Cluster
from coherence.over_dlm import DlmMaster

READ, WRITE, UNLOCK = fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK
OWNERS = 3                      # open files per node
TURNS = 25


def over_dlm(nodes: int) -> Cluster:
    c = Cluster(nodes, 1)
    c.master = DlmMaster(nodes)         # type: ignore[assignment]
    return c


class Opened:
    """An open file of one node."""

    def __init__(self, c: Cluster, n: int, owner: int, name: str = "f") -> None:
        self.calls = c.nodes[n].calls
        self.node = c.nodes[n].volume.node(name)
        self.owner = owner
        self.fh = self.calls.open(self.node)

    def flock(self, kind: int, *, wait: bool = False) -> int:
        """0 or an errno."""
        try:
            self.calls.setlk(self.node, self.fh, self.owner, kind, flock=True, sleep=wait)
        except OSError as e:
            return e.errno or -1
        return 0

    def flock_soon(self, kind: int) -> None:
        """LOCK_NB of what nobody has any more: refused as long as the other node's answer takes too long."""
        while (error := self.flock(kind)) != 0:
            assert error == errno.EAGAIN

    def close(self) -> None:
        self.calls.release(self.node, self.fh)


def test_shared_and_exclusive() -> None:
    with over_dlm(2) as c:
        c.nodes[0].volume.create("f")
        a, b, other = Opened(c, 0, 1), Opened(c, 1, 2), Opened(c, 0, 3)
        assert a.flock(READ) == other.flock(READ) == 0
        b.flock_soon(READ)
        assert b.flock(WRITE) == errno.EAGAIN           # and what it had is gone, as flock(2) says
        other.close()
        a.flock_soon(WRITE)
        assert b.flock(READ) == errno.EAGAIN
        assert a.flock(READ) == 0                       # down again: others may come
        assert b.flock(READ, wait=True) == 0
        assert a.flock(UNLOCK) == 0
        assert b.flock(WRITE, wait=True) == 0
        b.close()                                       # the end of an open file is the end of its flock
        a.flock_soon(WRITE)
        a.close()
    assert c.findings() == []


def test_nobody_else_is_inside(seed: int) -> None:
    """Many open files of three nodes, each with its own seed: shared, exclusive, with and without waiting."""
    inside: dict[str, int] = {"shared": 0, "exclusive": 0}
    guard = threading.Lock()
    problems: list[str] = []

    def enter(kind: int, change: int) -> None:
        with guard:
            inside["exclusive" if kind == WRITE else "shared"] += change
            if inside["exclusive"] > 1 or (inside["exclusive"] and inside["shared"]):
                problems.append(str(inside))

    def user(c: Cluster, n: int, owner: int) -> None:
        rng = random.Random(f"{seed} {owner}")
        f = Opened(c, n, owner)
        for _ in range(TURNS):
            kind = rng.choice((READ, WRITE))
            wait = rng.random() < 0.7
            if (error := f.flock(kind, wait=wait)) == 0:
                enter(kind, 1)
                enter(kind, -1)
                f.flock(UNLOCK)
            elif wait or error != errno.EAGAIN:
                problems.append(f"errno {error}")
        f.close()

    with over_dlm(3) as c:
        c.nodes[0].volume.create("f")
        threads = [threading.Thread(target=user, args=(c, n, 10 * n + i)) for n in range(3) for i in range(OWNERS)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    assert problems == []
    assert c.findings() == []


def test_a_dead_nodes_flock_is_given_on() -> None:
    with over_dlm(3) as c:
        c.nodes[0].volume.create("f")
        held, waits = Opened(c, 1, 1), Opened(c, 2, 2)
        assert held.flock(WRITE) == 0
        assert waits.flock(WRITE) == errno.EAGAIN
        got: list[int] = []
        thread = threading.Thread(target=lambda: got.append(waits.flock(WRITE, wait=True)))
        thread.start()
        c.crash(1)
        c.nodes[0].volume.fs.recover_jid(1)
        c.master.release(1)
        c.recovered()
        thread.join()
        assert got == [0]
        waits.close()


def test_a_flock_that_nobody_else_wants_costs_no_message() -> None:
    with over_dlm(2) as c:
        c.nodes[0].volume.create("f")
        f = Opened(c, 0, 1)
        assert f.flock(WRITE) == 0
        assert f.flock(UNLOCK) == 0
        before = c.master.messages
        for _ in range(300):
            assert f.flock(WRITE) == f.flock(UNLOCK) == 0
        assert c.master.messages - before < 20
        f.close()
