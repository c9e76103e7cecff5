"""Who waits for which lock on a mount, who of this node is in others' way: as plain values for explanations. No I/O but
a look at /proc for names of processes.

The cluster's side of the mount knows the fcntl locks of all nodes; here they get their paths, names and ages. The form
of a wait and of a hold is cman.explain's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gfs2py.controlfs import formats
from gfs2py.controlfs.view import View

WAITS_MAX = 64
NS_PER_MS = 1_000_000
_LOCKING = "SETLKW"


def _process(told: Mapping[str, Any]) -> dict[str, Any]:
    return {"pid": told["pid"], "comm": told["comm"], "command": told["command"], "what": told["request"]}


def _glock_waits(glock: Mapping[str, Any]) -> list[dict[str, Any]]:
    nodes = glock["nodes"]
    others = [] if nodes is None else [g for g in nodes["granted"] if g["node"] != nodes["here"]]
    held = [_process(h) for h in glock["holders"] if not h["waits"]]
    return [{"kind": "flock" if glock["type"] == "flock" else "glock", "type": glock["type"],
             "number": glock["number"], "path": glock["path"], "mode": h["state"], "pid": h["pid"], "comm": h["comm"],
             "command": h["command"], "request": h["request"], "for_ms": h["for_ns"] // NS_PER_MS, "held": held,
             "nodes": others, "master": 0 if nodes is None else nodes["master"]}
            for h in glock["holders"] if h["waits"]]


def _glock_hold(glock: Mapping[str, Any]) -> dict[str, Any] | None:
    """What another node wants and does not have yet."""
    if glock["demote"] is None:
        return None
    return {"kind": "flock" if glock["type"] == "flock" else "glock", "type": glock["type"],
            "number": glock["number"], "path": glock["path"], "mode": glock["state"],
            "processes": [_process(h) for h in glock["holders"] if not h["waits"]]}


def _named(view: View, one: dict[str, Any]) -> dict[str, Any]:
    """With path and names of processes."""
    for process in one.get("processes", ()):
        process.update(comm=formats.comm_of(process["pid"]), command=formats.command_of(process["pid"]))
    return {**one, "path": view.path(one["number"])}


def _plock_waits(view: View, told: list[dict[str, Any]], flocks: frozenset[int]) -> list[dict[str, Any]]:
    """Those that several nodes decide on, and what of this node waits for itself. flocks: processes that wait for a
    flock: the request has the same name."""
    root = view.root_number()
    asked = [one for one in view.in_flight() if one["opcode"] == _LOCKING]
    found = []
    for one in asked:
        number = root if one["node"] == 1 else one["node"]
        known = next((w for w in told if (w["pid"], w["number"]) == (one["pid"], number)), None)
        if known is None and one["pid"] in flocks:
            continue
        wait = known or {
            "kind": "plock", "type": "inode", "number": number, "mode": "EX", "request": _LOCKING, "nodes": [],
            "held": [{"pid": 0, "comm": "another process", "command": "", "what": ""}], "master": 0}
        found.append({**wait, "pid": one["pid"], "for_ms": one["age_ns"] // NS_PER_MS, "path": view.path(number),
                      "comm": formats.comm_of(one["pid"]), "command": formats.command_of(one["pid"])})
    return found


def look(view: View, plock_waits: list[dict[str, Any]], plock_holds: list[dict[str, Any]]) -> dict[str, Any]:
    """For any thread; waits for nothing."""
    glocks = formats.busy_glocks(view)
    waits = [wait for glock in glocks for wait in _glock_waits(glock)]
    flocks = frozenset(w["pid"] for w in waits if w["kind"] == "flock")
    holds = [hold for glock in glocks if (hold := _glock_hold(glock)) is not None]
    for one in (*waits, *holds):
        if one["kind"] == "flock":
            one["path"] = view.path(one["number"])
    waits += _plock_waits(view, plock_waits, flocks)
    holds += [_named(view, one) for one in plock_holds]
    waits.sort(key=lambda w: -w["for_ms"])
    return {"mount_point": view.mount_point, "withdrawn": view.describe()["withdrawn"],
            "percent": view.replay_percent(), "waits": waits[:WAITS_MAX], "holds": holds[:WAITS_MAX]}
