"""Direct writes that go on after the inode's lock was given back, and commits that carry the data of several files."""

from __future__ import annotations

import contextlib
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
