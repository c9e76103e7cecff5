"""Pass 1 by several threads: the report is that of one, whatever is wrong and wherever it is."""

from __future__ import annotations

import random
import threading

import pytest

from fsck.damages import Patient
from gfs2py.block import MemoryDevice, Snapshot
from gfs2py.engine.volume import Volume
from gfs2py.fsck import Report, check, crew
from gfs2py.fsck._check import Checker
from gfs2py.mkfs.make import make_fs
from gfs2py.mkfs.options import MkfsOptions

MIB = 1 << 20


@pytest.fixture(scope="module")
def many_groups() -> Snapshot:
    """Files in many groups: a group is as small as it may be, and every tenth file pushes the next ones on."""
    dev = MemoryDevice(768 * MIB)
    make_fs(dev, MkfsOptions(lockproto="lock_nolock", bsize=512, rgsize_mb=32, jsize_mb=8, rng=random.Random(1)))
    with Volume(dev, background=False, quiet=True) as volume:
        for d in range(40):
            volume.mkdir(f"/{d}")
            for n in range(25):
                volume.create(f"/{d}/{n}", bytes(3000 * (n % 4)))
            volume.setxattr(f"/{d}/3", b"user.x", bytes(2000))
            volume.fallocate(f"/{d}/0", 0, 0, 12 * MIB)
            volume.setattr(f"/{d}/1", uid=d % 5)
    return dev.snapshot()


def inodes(p: Patient) -> list[int]:
    return [e.addr for d in range(40) for e in p.r.dirents(p.ino(str(d))) if not e.name.startswith(b".")]


def same(dev: MemoryDevice) -> Report:
    """The report of one thread, after it was compared with those of several."""
    alone = check(dev, quota=True, threads=1)
    for threads in (2, 3, 5):
        together = check(dev, quota=True, threads=threads)
        assert {**together.as_dict(), "seconds": 0} == {**alone.as_dict(), "seconds": 0}
    return alone


def test_clean(many_groups: Snapshot) -> None:
    dev = MemoryDevice.from_snapshot(many_groups)
    report = same(dev)
    assert report.clean
    p = Patient(dev)
    assert len({p.rgrp_of(addr)["ri_addr"] for addr in inodes(p)}) > 8


def test_many_findings(many_groups: Snapshot) -> None:
    """More than are stored of one kind, so that it matters which ones are; other kinds between them."""
    dev = MemoryDevice.from_snapshot(many_groups)
    p = Patient(dev)
    rng = random.Random(2)
    for addr in rng.sample(inodes(p), 300):
        match rng.randrange(3):
            case 0:
                p.put(addr, "dinode", "di_blocks", 7777)
            case 1:
                p.put(addr, "dinode", "di_nlink", 9)
            case _:
                p.put(addr, "dinode", "di_num.no_formal_ino", rng.getrandbits(60))
    report = same(dev)
    assert report.totals["di_blocks"] > len(report.of("di_blocks")) == 64
    assert report.totals["de_formal"] > 64


def test_two_owners_in_different_groups(many_groups: Snapshot) -> None:
    dev = MemoryDevice.from_snapshot(many_groups)
    p = Patient(dev)
    first, last = p.ino("1/2"), p.ino("38/2")
    assert p.rgrp_of(first.addr) != p.rgrp_of(last.addr)
    p.ptr(last.addr, 232, p.get_ptr(first.addr, 232))
    p.put(p.ino("20/1").addr, "dinode", "di_blocks", 7777)
    report = same(dev)
    assert {a for a, _ in report.of("block_duplicate")[0].owners} == {first.addr, last.addr}
    assert len(report.of("di_blocks")) == 1


def test_threads_are_used_and_gone(many_groups: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where there is something to gain; an exception of the caller's ends them too."""
    monkeypatch.setattr(crew.os, "sched_getaffinity", lambda _: set(range(64)))
    assert crew.threads_for(crew.WORTH_IT - 1) == 1
    assert crew.threads_for(crew.WORTH_IT) == crew.MOST
    ck = Checker(MemoryDevice.from_snapshot(many_groups))
    assert ck.open()
    ck.load(0, ck.n_rgrps)
    ck.prepare()
    seen = []

    def progress(done: int, of: int) -> None:
        seen.append(threading.active_count())
        raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        crew.walk_together(ck, 4, progress)
    assert len(seen) == 1
    assert threading.active_count() == before
