"""Membership of lockspaces over a cluster in memory, with real sockets between the nodes."""

from __future__ import annotations

import errno
import logging
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio

from cman.client import Reason
from cman.protocol import CmanError
from dlm import deadlock
from dlm.control import Control, JoinRefused, global_id, join
from dlm.core import events
from dlm.core.packets import LockMode
from dlm.inspect import askers
from dlm.locks import Closed, Deadlock, Lockspace, WouldBlock
from dlm_nodes import LIMIT_S, until
from fake_cman import FakeCluster

PR, EX, NL = LockMode.PR, LockMode.EX, LockMode.NL


@pytest.fixture(autouse=True)
def run_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("DLM_RUN", str(tmp_path / "run"))
    return tmp_path / "run"


@dataclass
class Life:
    """A process that is in the lockspace until `end`."""

    node: int
    space: Lockspace | None = None
    end: trio.Event = field(default_factory=trio.Event)
    ended: trio.Event = field(default_factory=trio.Event)
    told: list[object] = field(default_factory=list)
    error: BaseException | None = None
    notes: list[str] = field(default_factory=list)

    async def live(self, cluster: FakeCluster, name: str = "test") -> None:
        try:
            async with join(cluster.process(self.node), name, on_event=self.told.append,
                            on_note=self.notes.append, rng=random.Random(self.node)) as space:
                self.space = space
                await self.end.wait()
        except (JoinRefused, Closed) as e:
            self.error = e
        finally:
            self.ended.set()

    @property
    def lock(self) -> Callable[..., object]:
        assert self.space is not None
        return self.space.lock


class Scene:
    def __init__(self, nursery: trio.Nursery) -> None:
        self.cluster = FakeCluster()
        self.nursery = nursery

    async def join(self, node: int) -> Lockspace:
        life = await self.begin(node)
        await until(lambda: life.space or life.error)
        assert life.space, life.error
        return life.space

    async def begin(self, node: int) -> Life:
        life = Life(node)
        self.lives = [*getattr(self, "lives", []), life]
        self.nursery.start_soon(life.live, self.cluster)
        await trio.lowlevel.checkpoint()
        return life

    def life(self, space: Lockspace) -> Life:
        return next(x for x in self.lives if x.space is space)


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    async with trio.open_nursery() as nursery:
        made = Scene(nursery)
        yield made
        for life in getattr(made, "lives", []):
            life.end.set()


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        with trio.fail_after(LIMIT_S):
            await test()
    trio.run(limited)


def control(space: Lockspace) -> Control:
    assert isinstance(space.control, Control)
    return space.control


def test_nodes_come_and_go() -> None:
    async def main() -> None:
        async with scene() as s:
            one = await s.join(1)
            held = await one.lock("a", EX)
            two = await s.join(2)
            with pytest.raises(WouldBlock):
                await two.lock("a", PR, nowait=True)
            three = await s.join(3)
            await until(lambda: one.slots == two.slots == three.slots == {1: 1, 2: 2, 3: 3})
            machines = [control(x).machine for x in (one, two, three)]
            assert len({m.generation for m in machines if m}) == 1
            async with three.lock("b", EX):
                pass
            s.life(two).end.set()
            await s.life(two).ended.wait()
            await until(lambda: one.slots.keys() == three.slots.keys() == {1, 3})
            assert not any(isinstance(e, events.RecoverSlot) for e in s.life(one).told), "it left, it did not fail"
            again = await s.join(2)
            await until(lambda: again.slots.keys() == {1, 2, 3})
            with pytest.raises(WouldBlock):
                await again.lock("a", PR, nowait=True)
            await held.unlock()
            async with again.lock("a", EX):
                pass
    run(main)


def test_who_leaves_closes_its_connections_in_order(caplog: pytest.LogCaptureFixture) -> None:
    """An RST could overtake the last word; a kernel that misses it connects again and again."""
    caplog.set_level(logging.INFO, "dlm.transport")

    async def main() -> None:
        async with scene() as s:
            one, two = [await s.join(n) for n in (1, 2)]
            async with one.lock("a", EX), two.lock("b", EX):
                pass
            s.life(two).end.set()
            await until(lambda: "connection lost node=2" in caplog.text)
            assert "connection lost node=2: the other end closed it" in caplog.text
    run(main)


@pytest.mark.parametrize("reason", [Reason.NODEDOWN, Reason.PROCDOWN])
def test_a_member_fails(reason: Reason) -> None:
    """Its locks are given to others after fencing, and only then; a process alone is not fenced."""
    async def main() -> None:
        async with scene() as s:
            one, two, three = [await s.join(n) for n in (1, 2, 3)]
            await three.lock("a", EX)
            got = trio.Event()

            async def waiter() -> None:
                async with one.lock("a", EX):
                    got.set()
            s.nursery.start_soon(waiter)
            if reason is Reason.NODEDOWN:
                s.cluster.set_unconfirmed(3)
            s.cluster.kill(3, reason)
            await until(lambda: control(three).failed)
            s.life(three).end.set()
            fencing = "waits for the fencing of node 3"
            if reason is Reason.NODEDOWN:
                await until(lambda: s.life(one).notes[-1] == s.life(two).notes[-1] == fencing)
                s.cluster.set_unconfirmed(at=(1,))
                await until(lambda: control(two).machine.waits_for() == [2])     # type: ignore[union-attr]
                assert not got.is_set()
                s.cluster.set_unconfirmed()
            await got.wait()
            assert [e.nodeid for e in s.life(one).told if isinstance(e, events.RecoverSlot)] == [3]
            assert (fencing in s.life(one).notes) == (reason is Reason.NODEDOWN)
            back = await s.join(3)
            async with back.lock("a", EX):
                pass
    run(main)


def test_nobody_starts_before_all_who_may_be_at_work_are_confirmed() -> None:
    async def main() -> None:
        async with scene() as s:
            s.cluster.set_unconfirmed(9)
            life = await s.begin(1)
            await until(lambda: "waits for the fencing of node 9" in life.notes)
            assert life.space is None
            s.cluster.set_unconfirmed()
            await until(lambda: life.space is not None)
            two = await s.begin(2)
            await until(lambda: two.space is not None)
            assert life.space is not None
            await two.lock("a", EX)
            s.cluster.set_unconfirmed(2)
            s.cluster.kill(2)
            got = trio.Event()

            async def waiter() -> None:
                async with life.lock("a", EX):
                    got.set()
            s.nursery.start_soon(waiter)
            await until(lambda: "waits for the fencing of node 2" in life.notes)
            s.cluster.set_quorate(False)
            s.cluster.set_unconfirmed()
            await until(lambda: life.notes[-1] == "waits for quorum")
            assert not got.is_set()
            s.cluster.set_quorate(True)
            await got.wait()
    run(main)


def test_no_quorum_no_lock() -> None:
    async def main() -> None:
        async with scene() as s:
            one = await s.join(1)
            two = await s.join(2)
            await two.lock("kept", EX)
            s.cluster.set_quorate(False)
            await until(lambda: not control(one).quorate)
            s.cluster.kill(2)
            got = trio.Event()

            async def waiter() -> None:
                async with one.lock("new", EX):
                    got.set()
            await until(lambda: "waits for quorum" in control(one).history)
            s.nursery.start_soon(waiter)
            await trio.sleep(0.05)
            assert not got.is_set()
            s.cluster.set_quorate(True)
            await got.wait()
    run(main)


def test_refusals_say_why() -> None:
    async def main() -> None:
        async with scene() as s:
            s.cluster.set_quorate(False)
            life = await s.begin(1)
            await life.ended.wait()
            assert isinstance(life.error, JoinRefused)
            assert life.error.errno == errno.EAGAIN
            assert "cluster test is not quorate (1 votes, 2 are needed)" in str(life.error)
            s.cluster.set_quorate(True)
            s.cluster.state = "Joining"
            life = await s.begin(1)
            await life.ended.wait()
            assert "is no member of cluster test (Joining)" in str(life.error)
            s.cluster.state = "Cluster-Member"
            for name in ("", "x" * 65, "a/b", "a\n"):
                with pytest.raises(JoinRefused, match="cannot name a lockspace"):
                    async with join(s.cluster.process(1), name):
                        pass
    run(main)


def test_a_second_process_of_a_node() -> None:
    """It must not be: the newcomer is refused, and those who were there recover without it."""
    async def main() -> None:
        async with scene() as s:
            one = await s.join(1)
            second = await s.begin(1)
            await second.ended.wait()
            assert "another process of node 1" in str(second.error)
            async with one.lock("a", EX):
                pass
    run(main)


def test_cman_ends() -> None:
    async def main() -> None:
        async with scene() as s:
            one, two = await s.join(1), await s.join(2)
            await two.lock("a", EX)
            errors = []

            async def waiter() -> None:
                try:
                    await one.lock("a", EX)
                except Closed as e:
                    errors.append(str(e))
            s.nursery.start_soon(waiter)
            await trio.sleep(0.05)
            s.cluster.kill(1)
            await until(lambda: errors)
            assert "cman has ended or cut this client off" in errors[0]
            await until(lambda: two.slots.keys() == {2})
    run(main)


def test_tools_can_look(run_directory: Path) -> None:
    """The control socket: what is told, what is refused, and what is left behind (nothing)."""
    async def main() -> None:
        async with scene() as s:
            one, two = await s.join(1), await s.join(2)
            async with one.lock("a", EX, lvb=True), two.lock("b", PR):
                assert os.stat(run_directory).st_mode & 0o777 == 0o700
                found = {a.path.name.split(".")[1]: a for a in askers()}
                assert sorted(found) == ["1", "2"]

                async def ask(node: str, op: str, **more: object) -> dict[str, Any]:
                    return await trio.to_thread.run_sync(lambda: found[node].ask(op, **more))
                told = await ask("1", "describe")
                assert (told["name"], told["nodeid"], told["members"], told["running"]) == ("test", 1, [1, 2], True)
                assert told["slots"] == [[1, 1], [2, 2]]
                names = [r["name"] for r in (await ask("1", "resources"))["resources"]]
                assert b"a" in names
                assert names == sorted(names)
                assert (await ask("1", "resources", after=b"zz"))["resources"] == []
                assert any("start generation" in x for x in (await ask("2", "history"))["lines"])
                with pytest.raises(CmanError, match="lockspace test is in use by"):
                    await ask("1", "leave")
                with pytest.raises(CmanError, match="no operation 'dance'"):
                    await ask("1", "dance")
        assert os.listdir(run_directory) == []
    run(main)


def test_ids_differ_and_are_never_nought() -> None:
    ids = [global_id(f"space{i}") for i in range(1000)]
    assert len(set(ids)) == 1000
    assert all(0 < i < 1 << 32 for i in ids)


def test_deadlocks_are_found_through_the_group() -> None:
    """What members say of them is not taken for a change of members; nonsense is noted and dropped."""
    async def main() -> None:
        async with scene() as s:
            one, two = [await s.join(n) for n in (1, 2)]
            told = []

            async def circle(space: Lockspace, mine: str, other: str, ready: trio.Event, go: trio.Event) -> None:
                async with space.transaction(born_ns=space.machine.our_nodeid) as t:
                    await t.lock(mine, EX)
                    ready.set()
                    await go.wait()
                    try:
                        await t.lock(other, EX)
                    except Deadlock:
                        told.append(space)

            async with trio.open_nursery() as nursery:
                a, b = trio.Event(), trio.Event()
                nursery.start_soon(circle, one, "a", "b", a, b)
                nursery.start_soon(circle, two, "b", "a", b, a)
            assert told == [two]
            assert any("deadlock of transactions on nodes" in line and "gives way" in line
                       for line in control(two).history)
            control(one).say(deadlock.pack(deadlock.Break(deadlock.Party(1, 2, 3), 4, 5, (1, 2)))[:-1] + b"\xc0")
            await until(lambda: any("dropped: not a number" in line for line in control(two).history))
            async with two.lock("a", EX):
                pass
    run(main)
