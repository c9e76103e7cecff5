"""Damaged images: none may crash, hang or eat memory, and no write may go where it must not.

The cases of CI; `python -m hostile --cases N` runs more of them, and one again with --case. GFS2PY_HOSTILE_CASES
says how many this run has, GFS2PY_HOSTILE_SECONDS when it ends at the latest.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import random
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from gfs2py.block import MemoryDevice, RecordingDevice
from gfs2py.edit.patch import patch_field
from gfs2py.engine import _mount
from gfs2py.errors import CorruptionError
from gfs2py.fsck import _check, check
from hostile import exercise, pool
from hostile.bank import Base, bases
from hostile.exercise import Finding, Mounted, Walk, run_case
from hostile.footprint import Footprint, left_behind
from hostile.mutate import FIELDS, Damage, draw
from hostile.pool import Pool, sanitised
from hostile.rule import Rule, world

CASES = int(os.environ.get("GFS2PY_HOSTILE_CASES", "400" if sanitised() else "2000"))
SECONDS = float(os.environ.get("GFS2PY_HOSTILE_SECONDS", "0"))
JOBS = 2
FORGOTTEN: list[object] = []


@pytest.fixture(scope="module")
def bank() -> list[Base]:
    return list(bases())


@pytest.mark.timeout(1200)
def test_damaged_images(bank: list[Base], seed: int) -> None:
    result = Pool(bank, seed, 0, CASES, jobs=JOBS, tell=print, seconds=SECONDS).run()
    print(f"seed {seed}: {result.cases} cases in {result.seconds:.0f} s, "
          f"{result.cases / result.cpu_seconds:.0f} per second of processor time; mounts: {dict(result.counts)}")
    assert not result.findings, "\n".join(f"case {n}: {text}\n    repeat with: {pool.command(seed, n)}"
                                          for n, text in result.findings)
    if SECONDS:
        return      # as far as it came
    assert result.cases == CASES
    assert result.fields == set(FIELDS), f"not damaged: {set(FIELDS) - result.fields}"
    for outcome in ("mounted", "withdrawn", "refused"):
        assert result.counts[outcome] > CASES // 50, "the damage is met, and not only at the mount"


def test_same_seed_same_damage(bank: list[Base]) -> None:
    """In another process, too: images are made anew there, and a number must mean the same damage."""
    again = list(bases())
    for n in range(60):
        one, two = draw(bank, 5, n), draw(again, 5, n)
        assert (one.base.name, one.text, one.patches, one.size_bytes) == (two.base.name, two.text, two.patches,
                                                                          two.size_bytes)
    assert draw(bank, 6, 0).text != draw(bank, 5, 0).text


def test_jindex_without_journals(bank: list[Base]) -> None:
    """Found by seed 31337, case 11029: refused without a word about where."""
    r = bank[0].map.r
    entry = next(e for e in r.dirents(r.system("jindex")) if e.name == b"journal0")
    dev = MemoryDevice.from_snapshot(bank[0].snapshot)
    patch_field(dev, entry.block, "dirent", "de_name_len", 1, at=entry.at)
    with pytest.raises(CorruptionError, match=rf"damaged block {entry.block} \(0x[0-9a-f]+\): jindex.journal0 is 0"):
        Mounted(dev, random.Random(1), ("noatime",))


def test_pointer_before_the_superblock(bank: list[Base]) -> None:
    """Found by seed 777, case 4285: a system file's first block was said to be block 1, and was written to."""
    base = bank[0]
    for name in ("quota", "statfs", "rindex"):
        at = base.map.r.system(name).addr * base.map.bsize + 232
        damage = Damage(base, patches=[(at, (1).to_bytes(8, "big"))], text=[f"{name}: pointer 0 -> 1"])
        for n in range(4):
            run_case(damage, random.Random(n))


def test_a_second_walk_leaves_nothing_behind(bank: list[Base]) -> None:
    """Found by seed 777 after 26,000 cases: wherever a block had two owners, the checker forgot a megabyte."""
    base = bank[0]
    one, other = base.map.pointers["file level 0"][:2]
    dev = MemoryDevice.from_snapshot(base.snapshot)
    dev.write(other.block * base.map.bsize + other.at, dev.read(one.block * base.map.bsize + one.at, 8))
    assert check(dev).of("block_duplicate")
    before = Footprint.now()
    check(dev)
    assert not left_behind(before, lambda: check(dev))


# -- what the harness must notice


def plant(monkeypatch: pytest.MonkeyPatch, number: int, act: object) -> None:
    """Case `number` does something else."""
    real = pool.run_one

    def run(bank: Sequence[Base], seed: int, n: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
        if n == number:
            assert callable(act)
            act()
        return real(bank, seed, n)
    monkeypatch.setattr(pool, "run_one", run)


def spin() -> None:
    while True:
        pass


def wait() -> None:
    threading.Event().wait()


def eat() -> None:
    """Fresh pages: a block from malloc could be one that the tests before left resident in the heap."""
    with mmap.mmap(-1, pool.GROWTH_BYTES + (64 << 20)) as fresh:
        for at in range(0, len(fresh), mmap.PAGESIZE):
            fresh[at] = 1


def forget_memory() -> None:
    ctypes.CDLL(None).malloc(1 << 20)


def forget_thread() -> None:
    threading.Thread(target=threading.Event().wait, daemon=True).start()


def forget_mapping() -> None:
    """Address space alone."""
    FORGOTTEN.append(mmap.mmap(-1, 64 << 20))


def forget_descriptor() -> None:
    os.open(os.devnull, os.O_RDONLY)


def own_error() -> None:
    raise IndexError("planted")


def overrun() -> None:
    """One byte behind the end of a piece of memory."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.memset(ctypes.c_void_p(libc.malloc(8)), 0, 9)


@pytest.mark.parametrize(("act", "said"), [(overrun, "AddressSanitizer: heap-buffer-overflow")] * sanitised() + [
    (forget_mapping, "bytes of address space")] * (not sanitised()) + [
    (forget_memory, "bytes of memory"), (forget_thread, "1 threads"), (forget_descriptor, "1 descriptors"),
    (os.abort, "signal 6"), (spin, "signal 9"), (wait, "signal 9"), (eat, "memory grew by"),
    (own_error, "IndexError: planted"), (lambda: os._exit(3), "exit status 3")])
def test_what_happens_to_a_worker(bank: list[Base], monkeypatch: pytest.MonkeyPatch, act: object, said: str) -> None:
    """It is one finding, of the case that did it, and the other cases are run all the same."""
    if act in (spin, wait):
        monkeypatch.setattr(pool, "HANG_S", 6 * pool.SLOWER)
    plant(monkeypatch, 5, act)
    told: list[str] = []
    result = Pool(bank, 3, 0, 9, jobs=2, tell=told.append).run()
    assert [n for n, _ in result.findings] == [5]
    assert said in result.findings[0][1]
    assert "--seed 3 --case 5" in told[0]
    goes_on = act in (eat, forget_memory, forget_mapping, forget_thread, forget_descriptor)
    assert result.cases == 9 - (not goes_on)


def test_sanitised_build() -> None:
    """The compiled code under test was built as this run says."""
    for module in (_mount, _check):
        built = b"__asan_report_load" in Path(module.__file__).read_bytes()
        assert built == sanitised()


def test_a_run_ends_in_time(bank: list[Base]) -> None:
    began = time.monotonic()
    result = Pool(bank, 3, 0, 1 << 30, jobs=2, seconds=1.0).run()
    assert time.monotonic() - began < 30
    assert not result.findings


def test_eio_without_a_line(bank: list[Base]) -> None:
    m = Mounted(MemoryDevice.from_snapshot(bank[0].snapshot), random.Random(1), ("noatime",))

    def eio() -> None:
        raise OSError(5, "Input/output error")
    with pytest.raises(Finding, match="EIO, and the log says None"):
        m.call(eio)

    def nothing() -> None:
        raise OSError(12, "Cannot allocate memory")
    with pytest.raises(Finding, match="no memory"):
        m.call(nothing)
    m.close()


def test_listing_without_end(bank: list[Base], monkeypatch: pytest.MonkeyPatch) -> None:
    m = Mounted(MemoryDevice.from_snapshot(bank[0].snapshot), random.Random(1), ("noatime",))
    real = m.v.calls
    first = real.readdir(1)
    monkeypatch.setattr(m.v, "calls", SimpleNamespace(statfs=real.statfs, readdir=lambda node, off: first))
    with pytest.raises(Finding, match="never ends"):
        Walk(m, 100).run()
    monkeypatch.undo()
    m.close()


def test_walk_sees_everything(bank: list[Base]) -> None:
    """What is undamaged is walked to the end: every inode of the tree."""
    for base in bank:
        m = Mounted(MemoryDevice.from_snapshot(base.snapshot), random.Random(1), ("noatime",))
        walk = Walk(m, exercise.VISITS_MAX)
        walk.run()
        files = {addr for addr, name in base.after.names.items() if name.startswith("/")}
        assert walk.seen == files - {base.after.r.root_addr}
        assert errno.EIO not in m.errors
        m.close()


def test_writes_in_wrong_places(bank: list[Base]) -> None:
    """The rule lets the workload of an undamaged image through, and nothing else."""
    for base in bank:
        rule = Rule(Damage(base))
        rec = RecordingDevice(MemoryDevice.from_snapshot(base.snapshot))
        with exercise.mounted(rec, random.Random(2), base.flags, {}) as m:
            assert m is not None
            exercise.Work(m, random.Random(2)).run(150)
            assert not m.v.fs.withdrawn
        assert rec.writes > 20
        assert rule.broken(rec, reading=False) is None
        others = sorted(world(base.after) - rule.replay)
        assert len(others) > 100
        for block in (0, base.map.sb, others[0], others[50], others[-1]):
            rec = RecordingDevice(MemoryDevice.from_snapshot(base.snapshot))
            rec.write(block * base.map.bsize, bytes(512))
            assert rule.broken(rec, reading=False), f"{base.name}: block {block}"
        rec = RecordingDevice(MemoryDevice.from_snapshot(base.snapshot))
        rec.write(rule.map.states.index(0, base.map.sb + 1) * base.map.bsize, bytes(512))
        assert rule.broken(rec, reading=False) is None
        assert rule.broken(rec, reading=True)


def test_rule_follows_damage(bank: list[Base]) -> None:
    """A pointer that damage turns to somebody else's block makes that block fair game, not its neighbours."""
    base = bank[0]
    m = base.map
    mine = next(p for p in m.pointers["file level 0"] if p.block in m.work)
    others = sorted(world(m) - m.rindex - set(m.edges))
    target = others[40]
    rule = Rule(Damage(base, [(mine.block * m.bsize + mine.at, target.to_bytes(8, "big"))]))
    assert not rule.weak
    assert target in rule.may
    assert len(rule.may & set(others)) == 1


