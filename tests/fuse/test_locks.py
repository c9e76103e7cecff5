"""flock, fcntl and OFD locks among processes on a null mount, and signals to those who wait."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from fuse.conftest import MakeMount, NullMount, wait_until

pytestmark = pytest.mark.mount

F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW = 36, 37, 38
_FLOCK = struct.Struct("=hh4xqqi4x")


def ofd(fd: int, command: int, kind: int, start: int, length: int) -> None:
    fcntl.fcntl(fd, command, _FLOCK.pack(kind, os.SEEK_SET, start, length, 0))


class Child:
    """A forked process that runs one function; its exit status is the function's result."""

    def __init__(self, work: Callable[[], int]) -> None:
        self.pid = os.fork()
        if self.pid == 0:
            status = 99
            try:
                signal.signal(signal.SIGALRM, lambda *_: None)
                status = work()
            except OSError as e:
                status = e.errno or 98
            finally:
                os._exit(status)

    def wait(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.fixture
def file(null_mount: NullMount) -> Path:
    path = null_mount.path / "locked"
    path.write_bytes(b"x" * 100)
    return path


def lock_waiters(m: NullMount) -> int:
    return int(m.session.statistics()["lock_waiters"])


def test_flock_excludes_and_hands_over(null_mount: NullMount, file: Path) -> None:
    fd = os.open(file, os.O_RDWR)
    other = os.open(file, os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def work() -> int:
        mine = os.open(file, os.O_RDWR)
        fcntl.flock(mine, fcntl.LOCK_EX)
        return 7

    child = Child(work)
    wait_until(lambda: lock_waiters(null_mount) == 1, "the child to wait")
    assert null_mount.session.statistics()["parked"] == 1, "a waiter holds no worker"
    fcntl.flock(fd, fcntl.LOCK_UN)
    assert child.wait() == 7
    # the child's exit dropped its lock
    fcntl.flock(other, fcntl.LOCK_SH)
    fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    os.close(fd)
    os.close(other)
    wait_until(lambda: null_mount.session.statistics()["locks"] == 0, "all locks to go with their files")


def test_fcntl_ranges_between_processes(file: Path) -> None:
    fd = os.open(file, os.O_RDWR)
    fcntl.lockf(fd, fcntl.LOCK_EX, 10, 20)
    fcntl.lockf(fd, fcntl.LOCK_SH, 5, 22)           # a hole of another kind in the middle

    def probe(kind: int, start: int, length: int) -> Callable[[], int]:
        def work() -> int:
            mine = os.open(file, os.O_RDWR)
            fcntl.lockf(mine, kind | fcntl.LOCK_NB, length, start)
            return 0
        return work

    assert Child(probe(fcntl.LOCK_SH, 22, 5)).wait() == 0
    assert Child(probe(fcntl.LOCK_EX, 22, 1)).wait() == errno.EAGAIN
    assert Child(probe(fcntl.LOCK_SH, 21, 1)).wait() == errno.EAGAIN
    assert Child(probe(fcntl.LOCK_SH, 27, 3)).wait() == errno.EAGAIN
    assert Child(probe(fcntl.LOCK_EX, 30, 100)).wait() == 0

    def who() -> int:
        mine = os.open(file, os.O_RDWR)
        raw = fcntl.fcntl(mine, fcntl.F_GETLK, _FLOCK.pack(fcntl.F_WRLCK, 0, 0, 0, 0))
        kind, _, start, length, pid = _FLOCK.unpack(raw)
        return 0 if (kind, start, length, pid) == (fcntl.F_WRLCK, 20, 2, os.getppid()) else 1

    assert Child(who).wait() == 0
    os.close(os.open(file, os.O_RDONLY))            # closing any descriptor drops all of the process's locks
    assert Child(probe(fcntl.LOCK_EX, 0, 0)).wait() == 0
    os.close(fd)


def test_killed_holder_lets_go(null_mount: NullMount, file: Path) -> None:
    def work() -> int:
        mine = os.open(file, os.O_RDWR)
        fcntl.lockf(mine, fcntl.LOCK_EX)
        while True:
            signal.pause()

    holder = Child(work)
    wait_until(lambda: null_mount.session.statistics()["locks"] == 1, "the holder's lock")
    fd = os.open(file, os.O_RDWR)
    with pytest.raises(BlockingIOError):
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.kill(holder.pid, signal.SIGKILL)
    fcntl.lockf(fd, fcntl.LOCK_EX)                  # waits until the kernel has closed its files
    assert holder.wait() == -signal.SIGKILL
    os.close(fd)


@pytest.mark.parametrize("deadly", [False, True])
def test_signal_ends_a_wait(null_mount: NullMount, file: Path, deadly: bool) -> None:
    fd = os.open(file, os.O_RDWR)
    fcntl.lockf(fd, fcntl.LOCK_EX)

    class Woken(Exception):
        pass

    def on_alarm(*_: object) -> None:
        raise Woken

    def work() -> int:
        signal.signal(signal.SIGALRM, on_alarm)
        mine = os.open(file, os.O_RDWR)
        try:
            fcntl.lockf(mine, fcntl.LOCK_EX)
        except Woken:
            return 42
        return 0

    child = Child(work)
    wait_until(lambda: lock_waiters(null_mount) == 1, "the child to wait")
    os.kill(child.pid, signal.SIGKILL if deadly else signal.SIGALRM)
    assert child.wait() == (-signal.SIGKILL if deadly else 42)      # nothing else would end it: the lock is held
    wait_until(lambda: lock_waiters(null_mount) == 0, "the waiter to be forgotten")
    assert null_mount.session.statistics()["parked"] == 0
    os.close(fd)


def test_deadlock_is_refused(null_mount: NullMount, file: Path) -> None:
    fd = os.open(file, os.O_RDWR)
    fcntl.lockf(fd, fcntl.LOCK_EX, 10, 0)

    def work() -> int:
        mine = os.open(file, os.O_RDWR)
        fcntl.lockf(mine, fcntl.LOCK_EX, 10, 10)
        fcntl.lockf(mine, fcntl.LOCK_EX, 10, 0)     # waits for the parent
        return 0

    child = Child(work)
    wait_until(lambda: lock_waiters(null_mount) == 1, "the child to wait")
    with pytest.raises(OSError) as e:
        fcntl.lockf(fd, fcntl.LOCK_EX, 10, 10)
    assert e.value.errno == errno.EDEADLK
    fcntl.lockf(fd, fcntl.LOCK_UN, 10, 0)
    assert child.wait() == 0
    os.close(fd)


def test_ofd_locks_belong_to_the_open_file(null_mount: NullMount, file: Path) -> None:
    a, b = os.open(file, os.O_RDWR), os.open(file, os.O_RDWR)
    ofd(a, F_OFD_SETLK, fcntl.F_WRLCK, 0, 50)
    with pytest.raises(BlockingIOError):
        ofd(b, F_OFD_SETLK, fcntl.F_WRLCK, 49, 1)
    ofd(b, F_OFD_SETLK, fcntl.F_WRLCK, 50, 0)
    os.close(os.open(file, os.O_RDWR))              # closing another descriptor changes nothing
    with pytest.raises(BlockingIOError):
        ofd(b, F_OFD_SETLK, fcntl.F_RDLCK, 0, 1)
    copy = os.dup(a)
    os.close(a)
    with pytest.raises(BlockingIOError):
        ofd(b, F_OFD_SETLK, fcntl.F_RDLCK, 0, 1)
    os.close(copy)                                  # the last descriptor of the open file
    ofd(b, F_OFD_SETLKW, fcntl.F_WRLCK, 0, 0)
    os.close(b)
    wait_until(lambda: null_mount.session.statistics()["locks"] == 0, "all locks to go")


def test_many_waiters_all_get_their_turn(null_mount: NullMount, file: Path) -> None:
    """More waiters than workers: none of them holds one, and all are served."""
    fd = os.open(file, os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)

    def work() -> int:
        mine = os.open(file, os.O_RDWR)
        fcntl.flock(mine, fcntl.LOCK_EX)
        value = int(os.pread(mine, 100, 0).rstrip(b"x") or b"0")
        os.pwrite(mine, str(value + 1).encode(), 0)
        return 0

    children = [Child(work) for _ in range(24)]
    wait_until(lambda: lock_waiters(null_mount) == 24, "24 waiters")
    assert (null_mount.path / "locked").stat().st_size == 100
    fcntl.flock(fd, fcntl.LOCK_UN)
    assert [c.wait() for c in children] == [0] * 24
    assert file.read_bytes().rstrip(b"x") == b"24"
    os.close(fd)


def test_local_locks_are_the_kernels(make_mount: MakeMount) -> None:
    """The same rules without a request: conflicts, waiting, and the end of fcntl locks at close."""
    m = make_mount(local_locks=True)
    path = m.path / "locked"
    path.write_bytes(b"x" * 100)
    fd = os.open(path, os.O_RDWR)
    other = os.open(path, os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(fd, fcntl.LOCK_UN)
    fcntl.lockf(fd, fcntl.LOCK_EX, 10)

    def work() -> int:
        mine = os.open(path, os.O_RDWR)
        try:
            fcntl.lockf(mine, fcntl.LOCK_EX | fcntl.LOCK_NB, 10)
        except BlockingIOError:
            fcntl.lockf(mine, fcntl.LOCK_EX, 10)
            return 7
        return 1

    child = Child(work)
    wait_until(lambda: f"{child.pid} " in Path("/proc/locks").read_text(), "the child to wait")
    os.close(other)             # any close of the file ends this process's fcntl locks
    assert child.wait() == 7
    os.close(fd)
    opcodes = m.session.statistics()["opcodes"]
    assert not {"SETLK", "SETLKW", "GETLK"} & set(opcodes)
    assert m.settled("FLUSH") == 1, "asked once, and told that it is not needed"
    assert m.session.statistics()["locks"] == 0
