"""Several mounts' places in one cluster, in one trio loop: who comes or dies while another one still mounts."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trio

from dlm_nodes import until
from fake_cman import FakeCluster
from gfs2py.errors import MountError
from gfs2py.lock_dlm import shared
from gfs2py.lock_dlm.shared import SharedMount

LIMIT_S = 60.0


class Room:
    """Mounts of one file system; each is a task."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cluster = FakeCluster()
        self.next = 0
        self.nursery: trio.Nursery | None = None
        self.failed: dict[SharedMount, BaseException] = {}

        @contextlib.asynccontextmanager
        async def open_cman() -> AsyncIterator[object]:
            yield self.cluster.process(self.next)
        monkeypatch.setattr(shared, "open_cman", open_cman)

    async def begin(self, node: int) -> SharedMount:
        """Until it has its seat."""
        assert self.nursery is not None
        self.next = node
        mount = SharedMount("test:fs", spectator=False, log=lambda line: None, narrate=lambda line: None,
                            lost=lambda why: None)
        self.nursery.start_soon(self.live, mount)
        await until(lambda: mount.seat is not None or mount in self.failed)
        return mount

    async def live(self, mount: SharedMount) -> None:
        try:
            await mount._main()
        except* MountError as e:
            self.failed[mount] = e.exceptions[0]

    async def mounted(self, mount: SharedMount, replayed: list[int] | None = None) -> None:
        """As the mount's main thread says it."""
        def replay(jid: int) -> bool:
            if replayed is not None:
                replayed.append(jid)
            return True
        mount._replay = replay
        mount._mounted.set()
        await until(mount._through.is_set)


def play(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scene: Callable[[Room], object]) -> None:
    monkeypatch.setenv("DLM_RUN", str(tmp_path / "run"))

    async def main() -> None:
        room = Room(monkeypatch)
        with trio.fail_after(LIMIT_S):
            async with trio.open_nursery() as room.nursery:
                await scene(room)       # type: ignore[misc]
                room.nursery.cancel_scope.cancel()
    trio.run(main)


def test_who_comes_while_another_mounts_does_not_stop_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def scene(room: Room) -> None:
        first = await room.begin(1)
        await room.mounted(first)
        slow = await room.begin(2)
        await until(lambda: not slow.locks.blocked)
        third = await room.begin(3)         # the lock manager recovers on all three
        await until(lambda: not slow.locks.blocked and not third.locks.blocked)
        await room.mounted(third)
        await room.mounted(slow)
    play(monkeypatch, tmp_path, scene)


def test_who_dies_meanwhile_is_replayed_by_those_who_are_through(monkeypatch: pytest.MonkeyPatch,
                                                                 tmp_path: Path) -> None:
    async def scene(room: Room) -> None:
        replayed: list[int] = []
        first = await room.begin(1)
        await room.mounted(first, replayed)
        third = await room.begin(3)
        await room.mounted(third)
        slow = await room.begin(2)
        assert third.seat is not None
        room.cluster.kill(3)
        await until(lambda: replayed == [third.seat.jid] and not slow.locks.blocked)    # type: ignore[union-attr]
        await room.mounted(slow)
    play(monkeypatch, tmp_path, scene)


def test_when_nobody_can_replay_the_mount_ends_with_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shared, "OTHERS_LIMIT_S", 0.5)

    async def scene(room: Room) -> None:
        first = await room.begin(1)
        await room.mounted(first)
        slow = await room.begin(2)
        room.cluster.kill(1)
        await until(lambda: slow in room.failed)
        assert "nobody else replays its journal (jid=0): mount again" in str(room.failed[slow])
    play(monkeypatch, tmp_path, scene)
