"""The fence domain's hands: does what cman.fence.domain says, in tasks of the daemon."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import trio

from cman.fence.domain import FenceOver, FenceStart, FenceStop
from cman.fence.override import listen
from cman.fence.plan import Step
from cman.fence.run import Outcome, Runner

log = logging.getLogger("cman.FENCE")


class Owner(Protocol):
    """The daemon, as the shell sees it."""

    def fence_result(self, nodeid: int, success: bool, says: str) -> None: ...

    def vouched(self, name: str) -> None: ...               # somebody says that this node is off


class Shell:
    """Tasks run while `run` does; what comes before is kept."""

    def __init__(self, owner: Owner, override_path: Path, runner: Runner | None = None) -> None:
        self._owner, self._override_path = owner, override_path
        self._runner = runner or Runner()
        self._nursery: trio.Nursery | None = None
        self._early: list[FenceStart] = []
        self._attempts: dict[int, trio.CancelScope] = {}
        self._waiting: dict[int, list[Callable[[FenceOver], None]]] = {}
        self._listening: trio.CancelScope | None = None

    async def run(self) -> None:
        """Until cancelled; agents that run then are killed."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for effect in self._early:
                self.start(effect)
            self._early.clear()
            await trio.sleep_forever()

    def start(self, effect: FenceStart) -> None:
        if self._nursery is None:
            self._early.append(effect)
            return
        scope = self._attempts[effect.nodeid] = trio.CancelScope()
        self._nursery.start_soon(self._attempt, effect, scope)

    def stop(self, effect: FenceStop) -> None:
        if (scope := self._attempts.pop(effect.nodeid, None)) is not None:
            scope.cancel()
        self._early = [e for e in self._early if e.nodeid != effect.nodeid]

    def over(self, effect: FenceOver) -> None:
        for tell in self._waiting.pop(effect.nodeid, ()):
            tell(effect)

    def need_word(self, needed: bool) -> None:
        """Whether a human may say that a node is off: the FIFO is there only then."""
        if needed and self._listening is None and self._nursery is not None:
            self._listening = trio.CancelScope()
            self._nursery.start_soon(self._listen, self._listening)
        elif not needed and self._listening is not None:
            self._listening.cancel()
            self._listening = None

    async def wait(self, nodeid: int) -> FenceOver:
        """How the attempt that is under way, or about to be, ends."""
        send, receive = trio.open_memory_channel[FenceOver](1)
        waiting = self._waiting.setdefault(nodeid, [])
        waiting.append(send.send_nowait)
        try:
            return await receive.receive()
        finally:
            if send.send_nowait in waiting:
                waiting.remove(send.send_nowait)

    async def unfence(self, steps: Sequence[Step]) -> Outcome:
        return await self._runner.all_of(steps)

    async def _attempt(self, effect: FenceStart, scope: trio.CancelScope) -> None:
        with scope:
            outcome = await self._runner.fence(effect.methods)
        if self._attempts.get(effect.nodeid) is scope:
            del self._attempts[effect.nodeid]
            self._owner.fence_result(effect.nodeid, outcome.success, outcome.says)

    async def _listen(self, scope: trio.CancelScope) -> None:
        with scope:
            await listen(self._override_path, self._owner.vouched)
