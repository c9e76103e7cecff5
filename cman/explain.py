"""Why something is blocked: from facts of all nodes to causes, each with what it blocks and what can be done. Pure.

Facts are maps as cman.facts makes them, with what the node's processes say of themselves:

    node       cman.facts.node_facts, and "clients": [client], "qdisk": cman.views.QdiskView as a map, or None
    client     {"pid", "comm", "subsystems": [name], "silent_ms": n or None,
               "answer": {"spaces": [space], "mounts": [mount]}}
    space      a lockspace: {"name", "running", "phase", "for_ms", "wants": "" | "quorum" | "fencing" | "kernels",
               "wanted": [nodeid], "waits_for": [nodeid]}
    mount      {"table", "mount_point", "stage": "joining" | "mounting" | "mounted", "stage_ms", "joining": text,
               "first": bool, "blocked": bool, "journals": [{"jid", "percent" or None, "ours", "for_ms"}],
               "plocks_wait": [nodeid], "withdrawn": text or None, "frozen_by": text, "waits": [wait], "holds": [hold]}
    wait       {"kind": "glock" | "plock" | "flock", "type", "number", "path" or None, "mode", "pid", "comm", "command",
               "request", "for_ms", "held": [process], "nodes": [{"node", "pid", "mode"}], "master": nodeid}
    hold       {"kind", "type", "number", "path", "mode", "processes": [process]}      that others want
    process    {"pid", "comm", "command", "what"}

What another version does not say is missing; what it says more is not looked at. A cause is told once, however many
nodes see it, with everything that it blocks; who only waits for a node that waits itself is counted to that one's
cause.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

LOCK_WAIT_MS = 1000             # waits for locks are normal up to here
FINDINGS_MAX = 200

Facts = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Silent:
    """Somebody who did not answer. node: where it is; pid 0: not known."""

    node: str
    name: str
    pid: int
    for_ms: int


@dataclass(frozen=True, slots=True)
class Finding:
    """One cause. what: in a few words; waits_for: what has to happen; blocked: what it is in the way of; do: commands
    and advice for an administrator; for_ms: None when nobody knows."""

    kind: str
    what: str
    waits_for: str
    for_ms: int | None
    blocked: tuple[str, ...] = ()
    do: tuple[str, ...] = ()

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def duration(ms: int) -> str:
    """For people: "0.4 s", "12 s", "3 min 20 s", "2 h 5 min"."""
    seconds = ms / 1000
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole // 60 % 60} min"


def lines(findings: Sequence[Finding]) -> list[str]:
    """What `cman_tool why` prints."""
    if not findings:
        return ["Nothing is blocked."]
    told = []
    for one in findings:
        age = "" if one.for_ms is None else f" (for {duration(one.for_ms)})"
        told += [f"{one.what}{age}", f"    waits for: {one.waits_for}"]
        told += [f"    blocked:   {what}" for what in one.blocked]
        told += [f"    do:        {what}" for what in one.do]
    return told


def short(findings: Sequence[Finding]) -> list[str]:
    """A line for each, for `cman_tool status`."""
    return [f"{one.what}{'' if one.for_ms is None else f' for {duration(one.for_ms)}'}: waits for {one.waits_for}"
            for one in findings]


def joined(names: Iterable[str]) -> str:
    """"a", "a and b", "a, b and c"."""
    found = list(names)
    return f"{', '.join(found[:-1])} and {found[-1]}" if len(found) > 1 else "".join(found)


def findings_of(told: Facts) -> list[Finding]:
    """From the daemon's reply to "why"."""
    return explain(told["nodes"], [Silent(str(s["node"]), str(s["name"]), int(s["pid"]), int(s["for_ms"]))
                                   for s in told["silent"]])


@dataclass(slots=True)
class _World:
    """The facts, and what was found to be blocked by what."""

    nodes: list[Facts]
    names: dict[int, str] = field(default_factory=dict)
    blocked: dict[tuple[Any, ...], list[str]] = field(default_factory=dict)

    def name(self, nodeid: int) -> str:
        return self.names.get(nodeid, f"node {nodeid}")

    def node(self, nodeid: int) -> Facts | None:
        return next((n for n in self.nodes if n.get("nodeid") == nodeid), None)

    def block(self, cause: tuple[Any, ...], what: str) -> None:
        known = self.blocked.setdefault(cause, [])
        if what not in known:
            known.append(what)

    def answers(self) -> Iterator[tuple[Facts, Facts, Facts]]:
        """Node, client, and what the client says."""
        for node in self.nodes:
            for client in node.get("clients") or ():
                if isinstance(client.get("answer"), Mapping):
                    yield node, client, client["answer"]

    def mounts(self) -> Iterator[tuple[Facts, Facts]]:
        for node, _, answer in self.answers():
            for mount in answer.get("mounts") or ():
                yield node, mount


def explain(nodes: Iterable[Facts], silent: Sequence[Silent] = ()) -> list[Finding]:
    """All causes, those first that explain most."""
    world = _World(sorted(nodes, key=lambda n: int(n.get("nodeid", 0))))
    for node in world.nodes:
        world.names.update({int(n): str(name) for n, name in (node.get("names") or {}).items()})
        world.names[int(node["nodeid"])] = str(node["name"])
    _find_blocked(world)
    found = [*_silent(world, silent), *_joining(world), *_quorum(world), *_disks(world), *_fences(world),
             *_lockspaces(world), *_journals(world), *_mounting(world), *_withdrawn(world), *_locks(world),
             *_storing(world), *_over_budget(world)]
    return found[:FINDINGS_MAX]


# ---- what is blocked by what ----------------------------------------------------------------------------------------

def _space_causes(world: _World, node: Facts, space: Facts, follow: bool = True) -> list[tuple[Any, ...]]:
    """Why a lockspace does not run; empty when it does."""
    if space.get("running"):
        return []
    if not node.get("quorate") or space.get("wants") == "quorum":
        return [("quorum", tuple(node.get("members") or ()))]
    if space.get("wants") in ("fencing", "kernels"):
        kind = "fence" if space["wants"] == "fencing" else "kernel"
        return [(kind, int(n)) for n in space.get("wanted") or ()]
    waits_for = [int(n) for n in space.get("waits_for") or ()]
    inherited: list[tuple[Any, ...]] = []
    for other in waits_for if follow else ():
        there = world.node(other)
        for s in _spaces(there) if there is not None and other != node["nodeid"] else ():
            if s.get("name") == space.get("name"):
                inherited += [c for c in _space_causes(world, there or {}, s, follow=False)
                              if c[0] in ("quorum", "fence", "kernel")]
    if inherited:
        return list(dict.fromkeys(inherited))
    return [("space", space.get("name"), tuple(n for n in waits_for if n != node["nodeid"]))]


def _spaces(node: Facts) -> Iterator[Facts]:
    for client in node.get("clients") or ():
        yield from (client.get("answer") or {}).get("spaces") or ()


def _mount_name(mount: Facts) -> str:
    where = f" ({mount['mount_point']})" if mount.get("mount_point") else ""
    return f"file system {mount.get('table', '?')}{where}"


def _find_blocked(world: _World) -> None:
    for node, client, answer in world.answers():
        mounts = answer.get("mounts") or ()
        # One process has one mount and its lockspace, or lockspaces alone.
        what = joined(_mount_name(m) for m in mounts)
        waiting = False
        for space in answer.get("spaces") or ():
            for cause in _space_causes(world, node, space):
                waiting = True
                world.block(cause, f"{what or 'lockspace ' + str(space.get('name'))} on {node['name']}"
                            + ("" if mounts else f" ({client.get('comm', '?')}, pid {client.get('pid', 0)})"))
        for mount in mounts:
            if waiting or mount.get("withdrawn"):
                continue
            for journal in mount.get("journals") or ():
                world.block(("journal", mount.get("table"), int(journal["jid"])), f"{what} on {node['name']}")
            if mount.get("journals") or mount.get("stage") != "mounted":
                continue
            if mount.get("blocked"):
                world.block(("settle", mount.get("table")), f"{what} on {node['name']}")
            elif mount.get("plocks_wait"):
                world.block(("plocks", mount.get("table"), tuple(mount["plocks_wait"])),
                            f"fcntl locks of {what} on {node['name']}")


# ---- causes ---------------------------------------------------------------------------------------------------------

def _silent(world: _World, silent: Sequence[Silent]) -> Iterator[Finding]:
    """Daemons and nodes that do not answer; of other nodes' clients their cman tells."""
    found = list(silent)
    for node in world.nodes:
        for client in node.get("clients") or ():
            if client.get("silent_ms"):
                name = f"{client.get('comm', '?')} ({', '.join(client.get('subsystems') or ()) or 'no subsystem'})"
                found.append(Silent(str(node["name"]), name, int(client.get("pid", 0)), int(client["silent_ms"])))
    for one in found:
        pid = f" pid {one.pid}" if one.pid else ""
        do = [f"look at it on {one.node}: cat /proc/{one.pid}/stack; cat /proc/{one.pid}/status"] if one.pid else \
            [f"look whether {one.node} is overloaded, stopped or cut off"]
        yield Finding("daemon", f"{one.name}{pid} on {one.node} does not answer",
                      "it to go on (it hangs or is stopped)",
                      one.for_ms, (), (*do, f"if it does not recover, from another node: fence_node {one.node}"))


def _joining(world: _World) -> Iterator[Finding]:
    for node in world.nodes:
        if node.get("ring") != "OPERATIONAL":
            yield Finding("membership", f"{node['name']} forms a ring ({node.get('ring')})",
                          "the other nodes' consent to a new membership", int(node.get("ring_ms", 0)), (),
                          ("if it stays so: see whether the network carries the cluster's packets in both directions",))
        elif node.get("state") == "Joining":
            waits_for = [int(n) for n in node.get("config_waits") or ()]
            yield Finding("config", f"{node['name']} is joining the cluster",
                          f"{joined(world.name(n) for n in waits_for) or 'the members'} to agree on one cluster.conf",
                          int(node.get("up_ms", 0)), (), ("ccs_tool query /cluster/@config_version on each node",))


def _quorum(world: _World) -> Iterator[Finding]:
    components: dict[tuple[int, ...], Facts] = {}
    for node in world.nodes:
        if not node.get("quorate"):
            components.setdefault(tuple(node.get("members") or ()), node)
    for members, node in components.items():
        missing = [int(n) for n in world.names if int(n) not in members]
        need = int(node.get("quorum", 0)) - int(node.get("votes", 0))
        disk = node.get("qdisk") or {}
        others = [f"quorum disk {disk.get('device', '')}: {_disk(disk)}"] if disk and not disk.get("counts") else []
        names = joined(world.name(n) for n in missing)
        do = [f"start the missing nodes ({names}): service cman start"] if missing else []
        do.append(f"if they cannot come back and are certainly off: cman_tool expected -e {node.get('votes')}")
        yield Finding("quorum", f"no quorum on {joined(world.name(n) for n in members)}",
                      f"{need} more vote{'s' if need != 1 else ''} (it has {node.get('votes')}, quorum is "
                      f"{node.get('quorum')})"
                      + (f"; missing: {joined([*(world.name(n) for n in missing), *others])}" if missing or others
                         else ""),
                      int(node.get("quorum_ms", 0)), tuple(world.blocked.get(("quorum", members), ())), tuple(do))


def _disks(world: _World) -> Iterator[Finding]:
    """Nodes that cannot reach the quorum disk, or are not fit for it."""
    for node in world.nodes:
        disk = node.get("qdisk") or {}
        name, device = world.name(int(node["nodeid"])), disk.get("device") or disk.get("label")
        hung_s = int(disk.get("hung_s") or 0)
        if hung_s:
            yield Finding("quorum disk", f"{device} hangs on {name}", "the storage to answer", hung_s * 1000, (),
                          (f"look at the path from {name} to its storage; the others evict and fence it",))
        elif disk.get("trouble"):
            yield Finding("quorum disk", f"{device} cannot be used on {name}: {disk['trouble']}",
                          "the disk to be read and written again", None, (),
                          (f"mkqdisk -L on {name}; look at the path to its storage",))
        down = [str(h.get("program")) for h in disk.get("heuristics") or () if not h.get("up")]
        if down and int(disk.get("score", 0)) < int(disk.get("score_needed", 0)):
            yield Finding("quorum disk", f"{name} scores {disk['score']} of {disk['score_max']}, "
                          f"{disk['score_needed']} needed", f"success of {joined(repr(p) for p in down)}", None, (),
                          (f"run the program on {name} by hand",))


def _disk(told: Facts) -> str:
    """What is the matter with the quorum disk, as this node sees it."""
    if told.get("trouble"):
        return str(told["trouble"])
    if told.get("hung_s"):
        return f"a read or write has hung for {told['hung_s']} s"
    if int(told.get("score", 0)) < int(told.get("score_needed", 0)):
        return f"score {told['score']} of {told['score_max']}, {told['score_needed']} needed"
    return "its master does not count us yet" if told.get("master") else "it has no master yet"


def _ordinal(number: int) -> str:
    return {1: "first", 2: "second", 3: "third"}.get(number, f"{number}th")


def _victims(world: _World) -> dict[int, tuple[Facts, Facts]]:
    """Of each victim the node and its view of it that knows most: a member that may act, with the most tries."""
    best: dict[int, tuple[Facts, Facts]] = {}
    for node in world.nodes:
        for victim in node.get("victims") or ():
            known = best.get(int(victim["nodeid"]))
            if known is None or (node.get("acting", False), victim.get("tries", 0), victim.get("for_ms", 0)) > \
                    (known[0].get("acting", False), known[1].get("tries", 0), known[1].get("for_ms", 0)):
                best[int(victim["nodeid"])] = node, victim
    return best


def _fences(world: _World) -> Iterator[Finding]:
    best = _victims(world)
    waited = {cause[1] for cause in world.blocked if cause[0] == "fence"}
    for nodeid in sorted({*best, *waited}):
        name = world.name(nodeid)
        blocked = tuple(world.blocked.get(("fence", nodeid), ()))
        if nodeid not in best:
            yield Finding("fence", f"fencing of {name} is not confirmed", "fencing, or the end of its old life on "
                          f"{name}", None, blocked, (f"fence_node {name}",))
            continue
        node, victim = best[nodeid]
        if not node.get("acting"):
            if blocked:
                yield Finding("fence", f"fencing of {name}", "quorum", int(victim.get("for_ms", 0)), blocked)
            continue
        yield _fence(world, name, victim, blocked or ("every mount and lockspace that is to start",))


def _fence(world: _World, name: str, victim: Facts, blocked: tuple[str, ...]) -> Finding:
    tries, says = int(victim.get("tries", 0)), str(victim.get("says", ""))
    devices = [str(d) for d in victim.get("devices") or ()]
    off = f"if you have seen that {name} is off: fence_ack_manual {name}"
    if not devices:
        do: tuple[str, ...] = (off, f"give {name} a <method> in cluster.conf for the next time")
    elif tries:
        do = (f"mend fence device {joined(devices)} or its settings in cluster.conf: it is tried again by itself", off)
    elif victim.get("lost"):
        do = (f"nothing for now: a failure of the agent would be told here, and {off}",)
    else:
        do = (f"start {name} (service cman start), or let it be fenced when the delay is over",)
    what = f"fencing of {name} (node {victim['nodeid']}, {'lost' if victim.get('lost') else 'never seen'})"
    waits_for = str(victim.get("waits_for", "?"))
    if tries and victim.get("stage") == "fencing":
        waits_for = f"{_ordinal(tries + 1)} try, run by {world.name(int(victim.get('by', 0)))}; " \
                    f"the last one failed: {says}"
    elif tries and devices:
        waits_for = f"{_ordinal(tries + 1)} try; the last one failed: {says}"
    return Finding("fence", what, waits_for, int(victim.get("for_ms", 0)), blocked, do)


def _space_age(world: _World, name: str) -> int | None:
    ages = [int(s.get("for_ms", 0)) for n in world.nodes for s in _spaces(n)
            if s.get("name") == name and not s.get("running")]
    return max(ages, default=None)


def _lockspaces(world: _World) -> Iterator[Finding]:
    for cause, blocked in world.blocked.items():
        if cause[0] == "kernel":
            name = world.name(cause[1])
            yield Finding("dlm", f"the kernel of {name} holds locks, and its dlm_controld has died",
                          f"the end of {name}", None, tuple(blocked), (f"fence_node {name}",))
        elif cause[0] == "space":
            names = joined(world.name(n) for n in cause[2])
            age_ms = _space_age(world, cause[1])
            if names:
                yield Finding("dlm", f"lockspace {cause[1]} changes its members", f"{names} to be ready for the start",
                              age_ms, tuple(blocked), (f"see there: dlm_tool ls {cause[1]}, cman_tool why",))
            else:
                yield Finding("dlm", f"lockspace {cause[1]} recovers its locks", "the lock manager's recovery", age_ms,
                              tuple(blocked), (f"dlm_tool dump {cause[1]} tells its steps",))


def _journals(world: _World) -> Iterator[Finding]:
    for cause, blocked in world.blocked.items():
        if cause[0] == "journal":
            yield _journal(world, cause[1], cause[2], tuple(blocked))
        elif cause[0] == "settle":
            yield Finding("journal", f"{cause[1]} settles after a recovery",
                          "the agreement of its nodes on the journals to replay", None, tuple(blocked))
        elif cause[0] == "plocks":
            yield Finding("journal", f"{cause[1]} gives the dead's fcntl locks up",
                          f"{joined(world.name(n) for n in cause[2])} to be through with the recovery", None,
                          tuple(blocked))


def _journal(world: _World, table: str, jid: int, blocked: tuple[str, ...]) -> Finding:
    seen = [(node, j) for node, m in world.mounts() if m.get("table") == table for j in m.get("journals") or ()
            if int(j["jid"]) == jid]
    at_it = next(((node, j) for node, j in seen if j.get("ours")), None)
    age_ms = max((int(j.get("for_ms", 0)) for _, j in seen), default=None)
    if at_it is None:
        who, waits_for = "", "another node to replay it"
    else:
        percent = at_it[1].get("percent")
        who = f" by {at_it[0]['name']}"
        waits_for = "the replay" + (f", {percent} % done" if percent is not None else "")
    return Finding("journal", f"journal {jid} of {table} is replayed{who}", waits_for, age_ms, blocked,
                   ("if it takes long: look at the disk of the node that replays it",))


def _mounting(world: _World) -> Iterator[Finding]:
    for node, mount in world.mounts():
        if mount.get("stage") == "mounted" or mount.get("withdrawn"):
            continue
        if any(not s.get("running") for s in _spaces(node) if str(mount.get("table", "")).endswith(f":{s['name']}")):
            continue                # told with the lockspace
        first = " as the first" if mount.get("first") else ""
        waits_for = str(mount.get("joining") or ("the replay of all journals" if first else "the disk"))
        yield Finding("mount", f"{_mount_name(mount)} is being mounted{first} on {node['name']}",
                      waits_for.removeprefix("waiting for "), int(mount.get("stage_ms", 0)),
                      (f"mount on {node['name']}",), ("see the mounted nodes: cman_tool why there",))


def _withdrawn(world: _World) -> Iterator[Finding]:
    for node, mount in world.mounts():
        where = mount.get("mount_point", "")
        if mount.get("withdrawn"):
            yield Finding("withdrawn", f"{_mount_name(mount)} has withdrawn on {node['name']}",
                          f"umount there ({mount['withdrawn']})", None, (f"all requests on {node['name']} (EIO)",),
                          (f"on {node['name']}: umount {where}; fsck.gfs2 if the disk is damaged; mount it again",))
        if mount.get("frozen_by"):
            yield Finding("frozen", f"{_mount_name(mount)} is frozen", f"its thaw ({mount['frozen_by']})", None,
                          (f"writers on {node['name']}",), (f"gfs2_tool unfreeze {where}",))


# ---- locks ----------------------------------------------------------------------------------------------------------

def _process(process: Facts, node: str) -> str:
    comm, pid = process.get("comm") or "a process", int(process.get("pid", 0))
    what = f" {process['what']}" if process.get("what") else ""
    return f"{comm} (pid {pid}{what}) on {node}" if pid else f"{comm}{what} on {node}"


def _holders(world: _World, node: Facts, table: str, wait: Facts) -> list[tuple[str, int, str]]:
    """Who is in the way: words, pid (0: none that could be ended) and the node's name."""
    found = [(_process(p, node["name"]), int(p.get("pid", 0)), str(node["name"])) for p in wait.get("held") or ()]
    owners = {int(n["node"]): n for n in wait.get("nodes") or () if int(n["node"]) != node["nodeid"]}
    holds = [(n, h) for n, m in world.mounts() if m.get("table") == table and n["nodeid"] != node["nodeid"]
             for h in m.get("holds") or () if (h.get("kind"), h.get("number")) == (wait["kind"], wait["number"])
             and h.get("type") == wait.get("type")]
    for other, hold in holds:
        if owners and int(other["nodeid"]) not in owners:
            continue
        wanted = int(owners.get(int(other["nodeid"]), {}).get("pid", 0)) if wait["kind"] == "plock" else 0
        processes = [p for p in hold.get("processes") or () if not wanted or int(p.get("pid", 0)) == wanted]
        found += [(_process(p, other["name"]), int(p.get("pid", 0)), str(other["name"])) for p in processes]
        if processes:
            owners.pop(int(other["nodeid"]), None)
    for nodeid, owner in owners.items():
        pid = int(owner.get("pid", 0)) if wait["kind"] == "plock" else 0
        who = f"pid {pid} on {world.name(nodeid)}" if pid else f"{world.name(nodeid)} (mode {owner.get('mode', '?')})"
        found.append((who, pid, world.name(nodeid)))
    master = int(wait.get("master") or 0)
    if not found and master not in (0, node["nodeid"]):
        found.append((f"nobody known here; {world.name(master)} masters the lock", 0, world.name(master)))
    return list(dict.fromkeys(found))


def _lock_name(wait: Facts, table: str) -> str:
    kind = {"plock": "fcntl lock", "flock": "flock"}.get(wait["kind"], "lock")
    thing = str(wait.get("type", "inode"))
    path = wait.get("path")
    number = f"{thing} {wait['number']} of {table}"
    return f"{kind} on {path} ({number})" if path else f"{kind} on {number}"


def _locks(world: _World) -> Iterator[Finding]:
    found: dict[tuple[Any, ...], list[tuple[Facts, Facts]]] = {}
    for node, mount in world.mounts():
        if mount.get("blocked"):
            continue                # everything waits for the recovery
        for wait in mount.get("waits") or ():
            if int(wait.get("for_ms", 0)) >= LOCK_WAIT_MS:
                key = (mount.get("table"), wait["kind"], wait.get("type"), wait["number"])
                found.setdefault(key, []).append((node, wait))
    for (table, *_), waits in found.items():
        holders = list(dict.fromkeys(h for node, w in waits for h in _holders(world, node, str(table), w)))
        named = next((w for _, w in waits if w.get("path")), waits[0][1])
        do = tuple(dict.fromkeys(f"let it end, or on {name}: kill {pid}" for _, pid, name in holders if pid))
        yield Finding("lock", _lock_name(named, str(table)), f"{joined(w for w, _, _ in holders) or 'nobody known'}",
                      max(int(w["for_ms"]) for _, w in waits),
                      tuple(f"{_process({**w, 'what': w.get('request')}, n['name'])} wants {w.get('mode', '?')}"
                            for n, w in waits),
                      do or tuple(f"look at {name}: cman_tool why, gfs2_tool waits" for name in
                                  dict.fromkeys(name for _, _, name in holders)))


def _storing(world: _World) -> Iterator[Finding]:
    for node in world.nodes:
        if node.get("storing"):
            yield Finding("config", f"an update of cluster.conf from {node['name']}",
                          f"{joined(world.name(int(n)) for n in node['storing'])} to store it", None,
                          ("ccs_tool update",))


def _over_budget(world: _World) -> Iterator[Finding]:
    """Recoveries that take too long where nothing else says so."""
    told = {cause[1] for cause in world.blocked if cause[0] == "fence"} | set(_victims(world))
    said = any(cause[0] in ("space", "journal", "settle", "plocks", "kernel", "quorum") for cause in world.blocked)
    for node in world.nodes:
        for one in node.get("recoveries") or ():
            if int(one["phase_ms"]) <= int(one["budget_ms"]) or int(one["nodeid"]) in told or said:
                continue
            yield Finding("recovery", f"recovery from the loss of {one['name']} on {node['name']}: phase "
                          f"{one['phase']} takes longer than its budget of {duration(int(one['budget_ms']))}",
                          str(one.get("waits_for") or "its end"), int(one["phase_ms"]))
