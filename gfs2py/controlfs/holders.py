"""Who holds a glock and who waits for it, put together from what the parts of a mount know.

A request under way has a pid and, in a worker's hands, a thread; a glock knows the thread that holds it exclusively and
the numbers of parked requests; a thread that sleeps says what for. The lock manager knows the nodes. From these every
wait gets its holder, as far as this node can know it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gfs2py.controlfs.view import Busy, Resource

STATES = ("UN", "SH", "DF", "EX")
DLM_MODES = ("NL", "CR", "CW", "PR", "PW", "EX")
INODE, RGRP = 2, 3
GL_TRY, GL_NOEXP = 1, 2                 # as the engine's
_KINDS = {"inode lock": INODE, "resource group lock": RGRP}
# What an operation needs of the inode it is about.
_SHARING = frozenset("""LOOKUP GETATTR READLINK READ READDIR READDIRPLUS OPEN OPENDIR GETXATTR LISTXATTR LSEEK STATFS
    ACCESS STATX""".split())


@dataclass(frozen=True, slots=True)
class Holder:
    """A holder (flags have H) or waiter (W). pid 0: gfs2d's own thread, or a process that is not known."""

    state: str
    flags: str
    pid: int
    what: str               # the request, or the thread's work
    age_ns: int = 0

    @property
    def waits(self) -> bool:
        return "W" in self.flags


def waited_for(requests: Iterable[Mapping[str, Any]]) -> frozenset[tuple[int, int]]:
    """Types and numbers of the glocks that threads sleep for."""
    return frozenset((_KINDS[one["waits_for"]["kind"]], one["waits_for"]["what"]) for one in requests
                     if one["waits_for"] is not None and one["waits_for"]["kind"] in _KINDS)


class Requests:
    """The requests under way, by what they can be found by. `root`: the inode that node 1 stands for."""

    def __init__(self, requests: Sequence[Mapping[str, Any]], root: int) -> None:
        self.all = requests
        self._by_unique = {one["unique"]: one for one in requests}
        self._by_thread = {one["tid"]: one for one in requests if one["tid"]}
        self._root = root

    def _inode(self, one: Mapping[str, Any]) -> int:
        return self._root if one["node"] == 1 else int(one["node"])

    def holders(self, glock: Busy) -> list[Holder]:
        """Of one glock: holders first, then waiters, the longest first."""
        return [*self._held(glock), *sorted(self._waiting(glock), key=lambda h: -h.age_ns)]

    def _held(self, glock: Busy) -> list[Holder]:
        if glock.writer:
            one = self._by_thread.get(glock.writer)
            return [_of(one, "EX", "H") if one is not None else Holder("EX", "H", 0, "gfs2d")]
        if not glock.readers:
            return []
        # Sharers leave no name; of those at work on this inode as many as there are holders.
        found = [_of(one, "SH", "H") for one in self.all if one["state"] == "running" and glock.type == INODE
                 and self._inode(one) == glock.number and not self._sleeps_for(one, glock)][:glock.readers]
        return found + [Holder("SH", "H", 0, "gfs2d")] * (glock.readers - len(found))

    def _waiting(self, glock: Busy) -> list[Holder]:
        found = []
        for unique, mode, flags in glock.waiters:
            letters = ("t" if flags & GL_TRY else "") + ("e" if flags & GL_NOEXP else "") + "W"
            one = self._by_unique.get(unique)
            found.append(_of(one, STATES[mode], letters) if one is not None
                         else Holder(STATES[mode], letters, 0, "gfs2d"))
        found += [_of(one, "SH" if one["opcode"] in _SHARING else "EX", "W") for one in self.all
                  if self._sleeps_for(one, glock)]
        return found

    @staticmethod
    def _sleeps_for(one: Mapping[str, Any], glock: Busy) -> bool:
        waits = one["waits_for"]
        return waits is not None and (_KINDS.get(waits["kind"]), waits["what"]) == (glock.type, glock.number)


def _of(one: Mapping[str, Any], state: str, flags: str) -> Holder:
    return Holder(state, flags, int(one["pid"]), str(one["opcode"]), int(one["age_ns"]))


def lock_name(kind: int, number: int) -> bytes:
    """What the lock manager calls a glock: 24 columns."""
    return b"%8x%16x" % (kind, number)


def nodes_of(resource: Resource | None, our_nodeid: int) -> dict[str, Any] | None:
    """The nodes at a resource: {"here", "master", "granted": [{"node", "mode", "pid"}], "waiting": [...]}.

    Only the master knows all of them; elsewhere there is our own lock and the master's number (0: not known yet).
    """
    if resource is None:
        return None
    granted, waiting = [], []
    for lock in resource.locks:
        node = lock.nodeid if lock.kind == "master" else our_nodeid
        if lock.grmode > 0:
            granted.append({"node": node, "mode": DLM_MODES[lock.grmode], "pid": lock.pid})
        if lock.queue != "granted" and lock.rqmode >= 0:
            waiting.append({"node": node, "mode": DLM_MODES[lock.rqmode], "pid": lock.pid})
    return {"here": our_nodeid, "master": resource.master, "granted": granted, "waiting": waiting}
