"""Planted bugs: each of these tests breaks one rule of the journal and demands that the power-cut tests notice.

The breaking is done below the engine, on the recording's history or on the images cut from it, so that no test hook is
in the engine: writes whose flush was ignored stay pending, headers come before their bodies, revokes disappear, escapes
are forgotten.
"""

import random
import struct
from collections.abc import Callable, Iterator

import pytest

from crash.oracle import Lost
from crash.power import Run, draw, judge_cut, perform
from crash.shapes import Shape
from gfs2py.block._memory import MemoryDevice
from gfs2py.block._recording import Cut

MAGIC, LD, LH = 0x01161970, 9, 8
DESC_METADATA, DESC_REVOKE, DESC_JDATA = 300, 301, 302
SHAPE = Shape(bsize=1024, steps=120)
DATA = Shape(bsize=1024, steps=120, mix="data")
DIRECTORIES = Shape(bsize=512, mib=20, jsize_mb=1, steps=60, mix="directories")


def header_type(block: bytes) -> int:
    magic, kind = struct.unpack_from(">II", block)
    return kind if magic == MAGIC else 0


def caught(make: Callable[[Run, random.Random], Iterator[Cut]], *shapes: Shape, seeds: int = 6) -> int:
    """How many of the images made by `make` are refused, over some seeds."""
    found = 0
    for shape in shapes:
        for seed in range(seeds):
            run = perform(shape, seed)
            for cut in make(run, random.Random(seed)):
                try:
                    judge_cut(run, cut)
                except Lost:
                    found += 1
            if found >= 3:
                return found
    return found


def later(run: Run, rng: random.Random, n: int = 25) -> Iterator[int]:
    """Some epochs that have a later one."""
    yield from rng.sample(range(2, run.device.epochs), min(n, run.device.epochs - 3))


# ---------------------------------------------------------------------------------------------- devices that lie

def ignored_flush(run: Run, rng: random.Random) -> Iterator[Cut]:
    """The device acknowledges flushes without carrying them out: writes of the epoch before may be missing though
    the header behind them is on the disk."""
    for epoch in later(run, rng):
        base = run.device.cut(epoch - 1)
        pending = run.device.pending(epoch)
        fua = [i for i, w in enumerate(pending) if w.fua]
        if not fua:
            continue
        image = run.device.cut(epoch, fua)
        before = run.device.pending(epoch - 1)
        for w in before:            # what the ignored flush should have made durable is old again
            image.write(w.off, base.read(w.off, w.length))
        yield Cut(epoch, tuple(fua), {}, image)


def ignored_fua(run: Run, rng: random.Random) -> Iterator[Cut]:
    """Headers written without FUA: acknowledged, but not on the disk."""
    for epoch in later(run, rng):
        lost = [w for w in run.device.pending(epoch - 1) if w.fua]
        if not lost:
            continue
        image = run.device.cut(epoch)
        old = run.device.cut(epoch - 1)
        for w in lost:
            image.write(w.off, old.read(w.off, w.length))
        yield Cut(epoch, (), {}, image)


def header_first(run: Run, rng: random.Random) -> Iterator[Cut]:
    """The log header reaches the disk before the body of its commit."""
    for epoch in later(run, rng):
        headers = [w for w in run.device.pending(epoch) if w.fua]
        if not headers:
            continue
        image = run.device.cut(epoch - 1)
        after = run.device.cut(epoch + 1)
        for w in headers:
            image.write(w.off, after.read(w.off, w.length))
        yield Cut(epoch, (), {}, image)


def data_last(run: Run, rng: random.Random) -> Iterator[Cut]:
    """data=ordered without order: the commit is complete, the data it makes reachable are not written."""
    journal = journal_span(run)
    for epoch in later(run, rng):
        early = run.device.pending(epoch - 1)
        if not any(w.fua for w in run.device.pending(epoch)):
            continue
        old = run.device.cut(epoch - 1)
        image = run.device.cut(epoch + 1)
        for w in early:
            if not journal[0] <= w.off < journal[1]:
                image.write(w.off, old.read(w.off, w.length))
        yield Cut(epoch, (), {}, image)


def in_place_first(run: Run, rng: random.Random) -> Iterator[Cut]:
    """Metadata in place before the commit that logs it."""
    journal = journal_span(run)
    for epoch in later(run, rng):
        body = [(i, w) for i, w in enumerate(run.device.pending(epoch)) if not w.fua]
        after = run.device.cut(epoch + 1)
        image = run.device.cut(epoch)
        homes = []
        for _, w in body:
            if journal[0] <= w.off < journal[1]:
                homes += logged_homes(after.read(w.off, w.length), run.shape.bsize)
        if not homes:
            continue
        for home, block in rng.sample(homes, max(1, len(homes) // 2)):
            image.write(home, block)
        yield Cut(epoch, (), {}, image)


# ---------------------------------------------------------------------------------------------- journals that lie

def logged_homes(body: bytes, bsize: int) -> list[tuple[int, bytes]]:
    """(byte address, content) of the metadata blocks in a commit's body."""
    out: list[tuple[int, bytes]] = []
    at = 0
    while at + bsize <= len(body):
        block = body[at:at + bsize]
        at += bsize
        if header_type(block) != LD:
            continue
        kind, _, n = struct.unpack_from(">III", block, 24)
        for i in range(n if kind == DESC_METADATA else 0):
            addr, = struct.unpack_from(">Q", block, 72 + 8 * i)
            out.append((addr * bsize, body[at + i * bsize:at + (i + 1) * bsize]))
        if kind in (DESC_METADATA, DESC_JDATA):
            at += n * bsize
    return out


def journal_span(run: Run) -> tuple[int, int]:
    """Where the journal lies: from the first to behind the last header ever written (one extent)."""
    offs = [w.off for e in range(run.device.epochs) for w in run.device.pending(e) if w.fua]
    size = run.shape.jsize_mb << 20
    first = min(offs)
    return max(0, first - size), first + size


def patched(run: Run, rng: random.Random, kind: int, change: Callable[[bytearray], bool]) -> Iterator[Cut]:
    """Images in which the live journal's descriptors of one kind were changed."""
    low, high = journal_span(run)
    bsize = run.shape.bsize
    for epoch in later(run, rng):
        image: MemoryDevice = run.device.cut(epoch)
        hit = False
        for off in range(low // bsize * bsize, min(high, image.size_bytes), bsize):
            head = image.read(off, 32)
            if header_type(head) == LD and struct.unpack_from(">I", head, 24)[0] == kind:
                block = bytearray(image.read(off, bsize))
                if change(block):
                    image.write(off, bytes(block))
                    hit = True
        if hit:
            yield Cut(epoch, (), {}, image)


def no_revokes(block: bytearray) -> bool:
    """Revokes of block 1, which nobody logs, instead of the real ones."""
    n, = struct.unpack_from(">I", block, 32)
    for i in range(min(n, (len(block) - 72) // 8)):
        struct.pack_into(">Q", block, 72 + 8 * i, 1)
    return n > 0


def no_escapes(block: bytearray) -> bool:
    """The escape flags of journaled data forgotten."""
    n, = struct.unpack_from(">I", block, 32)
    hit = False
    for i in range(n):
        if struct.unpack_from(">Q", block, 72 + 16 * i + 8)[0]:
            struct.pack_into(">Q", block, 72 + 16 * i + 8, 0)
            hit = True
    return hit


def lost_copy(block: bytearray) -> bool:
    """One block of a commit goes to nowhere."""
    n, = struct.unpack_from(">I", block, 32)
    if n < 2:
        return False
    struct.pack_into(">Q", block, 72, struct.unpack_from(">Q", block, 80)[0])
    return True


MUTANTS = {
    "flush ignored": (ignored_flush, (SHAPE, DATA)),
    "FUA ignored": (ignored_fua, (SHAPE,)),
    "header before body": (header_first, (SHAPE,)),
    "data after commit": (data_last, (SHAPE, DATA)),
    "in place before commit": (in_place_first, (SHAPE, DIRECTORIES)),
    "revokes skipped": (lambda run, rng: patched(run, rng, DESC_REVOKE, no_revokes), (DATA, SHAPE, DIRECTORIES)),
    "escape forgotten": (lambda run, rng: patched(run, rng, DESC_JDATA, no_escapes), (DATA, SHAPE)),
    "logged block lost": (lambda run, rng: patched(run, rng, DESC_METADATA, lost_copy), (SHAPE,)),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_planted(name: str) -> None:
    make, shapes = MUTANTS[name]
    n = caught(make, *shapes)
    print(f"{name}: {n} images refused")
    assert n


def test_nothing_planted_nothing_found() -> None:
    """The same machinery with nothing changed refuses nothing."""
    def same(run: Run, rng: random.Random) -> Iterator[Cut]:
        for epoch in later(run, rng):
            yield from draw(run.device, epoch, rng, 0)
    assert caught(same, SHAPE, DATA, DIRECTORIES, seeds=1) == 0
