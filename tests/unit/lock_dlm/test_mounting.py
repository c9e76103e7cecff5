"""Nodes that join a file system, and what the others do when one dies; real lockspaces on loopback."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest
import trio

from dlm.core.events import RecoverDone, RecoverPrep, RecoverSlot
from dlm.core.packets import LockMode
from dlm_nodes import LIMIT_S, Site, cluster, restart, until
from gfs2py.lock_dlm.generations import DISABLED, ControlValue
from gfs2py.lock_dlm.mounting import CONTROL_NUMBER, MountControl, MountRefused, Seat, lock_name


@dataclass
class Node:
    """One mount: its grants, what it said, what it replayed."""

    site: Site
    flowing: bool = True
    said: list[str] = field(default_factory=list)
    replayed: list[int] = field(default_factory=list)
    refuse: int = 0             # how many replays find another node at it
    control: MountControl = field(init=False)

    def __post_init__(self) -> None:
        self.control = MountControl(self, say=self.said.append)
        for event in self.site.told:
            assert isinstance(event, RecoverPrep | RecoverSlot | RecoverDone)
            self.control.on_event(event)
        self.site.space.on_event = self.control.on_event

    def block(self) -> None:
        self.flowing = False

    def unblock(self) -> int:
        self.flowing = True
        return 0

    async def join(self) -> Seat:
        return await self.control.join(self.site.space)

    async def replay(self, jid: int) -> bool:
        assert not self.flowing, "a replay while grants flow"
        if self.refuse:
            self.refuse -= 1
            return False
        self.replayed.append(jid)
        return True


async def within(act: Callable[[], Awaitable[None]]) -> None:
    with trio.fail_after(LIMIT_S):
        await act()


async def mounted(sites: list[Site]) -> list[Node]:
    nodes = [Node(s) for s in sites]
    for node in nodes:
        seat = await node.join()
        assert seat.first == (node is nodes[0])
        if seat.first:
            await node.control.first_done()
    return nodes


def test_names() -> None:
    assert lock_name(1, 4) == b"       1               4"
    assert lock_name(2, 0x1234AB) == b"       2          1234ab"


def test_the_first_one_replays_and_the_others_wait_for_it() -> None:
    async def act() -> None:
        async with cluster(3) as sites:
            nodes = [Node(s) for s in sites]
            first = await nodes[1].join()
            seats: list[Seat] = []

            async def other(node: Node) -> None:
                seats.append(await node.join())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(other, nodes[0])
                nursery.start_soon(other, nodes[2])
                await trio.sleep(0.05)
                assert first.first
                assert seats == []
                assert nodes[1].flowing
                assert not nodes[0].flowing
                await nodes[1].control.first_done()
            assert sorted([first.jid, *(s.jid for s in seats)]) == [0, 1, 2]
            assert not any(s.first for s in seats)
            assert all(n.flowing for n in nodes)
    trio.run(within, act)


@pytest.mark.parametrize("refuse", [0, 2])
def test_a_death_is_dealt_with_before_grants_flow_again(refuse: int) -> None:
    async def act() -> None:
        async with cluster(3) as sites:
            nodes = await mounted(sites)
            nodes[0].refuse = refuse
            jid = nodes[2].control.jid
            async with trio.open_nursery() as nursery:
                for node in nodes[:2]:
                    nursery.start_soon(node.control.run, node.replay)
                await sites[2].die()
                for site in sites[:2]:
                    site.space.stop()
                assert not nodes[0].flowing
                assert not nodes[1].flowing
                restart(sites[:2], incarnation=0)
                await until(lambda: nodes[0].flowing and nodes[1].flowing)
                nursery.cancel_scope.cancel()
            assert {*nodes[0].replayed, *nodes[1].replayed} == {jid}
            assert len(nodes[0].replayed) <= 1
            lock = await sites[0].space.lock(lock_name(1, CONTROL_NUMBER), LockMode.PR, lvb=True)
            assert ControlValue.unpack(lock.value) == ControlValue(nodes[0].control.known.started)
    trio.run(within, act)


def test_the_first_one_dies_at_its_work() -> None:
    """Another one becomes the first: the journals are still nobody's to trust."""
    async def act() -> None:
        async with cluster(2) as sites:
            nodes = [Node(s) for s in sites]
            assert (await nodes[0].join()).first
            seats: list[Seat] = []

            async def other() -> None:
                seats.append(await nodes[1].join())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(other)
                await trio.sleep(0.05)
                assert seats == []
                await sites[0].die()
                restart(sites[1:])
            assert seats == [Seat(nodes[1].control.jid, True)]
    trio.run(within, act)


def test_cancelled_join_is_in_nobodys_way() -> None:
    async def act() -> None:
        async with cluster(2) as sites:
            nodes = [Node(s) for s in sites]
            assert (await nodes[0].join()).first
            with trio.move_on_after(0.1) as scope:
                await nodes[1].join()
            assert scope.cancelled_caught
            await nodes[0].control.first_done()
            again = Node(sites[1])
            assert not (await again.join()).first
    trio.run(within, act)


def test_mounts_can_be_disabled() -> None:
    async def act() -> None:
        async with cluster(1) as sites:
            name = lock_name(1, CONTROL_NUMBER)
            lock = await sites[0].space.lock(name, LockMode.EX, lvb=True)
            await lock.convert(LockMode.NL, value=ControlValue(DISABLED).pack())
            with pytest.raises(MountRefused, match="disabled"):
                await Node(sites[0]).join()
            await sites[0].space.lock(name, LockMode.EX, nowait=True)       # nothing is left behind
    trio.run(within, act)
