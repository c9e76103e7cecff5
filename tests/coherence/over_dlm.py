"""The lock manager itself instead of the tests' lock master: lockspaces on loopback, one per node of the Cluster."""

from __future__ import annotations

import threading

import trio

from dlm_nodes import LIMIT_S, Site, cluster, restart
from gfs2py.lock_dlm._manager import DlmLocks


class DlmMaster:
    """The LockMaster's part played by dlm: nodes 1 to `count` of one lockspace, in a thread of their own."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.sites: list[Site] = []
        self.locks: dict[int, DlmLocks] = {}
        self.dead: set[int] = set()
        self._up = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="dlm nodes")

    def __enter__(self) -> DlmMaster:
        self._thread.start()
        assert self._up.wait(LIMIT_S)
        if self._error is not None:
            raise self._error
        return self

    def __exit__(self, *_: object) -> None:
        if self._error is None:
            self._token.run_sync_soon(self._end.set)
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            trio.run(self._main)
        except BaseException as e:
            self._error = e
            raise
        finally:
            self._up.set()

    async def _main(self) -> None:
        self._token, self._end = trio.lowlevel.current_trio_token(), trio.Event()
        async with cluster(self.count) as self.sites:
            self._up.set()
            await self._end.wait()

    @property
    def messages(self) -> int:
        return sum(s.space.machine.statistics().sent for n, s in enumerate(self.sites) if n not in self.dead)

    def join(self, node: int) -> DlmLocks:
        self.locks[node] = DlmLocks(self.sites[node].space.machine)
        return self.locks[node]

    def leave(self, node: int) -> None:
        """Its locks are given back; its lockspace stays for the next mount."""
        del self.locks[node]

    def crash(self, node: int) -> None:
        """Without a word; what the others are granted from then on is kept back."""
        self.dead.add(node)
        del self.locks[node]
        for locks in self.locks.values():
            locks.block()

        async def die() -> None:
            await self.sites[node].die()
            restart([s for n, s in enumerate(self.sites) if n not in self.dead])
        trio.from_thread.run(die, trio_token=self._token)

    def release(self, node: int) -> None:
        """Its journal was replayed."""
        for locks in self.locks.values():
            locks.unblock()
