"""Power cuts under threads: commits by the log daemon, by syncs and for space, while others are at work.

No history here, for the order among threads is unknown: every thread appends bytes that depend on file and place alone,
so that any cut can be judged: a clean file system, no byte that was never written, nothing shorter than acknowledged.
"""

import functools
import random
import threading
from dataclasses import dataclass, field

import pytest

from crash.power import draw, formatted
from gfs2py.block._memory import MemoryDevice
from gfs2py.block._recording import RecordingDevice
from gfs2py.engine.volume import Volume
from gfs2py.fsck.check import check

THREADS, ROUNDS, FILES = 4, 150, 3
SIZE_MAX = 400_000


@functools.cache
def pattern(thread: int, number: int) -> bytes:
    return random.Random(f"{thread} {number}").randbytes(SIZE_MAX)


@dataclass
class Worker:
    """One thread's files and what was acknowledged of them: (file, size, epoch)."""

    number: int
    volume: Volume
    device: RecordingDevice
    seed: int
    acked: list[tuple[str, int, int]] = field(default_factory=list)
    error: Exception | None = None

    def run(self) -> None:
        try:
            self.work(random.Random(f"{self.seed} {self.number}"))
        except (OSError, AssertionError) as e:
            self.error = e

    def work(self, rng: random.Random) -> None:
        volume, top = self.volume, f"d{self.number}"
        volume.mkdir(top)
        sizes = [0] * FILES
        content = [pattern(self.number, i) for i in range(FILES)]
        for i in range(FILES):
            volume.create(f"{top}/f{i}")
        for step in range(ROUNDS):
            i = rng.randrange(FILES)
            n = min(rng.choice((10, 700, 5000, 70_000)), SIZE_MAX - sizes[i])
            if n:
                volume.write(f"{top}/f{i}", sizes[i], content[i][sizes[i]:sizes[i] + n])
                sizes[i] += n
            volume.create(f"{top}/n{step}", b"z" * 2000)
            if step % 3:
                volume.unlink(f"{top}/n{step}")
            what = rng.random()
            if what < 0.25:
                volume.fsync(f"{top}/f{i}", datasync=what < 0.1)
                self.acked.append((f"{top}/f{i}", sizes[i], self.device.epochs))
            elif what < 0.3:
                volume.sync()
                self.acked += [(f"{top}/f{k}", sizes[k], self.device.epochs) for k in range(FILES)]


def judge(image: MemoryDevice, epoch: int, workers: list[Worker]) -> None:
    volume = Volume(image, flags=("rdonly",), background=False, quiet=True, cache_bytes=1 << 20, commit_ms=0)
    try:
        for worker in workers:
            least: dict[str, int] = {}
            for path, size, at in worker.acked:
                if at <= epoch:
                    least[path] = max(least.get(path, 0), size)
            for i in range(FILES):
                path = f"d{worker.number}/f{i}"
                data = volume.read(path) if volume.exists(f"d{worker.number}") and volume.exists(path) else b""
                assert len(data) >= least.get(path, 0), f"{path}: {len(data)} bytes, {least[path]} acknowledged"
                assert pattern(worker.number, i).startswith(data), f"{path}: bytes that were never written"
    finally:
        volume.abandon()
    bad = [f.text for f in check(image).findings if f.code not in ("di_unlinked", "journal_size")]
    assert not bad, bad[:4]


@pytest.mark.parametrize("bsize", [1024, 4096])
@pytest.mark.parametrize("commit_ms", [2, 3_600_000])
def test_cuts_under_threads(bsize: int, commit_ms: int, seed: int) -> None:
    device = RecordingDevice(MemoryDevice.from_snapshot(formatted(bsize, 40, 2)))
    volume = Volume(device, flags=("acl", "relatime"), quiet=True, cache_bytes=1 << 20, inodes=64, commit_ms=commit_ms)
    workers = [Worker(n, volume, device, seed) for n in range(THREADS)]
    threads = [threading.Thread(target=w.run) for w in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reason = volume.fs.withdrawn
    volume.abandon()
    assert reason is None
    assert [w.error for w in workers] == [None] * THREADS
    rng = random.Random(seed)
    for epoch in rng.sample(range(device.epochs + 1), min(60, device.epochs)):
        for cut in draw(device, epoch, rng, 1):
            try:
                judge(cut.device, epoch, workers)
            except (AssertionError, OSError) as e:
                where = f"epoch {epoch} of {device.epochs}, keep {cut.keep}, torn {cut.torn}"
                raise AssertionError(f"seed {seed}, {where}: {e}") from e
