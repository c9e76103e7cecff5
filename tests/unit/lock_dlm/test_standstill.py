"""Withdraws and freezes among several mounts: what happens in which order, seen from the cluster's side of each."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import trio

from dlm.core.packets import LockMode
from dlm_nodes import until
from gfs2py.lock_dlm import freezing, withdrawing
from gfs2py.lock_dlm.freezing import FREEZE_NUMBER, State
from gfs2py.lock_dlm.mounting import lock_name
from gfs2py.lock_dlm.shared import SharedMount
from gfs2py.lock_dlm.withdrawing import LIVE_NUMBER
from shared_room import Room, play


def state(mount: SharedMount) -> State:
    return mount._freezing.state


# ---- withdraw -------------------------------------------------------------------------------------------------------

def test_a_withdrawn_mount_is_replayed_once_and_its_locks_go_afterwards(monkeypatch: pytest.MonkeyPatch,
                                                                        tmp_path: Path) -> None:
    """It keeps its locks as long as something is at the device, and as long as the kernel has caches."""
    async def scene(room: Room) -> None:
        one, _ = await room.whole(1)
        two, bad = await room.whole(2)
        three, _ = await room.whole(3)
        assert two._space is not None
        assert three._space is not None
        held = await two._space.lock("something", LockMode.EX)
        room.disk.dirty.add(bad.jid)
        bad.under_way, bad.caches = 1, 1
        bad.withdraw("the disk is gone")
        await until(lambda: "withdrawn: the disk is gone" in room.said[2])
        await trio.sleep(0.05)
        assert held.mode is LockMode.EX
        assert room.disk.happened == []
        bad.under_way = 0
        await until(lambda: room.disk.happened == [("take back", bad.jid)])
        assert not one.locks.blocked
        bad.caches = 0
        await until(lambda: ("replay", bad.jid) in room.disk.happened)
        await until(lambda: not one.locks.blocked and not three.locks.blocked)
        assert room.disk.happened == [("take back", bad.jid), ("replay", bad.jid)]
        assert (await three._space.lock("something", LockMode.EX)).mode is LockMode.EX
        assert two.state()["gone"] == 1
        again, _ = await room.whole(2)          # the same node mounts it again
        assert again.seat is not None
        assert not again.seat.first
    play(monkeypatch, tmp_path, scene)


def test_the_only_mount_is_replayed_by_the_next(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def scene(room: Room) -> None:
        one, bad = await room.whole(1)
        room.disk.dirty.add(bad.jid)
        bad.withdraw("damage")
        await until(lambda: one.state()["gone"] == 1)
        await until(lambda: not room.cluster.groups["dlm:fs"])
        again, _ = await room.whole(1)
        assert again.seat is not None
        assert again.seat.first                 # and replays all journals
    play(monkeypatch, tmp_path, scene)


def test_what_does_not_come_back_has_the_node_fenced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its locks stand: only fencing makes the promise that it cannot."""
    monkeypatch.setattr(withdrawing, "DRAIN_LIMIT_S", 0.1)

    async def scene(room: Room) -> None:
        one, _ = await room.whole(1)
        _, bad = await room.whole(2)
        room.disk.dirty.add(bad.jid)
        bad.under_way = 1
        bad.withdraw("the disk hangs")
        await until(lambda: room.cluster.asked == [("kill", {"node": "node2"})])
        await trio.sleep(0.1)
        assert room.disk.happened == []
        assert not one.locks.blocked
        assert any("until this node is fenced" in line for line in room.said[2])
        room.cluster.kill(2)
        await until(lambda: room.disk.happened == [("replay", bad.jid)])
        bad.under_way = 0
    play(monkeypatch, tmp_path, scene)


def test_a_kernel_nodes_way_to_withdraw(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It stays a member and asks for the live lock: everybody tries the journals."""
    async def scene(room: Room) -> None:
        _, mine = await room.whole(1)
        two, other = await room.whole(2)
        assert two._space is not None
        own = two._live_lock._lock
        assert own is not None
        await own.unlock()                      # as the one that withdraws does with its own
        with pytest.raises(BlockingIOError):
            await two._space.lock(lock_name(1, LIVE_NUMBER), LockMode.EX, nowait=True)
        waiting = trio.CancelScope()

        async def ask() -> None:
            with waiting:
                assert two._space is not None
                await two._space.lock(lock_name(1, LIVE_NUMBER), LockMode.EX)
        assert room.nursery is not None
        room.nursery.start_soon(ask)
        await until(lambda: room.disk.tried == [jid for jid in range(3) if jid != mine.jid])
        waiting.cancel()
        assert other.jid != mine.jid
    play(monkeypatch, tmp_path, scene)


# ---- freeze ---------------------------------------------------------------------------------------------------------

def test_all_stand_still_and_go_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def scene(room: Room) -> None:
        mounts = [await room.whole(n) for n in (1, 2, 3)]
        one, two, three = (mount for mount, _ in mounts)
        for fs in (fs for _, fs in mounts):
            room.disk.dirty.add(fs.jid)
        await two._freezing.freeze()
        assert room.disk.dirty == set()
        assert all(fs.frozen for _, fs in mounts)
        assert [state(m) for m in (one, two, three)] == [State.YIELDED, State.FROZEN, State.YIELDED]
        for mount, code in ((one, errno.EBUSY), (two, errno.EBUSY)):
            with pytest.raises(OSError) as caught:
                await mount._freezing.freeze()
            assert caught.value.errno == code
        with pytest.raises(OSError) as caught:
            await three._freezing.thaw()
        assert caught.value.errno == errno.EINVAL
        await two._freezing.thaw()
        await until(lambda: not any(fs.frozen for _, fs in mounts))
        await until(lambda: {state(m) for m in (one, two, three)} == {State.THAWED})
        await three._freezing.freeze()          # and again, by another
        assert all(fs.frozen for _, fs in mounts)
        await three._freezing.thaw()
        await until(lambda: not any(fs.frozen for _, fs in mounts))
    play(monkeypatch, tmp_path, scene)


def test_who_froze_dies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The others go on; nobody has anything to do for it."""
    async def scene(room: Room) -> None:
        one, mine = await room.whole(1)
        two, _ = await room.whole(2)
        await two._freezing.freeze()
        assert mine.frozen
        room.cluster.kill(2)
        await until(lambda: not mine.frozen and state(one) is State.THAWED)
        await until(lambda: not one.locks.blocked)
    play(monkeypatch, tmp_path, scene)


def test_a_death_while_it_is_frozen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its journal is empty: its locks go although nobody may write, and nothing is replayed. One that is not waits."""
    async def scene(room: Room) -> None:
        one, _ = await room.whole(1)
        two, _ = await room.whole(2)
        _, third = await room.whole(3)
        await one._freezing.freeze()
        room.cluster.kill(3)
        await until(lambda: not one.locks.blocked and not two.locks.blocked)
        await until(lambda: two._control.settled)
        assert room.disk.happened == []
        room.disk.dirty.add(third.jid)
        assert await one._freezing.replay(third.jid, lambda jid: True) is False
        await one._freezing.thaw()
        assert await one._freezing.replay(third.jid, lambda jid: True) is True
        await until(lambda: state(two) is State.THAWED)
    play(monkeypatch, tmp_path, scene)


def test_a_journal_that_is_not_empty_is_replayed_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(freezing, "AGAIN_S", 0.02)

    async def scene(room: Room) -> None:
        one, fs = await room.whole(1)
        await room.whole(2)
        room.disk.dirty.add(2)                  # of a node that has died

        def cured() -> bool:
            return any("waits for the replay of journal 2" in line for line in room.said[1])
        assert room.nursery is not None
        room.nursery.start_soon(one._freezing.freeze)
        await until(cured)
        await until(lambda: not fs.frozen)      # thawed in between: a replay may write
        room.disk.dirty.clear()
        await until(lambda: state(one) is State.FROZEN)
    play(monkeypatch, tmp_path, scene)


def test_a_node_that_does_not_stand_still(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The freeze is given up, and all is as before."""
    async def scene(room: Room) -> None:
        one, fs = await room.whole(1)
        two = await room.begin(2)               # still mounting: it obeys when it is through
        with pytest.raises(OSError) as caught:
            await one._freezing.freeze(0.2)
        assert caught.value.errno == errno.ETIMEDOUT
        assert not fs.frozen
        assert state(one) is State.THAWED
        await room.mounted(two)
    play(monkeypatch, tmp_path, scene)


def test_a_mount_waits_for_the_thaw(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def scene(room: Room) -> None:
        one, _ = await room.whole(1)
        await one._freezing.freeze()
        late = await room.ask(2)
        await until(lambda: any("waiting for the thaw" in line for line in room.said[2]))
        assert not late._ready.is_set()
        await one._freezing.thaw()
        await until(late._ready.is_set)
    play(monkeypatch, tmp_path, scene)


def test_the_lock_as_a_kernel_node_would_ask_for_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """EX of the lock with the kernel's name: granted once all mounts stand still, and they go on when it is let go."""
    async def scene(room: Room) -> None:
        one, mine = await room.whole(1)
        two, other = await room.whole(2)
        assert two._space is not None
        assert lock_name(1, FREEZE_NUMBER) == b"       1               2"
        lock = await two._space.lock(lock_name(1, FREEZE_NUMBER), LockMode.EX)
        assert mine.frozen
        assert other.frozen
        assert state(one) is State.YIELDED
        await lock.unlock()
        await until(lambda: not mine.frozen and not other.frozen)
    play(monkeypatch, tmp_path, scene)
