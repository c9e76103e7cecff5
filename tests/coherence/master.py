"""A lock manager for several mounts in one process: one lock master with the rules of DLM locks.

Modes are GFS2's: 0 (a DLM NL lock), 1 SH (PR), 3 EX. Each resource has its granted locks, a queue of conversions and a
queue of new requests, both in order; who stands in the way of a waiter is told once (BAST). Messages take times drawn
from a seed, in both directions; those of one lock stay in order, those of different locks overtake each other.
"""

from __future__ import annotations

import heapq
import random
import select
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from gfs2py.engine._lockqueue import LockQueue, LockRequest

UN, SH, EX = 0, 1, 3
TRY, TRY_1CB, NOEXP, QUECVT = 1, 2, 4, 8
EAGAIN = 11

Key = tuple[int, int]                   # node, lock id


def compatible(a: int, b: int) -> bool:
    return a == UN or b == UN or (a == SH and b == SH)


@dataclass(slots=True)
class Waiter:
    key: Key
    want: int
    flags: int


@dataclass(slots=True)
class Resource:
    name: tuple[int, int]
    granted: dict[Key, int] = field(default_factory=dict)
    converting: list[Waiter] = field(default_factory=list)
    waiting: list[Waiter] = field(default_factory=list)
    told: dict[Key, int] = field(default_factory=dict)      # to which mode a holder was asked to go down
    lvb: bytes | None = None


class LockMaster:
    """Answers the queues of all mounts from a thread of its own; use it as a context manager."""

    def __init__(self, seed: int, *, delay_s: float = 0.0) -> None:
        self.rng = random.Random(seed)
        self.delay_s = delay_s
        self.queues: dict[int, LockQueue] = {}
        self.names: dict[Key, Resource] = {}
        self.resources: dict[tuple[int, int], Resource] = {}
        self.heap: list[tuple[float, int, Callable[[], None]]] = []
        self.last: dict[tuple[Key, bool], float] = {}       # when the last message of a lock arrives, by direction
        self.counter = 0
        self.dead: set[int] = set()
        self.messages = 0
        self.lock = threading.Lock()
        self.ended = False
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, name="lock master")

    def __enter__(self) -> LockMaster:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended = True
        self.thread.join()
        if self.error is not None:
            raise self.error

    # -- nodes

    def join(self, node: int) -> LockQueue:
        """A queue for a mount of this node."""
        queue = LockQueue()
        with self.lock:
            self.queues[node] = queue
        return queue

    def leave(self, node: int) -> None:
        """The node's mount has ended: what it gave back counts, the rest is void."""
        with self.lock:
            self._take(node)
            self._due(everything=True)
            self._purge(node)
            self.queues.pop(node, None)

    def crash(self, node: int) -> None:
        """The node is gone. What it held stands until its journal has been replayed, except for the replay (NOEXP)."""
        with self.lock:
            self.queues.pop(node, None)
            self.dead.add(node)

    def release(self, node: int) -> None:
        """Its journal has been replayed."""
        with self.lock:
            self.dead.discard(node)
            self._purge(node)

    def _purge(self, node: int) -> None:
        for resource in list(self.resources.values()):
            for key in [k for k in resource.granted if k[0] == node]:
                if resource.granted.pop(key) == EX:
                    resource.lvb = None
            for queue in (resource.converting, resource.waiting):
                queue[:] = [w for w in queue if w.key[0] != node]
            self._advance(resource)
        for key in [k for k in self.names if k[0] == node]:
            del self.names[key]

    # -- the thread

    def _run(self) -> None:
        try:
            while not self.ended:
                with self.lock:
                    held = list(self.queues.values())       # their files stay open while we wait for them
                    fds = {q.fileno(): n for n, q in self.queues.items()}
                    due = self.heap[0][0] if self.heap else None
                timeout = 0.02 if due is None else min(0.02, max(0.0, due - time.monotonic()))
                ready = select.select(list(fds), [], [], timeout)[0]
                del held
                with self.lock:
                    for fd in ready:
                        self._take(fds[fd])
                    self._due()
        except BaseException as e:
            self.error = e
            raise

    def _take(self, node: int) -> None:
        if node in self.queues:
            for request in self.queues[node].take():
                self._later((node, request.id), False, lambda r=request: self._request(node, r))  # type: ignore[misc]

    def _later(self, key: Key, answer: bool, act: Callable[[], None]) -> None:
        """Runs `act` after a delay, not before what was sent earlier for this lock."""
        self.messages += 1
        delay = 0.0
        if self.delay_s and self.rng.random() < 0.5:
            delay = self.rng.expovariate(1 / self.delay_s)
        at = max(time.monotonic() + min(delay, 20 * self.delay_s), self.last.get((key, answer), 0.0))
        self.last[key, answer] = at
        self.counter += 1
        heapq.heappush(self.heap, (at, self.counter, act))

    def _due(self, *, everything: bool = False) -> None:
        now = time.monotonic()
        while self.heap and (self.heap[0][0] <= now or everything):
            heapq.heappop(self.heap)[2]()

    # -- to the nodes

    def _grant(self, key: Key, resource: Resource, mode: int) -> None:
        queue = self.queues.get(key[0])
        lvb = resource.lvb
        resource.told.pop(key, None)
        if queue is not None:
            self._later(key, True, lambda: queue.granted(key[1], lvb))

    def _refuse(self, key: Key) -> None:
        queue = self.queues.get(key[0])
        if queue is not None:
            self._later(key, True, lambda: queue.refused(key[1], EAGAIN))

    def _tell(self, key: Key, resource: Resource, leave: int) -> None:
        queue = self.queues.get(key[0])
        if resource.told.get(key, EX) <= leave:
            return
        resource.told[key] = leave
        if queue is not None:
            self._later(key, True, lambda: queue.wanted(key[1], leave))

    # -- the rules

    def _request(self, node: int, r: LockRequest) -> None:
        if node not in self.queues:
            return
        key = (node, r.id)
        resource = self.resources.setdefault((r.type, r.number), Resource((r.type, r.number)))
        held = resource.granted.get(key)
        if r.lvb is not None and held == EX:
            resource.lvb = r.lvb
        if r.unlock:
            resource.granted.pop(key, None)
            self.names.pop(key, None)
            self._advance(resource)
            return
        self.names[key] = resource
        waiter = Waiter(key, r.want, r.flags)
        if held is not None and r.want <= held:
            resource.granted[key] = r.want
            self._grant(key, resource, r.want)
            self._advance(resource)
            return
        if self._may(resource, waiter, converts=held is not None):
            resource.granted[key] = r.want
            self._grant(key, resource, r.want)
        elif r.flags & (TRY | TRY_1CB):
            self._refuse(key)
            if r.flags & TRY_1CB:
                self._complain(resource, waiter)
        else:
            (resource.waiting if held is None else resource.converting).append(waiter)
            self._complain(resource, waiter)
        self._check(resource)

    def _others(self, resource: Resource, waiter: Waiter) -> list[tuple[Key, int]]:
        return [(k, m) for k, m in resource.granted.items()
                if k != waiter.key and not (waiter.flags & NOEXP and k[0] in self.dead)]

    def _may(self, resource: Resource, waiter: Waiter, *, converts: bool) -> bool:
        if not all(compatible(waiter.want, mode) for _, mode in self._others(resource, waiter)):
            return False
        if converts:
            return not (waiter.flags & QUECVT and resource.converting)
        return not (resource.converting or resource.waiting)

    def _complain(self, resource: Resource, waiter: Waiter) -> None:
        for key, mode in self._others(resource, waiter):
            if not compatible(waiter.want, mode):
                self._tell(key, resource, SH if waiter.want == SH else UN)

    def _advance(self, resource: Resource) -> None:
        """Grants from the queues, in order; whoever is in the way of the next ones is told."""
        for queue in (resource.converting, resource.waiting):
            while queue:
                waiter = queue[0]
                if not all(compatible(waiter.want, m) for _, m in self._others(resource, waiter)):
                    break
                queue.pop(0)
                resource.granted[waiter.key] = waiter.want
                self._grant(waiter.key, resource, waiter.want)
            if queue:
                break
        for waiter in resource.converting + resource.waiting:
            self._complain(resource, waiter)
        self._check(resource)

    def _check(self, resource: Resource) -> None:
        """Granted modes go together."""
        modes = [m for k, m in resource.granted.items() if m != UN and k[0] not in self.dead]
        assert EX not in modes or len(modes) == 1, (resource.name, resource.granted)
