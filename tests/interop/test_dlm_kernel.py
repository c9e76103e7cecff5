"""One lockspace with a stock kernel: our lock manager and the kernel's DLM as members, in all roles.

One guest serves all steps of this module; every step has a lockspace of its own and makes our nodes anew, so that the
kernel meets restarted peers each time. Node ids decide who is the low node (who leads recovery): the kernel is 2, ours
are 1, 3 and 4.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import trio

from dlm.core import events
from dlm.core.packets import Flag, LockMode
from dlm.locks import Lockspace, WouldBlock
from dlm.node import DlmNode, open_node
from dlm.transport import Node
from interop.dlm_guest.guest import Guest
from interop.dlm_guest.net import Network
from interop.oracle.kernel import Kernel, one_guest

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

NL, CR, CW, PR, PW, EX = LockMode.NL, LockMode.CR, LockMode.CW, LockMode.PR, LockMode.PW, LockMode.EX
KERNEL = 2
ADDRESS = {1: "10.77.0.1", KERNEL: "10.77.0.2", 3: "10.77.0.3", 4: "10.77.0.4"}
LIMIT_S = 60.0
ECANCEL, EUNLOCK = -0x10001, -0x10002


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory, kernel: Kernel) -> Iterator[Guest]:
    with one_guest(), Network([a for n, a in ADDRESS.items() if n != KERNEL]) as network, \
            Guest(network, ADDRESS[KERNEL], tmp_path_factory.mktemp("guest")) as made:
        made("setup", "dlmtest", KERNEL, ADDRESS[KERNEL])
        yield made
        assert made.trouble() == []


@dataclass
class Stage:
    """One lockspace: the kernel's side of it and ours."""

    guest: Guest
    name: str
    global_id: int
    nodes: dict[int, DlmNode]
    spaces: dict[int, Lockspace]
    told: dict[int, list[object]]
    incarnation: int = 1
    kernel_lives: bool = True

    async def kernel(self, function: str, *arguments: object) -> Any:
        """Call the agent with this lockspace's name, without holding up our nodes."""
        return await trio.to_thread.run_sync(partial(self.guest, function, self.name, *arguments))

    async def ast(self, limit_s: float = 20) -> dict[str, Any]:
        found = await self.kernel("ast", limit_s)
        assert found is not None, "the kernel says nothing"
        return dict(found)

    async def granted(self, mode: LockMode, resource: str, **more: object) -> int:
        """Lock in the kernel and wait for it."""
        order = ("flags", "lkid", "lvb", "bast", "tag")
        default: dict[str, object] = {"flags": 0, "lkid": 0, "lvb": "", "bast": 1, "tag": 1}
        lkid = await self.kernel("lock", int(mode), resource, *[{**default, **more}[x] for x in order])
        told = await self.ast()
        assert (told["kind"], told["status"]) == ("CAST", 0), told
        return int(told["lkid"] or lkid)

    async def released(self, lkid: int, **more: object) -> None:
        await self.kernel("unlock", lkid, more.get("flags", 0), more.get("lvb", ""))
        told = await self.ast()
        assert (told["kind"], told["status"]) == ("CAST", EUNLOCK), told

    def members(self) -> list[int]:
        return sorted([KERNEL, *self.spaces])

    def start(self, members: list[int], left: tuple[int, ...] = ()) -> None:
        """Start ours; they have been stopped."""
        nodes = [events.Node(n, comm_seq=self.incarnation) for n in members]
        for node_id, space in self.spaces.items():
            if node_id in members:
                self.nodes[node_id].start(space, nodes, left=left)

    async def restart(self, members: list[int], left: tuple[int, ...] = ()) -> None:
        """Stop everybody, then start everybody with these members, and wait until ours run."""
        for space in self.spaces.values():
            space.stop()
        if KERNEL in members:
            await self.kernel("stop")
            await self.kernel("start", members)
        self.start(members, left)
        with trio.fail_after(LIMIT_S):
            for node_id, space in self.spaces.items():
                if node_id in members:
                    await space.wait_running()

    def master(self, name: str) -> int:
        """Who masters a resource, as ours know it."""
        known = {r.master for s in self.spaces.values() for r in s.dump() if r.name == name.encode() and r.master}
        assert len(known) == 1, f"{name}: {known}"
        return known.pop()


@asynccontextmanager
async def stage(guest: Guest, ours: list[int], step: str) -> AsyncIterator[Stage]:
    """Our nodes of these ids and the kernel in a lockspace of their own."""
    global_id = 0x1000 + int.from_bytes(step.encode()[:2].ljust(2), "big")
    async with AsyncExitStack() as stack:
        play = Stage(guest, step, global_id, {}, {}, {})
        for node_id in ours:
            node = await stack.enter_async_context(
                open_node(Node(node_id, ADDRESS[node_id]), rng=random.Random(node_id)))
            node.transport.set_nodes(Node(n, a) for n, a in ADDRESS.items())
            play.nodes[node_id] = node
            play.told[node_id] = []
            play.spaces[node_id] = node.lockspace(step, global_id, on_event=play.told[node_id].append)
            # A restarted peer counts from nought: the kernel has to be told to forget the former one.
            await trio.to_thread.run_sync(partial(guest, "know", node_id, ADDRESS[node_id]))
        await play.kernel("join", play.members(), global_id)
        play.start(play.members())
        with trio.fail_after(LIMIT_S):
            for space in play.spaces.values():
                await space.wait_running()
        assert await play.kernel("joined") >= 0
        yield play
        if play.kernel_lives:
            # The kernel first recovers alone and forgets ours: it would wait minutes for their FIN.
            for space in play.spaces.values():
                space.stop()
            for node in play.nodes.values():
                node.close()
            await play.kernel("stop")
            await play.kernel("start", [KERNEL])
            for node_id in play.nodes:
                await trio.to_thread.run_sync(guest, "forget", node_id)
            assert await play.kernel("release") >= 0


def play(guest: Guest, test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        with trio.fail_after(LIMIT_S):
            await test()
    guest.network.run(limited)


@pytest.mark.parametrize("node", [1, 3], ids=["ours leads", "the kernel leads"])
def test_locks_both_ways(guest: Guest, node: int) -> None:
    """Requests, conversions, lock values, contention and blocking calls, whoever is master or directory."""
    async def main() -> None:
        async with stage(guest, [node], f"both{node}") as p:
            space, masters = p.spaces[node], set()
            assert space.slots.keys() == {KERNEL, node}
            for i in range(8):
                name = f"res{i}"
                # Who comes first is the master; who the directory is, the name decides.
                if i % 2:
                    lkid = await p.granted(NL, name)
                    held = await space.lock(name, EX, lvb=True)
                else:
                    held = await space.lock(name, EX, lvb=True)
                    lkid = await p.granted(NL, name)
                masters.add(p.master(name))
                assert await p.kernel("lock", int(PR), name, int(Flag.CONVERT | Flag.VALBLK), lkid) == lkid
                assert await held.wait_blocking() == PR
                text = f"written by ours {i}".encode().ljust(32, b"\0")
                await held.convert(NL, value=text)
                told = await p.ast()
                assert (told["kind"], told["status"], told["lvb"]) == ("CAST", 0, f"written by ours {i}")
                assert await p.granted(PW, name, flags=int(Flag.CONVERT), lkid=lkid) == lkid
                with pytest.raises(WouldBlock):
                    await held.convert(PR, nowait=True)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(held.convert, PR)
                    told = await p.ast()
                    assert (told["kind"], told["bast_mode"]) == ("BAST", PR)
                    await p.kernel("lock", int(NL), name, int(Flag.CONVERT | Flag.VALBLK), lkid, f"by the kernel {i}")
                    assert (await p.ast())["status"] == 0
                assert held.value == f"by the kernel {i}".encode().ljust(32, b"\0")
                await held.unlock()
                await p.released(lkid)
            assert masters == {KERNEL, node}
    play(guest, main)


def test_cancel_both_ways(guest: Guest) -> None:
    async def main() -> None:
        async with stage(guest, [1], "cancel") as p:
            space = p.spaces[1]
            for name in ("a", "b", "c", "d"):
                held = await space.lock(name, EX)
                lkid = await p.kernel("lock", int(PR), name)
                assert await held.wait_blocking() == PR
                await p.kernel("unlock", lkid, int(Flag.CANCEL))
                assert (await p.ast())["status"] == ECANCEL
                await held.unlock()
                lkid = await p.granted(EX, name)
                with trio.move_on_after(0.2) as scope:
                    await space.lock(name, PR)
                assert scope.cancelled_caught
                assert (await p.ast())["kind"] == "BAST"
                await p.released(lkid)
                async with space.lock(name, EX, nowait=True):
                    pass
    play(guest, main)


def test_three_nodes(guest: Guest) -> None:
    """Two of ours and the kernel take turns; then one of ours leaves, and the other two carry on."""
    async def main() -> None:
        async with stage(guest, [1, 3], "three") as p:
            one, three = p.spaces[1], p.spaces[3]
            assert set(one.slots) == {1, KERNEL, 3}
            assert one.slots == three.slots
            masters = set()
            for i in range(9):
                name = f"turn{i}"
                for who in [[1, 3, KERNEL], [3, KERNEL, 1], [KERNEL, 1, 3]][i % 3]:
                    if who == KERNEL:
                        lkid = await p.granted(EX, name, flags=int(Flag.NOQUEUE))
                        with pytest.raises(WouldBlock):
                            await one.lock(name, CR, nowait=True)
                        await p.released(lkid)
                    else:
                        async with p.spaces[who].lock(name, EX, nowait=True):
                            other = p.spaces[4 - who]
                            with pytest.raises(WouldBlock):
                                await other.lock(name, CR, nowait=True)
                async with one.lock(name, PR), three.lock(name, PR):
                    masters.add(p.master(name))
            assert masters == {1, KERNEL, 3}
            keep = await one.lock("kept", PR)
            gone = await three.lock("kept", PR)
            assert gone.mode is PR
            for space in (one, three):
                space.stop()
            p.nodes[3].close()
            del p.spaces[3]
            await p.restart([1, KERNEL], left=(3,))
            await keep.convert(EX)
            await keep.unlock()
    play(guest, main)


@pytest.mark.parametrize("node", [1, 3], ids=["ours leads", "the kernel leads"])
def test_ours_crashes(guest: Guest, node: int) -> None:
    """Our node dies with locks, values and waiters; the kernel and our other node recover."""
    async def main() -> None:
        async with stage(guest, [node, 4], f"crash{node}") as p:
            dying, other = p.spaces[node], p.spaces[4]
            kept = {}
            for i in range(6):
                kept[i] = (await p.granted(NL, f"r{i}", flags=int(Flag.VALBLK)),
                           await other.lock(f"r{i}", NL, lvb=True))
                lock = await dying.lock(f"r{i}", EX, lvb=True)
                await lock.convert(EX if i % 2 else PR, value=f"value {i}".encode().ljust(32, b"\0"))
            asked = await p.kernel("lock", int(CW), "r1", int(Flag.CONVERT), kept[1][0])
            got = trio.Event()

            async def waiter() -> None:
                await kept[3][1].convert(EX)
                got.set()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(waiter)
                await trio.sleep(0.1)
                assert not got.is_set()
                dying.stop()
                p.nodes[node].close()
                del p.spaces[node]
                p.nodes[4].lose(other, node)
                await p.restart([KERNEL, 4])
            assert got.is_set()
            told = await p.ast()
            assert (told["kind"], told["status"]) == ("CAST", 0), (told, asked)
            assert any(isinstance(e, events.RecoverSlot) and e.nodeid == node for e in p.told[4])
            # What was written before the death is there still; under EX it is marked as in doubt.
            await kept[0][1].convert(PR)
            assert (kept[0][1].value or b"").startswith(b"value 0")
            for i in (5,):
                await kept[i][1].convert(PR)
                assert not kept[i][1].value_valid
    play(guest, main)


@pytest.mark.parametrize("node", [1, 3], ids=["ours leads", "the kernel leads"])
def test_recovery_with_many_names(guest: Guest, node: int) -> None:
    """The directory is rebuilt from lists of names that fill several packets, in both directions."""
    async def main() -> None:
        async with stage(guest, [node], f"many{node}") as p:
            space, names = p.spaces[node], [f"{i:04d}{'x' * 56}" for i in range(300)]
            ours = [await space.lock(name, EX) for name in names[:150]]
            theirs = [await p.granted(EX, name) for name in names[150:]]
            await p.restart(p.members())
            for name in (names[0], names[77], names[149]):
                await p.kernel("lock", int(PR), name, int(Flag.NOQUEUE))
                assert (await p.ast())["status"] == -11
            for name in (names[150], names[222], names[299]):
                with pytest.raises(WouldBlock):
                    await space.lock(name, PR, nowait=True)
            for lock in ours:
                await lock.unlock()
            for lkid in theirs:
                await p.released(lkid)
            for name in (names[0], names[299]):
                async with space.lock(name, EX, nowait=True):
                    pass
    play(guest, main)


def test_a_broken_connection(guest: Guest) -> None:
    """RST in the middle of traffic, from our side: both repeat what was not acknowledged."""
    async def main() -> None:
        async with stage(guest, [1], "reset") as p:
            space = p.spaces[1]
            lkid = await p.granted(NL, "there")
            for i in range(40):
                held = await space.lock(f"x{i}", EX)
                if i % 10 == 5:
                    for link in list(p.nodes[1].transport._peers[KERNEL].links):
                        p.nodes[1].transport._hang_up(link)
                other = await p.kernel("lock", int(PR), f"x{i}")
                assert await held.wait_blocking() == PR
                await held.unlock()
                assert (await p.ast())["status"] == 0
                await p.released(other)
            await p.released(lkid)
            assert p.nodes[1].transport.pump.describe(KERNEL)["refused"] == 0
    play(guest, main)


def test_the_kernel_releases_its_lockspace(guest: Guest) -> None:
    """Its FIN is answered when its membership ends, and both sides are closed."""
    async def main() -> None:
        async with stage(guest, [1], "parting") as p:
            async with p.spaces[1].lock("a", EX):
                pass
            lkid = await p.granted(PR, "a")
            assert lkid
            async with trio.open_nursery() as nursery:
                nursery.start_soon(p.kernel, "release")
                pump = p.nodes[1].transport.pump
                while pump.describe(KERNEL)["state"] != "CLOSE_WAIT":       # noqa: ASYNC110
                    await trio.sleep(0.01)
                p.spaces[1].stop()
                p.start([1], left=(KERNEL,))
                while pump.describe(KERNEL)["state"] != "CLOSED":           # noqa: ASYNC110
                    await trio.sleep(0.01)
            with trio.fail_after(LIMIT_S):
                await p.spaces[1].wait_running()
            async with p.spaces[1].lock("a", EX, nowait=True):
                pass
            # For the end of the stage.
            await p.kernel("join", [KERNEL], p.global_id)
            assert await p.kernel("joined") >= 0
    play(guest, main)


def test_the_kernel_crashes(guest: Guest) -> None:
    """The last step of this module: the machine stops dead while it holds locks that ours wait for."""
    async def main() -> None:
        async with stage(guest, [1, 3], "dead") as p:
            one, three = p.spaces[1], p.spaces[3]
            for i in range(4):
                await p.granted(EX, f"r{i}")
            # Mastered by the one that dies, and by us with the dead one waiting.
            mine = await one.lock("mine", EX)
            await p.kernel("lock", int(PR), "mine")
            assert await mine.wait_blocking() == PR
            got: list[str] = []

            async def waiter(space: Lockspace, name: str) -> None:
                async with space.lock(name, EX):
                    got.append(name)
            async with trio.open_nursery() as nursery:
                for i in range(4):
                    nursery.start_soon(waiter, (one, three)[i % 2], f"r{i}")
                await p.ast()                               # a blocking call: the requests are there
                guest.power_off()
                p.kernel_lives = False
                assert got == []
                for node_id, space in p.spaces.items():
                    p.nodes[node_id].lose(space, KERNEL)
                await p.restart([1, 3])
            assert sorted(got) == [f"r{i}" for i in range(4)]
            async with three.lock("r0", EX, nowait=True), one.lock("r1", EX, nowait=True):
                pass
            await mine.unlock()
    play(guest, main)
