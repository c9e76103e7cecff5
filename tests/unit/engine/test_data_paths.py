"""Direct writes that go on after the inode's lock was given back, and commits that carry the data of several files."""

from __future__ import annotations

import contextlib
import errno
import threading
import time

import pytest

from gfs2py.block._faulty import FaultyDevice
from gfs2py.engine.volume import Volume
from memfs import fresh

CHUNK, CHUNKS = 256 << 10, 12
OLD, NEW = 0xEE, 0x11


def test_a_reader_never_sees_what_a_block_held_before() -> None:
    faulty = FaultyDevice(fresh(mib=64))
    with Volume(faulty, background=False, quiet=True, commit_ms=0) as volume:
        volume.create("old")
        with contextlib.suppress(OSError):      # until the disk is full: wherever new blocks are, something was there
            for i in range(64):
                volume.write("old", i << 20, bytes([OLD]) * (1 << 20))
        volume.unlink("old")
        volume.sync()
        volume.create("f")
        volume.truncate("f", CHUNK * CHUNKS)
        # The blocks are the file's long before the device has the new content; reads are quicker than that.
        faulty.arm(kinds=("write",), latency_s=0.004)
        done = threading.Event()

        def write() -> None:
            for i in range(CHUNKS):
                volume.write("f", i * CHUNK, bytes([NEW]) * CHUNK)
            done.set()

        writer = threading.Thread(target=write)
        writer.start()
        seen = set()
        while not done.is_set():
            for i in range(CHUNKS):
                found = set(volume.read("f", i * CHUNK, CHUNK))
                assert len(found) == 1, f"chunk {i} is half written: {sorted(found)}"
                seen |= found
        writer.join()
        faulty.disarm()
        assert seen <= {0, NEW}
        assert set(volume.read("f")) == {NEW}


def test_a_block_that_cannot_be_written_is_its_own_files_error() -> None:
    faulty = FaultyDevice(fresh(mib=64))
    with Volume(faulty, background=False, quiet=True, commit_ms=0) as volume:
        names = ["a", "b", "c"]
        for name in names:
            volume.create(name, b"1" * 5000)
        volume.sync()
        for name in names:
            volume.write(name, 0, b"2" * 4096)
        faulty.arm(fail_at=2, kinds=("write",))
        with pytest.raises(OSError) as e:
            volume.sync()
        assert e.value.errno == errno.EIO
        faulty.disarm()
        told = []
        for name in names:
            try:
                volume.fsync(name)
            except OSError as error:
                told.append(error.errno)
        assert told == [errno.EIO]
        volume.sync()


def test_overwrites_within_a_tick_need_no_commit() -> None:
    """The kernel's file times move once a tick; so do ours, and an fsync has nothing to commit in between."""
    tick_ns, times = 4_000_000, 400
    with Volume(fresh(mib=64), background=False, quiet=True, commit_ms=0) as volume:
        volume.create("f", bytes(8192))
        volume.sync()
        node = volume.node("f")
        before, begin = volume.statistics()["log_commits"], time.time_ns()
        for i in range(times):
            now = time.time_ns()
            volume.calls.write(node, 4096 * (i % 2), bytes([i % 256]) * 4096)
            volume.calls.fsync(node)
            attr = volume.calls.getattr(node)
            assert min(attr.mtime_ns, attr.ctime_ns) > now - tick_ns
        took = time.time_ns() - begin
        # A new second counts as a tick.
        assert volume.statistics()["log_commits"] - before <= took // tick_ns + took // 10**9 + 2
        assert volume.read("f") == bytes([(times - 2) % 256]) * 4096 + bytes([(times - 1) % 256]) * 4096
        volume.calls.forget(node)
