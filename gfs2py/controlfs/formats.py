"""The text of the larger files. Field by field the kernel's, so that what reads those reads these.

Source of the formats: fs/gfs2/glock.c (gfs2_dump_glock, gfs2_sbstats_seq_show), fs/dlm/debug_fs.c (print_format2,
waiters_read), kernel 6.1. Where the kernel prints the address of a holder's caller we print the request's name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from gfs2py.controlfs.holders import INODE, STATES, Holder, Requests, lock_name, nodes_of, waited_for
from gfs2py.controlfs.view import Busy, NodeLock, Resource, View

TYPES = ("type", "reserved", "nondisk", "inode", "rgrp", "meta", "iopen", "flock", "plock", "quota", "journal")
STATISTICS = ("srtt", "srttvar", "srttb", "srttvarb", "sirt", "sirtvar", "dlm", "queue")
COMMAND_CHARS_MAX = 200
NONDISK, FREEZE = 1, 2             # type and number of the lock by which nodes freeze
_LKB_STATUS = {"waiting": 1, "granted": 2, "convert": 3}


def comm_of(pid: int) -> str:
    """A process's short name as the kernel shows a holder's."""
    if pid <= 0:
        return "gfs2d"
    try:
        with open(f"/proc/{pid}/comm", errors="replace") as f:
            return f.read().rstrip("\n").replace("]", "?")
    except OSError:
        return "(ended)"


def command_of(pid: int) -> str:
    """A process's command line, cut short; empty when it has gone."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            words = f.read(COMMAND_CHARS_MAX * 4).rstrip(b"\0").split(b"\0")
    except OSError:
        return ""
    return " ".join(os.fsdecode(w) for w in words)[:COMMAND_CHARS_MAX]


def holder_line(holder: Holder, name: str) -> str:
    """One holder or waiter below its glock."""
    return f" H: s:{holder.state} f:{holder.flags} e:0 p:{holder.pid} [{name}] {holder.what}\n"


def glocks(view: View) -> bytes:
    """The file `glocks`: every glock, its holders and waiters, and what it protects."""
    asked = view.in_flight()
    requests = Requests(asked, view.root_number())
    out = []
    for piece in view.glocks(waited_for(asked), False):
        if isinstance(piece, bytes):
            out.append(piece)
            continue
        out.append(piece.head)
        out += [holder_line(h, comm_of(h.pid)).encode() for h in requests.holders(piece)]
        out.append(piece.tail)
    return b"".join(out)


def _described(holder: Holder) -> dict[str, Any]:
    return {"state": holder.state, "waits": holder.waits, "pid": holder.pid, "comm": comm_of(holder.pid),
            "command": command_of(holder.pid) if holder.pid else "", "request": holder.what, "for_ns": holder.age_ns}


def busy_glocks(view: View) -> list[dict[str, Any]]:
    """The glocks that are held, waited for or wanted elsewhere, as the lines of `glocks.json` have them."""
    asked = view.in_flight()
    requests = Requests(asked, view.root_number())
    our_nodeid = int(view.cluster().get("nodeid", 0))
    resources = {r.name: r for r in view.resources()}
    found = [_glock(view, piece, requests, resources, our_nodeid) for piece in view.glocks(waited_for(asked), True)
             if not isinstance(piece, bytes)]
    if (frozen := view.frozen()) is not None:
        found.append(_frozen(frozen, asked, nodes_of(resources.get(lock_name(NONDISK, FREEZE)), our_nodeid)))
    return found


def glocks_json(view: View) -> bytes:
    """The file `glocks.json`: one JSON line for each of them."""
    return "".join(json.dumps(one) + "\n" for one in busy_glocks(view)).encode()


def _glock(view: View, one: Busy, requests: Requests, resources: Mapping[bytes, Resource],
           our_nodeid: int) -> dict[str, Any]:
    return {
        "type": TYPES[one.type + 1] if one.type + 1 < len(TYPES) else str(one.type), "number": one.number,
        "state": STATES[one.state], "asked": STATES[one.asked] if one.asked >= 0 else None,
        "demote": STATES[one.demote] if one.demote >= 0 else None, "wanted_ns": one.waited_ns,
        "path": view.path(one.number) if one.type == INODE else None,
        "holders": [_described(h) for h in requests.holders(one)],
        "nodes": nodes_of(resources.get(lock_name(one.type, one.number)), our_nodeid)}


def _frozen(told: Mapping[str, Any], asked: Sequence[Mapping[str, Any]],
            nodes: dict[str, Any] | None) -> dict[str, Any]:
    """The freeze lock, as a glock that all who write wait for."""
    parked = frozenset(told["parked"])
    waiting = [Holder("SH", "W", int(one["pid"]), str(one["opcode"]), int(one["age_ns"])) for one in asked
               if one["unique"] in parked]
    return {"type": "nondisk", "number": FREEZE, "state": "EX" if told["by"] == "here" else "UN", "asked": None,
            "demote": None, "wanted_ns": 0, "path": None, "holders": [_described(h) for h in waiting], "nodes": nodes,
            "frozen": {"by": told["by"], "for_ns": told["for_ns"], "whole": told["state"] == 2}}


def sbstats(view: View) -> bytes:
    """The file `sbstats`: the statistics of locks summed per type. One column: nothing is counted per processor."""
    lines = [f"{TYPES[0]:<10} {'cpu':>8}: {0:>15}"]
    rows = [[0] * len(STATISTICS), *view.type_statistics()]
    for name, row in zip(TYPES[1:], rows, strict=False):
        lines += [f"{name:<10} {what:>8}: {value:>15}" for what, value in zip(STATISTICS, row, strict=True)]
    return "".join(line + "\n" for line in lines).encode()


def _lkb_line(lock: NodeLock, resource: Resource, now_ns: int) -> str:
    age_us = max(0, now_ns - lock.since_ns) // 1000 if lock.since_ns else 0
    return (f"{lock.lkid:x} {lock.nodeid if lock.kind != 'local' else 0} {lock.remid:x} {lock.pid} 0 {lock.exflags:x} "
            f"{lock.flags:x} {_LKB_STATUS.get(lock.queue, 0)} {lock.grmode} {lock.rqmode} {age_us} "
            f"{resource.master} {len(resource.name)} \"{os.fsdecode(resource.name)}\"\n")


def dlm_locks(view: View, clock_ns: Callable[[], int]) -> bytes:
    """The file `dlm_locks`: as dlm's debugfs *_locks, of those resources that two locks meet at. Who masters a resource
    knows the locks of all nodes."""
    header = "id nodeid remid pid xid exflags flags sts grmode rqmode time_us r_nodeid r_len r_name\n"
    now_ns = clock_ns()
    return (header + "".join(_lkb_line(lock, resource, now_ns) for resource in view.resources()
                             for lock in resource.locks if lock.queue in _LKB_STATUS)).encode()


def dlm_waiters(resources: Iterable[Resource]) -> bytes:
    """The file `dlm_waiters`: locks for which a message of another node is awaited."""
    return "".join(f"{lock.lkid:x} {lock.wait_type} {lock.nodeid} {os.fsdecode(resource.name)}\n"
                   for resource in resources for lock in resource.locks if lock.wait_type).encode()


def status(told: Mapping[str, Any], cluster: Mapping[str, Any], frozen: Mapping[str, Any] | None) -> bytes:
    """The file `status`, as far as there is something to say."""
    rows: Sequence[tuple[str, int]] = (
        ("Journal ID", int(told["jid"])), ("Spectator", int(told["spectator"])), ("Mounted RO", int(told["read_only"])),
        ("Withdrawn", int(told["withdrawn"] is not None)), ("Frozen", int(frozen is not None)),
        ("Locks blocked", int(cluster.get("blocked", 0))))
    why = [f"{'Withdrawn because:':<25} {told['withdrawn']}\n"] if told["withdrawn"] is not None else []
    return "".join([*(f"{name + ':':<25} {value}\n" for name, value in rows), *why]).encode()
