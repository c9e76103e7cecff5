"""Locks: what must hold of all nodes that live, whatever the lock managers on them believe.

1. Two nodes never rely on incompatible modes of one name; a node that is paused, frozen or cut off still counts until
   its power is off.
2. What is read is what was last written by anybody (or what reached the disk, if the writer died); a write is made on
   top of that. So no update is lost and no read is stale.
3. A lock value that is not marked void is that of the last version.
4. Recovery from the loss of a node starts when its power is off.
5. At rest (check_rest) the nodes agree who is the master of what and who holds what, and nobody waits.
"""

from __future__ import annotations

from typing import Any

from dlm.core.packets import LockMode
from sim.checkers import Violation
from sim.kernel import Kernel, SimNode

NL, PR, EX = LockMode.NL, LockMode.PR, LockMode.EX


class LockChecker:
    """The World of glock_user: it also is the shared disk."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.disk: dict[bytes, int] = {}
        # name -> node -> its life, and the mode that it relies on.
        self.held: dict[bytes, dict[int, tuple[int, int]]] = {}
        # What the one writer has in its cache: node, life, version.
        self.dirty: dict[bytes, tuple[int, int, int]] = {}
        self.last = 0
        self.grants = self.reads = self.values = self.recoveries = 0

    def life(self, node: int) -> int:
        """0 without power."""
        there = self.kernel.nodes[node]
        return there.life if there.process is not None else 0

    def holders(self, name: bytes) -> dict[int, int]:
        """Living nodes and their modes."""
        found = self.held.setdefault(name, {})
        for node in [n for n, (life, _) in found.items() if life != self.life(n)]:
            del found[node]
        return {node: mode for node, (_, mode) in found.items()}

    def current(self, name: bytes) -> int:
        if name in self.dirty:
            node, life, version = self.dirty[name]
            if life == self.life(node):
                return version
            del self.dirty[name]
        return self.disk.get(name, 0)

    # What nodes tell

    def rights(self, me: int, name: bytes, mode: int) -> None:
        if mode > NL:
            self.grants += 1
            for node, other in self.holders(name).items():
                if node != me and EX in (mode, other) and min(mode, other) > NL:
                    raise Violation(f"node {me} has {LockMode(mode).name} of {name!r} while node {node} has "
                                    f"{LockMode(other).name}")
        self.held.setdefault(name, {})[me] = (self.life(me), mode)

    def needs(self, me: int, name: bytes, mode: int, what: str) -> None:
        if self.holders(name).get(me, NL) < mode:
            raise Violation(f"node {me} {what} {name!r} without {LockMode(mode).name}")

    def read_disk(self, name: bytes) -> int:
        return self.disk.get(name, 0)

    def read(self, me: int, name: bytes, version: int) -> None:
        self.reads += 1
        self.needs(me, name, PR, "reads")
        if version != self.current(name):
            raise Violation(f"node {me} reads version {version} of {name!r}, the last is {self.current(name)}")

    def write(self, me: int, name: bytes, base: int) -> int:
        self.needs(me, name, EX, "writes")
        if base != self.current(name):
            raise Violation(f"node {me} writes {name!r} on top of {base}, the last is {self.current(name)}")
        self.last += 1
        self.dirty[name] = (me, self.life(me), self.last)
        return self.last

    def flush(self, me: int, name: bytes, version: int) -> None:
        self.needs(me, name, EX, "flushes")
        self.disk[name] = version
        self.dirty.pop(name, None)

    def value(self, me: int, name: bytes, version: int) -> None:
        self.values += 1
        if version != self.current(name):
            raise Violation(f"node {me}: the lock value of {name!r} is {version}, the last version "
                            f"{self.current(name)}, and it is not marked void")

    def recovers(self, me: int, failed: tuple[int, ...]) -> None:
        self.recoveries += 1
        for name in self.held:
            for node, mode in self.holders(name).items():
                if node in failed and mode > NL:
                    raise Violation(f"node {me} recovers from the loss of node {node}, which has "
                                    f"{LockMode(mode).name} of {name!r}")


def check_rest(nodes: list[SimNode]) -> None:
    """Nothing is under way any more."""
    masters: dict[bytes, set[int]] = {}
    copies: dict[tuple[int, int], tuple[int, int, str]] = {}
    owned: dict[tuple[int, int], tuple[int, int, str]] = {}
    for node in nodes:
        process: Any = node.process
        stats = process.space.statistics()
        if stats.waiting or stats.queued_messages:
            raise Violation(f"node {node.node_id} waits for replies that nobody sends: {stats}")
        for resource in process.space.dump():
            for lock in resource.locks:
                masters.setdefault(resource.name, set()).add(resource.master)
                if lock.kind == "master":
                    copies[lock.nodeid, lock.remid] = (lock.grmode, lock.rqmode, lock.queue)
                elif lock.kind == "process":
                    owned[node.node_id, lock.lkid] = (lock.grmode, lock.rqmode, lock.queue)
    for name, found in masters.items():
        if len(found) != 1:
            raise Violation(f"{name!r} has the masters {sorted(found)}")
    if copies != owned:
        raise Violation(f"masters say {sorted(copies.items())}, owners {sorted(owned.items())}")


def check_empty(nodes: list[SimNode]) -> None:
    """Everybody has let go."""
    for node in nodes:
        process: Any = node.process
        if process.space.statistics().locks:
            raise Violation(f"node {node.node_id}: locks are left: {process.space.dump()}")
