"""A null file system mounted in this very process: its threads need no GIL, so tests just use the mount."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gfs2py.fuse import _mount, control, mount
from gfs2py.fuse._nullfs import NullFileSystem
from gfs2py.fuse._session import Session

END_TIMEOUT_S = 60.0
POLL_S = 0.002
SETTLE_S = 0.25


class NullMount:
    """A live mount of a null file system."""

    def __init__(self, path: Path, image: Path, *, plain: bool = False, writeback: bool = False,
                 threads: int = 0, acl: bool = False, idle_poll: bool = False,
                 local_locks: bool = False, **options: int) -> None:
        self.path = path
        self.handle = NullFileSystem(**options)
        self.connection = mount.connect(os.fspath(image), 0, plain=plain)
        self.session = Session(self.handle, self.connection.fd, writeback=writeback, threads=threads, acl=acl,
                               idle_poll=idle_poll, local_locks=local_locks)
        self.session.start()
        self.connection.attach(os.fspath(path))
        self.connection.forget_mount()

    def count(self, opcode: str) -> int:
        """How often an opcode has been served; the counter follows the answer within microseconds."""
        entry = self.session.statistics()["opcodes"].get(opcode)
        return int(entry["count"]) if entry else 0

    def settled(self, opcode: str) -> int:
        """The count once it has stopped rising for a moment in which no worker has a request."""
        seen, since = self.count(opcode), time.monotonic()
        while time.monotonic() - since < SETTLE_S:
            time.sleep(POLL_S)
            if self.count(opcode) != seen or self.session.oldest_request_ns():
                seen, since = self.count(opcode), time.monotonic()
        return seen

    def unmount(self) -> None:
        """umount(2); nothing when it was unmounted before. Raises OSError (EBUSY: a descriptor leaked)."""
        entry = control.find_mount(os.fspath(self.path))
        if entry is not None and entry.device == self.connection.device:
            _mount.umount(os.fsencode(self.path))

    def close(self) -> None:
        """Unmount whatever is still there and end the session."""
        try:
            self.unmount()
        except OSError:
            self.connection.detach()
            self.session.close()
            raise
        deadline = time.monotonic() + END_TIMEOUT_S
        while not self.session.wait(0.2):
            if time.monotonic() > deadline:
                control.abort_connection(self.connection.number)
                self.connection.detach()
                self.session.close()
                raise AssertionError("the session did not end with the unmount")
        self.session.close()
        self.handle.close()


MakeMount = Callable[..., NullMount]


@pytest.fixture
def make_mount(tmp_path: Path) -> Iterator[MakeMount]:
    """Mounts null file systems; all are gone after the test."""
    made: list[NullMount] = []

    def make(**options: object) -> NullMount:
        directory = tmp_path / f"mnt{len(made)}"
        image = tmp_path / f"image{len(made)}"
        directory.mkdir()
        image.touch()
        made.append(NullMount(directory, image, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for m in made:
        m.close()


@pytest.fixture
def null_mount(make_mount: MakeMount) -> NullMount:
    return make_mount()


@pytest.fixture
def root(null_mount: NullMount) -> Path:
    """The mount point of a fresh null file system."""
    return null_mount.path


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = END_TIMEOUT_S) -> None:
    """Poll a condition; fails naming it."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s for: {what}"
        time.sleep(POLL_S)
