"""Several mounts' places in one cluster, in one trio loop: SharedMounts over a cluster and file systems in memory."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trio

from cman.client import CmanError
from dlm.locks import Closed
from dlm_nodes import until
from fake_cman import FakeCluster
from gfs2py.engine._plock import FileLocks
from gfs2py.errors import MountError
from gfs2py.lock_dlm import shared
from gfs2py.lock_dlm.shared import SharedMount

LIMIT_S = 60.0


class FakeFs:
    """A mounted file system: what is dirty in which journal, and in what order things happen to it."""

    file_locks = None
    journals = 3

    def __init__(self, disk: Disk, jid: int) -> None:
        self.disk, self.jid = disk, jid
        self.withdraw_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.withdrawn: str | None = None
        self.under_way = 0                      # operations at the device
        self.caches = 0                         # what the kernel has not given back
        self.frozen = False

    def withdraw(self, why: str) -> None:
        self.withdrawn = why
        os.eventfd_write(self.withdraw_fd, 1)

    def replay(self, jid: int) -> bool:
        assert not self.frozen
        self.disk.tried.append(jid)
        if jid in self.disk.dirty:
            self.disk.happened.append(("replay", jid))
            self.disk.dirty.discard(jid)
        return True

    def freeze_here(self) -> None:
        if self.withdrawn is not None:
            raise OSError(errno.EIO, "withdrawn")
        self.frozen = True
        self.disk.dirty.discard(self.jid)

    def thaw_here(self) -> None:
        self.frozen = False

    def dirty_journals(self) -> list[int]:
        return sorted(self.disk.dirty)

    def passing(self) -> int:
        return self.under_way

    def take_back(self) -> None:
        self.disk.happened.append(("take back", self.jid))

    def giving_back(self) -> int:
        return self.caches


class Disk:
    """What all of them share."""

    def __init__(self) -> None:
        self.dirty: set[int] = set()
        self.happened: list[tuple[str, int]] = []
        self.tried: list[int] = []


class Room:
    """Mounts of one file system; each is a task."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cluster = FakeCluster()
        self.disk = Disk()
        self.said: dict[int, list[str]] = {}
        self.next = 0
        self.nursery: trio.Nursery | None = None
        self.failed: dict[SharedMount, BaseException] = {}
        self.mounts: list[SharedMount] = []

        @contextlib.asynccontextmanager
        async def open_cman() -> AsyncIterator[object]:
            process = self.cluster.process(self.next)
            yield process
            self.cluster.end(process)
        monkeypatch.setattr(shared, "open_cman", open_cman)

    async def begin(self, node: int) -> SharedMount:
        """Until it has its seat."""
        mount = await self.ask(node)
        await until(lambda: mount.seat is not None or mount in self.failed)
        return mount

    async def ask(self, node: int) -> SharedMount:
        """It has begun; it may have to wait."""
        assert self.nursery is not None
        self.next = node
        said = self.said[node] = []
        mount = SharedMount("test:fs", spectator=False, log=said.append, narrate=lambda line: None,
                            lost=lambda why: None)
        self.mounts.append(mount)
        self.nursery.start_soon(self.live, mount)
        await until(lambda: mount._token is not None)
        return mount

    async def live(self, mount: SharedMount) -> None:
        try:
            await mount._main()
        except* MountError as e:
            self.failed[mount] = e.exceptions[0]
        except* (Closed, CmanError):
            pass                                # its node was killed, or all ends

    async def mounted(self, mount: SharedMount, replayed: list[int] | None = None) -> None:
        """As the mount's main thread says it."""
        def replay(jid: int) -> bool:
            if replayed is not None:
                replayed.append(jid)
            return True
        mount._replay = replay
        mount._mounted.set()
        await until(mount._through.is_set)

    async def whole(self, node: int, file_locks: FileLocks | None = None) -> tuple[SharedMount, FakeFs]:
        """A mount with a file system."""
        mount = await self.begin(node)
        assert mount.seat is not None
        fs = FakeFs(self.disk, mount.seat.jid)
        mount._file_locks = file_locks
        mount._fs, mount._replay, mount._told_fd = fs, fs.replay, fs.withdraw_fd
        mount._mounted.set()
        await until(mount._through.is_set)
        await until(lambda: mount._freezing._fs is fs)
        return mount, fs


def play(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scene: Callable[[Room], object]) -> None:
    monkeypatch.setenv("DLM_RUN", str(tmp_path / "run"))

    async def main() -> None:
        room = Room(monkeypatch)
        with trio.fail_after(LIMIT_S):
            async with trio.open_nursery() as room.nursery:
                try:
                    await scene(room)       # type: ignore[misc]
                finally:
                    # Nobody takes back a request from somebody who ends as well.
                    for mount in room.mounts:
                        if mount._space is not None:
                            mount._space.close("the end")
                room.nursery.cancel_scope.cancel()
    trio.run(main)
