"""What the cluster's side of a mount waits for, as the plain values that cman.explain reads. Pure.

Paths, names of processes and ages are left to the daemon, which has the session and the inodes (controlfs.waits).
"""

from __future__ import annotations

from typing import Any

from gfs2py.lock_dlm.plock import Plocks
from gfs2py.lock_dlm.ranges import Lock

LISTED_MAX = 64                 # waits, and locks that others want, of one mount


def _mode(lock: Lock) -> str:
    return "EX" if lock.write else "SH"


def plock_waits(machine: Plocks) -> list[dict[str, Any]]:
    """Processes of this node that wait for an fcntl lock which several nodes decide on, and who is in their way."""
    found = []
    for request, ahead, owner in machine.table.waiting():
        want = request.lock(machine.me)
        nodes = [{"node": held.member[0], "pid": held.pid, "mode": _mode(held)} for held in ahead]
        if owner is not None:
            nodes = [{"node": owner[0], "pid": 0, "mode": "EX"}]        # it has the file's table
        found.append({"kind": "plock", "type": "inode", "number": request.inode, "path": None, "mode": _mode(want),
                      "pid": request.pid, "comm": "", "command": "", "request": "SETLKW", "for_ms": 0, "held": [],
                      "nodes": nodes, "master": 0, "range": [request.start, request.end]})
    return found[:LISTED_MAX]


def plock_holds(machine: Plocks) -> list[dict[str, Any]]:
    """fcntl locks of this node's processes that somebody waits for."""
    return [{"kind": "plock", "type": "inode", "number": inode, "path": None,
             "mode": "EX" if any(lock.write for lock in locks) else "SH",
             "processes": [{"pid": pid, "comm": "", "command": "", "what": "fcntl"}
                           for pid in dict.fromkeys(lock.pid for lock in locks)]}
            for inode, locks in machine.table.wanted()][:LISTED_MAX]
