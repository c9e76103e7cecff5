"""The library for async programs, between nodes over real sockets."""

from __future__ import annotations

import errno
import random
from collections.abc import Awaitable, Callable

import pytest
import trio

from dlm.core.errors import DlmError
from dlm.core.packets import Flag, LockMode
from dlm.locks import Closed, Deadlock, Lock, Lockspace, Withdrawn, WouldBlock, blocking
from dlm_nodes import LIMIT_S, cluster, restart, until

NL, CR, PR, PW, EX = LockMode.NL, LockMode.CR, LockMode.PR, LockMode.PW, LockMode.EX


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        with trio.fail_after(LIMIT_S):
            await test()
    trio.run(limited)


def waiting(space: Lockspace) -> int:
    return sum(lk.queue == "waiting" for r in space.dump() for lk in r.locks)


def granted(space: Lockspace) -> int:
    return sum(lk.queue == "granted" for r in space.dump() for lk in r.locks)


def test_exclusion_between_nodes() -> None:
    async def main() -> None:
        async with cluster(2) as (one, two):
            for name in ("a", "b", "c", b"\0\xff" * 32):
                async with one.space.lock(name, EX) as lock:
                    assert (lock.mode, lock.lkid > 0) == (EX, True)
                    with pytest.raises(WouldBlock) as told:
                        await two.space.lock(name, CR, nowait=True)
                    assert told.value.errno == errno.EAGAIN
                    assert isinstance(told.value, BlockingIOError)
                assert lock.mode is LockMode.IV
                async with two.space.lock(name, PR), one.space.lock(name, PR, nowait=True):
                    pass
            await until(lambda: granted(one.space) == granted(two.space) == 0)
    run(main)


def test_a_waiter_gets_it_when_it_is_released() -> None:
    async def main() -> None:
        async with cluster(2) as (one, two), trio.open_nursery() as nursery:
            held = await one.space.lock("a", EX)
            got = trio.Event()

            async def waiter() -> None:
                async with two.space.lock("a", PR):
                    got.set()
            nursery.start_soon(waiter)
            assert await held.wait_blocking() == PR
            assert not got.is_set()
            await held.unlock()
            await got.wait()
    run(main)


def test_conversions_and_values() -> None:
    async def main() -> None:
        async with cluster(3) as (one, two, three):
            lock = await one.space.lock("v", EX, lvb=True)
            assert (lock.value, lock.value_valid) == (bytes(32), True)
            text = b"written under EX".ljust(32, b".")
            await lock.convert(CR, value=text)
            other = await two.space.lock("v", PR, lvb=True)
            assert other.value == text
            with pytest.raises(WouldBlock):
                await lock.convert(EX, nowait=True)
            assert lock.mode is CR
            await other.convert(NL)
            await lock.convert(PW)
            await lock.unlock(value=text.upper())
            async with three.space.lock("v", PR, lvb=True) as third:
                assert third.value == text.upper()
            await other.unlock()
    run(main)


def test_cancelling_takes_a_request_back() -> None:
    async def main() -> None:
        async with cluster(2) as (one, two):
            for holder, asker in ((one, two), (two, one), (one, one)):
                held = await holder.space.lock("a", EX)
                with trio.move_on_after(LIMIT_S) as scope:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(lambda space=asker.space: space.lock("a", PR).__aenter__())
                        await held.wait_blocking()
                        scope.cancel()
                assert scope.cancelled_caught
                await until(lambda: waiting(one.space) == waiting(two.space) == 0)
                await held.unlock()
                await until(lambda: granted(one.space) == granted(two.space) == 0)
    run(main)


def test_a_time_limit() -> None:
    async def main() -> None:
        async with cluster(2) as (one, two), one.space.lock("a", EX):
            with pytest.raises(trio.TooSlowError):
                with trio.fail_after(0.01):
                    await two.space.lock("a", EX)
            assert granted(two.space) == 0
    run(main)


def test_a_grant_that_is_faster_than_the_cancel_is_given_back() -> None:
    async def main() -> None:
        async with cluster(1) as (one,):
            held = await one.space.lock("a", EX)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: one.space.lock("a", PR).__aenter__())
                await held.wait_blocking()
                # Both before any task runs again: the grant is queued, the waiter wakes for the cancellation.
                one.space.machine.unlock(held.lkid)
                nursery.cancel_scope.cancel()
            assert granted(one.space) == waiting(one.space) == 0
    run(main)


def test_a_cancelled_conversion_keeps_what_it_had() -> None:
    async def main() -> None:
        async with cluster(2) as (one, two):
            shared, other = await one.space.lock("a", PR), await two.space.lock("a", PR)
            with trio.move_on_after(0.01):
                await shared.convert(EX)
            assert shared.mode is PR
            await other.convert(EX, nowait=False) if shared.mode is NL else await shared.convert(NL)
            await other.convert(EX)
            assert other.mode is EX
    run(main)


def test_another_task_takes_a_conversion_back() -> None:
    """At the master and away from it; what waited behind goes on, and nothing is left of the cancel."""
    async def main() -> None:
        async with cluster(2) as (one, two):
            for first, second in ((one, two), (two, one)):
                shared, other = await first.space.lock("a", PR), await second.space.lock("a", PR)
                told: list[OSError] = []

                async def convert(lock: Lock, told: list[OSError]) -> None:
                    try:
                        await lock.convert(EX)
                    except Withdrawn as error:
                        told.append(error)

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(convert, shared, told)
                    assert await other.wait_blocking() is EX
                    shared.cancel()
                assert [e.errno for e in told] == [errno.ECANCELED]
                assert shared.mode is PR
                shared.cancel()         # nothing is under way: nothing happens
                await shared.convert(NL)
                await other.convert(EX)
                await other.unlock()
                await shared.unlock()
                shared.cancel()
            assert granted(one.space) == waiting(one.space) == 0
    run(main)


def test_conversion_deadlock() -> None:
    async def main() -> None:
        async with cluster(2) as (one, two), trio.open_nursery() as nursery:
            a, b = await one.space.lock("a", PR), await two.space.lock("a", PR)
            nursery.start_soon(a.convert, EX)
            await b.wait_blocking()
            with pytest.raises(Deadlock) as told:
                await b.convert(EX)
            assert told.value.errno == errno.EDEADLK
            assert b.mode is PR
            await b.unlock()
            await until(lambda: a.mode is EX)
    run(main)


def test_blocking_calls() -> None:
    async def main() -> None:
        async with cluster(2) as (one, two), trio.open_nursery() as nursery:
            asked: list[LockMode] = []
            held = await one.space.lock("a", EX, on_blocking=asked.append)
            nursery.start_soon(lambda: two.space.lock("a", PR).__aenter__())
            await until(lambda: asked == [PR])
            await held.unlock()
            shared = await one.space.lock("b", PR)
            seen = []

            async def give_way() -> None:
                async for mode in blocking(shared):
                    seen.append(mode)
                    await shared.unlock()
            nursery.start_soon(give_way)
            async with two.space.lock("b", EX):
                assert seen == [EX]
    run(main)


def test_misuse_is_told() -> None:
    async def main() -> None:
        async with cluster(1) as (one,):
            with pytest.raises(DlmError) as told:
                await one.space.lock("x" * 65, EX)
            assert told.value.errno == errno.EINVAL
            lock = await one.space.lock("a", EX)
            with pytest.raises(ValueError, match="a value of 3 bytes"):
                await lock.convert(NL, value=b"abc")
            other = await one.space.lock("a", NL)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(other.convert, PR)
                await until(lambda: sum(x.queue == "convert" for r in one.space.dump() for x in r.locks))
                with pytest.raises(DlmError) as busy:
                    await other.convert(EX)
                assert busy.value.errno == errno.EBUSY
                nursery.cancel_scope.cancel()
            await lock.unlock()
            await lock.unlock()                     # releasing twice is fine
    run(main)


def test_closing_wakes_all_who_wait() -> None:
    async def main() -> None:
        async with cluster(2) as (one, two), trio.open_nursery() as nursery:
            held = await one.space.lock("a", EX)
            errors: list[BaseException] = []

            async def waiter() -> None:
                try:
                    await two.space.lock("a", PR)
                except Closed as e:
                    errors.append(e)
            nursery.start_soon(waiter)
            await held.wait_blocking()
            nursery.start_soon(two.node.leave, two.space)
            await until(lambda: errors)
            # The other member hears of it by its control, and answers the FIN.
            restart([one], left=(2,))
            with pytest.raises(Closed, match="lockspace test: left"):
                await two.space.lock("b", PR)
    run(main)


def test_a_member_dies() -> None:
    async def main() -> None:
        async with cluster(3) as (one, two, three):
            lock = await three.space.lock("v", EX, lvb=True)
            await lock.convert(NL, value=b"first".ljust(32, b"."))
            await lock.convert(EX)
            # A value lives on only with somebody who has a lock on it.
            kept = [await s.space.lock("v", NL, lvb=True) for s in (one, two)]
            got: list[Lock] = []

            async def waiter(space: Lockspace) -> None:
                got.append(await space.lock("v", PR, lvb=True))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(waiter, one.space)
                nursery.start_soon(waiter, two.space)
                await lock.wait_blocking()
                await three.die()
                assert not got
                for site in (one, two):
                    site.node.lose(site.space, 3)
                restart([one, two])
            assert [x.mode for x in got] == [PR, PR]
            # Who died held EX: what it had written since is lost.
            assert [x.value_valid for x in got] == [False, False]
            assert [type(e).__name__ for e in one.told][-3:] == ["RecoverPrep", "RecoverSlot", "RecoverDone"]
            for x in [*got, *kept]:
                await x.unlock()
    run(main)


@pytest.mark.parametrize("case", range(3))
def test_hammering(rng: random.Random, case: int) -> None:
    """Tasks on three nodes count under EX, and give up at random: no count is lost, no lock is left."""
    async def main() -> None:
        rng.seed(f"{rng.random()}/{case}")
        async with cluster(3) as sites:
            counters = dict.fromkeys("abc", 0)
            inside = dict.fromkeys("abc", 0)
            expected = dict.fromkeys("abc", 0)

            async def worker(space: Lockspace, seed: float) -> None:
                own = random.Random(seed)
                for _ in range(40):
                    name = own.choice("abc")
                    with trio.move_on_after(own.choice([0, 0.001, 0.01, 10])):
                        async with space.lock(name, own.choice([NL, CR, PR, EX]),
                                              flags=own.choice([Flag(0), Flag.NOORDER])) as lock:
                            if lock.mode is not EX:
                                try:
                                    await lock.convert(EX, flags=own.choice([Flag(0), Flag.QUECVT]))
                                except Deadlock:
                                    continue
                            inside[name] += 1
                            assert inside[name] == 1
                            before = counters[name]
                            if own.random() < 0.3:
                                with trio.CancelScope(shield=True):
                                    await trio.lowlevel.checkpoint()
                            counters[name] = before + 1
                            expected[name] += 1
                            inside[name] -= 1
            async with trio.open_nursery() as nursery:
                for site in sites:
                    for _ in range(3):
                        nursery.start_soon(worker, site.space, rng.random())
            assert counters == expected
            assert sum(counters.values()) > 50
            await until(lambda: all(granted(s.space) == waiting(s.space) == 0 for s in sites))
    run(main)


def test_transactions_in_a_circle_of_three_nodes() -> None:
    """Nobody has a time limit: the youngest is told, the others get through, and so does it when it tries again."""
    async def main() -> None:
        async with cluster(3) as sites:
            ready = trio.Event()
            first: list[Lock] = []
            told: list[int] = []
            done: list[int] = []

            async def one(at: int) -> None:
                space = sites[at].space
                transaction = space.transaction(born_ns=at + 1)
                async with transaction:
                    first.append(await transaction.lock(f"name {at}", EX))
                    if len(first) == 3:
                        ready.set()
                    await ready.wait()
                    try:
                        await transaction.lock(f"name {(at + 1) % 3}", PR)
                    except Deadlock:
                        told.append(at)
                assert not transaction.locks
                async with transaction.again() as transaction:
                    assert transaction.party.born_ns == at + 1
                    await transaction.lock(f"name {(at + 1) % 3}", PR)
                done.append(at)

            async with trio.open_nursery() as nursery:
                for at in range(3):
                    nursery.start_soon(one, at)
            assert (told, sorted(done)) == ([2], [0, 1, 2])
            assert [s.space.detector.found for s in sites] == [0, 0, 1]
            await until(lambda: all(granted(s.space) == 0 for s in sites))
    run(main)


def test_a_transaction_that_waits_for_itself_and_locks_without_one() -> None:
    async def main() -> None:
        async with cluster(2) as (one, two):
            async with one.space.transaction() as t:
                await t.lock("a", EX)
                with pytest.raises(Deadlock) as caught:
                    await t.lock("a", PR)
                assert caught.value.errno == errno.EDEADLK
                async with two.space.transaction() as other:
                    held = await other.lock("b", PR)
                    with pytest.raises(Deadlock):
                        await (await other.lock("b", CR)).convert(EX)
                    assert held.mode is PR
            # Programs that know what they do: nobody's waits are looked at.
            plain = await one.space.lock("a", EX)
            with trio.move_on_after(0.05):
                await one.space.lock("a", EX)
            assert one.space.detector.next_timer() is None
            await plain.unlock()
    run(main)
