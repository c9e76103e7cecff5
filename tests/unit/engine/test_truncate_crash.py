"""Power cuts in the middle of a truncation that many commits fall into.

At every cut the file must have its old size or its new one, both checkers must be silent, and the next
writer's lock finishes what was begun.
"""

from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING

import pytest

from gfs2py.block import MemoryDevice, RecordingDevice, Snapshot
from gfs2py.edit.reader import Reader
from gfs2py.engine.volume import Volume
from gfs2py.fsck import check
from gfs2py.mkfs.make import make_fs
from gfs2py.mkfs.options import MkfsOptions
from interop.commands import DEBIAN_SBIN

if TYPE_CHECKING:
    from pathlib import Path

    from interop.commands import Commands

CUTS = 8
ATTEMPTS = 200


def new_fs(bsize: int, rng: random.Random) -> MemoryDevice:
    device = MemoryDevice(48 << 20)
    make_fs(device, MkfsOptions(bsize=bsize, jsize_mb=8, rgsize_mb=32, lockproto="lock_nolock", rng=rng))
    return device


def fill_scattered(vol: Volume, bsize: int) -> int:
    """A file whose blocks lie one by one in the gaps between another's; returns its size."""
    vol.create("comb")
    n = 0
    try:
        while True:
            vol.write("comb", n * bsize, b"c" * bsize * 64)
            n += 64
    except OSError:
        n = vol.stat("comb").size // bsize
    for i in range(0, n, 2):
        vol.fallocate("comb", 3, i * bsize, bsize)
    vol.sync()
    vol.create("f")
    size = n // 2 * 9 // 10 * bsize
    vol.write("f", 0, b"f" * size)
    return size


def shorten(vol: Volume, what: str, bsize: int, size: int) -> int:
    """The operation under test, while another thread commits as often as it can; the new size."""
    stop = threading.Event()

    def commit() -> None:
        while not stop.is_set():
            vol.sync()

    new = {"nothing": 0, "half": size // 2 + 13}.get(what, size)
    thread = threading.Thread(target=commit)
    thread.start()
    try:
        if what == "punch":
            vol.fallocate("f", 3, bsize, size - 2 * bsize)
        elif what == "unlink":
            vol.unlink("f")
        else:
            vol.truncate("f", new)
    finally:
        stop.set()
        thread.join()
    vol.sync()
    return new


def record(filled: Snapshot, what: str, bsize: int, size: int) -> tuple[RecordingDevice, int, int]:
    """A recording of the operation; its first epoch, and the new size."""
    device = RecordingDevice(MemoryDevice.from_snapshot(filled))
    vol = Volume(device, commit_ms=0, background=False, quiet=True)
    before = device.epochs
    new = shorten(vol, what, bsize, size)
    vol.abandon()
    return device, before, new


@pytest.mark.interop
@pytest.mark.parametrize("bsize", [1024, 4096])
@pytest.mark.parametrize("what", ["nothing", "half", "punch", "unlink"])
def test_cuts(bsize: int, what: str, rng: random.Random, tmp_path: Path, commands: Commands) -> None:
    base = new_fs(bsize, rng)
    with Volume(base, commit_ms=0, background=False) as vol:
        size = fill_scattered(vol, bsize)
    for _ in range(ATTEMPTS):
        device, before, new = record(base.snapshot(), what, bsize, size)
        epochs = range(before, device.epochs)
        half_done = 0
        for epoch in sorted(rng.sample(epochs, min(CUTS, len(epochs)))):
            cut = next(device.cuts(epoch, max_exhaustive=0, samples=1, rng=rng))
            half_done += judge(cut.device, what, size, new, tmp_path / "image", commands)
        if half_done:
            return
    raise AssertionError(f"no cut met the operation half done in {ATTEMPTS} attempts")


def findings(device: MemoryDevice, *notes: str) -> set[str]:
    """The notes found, by code; anything else fails, and so does a note that is not allowed."""
    found = check(device).findings
    assert [f for f in found if f.severity != "note" or f.code not in notes] == []
    return {f.code for f in found}


def judge(device: MemoryDevice, what: str, size: int, new: int, image: Path, commands: Commands) -> bool:
    """Replays, checks, lets a writer finish, checks again. True when the file was found in between."""
    replayed = MemoryDevice.from_snapshot(device.snapshot())
    Volume(replayed, background=False, quiet=True).close()
    notes = findings(replayed, "di_trunc", "di_unlinked")
    if not notes:
        replayed.save(image)
        commands.assert_silent(DEBIAN_SBIN / "fsck.gfs2", image)
    r = Reader(replayed)
    there = b"f" in {e.name for e in r.dirents(r.inode(r.root_addr))}
    assert there or what == "unlink"
    inode = r.path("f") if there else None
    with Volume(device, quiet=True) as vol:
        if there:
            vol.setattr("f", mode=0o600)
    findings(device)
    if inode is None:
        return "di_unlinked" in notes
    assert inode.size in (size, new)
    done = Reader(device).path("f")
    if inode.size == new < size:
        assert len(list(Reader(device).data_blocks(done))) <= -(-new // r.bsize)
    return "di_trunc" in notes or (what == "punch" and 10 < inode.number("di_blocks") < size // r.bsize)
