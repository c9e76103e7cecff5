"""Requests put away and run again, and notifications, on a real mount."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from fuse.conftest import MakeMount, NullMount, wait_until

pytestmark = pytest.mark.mount


class Asking(threading.Thread):
    """A thread that looks up a name and keeps what came of it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.result: object = None
        self.start()

    def run(self) -> None:
        try:
            self.result = os.stat(self.path).st_size
        except OSError as e:
            self.result = e.errno


def parked(m: NullMount) -> int:
    return int(m.session.statistics()["parked"])


def test_parked_requests_hold_no_worker(make_mount: MakeMount) -> None:
    """More parked requests than workers, and the mount still serves; then all run again."""
    m = make_mount(threads=2)
    for i in range(12):
        (m.path / f".hold{i}").write_bytes(b"x" * i)
    m.handle.hold(True)
    threads = [Asking(m.path / f".hold{i}") for i in range(12)]
    wait_until(lambda: parked(m) == 12, "twelve parked requests")
    (m.path / "free").write_text("served meanwhile")
    assert (m.path / "free").read_text() == "served meanwhile"
    m.handle.hold(False)
    for unique in m.handle.held():
        m.session.unpark(unique)
    for t in threads:
        t.join(20)
    assert [t.result for t in threads] == list(range(12))
    assert parked(m) == 0


def test_request_may_be_parked_again_and_again(make_mount: MakeMount) -> None:
    m = make_mount()
    (m.path / ".hold").write_bytes(b"12345")
    m.handle.hold(True)
    t = Asking(m.path / ".hold")
    for _ in range(20):
        wait_until(lambda: parked(m) == 1, "the request to be parked")
        (unique,) = m.handle.held()
        m.session.unpark(unique)
    m.handle.hold(False)
    wait_until(lambda: parked(m) == 1 or t.result is not None, "the last parking")
    m.session.unpark_all()
    t.join(20)
    assert t.result == 5


def test_unpark_of_strangers_does_nothing(make_mount: MakeMount) -> None:
    m = make_mount()
    for unique in (0, 1, 1 << 63):
        m.session.unpark(unique)
    assert m.session.unpark_all() == 0
    assert os.listdir(m.path) == []


def test_unparking_races_with_parking(make_mount: MakeMount) -> None:
    """Wake-ups that come before the request has been put away are not lost."""
    m = make_mount()
    for i in range(8):
        (m.path / f".hold{i}").touch()
    m.handle.hold(True)
    threads = [Asking(m.path / f".hold{n % 8}") for n in range(40)]

    def all_done() -> bool:
        for unique in m.handle.held():
            m.session.unpark(unique)
        return all(t.result is not None for t in threads)

    wait_until(lambda: parked(m) >= 8, "parked requests")
    for _ in range(500):
        assert not all_done()
    m.handle.hold(False)
    m.session.unpark_all()
    wait_until(all_done, "all requests to end")
    assert [t.result for t in threads] == [0] * 40


def test_end_of_the_session_with_parked_requests(make_mount: MakeMount) -> None:
    """They are failed, not left hanging."""
    m = make_mount()
    m.handle.hold(True)
    t = Asking(m.path / ".hold")
    wait_until(lambda: parked(m) == 1, "the request to be parked")
    m.connection.detach()
    m.session.close()
    t.join(20)
    assert isinstance(t.result, int)
    assert t.result != 0


def test_invalidation_makes_the_kernel_ask_again(make_mount: MakeMount) -> None:
    m = make_mount(valid_ns=3600 * 10**9)
    f = m.path / "f"
    f.write_bytes(b"x" * 10)
    ino = f.stat().st_ino
    f.stat()
    before = m.settled("GETATTR")
    for _ in range(5):
        f.stat()
    assert m.settled("GETATTR") == before, "attributes are cached"
    m.session.notify("inval_inode", ino, off=0, length=-1)
    m.session.notify_drain()
    f.stat()
    wait_until(lambda: m.count("GETATTR") == before + 1, "one GETATTR after the invalidation")
    lookups = m.settled("LOOKUP")
    f.stat()
    assert m.settled("LOOKUP") == lookups
    m.session.notify("inval_entry", 1, name=b"f")
    m.session.notify_drain()
    f.stat()
    wait_until(lambda: m.count("LOOKUP") == lookups + 1, "one LOOKUP after the invalidation")
    m.session.notify("expire_entry", 1, name=b"f")
    m.session.notify_drain()
    f.stat()
    wait_until(lambda: m.count("LOOKUP") == lookups + 2, "one LOOKUP after the expiry")
    assert m.session.statistics()["notification_errors"] == 0


def test_other_notifications_are_understood_by_the_kernel(make_mount: MakeMount) -> None:
    m = make_mount(valid_ns=3600 * 10**9)
    f = m.path / "f"
    f.write_bytes(bytes(8192))
    ino = f.stat().st_ino
    with f.open("rb", buffering=0) as handle:
        assert handle.read(4) == bytes(4)
        m.session.notify("store", ino, off=0, data=b"from the daemon")
        m.session.notify_drain()
        assert os.pread(handle.fileno(), 15, 0) == b"from the daemon"
    assert m.session.statistics()["notification_errors"] == 0
    m.session.notify("delete", 1, child=ino, name=b"f")
    m.session.notify("prune", ino)
    if m.session.protocol()["kernel_minor"] >= 44:
        m.session.notify("inc_epoch")
    m.session.notify("inval_inode", 999999)         # ENOENT: the kernel knows no such inode
    m.session.notify_drain()
    stats = m.session.statistics()
    assert stats["notification_errors"] <= 2, "the unknown inode, and prune where the kernel is older"
    assert f.stat().st_size == 8192


def test_unknown_notification_is_refused(null_mount: NullMount) -> None:
    with pytest.raises(ValueError, match="unknown notification"):
        null_mount.session.notify("nonsense")
    with pytest.raises(OSError):
        null_mount.session.notify("inval_entry", 1, name=b"")
