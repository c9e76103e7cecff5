"""Several mounts' places in one cluster, in one trio loop: who comes or dies while another one still mounts."""

from __future__ import annotations

from pathlib import Path

import pytest

from dlm_nodes import until
from gfs2py.engine._plock import FileLocks
from gfs2py.lock_dlm import shared
from shared_room import Room, play


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


def test_a_dead_node_is_back_before_its_locks_are_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As after a loss of quorum: the dead node's new life is a member of everything before the recovery of the old one
    can begin, and its processes have the same numbers as before. fcntl locks must go on all the same."""
    async def scene(room: Room) -> None:
        one, _ = await room.whole(1, FileLocks())
        number = room.cluster.pids
        await room.whole(2, FileLocks())
        service = one._file_lock_service
        assert service is not None
        await until(lambda: len(service.machine.members) == 2)
        room.cluster.set_unconfirmed(3)
        room.cluster.kill(2)
        await until(lambda: service.machine.frozen)
        room.cluster.pids = number
        again = await room.ask(2)
        await until(lambda: len(room.cluster.groups["dlm:fs"]) == 2)
        assert service.machine.frozen
        room.cluster.set_unconfirmed()
        await until(lambda: again.seat is not None and not one.locks.blocked)
        await until(lambda: not service.machine.frozen)
    play(monkeypatch, tmp_path, scene)
