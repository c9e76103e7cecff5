"""Pictures of the glocks, taken again and again while several nodes work, and while they unmount."""

from __future__ import annotations

import re
import threading

from coherence.cluster import Cluster
from coherence.storm import Storm
from gfs2py.engine import _inspect
from gfs2py.engine._mount import Gfs2

HEAD = re.compile(rb"G:  s:(UN|SH|DF|EX) n:([1-9])/([0-9a-f]+) f:\w* t:(UN|SH|DF|EX) d:(UN|SH|DF|EX)/\d+ a:0 v:0 r:\d+ "
                  rb"m:\d+ p:0")
BELOW = re.compile(rb" (I: n:\d+/\d+ t:\d+ f:0x[0-9a-f]{2} d:0x[0-9a-f]{8} s:\d+ p:0"
                   rb"|R: n:\d+ f:[0-9a-f]{2} b:\d+/\d+ i:\d+ q:\d+ r:\d+ e:\d+)")


class Looker(threading.Thread):
    """Takes pictures of one mount until it is told to stop."""

    def __init__(self, fs: Gfs2) -> None:
        super().__init__(daemon=True)
        self.fs, self.stop, self.enough = fs, threading.Event(), threading.Event()
        self.pictures, self.wrong = 0, list[bytes]()

    def run(self) -> None:
        while not self.stop.is_set():
            for piece in _inspect.glocks(self.fs, only_busy=bool(self.pictures % 2)):
                text = piece if isinstance(piece, bytes) else piece.head + piece.tail
                self.wrong += [line for line in text.splitlines()
                               if not HEAD.fullmatch(line) and not BELOW.fullmatch(line)]
            _inspect.glock_statistics(self.fs)
            _inspect.resource_groups(self.fs)
            self.pictures += 1
            if self.pictures > 2:
                self.enough.set()


def test_while_glocks_come_and_go(seed: int) -> None:
    """Two at once per mount, so that each meets the other's placeholder; the mounts end under them."""
    with Cluster(3, seed, delay_s=0.0003, inodes=64) as c:
        mounts = [c.nodes[n].volume.fs for n in range(3)]
        lookers = [Looker(fs) for fs in mounts for _ in range(2)]
        for one in lookers:
            one.start()
        run = Storm(c, seed, steps=150)
        run.run()
        assert run.problems() == []
        for fs in mounts:
            told = _inspect.type_statistics(fs)
            assert told[1][6] > 0           # inodes' glocks were asked for
            assert told[1][2] > 0           # and it took its time
    for one in lookers:
        assert one.enough.wait(60)
        one.stop.set()
        one.join(60)
        assert not one.is_alive()
        assert one.wrong == []
        assert _inspect.glocks(one.fs) == []
    assert c.findings() == []


def test_no_placeholder_stays() -> None:
    with Cluster(2, 1) as c:
        volume = c.nodes[0].volume
        for i in range(200):
            volume.create(f"f{i}", b"")
        before = volume.fs.glocks()
        for _ in range(3):
            text = b"".join(p if isinstance(p, bytes) else p.head + p.tail for p in _inspect.glocks(volume.fs))
        heads = [HEAD.fullmatch(line) for line in text.splitlines() if line.startswith(b"G")]
        assert sorted((int(m[2]), int(m[3], 16)) for m in heads if m) == sorted(
            (g["type"], g["number"]) for g in before)
        assert all(g["type"] for g in volume.fs.glocks())


def test_names_of_inodes() -> None:
    """The last name that this node knows; nothing for one it never looked up."""
    with Cluster(2, 1) as c:
        one, two = c.nodes[0].volume, c.nodes[1].volume
        one.mkdir("d")
        one.create("d/f", b"x")
        number = one.stat("d/f").ino
        assert _inspect.path_hint(one.fs, number) == b"/d/f"
        assert _inspect.path_hint(two.fs, number) is None
        two.rename("d/f", "g")
        assert two.stat("g").ino == number
        assert _inspect.path_hint(two.fs, number) == b"/g"
        one.stat("g")
        assert _inspect.path_hint(one.fs, number) == b"/g"
        assert _inspect.path_hint(one.fs, _inspect.root_number(one.fs)) == b"/"
