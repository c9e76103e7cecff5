"""Direct writes that go on after the inode's lock was given back, and commits that carry the data of several files."""

from __future__ import annotations

import errno
import threading

import pytest

from gfs2py.block._faulty import FaultyDevice
from gfs2py.engine.volume import Volume
from memfs import fresh

CHUNK, CHUNKS = 256 << 10, 12
OLD, NEW = 0xEE, 0x11


def test_a_reader_never_sees_what_a_block_held_before() -> None:
    faulty = FaultyDevice(fresh(mib=64))
    with Volume(faulty, background=False, quiet=True, commit_ms=0) as volume:
        volume.create("old", bytes([OLD]) * (20 << 20))
        volume.unlink("old")
        volume.sync()
        volume.create("f")
        volume.truncate("f", CHUNK * CHUNKS)
        # The blocks are the file's long before the device has the new content.
        faulty.arm(latency_s=0.004)
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


def test_truncation_waits_for_writes_under_way() -> None:
    """What is written when the file is cut must be there or gone, and never in a block of somebody else."""
    faulty = FaultyDevice(fresh(mib=64))
    with Volume(faulty, background=False, quiet=True, commit_ms=0) as volume:
        volume.create("f", bytes(CHUNK))
        faulty.arm(latency_s=0.004)
        for _ in range(6):
            writer = threading.Thread(target=volume.write, args=("f", 0, bytes([OLD]) * CHUNK))
            writer.start()
            volume.truncate("f", 0)
            volume.sync()
            volume.create("g", bytes([NEW]) * CHUNK)
            writer.join()
            assert set(volume.read("g")) == {NEW}
            assert set(volume.read("f")) <= {OLD}
            volume.unlink("g")
            volume.write("f", 0, bytes([OLD]) * CHUNK)


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
