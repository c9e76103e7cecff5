"""A mount that stands still: frozen for a while, or for good after a withdraw."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable

import pytest

from gfs2py.block._faulty import FaultyDevice
from gfs2py.block._memory import MemoryDevice
from gfs2py.engine import _standstill
from gfs2py.engine.volume import Volume
from gfs2py.fsck import check
from gfs2py.mkfs.make import make_fs
from gfs2py.mkfs.options import MkfsOptions

MIB = 1 << 20
JOIN_S = 120.0


def fresh() -> MemoryDevice:
    device = MemoryDevice(64 * MIB)
    make_fs(device, MkfsOptions(lockproto="lock_nolock", jsize_mb=8))
    return device


class Apart(threading.Thread):
    """One call in a thread of its own; what it raised is kept."""

    def __init__(self, act: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self.act = act
        self.error: OSError | None = None
        self.start()

    def run(self) -> None:
        try:
            self.act()
        except OSError as e:
            self.error = e

    def end(self) -> OSError | None:
        self.join(JOIN_S)
        assert not self.is_alive()
        return self.error


CHANGES: list[Callable[[Volume], object]] = [
    lambda v: v.create("/new", b"new"), lambda v: v.mkdir("/d"), lambda v: v.symlink("x", "/l"),
    lambda v: v.link("/a", "/again"), lambda v: v.unlink("/a"), lambda v: v.rename("/a", "/b"),
    lambda v: v.write("/a", 0, b"other"), lambda v: v.truncate("/a", 3), lambda v: v.setxattr("/a", b"user.x", b"1"),
    lambda v: v.setattr("/a", mode=0o600), lambda v: v.mknod("/fifo", 0o010644)]


@pytest.mark.parametrize("change", CHANGES, ids=range(len(CHANGES)))
@pytest.mark.parametrize("parking", [True, False])
def test_changes_wait_for_the_thaw(change: Callable[[Volume], object], parking: bool) -> None:
    device = fresh()
    with Volume(device, quiet=True, parking=parking) as volume:
        volume.create("/a", b"a" * 10_000)
        _standstill.freeze(volume.fs)
        before = device.snapshot()
        writer = Apart(lambda: change(volume))
        if parking:
            while not (_standstill.frozen(volume.fs) or {}).get("parked"):
                pass
        assert volume.read("/a") == b"a" * 10_000
        assert volume.listdir() == [b"a"]
        assert writer.is_alive()
        assert check(MemoryDevice.from_snapshot(device.snapshot())).findings == []
        assert MemoryDevice.from_snapshot(before).read(0, device.size_bytes) == device.read(0, device.size_bytes)
        _standstill.thaw(volume.fs)
        assert writer.end() is None
    assert check(device).findings == []


@pytest.mark.parametrize("data", ["ordered", "writeback"])
def test_what_is_frozen_is_whole(data: str) -> None:
    """Everything written before is in place, no journal wants a replay, and again so at the next freeze."""
    device = fresh()
    flags = ("relatime", "acl", *(("writeback",) if data == "writeback" else ()))
    with Volume(device, quiet=True, flags=flags) as volume:
        for n in range(1, 4):
            for i in range(50):
                volume.create(f"/f{n}.{i}", b"%d" % i * 3000)
            volume.unlink(f"/f{n}.7")
            assert _standstill.dirty_journals(volume.fs) == ([] if n == 1 else [0])
            _standstill.freeze(volume.fs)
            assert _standstill.dirty_journals(volume.fs) == []
            copy = MemoryDevice.from_snapshot(device.snapshot())
            assert check(copy).findings == []
            with Volume(copy, quiet=True, flags=("rdonly",)) as other:
                assert len(other.listdir()) == 49 * n
                assert other.read(f"/f{n}.9") == b"9" * 3000
            volume.sync()
            assert _standstill.dirty_journals(volume.fs) == []
            _standstill.thaw(volume.fs)
            volume.create(f"/after{n}", b"x")
            volume.unlink(f"/after{n}")
            volume.sync()
    assert check(device).findings == []


def test_a_crash_after_a_thaw_is_replayed() -> None:
    """The header that said "clean" is followed by others."""
    device = fresh()
    with Volume(device, quiet=True) as volume:
        volume.create("/a", b"first")
        _standstill.freeze(volume.fs)
        _standstill.thaw(volume.fs)
        volume.create("/b", b"second")
        volume.fsync("/b")
        volume.abandon()
    with Volume(device, quiet=True) as volume:
        assert volume.read("/b") == b"second"
    assert check(device).findings == []


def test_states() -> None:
    with Volume(fresh(), quiet=True) as volume:
        assert _standstill.frozen(volume.fs) is None
        _standstill.freeze(volume.fs)
        told = _standstill.frozen(volume.fs)
        assert told is not None
        assert (told["state"], told["parked"]) == (2, [])
        with pytest.raises(OSError) as caught:
            _standstill.freeze(volume.fs)
        assert caught.value.errno == errno.EBUSY
        _standstill.thaw(volume.fs)
        _standstill.thaw(volume.fs)
        volume.create("/a", b"")
        volume.fs.withdraw("by a test")
        with pytest.raises(OSError) as caught:
            _standstill.freeze(volume.fs)
        assert caught.value.errno in (errno.EBUSY, errno.EIO)
        volume.abandon()


def test_unmounting_while_frozen() -> None:
    """Nothing is written: the copy somebody takes stays whole. What was unlinked and open is left to the next mount."""
    device = fresh()
    volume = Volume(device, quiet=True)
    volume.create("/a", b"a")
    volume.create("/open", b"o" * 100_000)
    free = volume.calls.statfs()[2]
    node, fh, _ = volume.calls.create(1, b"gone", 0o644)
    volume.unlink("/gone")
    _standstill.freeze(volume.fs)
    frozen = device.read(0, device.size_bytes)
    volume.calls.release(node, fh)
    volume.calls.forget(node)
    volume.close()
    assert device.read(0, device.size_bytes) == frozen
    with Volume(device, quiet=True) as again:
        assert again.read("/a") == b"a"
        limit = time.monotonic() + JOIN_S
        while again.calls.statfs()[2] != free:          # a mount's scan finds it
            assert time.monotonic() < limit
            again.fs.drain()
    assert check(device).findings == []


def test_writers_hurry_and_freezes_come() -> None:
    """Threads that change things all the time, frozen again and again: each picture is whole."""
    device = fresh()
    stop = threading.Event()
    with Volume(device, quiet=True, parking=True) as volume:
        def work(n: int) -> None:
            i = 0
            while not stop.is_set():
                volume.create(f"/t{n}.{i}", b"x" * (i % 9000))
                if i >= 3:
                    volume.unlink(f"/t{n}.{i - 3}")
                if i % 10 == 0:
                    volume.fsync(f"/t{n}.{i}")
                i += 1
        threads = [Apart(lambda n=n: work(n)) for n in range(3)]       # type: ignore[misc]
        try:
            for _ in range(15):
                _standstill.freeze(volume.fs)
                copy = MemoryDevice.from_snapshot(device.snapshot())
                assert _standstill.dirty_journals(volume.fs) == []
                _standstill.thaw(volume.fs)
                assert check(copy).findings == []
        finally:
            _standstill.thaw(volume.fs)
            stop.set()
        assert [t.end() for t in threads] == [None] * 3
    assert check(device).findings == []


def test_after_a_withdraw_nothing_comes() -> None:
    """Once nothing is under way any more the disk stays as it is, whatever threads were in the midst of."""
    device = fresh()
    slow = FaultyDevice(device, latency_s=0.001)
    volume = Volume(slow, quiet=True, cache_bytes=8 << 20)

    def work(n: int) -> None:
        i = 0
        while True:
            volume.create(f"/t{n}.{i}", b"x" * 20_000)
            volume.fsync(f"/t{n}.{i}")
            i += 1
    threads = [Apart(lambda n=n: work(n)) for n in range(4)]       # type: ignore[misc]
    while volume.fs.statistics()["log_commits"] < 10:
        pass
    volume.fs.withdraw("by a test")
    while _standstill.passing(volume.fs):
        pass
    still = device.read(0, device.size_bytes)
    for thread in threads:
        error = thread.end()
        assert error is not None
        assert error.errno == errno.EIO
    assert volume.fs.withdrawn is not None
    with pytest.raises(OSError):
        volume.close()
    assert device.read(0, device.size_bytes) == still
    with Volume(device, quiet=True):
        pass
    assert check(device).findings == []
