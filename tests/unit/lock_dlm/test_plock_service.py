"""fcntl locks between the compiled tables and a group: requests go out, answers come back, a death waits."""

from __future__ import annotations

import fcntl
from collections.abc import Callable

import trio

from cman.client import Reason
from dlm_nodes import LIMIT_S, until
from fake_cman import FakeCluster
from gfs2py.engine._plock import Callers, FileLocks
from gfs2py.lock_dlm.plock_service import PlockService
from gfs2py.lock_dlm.ranges import Member

WRITE, UNLOCK, PARK = fcntl.F_WRLCK, fcntl.F_UNLCK, Callers.PARK


class Mount:
    """One node's service; `recovered` is what its mount says of the dead."""

    def __init__(self) -> None:
        self.locks = FileLocks()
        self.callers = Callers(self.locks)
        self.recovered = False
        self.woken: list[int] = []

    def through(self, dead: tuple[Member, ...]) -> bool:
        return self.recovered

    async def run(self, cluster: FakeCluster, number: int, scope: trio.CancelScope) -> None:
        with scope:
            group = await cluster.process(number).join("gfs2:locks:fs")
            self.service = PlockService(self.locks, group, self.through)
            await self.service.run()

    def wakes(self, unique: int) -> Callable[[], bool]:
        def woken() -> bool:
            self.woken += self.callers.woken()
            return unique in self.woken
        return woken


def test_requests_answers_and_a_death() -> None:
    trio.run(_requests_answers_and_a_death)


async def _requests_answers_and_a_death() -> None:
    cluster, mounts = FakeCluster(), [Mount() for _ in range(3)]
    scopes = [trio.CancelScope() for _ in mounts]
    one, two, three = mounts
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            for number, (mount, scope) in enumerate(zip(mounts, scopes, strict=True), 1):
                nursery.start_soon(mount.run, cluster, number, scope)
                await until(lambda mount=mount: hasattr(mount, "service")         # type: ignore[misc]
                            and mount.service.machine.knows)
            assert one.callers.set(2, 7, 1, WRITE, 0, 9) == PARK
            await until(one.wakes(2))
            assert one.callers.set(2, 7, 1, WRITE, 0, 9) == 0
            assert one.callers.set(4, 7, 1, WRITE, 20, 29) == 0         # it owns the file
            assert two.callers.set(2, 7, 1, WRITE, 0, 0, sleep=True) == PARK
            assert three.callers.set(2, 7, 1, WRITE, 20, 20, sleep=True) == PARK
            await until(lambda: len(one.service.machine.table.shared) == 1)
            await until(lambda: one.service.machine.counts()["waiters"] == 2)
            one.callers.set(6, 7, 1, UNLOCK, 0, 9)
            await until(two.wakes(2))
            assert two.callers.set(2, 7, 1, WRITE, 0, 0, sleep=True) == 0
            scopes[0].cancel()
            cluster.kill(1, Reason.PROCDOWN)
            await until(lambda: two.service.machine.frozen and three.service.machine.frozen)
            two.recovered = three.recovered = True
            two.service.look()
            assert not three.wakes(2)()             # the other mount is not through
            three.service.look()
            await until(three.wakes(2))
            assert three.callers.set(2, 7, 1, WRITE, 20, 20, sleep=True) == 0
            nursery.cancel_scope.cancel()
