"""The recording device against a model of it: whole images, no sharing, no shortcuts."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gfs2py.block import FaultyDevice, MemoryDevice, RecordingDevice

SECTOR = 512
SIZE = 32 * SECTOR


@dataclass
class Write:
    off: int
    data: bytes
    durable_at: int | None = None


@dataclass
class Model:
    """One thread only: an operation completes before the next is submitted."""

    start: bytes
    writes: list[Write] = field(default_factory=list)
    ends: list[int] = field(default_factory=lambda: [0])

    def write(self, off: int, data: bytes, fua: bool) -> None:
        self.writes.append(Write(off, data))
        if fua:
            self.ends.append(len(self.writes))
            self.writes[-1].durable_at = len(self.ends) - 1

    def flush(self) -> None:
        self.ends.append(len(self.writes))
        for w in self.writes:
            if w.durable_at is None:
                w.durable_at = len(self.ends) - 1

    def of_epoch(self, epoch: int) -> list[Write]:
        end = self.ends[epoch + 1] if epoch + 1 < len(self.ends) else len(self.writes)
        return self.writes[:end]

    def pending(self, epoch: int) -> list[Write]:
        return [w for w in self.of_epoch(epoch) if w.durable_at is None or w.durable_at > epoch]

    def image(self, epoch: int, keep: set[int], torn: dict[int, tuple[int, ...]]) -> bytes:
        disk = bytearray(self.start)
        pending = [id(w) for w in self.pending(epoch)]
        for w in self.of_epoch(epoch):
            i = pending.index(id(w)) if id(w) in pending else None
            if i in torn:
                for s in torn[i]:
                    at = s * SECTOR
                    disk[w.off + at : w.off + at + SECTOR] = w.data[at : at + SECTOR]
            elif i is None or i in keep:
                disk[w.off : w.off + len(w.data)] = w.data
        return bytes(disk)


STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(["write", "write", "write", "fua", "discard"]),
            st.integers(0, 31),
            st.integers(1, 6),
        ),
        st.just(("flush", 0, 0)),
    ),
    max_size=120,
)


@given(steps=STEPS, seed=st.integers(0, 1 << 32))
@settings(max_examples=80, deadline=None)
def test_every_cut_is_the_models(steps: list[tuple[str, int, int]], seed: int) -> None:
    rng = random.Random(seed)
    base = MemoryDevice(SIZE)
    start = rng.randbytes(SIZE)
    base.write(0, start)
    dev, model = RecordingDevice(base), Model(start)
    for op, at, n in steps:
        n = min(n, 32 - at)
        if op == "flush":
            dev.flush()
            model.flush()
            continue
        data = bytes(n * SECTOR) if op == "discard" else rng.randbytes(n * SECTOR)
        if op == "discard":
            dev.discard(at * SECTOR, n * SECTOR)
        else:
            dev.write(at * SECTOR, data, fua=op == "fua")
        model.write(at * SECTOR, data, op == "fua")
    assert dev.epochs == len(model.ends) - 1
    assert dev.writes == len(model.writes)
    epochs = [rng.randint(0, dev.epochs) for _ in range(12)]
    for epoch in epochs:
        pending = dev.pending(epoch)
        assert [(w.off, w.length) for w in pending] == [(w.off, len(w.data)) for w in model.pending(epoch)]
        keep = {i for i in range(len(pending)) if rng.random() < 0.5}
        torn = {
            i: tuple(s for s in range(w.length // SECTOR) if rng.random() < 0.5)
            for i, w in enumerate(pending)
            if rng.random() < 0.2
        }
        assert dev.cut(epoch, keep, torn).read(0, SIZE) == model.image(epoch, keep, torn)
    if seed % 4 == 0:
        cut = dev.cut_random(seed)
        assert cut.device.read(0, SIZE) == model.image(cut.epoch, set(cut.keep), cut.torn)
        again = dev.cut_random(seed)
        assert (again.epoch, again.keep, again.torn) == (cut.epoch, cut.keep, cut.torn)
        for cut in dev.cuts(epochs[0], max_exhaustive=3, samples=4, rng=rng):
            assert cut.device.read(0, SIZE) == model.image(cut.epoch, set(cut.keep), cut.torn)


def test_only_a_flush_makes_durable_and_a_fua_only_itself() -> None:
    dev = RecordingDevice(MemoryDevice(SIZE))
    dev.write(0, b"A" * SECTOR)
    dev.write(SECTOR, b"B" * SECTOR, fua=True)
    dev.mark("B promised")
    assert dev.epochs == 1
    lost = dev.cut(1)
    assert (lost.read(0, 1), lost.read(SECTOR, 1)) == (b"\0", b"B")
    assert dev.acknowledged(0) == []
    assert dev.acknowledged(1) == ["B promised"]
    dev.flush()
    assert dev.cut(2).read(0, 1) == b"A"
    assert dev.marks == [("B promised", 1)]


def test_a_late_survivor_does_not_bury_a_newer_durable_write() -> None:
    dev = RecordingDevice(MemoryDevice(SIZE))
    dev.write(0, b"old" + bytes(SECTOR - 3))
    dev.write(0, b"new" + bytes(SECTOR - 3), fua=True)
    assert dev.cut(1, keep=[0]).read(0, 3) == b"new"
    dev.flush()
    assert dev.cut(2).read(0, 3) == b"new"


def test_exhaustive_cuts_cover_every_subset_and_tear_each_write() -> None:
    dev = RecordingDevice(MemoryDevice(SIZE))
    for i in range(3):
        dev.write(i * 4 * SECTOR, bytes([i + 1]) * (2 * SECTOR))
    cuts = list(dev.cuts(0))
    assert {c.keep for c in cuts if not c.torn} == {
        tuple(i for i in range(3) if bits >> i & 1) for bits in range(8)
    }
    torn = [c for c in cuts if c.torn]
    assert [next(iter(c.torn)) for c in torn] == [0, 1, 2]
    for c in torn:
        ((i, sectors),) = c.torn.items()
        got = c.device.read(i * 4 * SECTOR, 2 * SECTOR)
        assert {s for s in range(2) if got[s * SECTOR]} == set(sectors) != {0, 1}


def test_what_is_not_there_is_refused() -> None:
    dev = RecordingDevice(MemoryDevice(SIZE))
    dev.write(0, bytes(SECTOR))
    with pytest.raises(ValueError, match="epoch 1 of 0"):
        dev.cut(1)
    with pytest.raises(ValueError, match="1 pending"):
        dev.cut(0, keep=[1])
    with pytest.raises(ValueError, match="no sector 1"):
        dev.cut(0, torn={0: [1]})


def test_a_failed_write_is_no_part_of_the_history() -> None:
    dev = RecordingDevice(FaultyDevice(MemoryDevice(SIZE), fail_at=2, kinds=["write"]))
    dev.write(0, b"x" * SECTOR)
    with pytest.raises(OSError):
        dev.write(SECTOR, b"y" * SECTOR)
    assert len(dev.pending(0)) == 1
    dev.flush()
    assert dev.cut(1).read(0, 2 * SECTOR) == b"x" * SECTOR + bytes(SECTOR)


def test_a_write_that_overlaps_a_flush_in_time_is_not_made_durable_by_it() -> None:
    slow = FaultyDevice(MemoryDevice(SIZE), latency_s=0.3, kinds=["flush"])
    dev = RecordingDevice(slow)
    dev.write(0, b"1" * SECTOR)
    flusher = threading.Thread(target=dev.flush)
    flusher.start()
    while slow.count == 0:  # the flush is inside the device and waits there
        time.sleep(0.001)
    dev.write(SECTOR, b"2" * SECTOR)
    flusher.join()
    assert dev.epochs == 1
    assert dev.cut(1).read(0, 2 * SECTOR) == b"1" * SECTOR + bytes(SECTOR)
    assert [w.off for w in dev.pending(1)] == [SECTOR]


def test_many_threads_lose_nothing() -> None:
    dev = RecordingDevice(MemoryDevice(1 << 20))

    def work(me: int) -> None:
        for i in range(100):
            dev.write((me * 100 + i) * SECTOR, bytes([me + 1]) * SECTOR)
            if i % 10 == 0:
                dev.flush()

    threads = [threading.Thread(target=work, args=(me,)) for me in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    dev.flush()
    assert dev.writes == 400
    assert dev.pending(dev.epochs) == []
    want = b"".join(bytes([me + 1]) * (100 * SECTOR) for me in range(4))
    assert dev.cut(dev.epochs).read(0, 400 * SECTOR) == want == dev.read(0, 400 * SECTOR)


def test_cuts_of_a_large_disk_are_quick() -> None:
    base = MemoryDevice(1 << 28)
    base.write(0, random.Random(1).randbytes(1 << 22))
    dev = RecordingDevice(base)
    rng = random.Random(2)
    for i in range(3000):
        dev.write(rng.randrange(1 << 16) * 4096, b"x" * 4096)
        if i % 10 == 0:
            dev.flush()
    began = time.monotonic()
    for seed in range(1000):
        dev.cut_random(seed)
    # A tenth of a second on an idle machine; a copy of the disk for each would take a minute.
    assert time.monotonic() - began < 5.0
