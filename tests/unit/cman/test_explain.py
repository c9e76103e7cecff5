"""From facts to causes: a table of situations, each with what an administrator reads."""

from __future__ import annotations

from typing import Any

import pytest

from cman.explain import Finding, Silent, duration, explain, findings_of, lines, short

NAMES = {"1": "web2", "2": "Mysql1", "4": "web1"}
TABLE = "mycluster:my-gfs2"


def node(nodeid: int, **other: Any) -> dict[str, Any]:
    """A member that is well."""
    return {"nodeid": nodeid, "name": NAMES[str(nodeid)], "cluster": "mycluster", "state": "Cluster-Member",
            "up_ms": 90000, "ring": "OPERATIONAL", "ring_ms": 90000, "members": [1, 2, 4], "names": NAMES,
            "quorate": True, "votes": 3, "quorum": 2, "expected": 3, "quorum_ms": 90000, "unconfirmed": [],
            "acting": True, "master": 1, "victims": [], "config": 35, "config_waits": [], "storing": [],
            "groups_synced": True, "recoveries": [], "history": [], "clients": [], **other}


def space(**other: Any) -> dict[str, Any]:
    return {"name": "my-gfs2", "running": True, "phase": "running", "for_ms": 5000, "wants": "", "wanted": [],
            "waits_for": [], **other}


def mount(**other: Any) -> dict[str, Any]:
    return {"table": TABLE, "mount_point": "/gfs2", "stage": "mounted", "stage_ms": 90000, "joining": "",
            "first": False, "blocked": False, "journals": [], "plocks_wait": [], "withdrawn": None, "waits": [],
            "holds": [], **other}


def client(*mounts: dict[str, Any], space: dict[str, Any], **other: Any) -> dict[str, Any]:
    return {"pid": 77, "comm": "gfs2d", "subsystems": ["dlm:my-gfs2", "gfs2:my-gfs2"], "silent_ms": None,
            "answer": {"spaces": [space], "mounts": list(mounts)}, **other}


def victim(**other: Any) -> dict[str, Any]:
    return {"nodeid": 1, "name": "web2", "lost": True, "stage": "fencing", "by": 2, "tries": 0, "says": "",
            "waits_for": "the fence agent, run by Mysql1", "devices": ["WTI-Fence"], "for_ms": 14000, **other}


def wait(**other: Any) -> dict[str, Any]:
    return {"kind": "glock", "type": "inode", "number": 32850, "path": "/d/file", "mode": "SH", "pid": 30,
            "comm": "cat", "command": "cat /gfs2/d/file", "request": "READ", "for_ms": 12000, "held": [], "nodes": [],
            "master": 0, **other}


def only(*nodes: dict[str, Any], silent: tuple[Silent, ...] = ()) -> Finding:
    found = explain(nodes, silent)
    assert len(found) == 1, found
    return found[0]


def test_nothing_is_blocked() -> None:
    found = explain([node(n, clients=[client(mount(), space=space())]) for n in (1, 2, 4)])
    assert (found, lines(found), short(found)) == ([], ["Nothing is blocked."], [])


def test_a_fence_that_fails_is_told_once_with_all_that_it_blocks() -> None:
    says = "method 1: fence_wti on WTI-Fence: exit status 1 (Failed: unable to connect)"
    stopped = space(running=False, phase="preparing", wants="fencing", wanted=[1], for_ms=14000)
    nodes = [node(n, members=[2, 4], victims=[victim(tries=2, says=says)],
                  clients=[client(mount(blocked=True), space=stopped)]) for n in (2, 4)]
    one = only(*nodes)
    assert (one.kind, one.what, one.for_ms) == ("fence", "fencing of web2 (node 1, lost)", 14000)
    assert one.waits_for == f"third try, run by Mysql1; the last one failed: {says}"
    assert one.blocked == (f"file system {TABLE} (/gfs2) on Mysql1", f"file system {TABLE} (/gfs2) on web1")
    assert one.do[0].startswith("mend fence device WTI-Fence")
    assert one.do[1] == "if you have seen that web2 is off: fence_ack_manual web2"
    assert lines([one]) == [
        "fencing of web2 (node 1, lost) (for 14 s)", f"    waits for: {one.waits_for}",
        f"    blocked:   file system {TABLE} (/gfs2) on Mysql1", f"    blocked:   file system {TABLE} (/gfs2) on web1",
        f"    do:        {one.do[0]}", f"    do:        {one.do[1]}"]
    assert short([one]) == [f"fencing of web2 (node 1, lost) for 14 s: waits for {one.waits_for}"]


@pytest.mark.parametrize(("told", "waits_for", "do"), [
    ({}, "the fence agent, run by Mysql1", "nothing for now"),
    ({"stage": "waiting", "lost": False, "waits_for": "post_join_delay of Mysql1"}, "post_join_delay of Mysql1",
     "start web2 (service cman start)"),
    ({"stage": "waiting", "tries": 1, "says": "no"}, "second try; the last one failed: no", "mend fence device"),
    ({"stage": "waiting", "devices": [], "waits_for": "a human: no method"}, "a human: no method",
     "if you have seen that web2 is off: fence_ack_manual web2"),
    ({"tries": 3, "says": "no"}, "4th try, run by Mysql1; the last one failed: no", "mend fence device"),
])
def test_stages_of_fencing(told: dict[str, Any], waits_for: str, do: str) -> None:
    one = only(node(2, members=[2, 4], victims=[victim(**told)]))
    assert one.waits_for == waits_for
    assert one.do[0].startswith(do)
    assert one.blocked == ("every mount and lockspace that is to start",)


def test_no_quorum_comes_before_fencing() -> None:
    stopped = space(running=False, phase="preparing", wants="quorum")
    one = only(node(4, members=[4], quorate=False, votes=1, quorum=2, quorum_ms=61000, acting=False,
                    unconfirmed=[1, 2], victims=[victim(stage="waiting", waits_for="quorum")],
                    clients=[client(mount(blocked=True), space=stopped)]))
    assert (one.kind, one.what) == ("quorum", "no quorum on web1")
    assert one.waits_for == "1 more vote (it has 1, quorum is 2); missing: web2 and Mysql1"
    assert one.for_ms == 61000
    assert one.blocked == (f"file system {TABLE} (/gfs2) on web1",)
    assert one.do == ("start the missing nodes (web2 and Mysql1): service cman start",
                      "if they cannot come back and are certainly off: cman_tool expected -e 1")


def disk(**other: Any) -> dict[str, Any]:
    return {"configured": True, "device": "/dev/sdb7", "label": "myqdisk", "state": "run", "master": 1, "score": 1,
            "score_max": 1, "score_needed": 1, "counts": True, "visible": [1, 2], "hung_s": 0, "trouble": "",
            "heuristics": [], **other}


def test_the_quorum_disk() -> None:
    assert not explain([node(4, qdisk=disk())])
    hung = only(node(4, qdisk=disk(hung_s=7)))
    assert (hung.kind, hung.what, hung.for_ms) == ("quorum disk", "/dev/sdb7 hangs on web1", 7000)
    failed = only(node(4, qdisk=disk(trouble="read: Input/output error")))
    assert failed.what == "/dev/sdb7 cannot be used on web1: read: Input/output error"
    unfit = only(node(4, qdisk=disk(score=0, heuristics=[{"program": "ping x", "up": False}])))
    assert (unfit.what, unfit.waits_for) == ("web1 scores 0 of 1, 1 needed", "success of 'ping x'")


@pytest.mark.parametrize(("told", "text"), [
    ({"trouble": "read: Input/output error"}, "quorum disk /dev/sdb7: read: Input/output error"),
    ({"hung_s": 12}, "quorum disk /dev/sdb7: a read or write has hung for 12 s"),
    ({"score": 0}, "quorum disk /dev/sdb7: score 0 of 2, 1 needed"),
    ({"master": 0}, "quorum disk /dev/sdb7: it has no master yet")])
def test_no_quorum_for_want_of_the_disk(told: dict[str, Any], text: str) -> None:
    disk = {"configured": True, "device": "/dev/sdb7", "counts": False, "master": 2, "score": 1, "score_max": 2,
            "score_needed": 1, "hung_s": 0, "trouble": "", **told}
    one = next(f for f in explain((node(4, members=[1, 2, 4], quorate=False, votes=3, quorum=4, qdisk=disk),), ())
               if f.kind == "quorum")
    assert one.waits_for == f"1 more vote (it has 3, quorum is 4); missing: {text}"
    counted = {**disk, "counts": True, "trouble": "", "hung_s": 0, "score": 1}
    assert "missing" not in only(node(4, quorate=False, votes=3, quorum=4, qdisk=counted)).waits_for


def test_who_waits_for_a_node_that_waits_itself_is_counted_to_its_cause() -> None:
    """Mysql1 is ready and waits for web1, which waits for the fence."""
    ready = space(running=False, phase="ready", waits_for=[4])
    stopped = space(running=False, phase="preparing", wants="fencing", wanted=[1], waits_for=[4])
    one = only(node(2, members=[2, 4], victims=[victim()], clients=[client(mount(blocked=True), space=ready)]),
               node(4, members=[2, 4], victims=[victim()], clients=[client(mount(blocked=True), space=stopped)]))
    assert one.kind == "fence"
    assert len(one.blocked) == 2


def test_a_lockspace_that_waits_for_a_node() -> None:
    ready = space(running=False, phase="ready", waits_for=[2], for_ms=7000)
    one = only(node(2), node(4, clients=[client(space=ready, comm="dlm_lockspace")]))
    assert (one.kind, one.what) == ("dlm", "lockspace my-gfs2 changes its members")
    assert (one.waits_for, one.for_ms) == ("Mysql1 to be ready for the start", 7000)
    assert one.blocked == ("lockspace my-gfs2 on web1 (dlm_lockspace, pid 77)",)
    recovering = space(running=False, phase="running", for_ms=900)
    one = only(node(4, clients=[client(mount(blocked=True), space=recovering)]))
    assert (one.what, one.waits_for) == ("lockspace my-gfs2 recovers its locks", "the lock manager's recovery")
    kernels = space(running=False, phase="preparing", wants="kernels", wanted=[1])
    one = only(node(4, clients=[client(mount(blocked=True), space=kernels)]))
    assert one.do == ("fence_node web2",)


def test_a_journal_is_replayed() -> None:
    theirs = mount(blocked=True, journals=[{"jid": 3, "ours": False, "percent": None, "for_ms": 800}])
    ours = mount(blocked=True, journals=[{"jid": 3, "ours": True, "percent": 40, "for_ms": 900}])
    one = only(node(2, clients=[client(theirs, space=space())]), node(4, clients=[client(ours, space=space())]))
    assert one.what == f"journal 3 of {TABLE} is replayed by web1"
    assert (one.waits_for, one.for_ms) == ("the replay, 40 % done", 900)
    assert len(one.blocked) == 2
    one = only(node(2, clients=[client(theirs, space=space())]))
    assert one.waits_for == "another node to replay it"
    one = only(node(2, clients=[client(mount(blocked=True), space=space())]))
    assert one.what == f"{TABLE} settles after a recovery"
    one = only(node(2, clients=[client(mount(plocks_wait=[1, 4]), space=space())]))
    assert one.waits_for == "web2 and web1 to be through with the recovery"


def test_a_mount_that_waits_for_the_first_one() -> None:
    joining = mount(stage="joining", stage_ms=3000, mount_point="", joining="waiting for the control lock: another one")
    one = only(node(4, clients=[client(joining, space=space())]))
    assert (one.kind, one.what) == ("mount", f"file system {TABLE} is being mounted on web1")
    assert (one.waits_for, one.for_ms) == ("the control lock: another one", 3000)
    first = mount(stage="mounting", first=True)
    one = only(node(4, clients=[client(first, space=space())]))
    assert one.waits_for == "the replay of all journals"


def test_an_fcntl_lock_of_another_nodes_process() -> None:
    waits = wait(kind="plock", mode="EX", request="SETLKW", nodes=[{"node": 1, "pid": 4711, "mode": "EX"}])
    holds = {"kind": "plock", "type": "inode", "number": 32850, "path": "/d/file", "mode": "EX", "processes": [
        {"pid": 12, "comm": "other", "command": "", "what": "fcntl"},
        {"pid": 4711, "comm": "python3", "command": "python3 hold", "what": "fcntl"}]}
    nodes = [node(4, clients=[client(mount(waits=[waits]), space=space())]),
             node(1, clients=[client(mount(holds=[holds]), space=space())])]
    one = only(*nodes)
    assert one.what == f"fcntl lock on /d/file (inode 32850 of {TABLE})"
    assert one.waits_for == "python3 (pid 4711 fcntl) on web2"
    assert one.blocked == ("cat (pid 30 SETLKW) on web1 wants EX",)
    assert one.do == ("let it end, or on web2: kill 4711",)
    # The other node says nothing: its pid is known all the same.
    one = only(nodes[0])
    assert (one.waits_for, one.do) == ("pid 4711 on web2", ("let it end, or on web2: kill 4711",))


def test_a_glock_of_another_node() -> None:
    waits = wait(nodes=[{"node": 2, "pid": 0, "mode": "EX"}], master=4)
    holds = {"kind": "glock", "type": "inode", "number": 32850, "path": "/d/file", "mode": "EX",
             "processes": [{"pid": 31, "comm": "dd", "command": "dd", "what": "WRITE"}]}
    here = node(4, clients=[client(mount(waits=[waits]), space=space())])
    one = only(here, node(2, clients=[client(mount(holds=[holds]), space=space())]))
    assert one.waits_for == "dd (pid 31 WRITE) on Mysql1"
    assert only(here).waits_for == "Mysql1 (mode EX)"
    assert only(here).do == ("look at Mysql1: cman_tool why, gfs2_tool waits",)
    # Another lock, or another file system, is not the one.
    other = node(2, clients=[client(mount(holds=[{**holds, "number": 1}]), space=space())])
    assert only(here, other).waits_for == "Mysql1 (mode EX)"
    elsewhere = node(4, clients=[client(mount(waits=[wait(master=2)]), space=space())])
    assert only(elsewhere).waits_for == "nobody known here; Mysql1 masters the lock"
    local = wait(held=[{"pid": 9, "comm": "rm", "command": "rm", "what": "UNLINK"}])
    assert only(node(4, clients=[client(mount(waits=[local]), space=space())])).waits_for == "rm (pid 9 UNLINK) on web1"


def test_short_waits_and_those_of_a_recovery_are_no_findings() -> None:
    brief = mount(waits=[wait(for_ms=400)])
    assert not explain([node(4, clients=[client(brief, space=space())])])
    held_up = mount(waits=[wait()], blocked=True)
    assert [f.kind for f in explain([node(4, clients=[client(held_up, space=space())])])] == ["journal"]


def test_daemons_that_do_not_answer_are_named() -> None:
    hung = client(space=space(), answer=None, silent_ms=1000)
    one = only(node(4, clients=[hung]))
    assert one.what == "gfs2d (dlm:my-gfs2, gfs2:my-gfs2) pid 77 on web1 does not answer"
    assert one.do[-1] == "if it does not recover, from another node: fence_node web1"
    one = only(silent=(Silent("web1", "cman", 12, 8000),))
    assert (one.what, one.for_ms) == ("cman pid 12 on web1 does not answer", 8000)
    assert findings_of({"nodes": [], "silent": [{"node": "web1", "name": "cman", "pid": 0, "for_ms": 3000}]})[0].what \
        == "cman on web1 does not answer"


def test_membership_and_configuration() -> None:
    one = only(node(4, ring="GATHER", ring_ms=700))
    assert (one.kind, one.what, one.for_ms) == ("membership", "web1 forms a ring (GATHER)", 700)
    one = only(node(4, state="Joining", config_waits=[2]))
    assert one.waits_for == "Mysql1 to agree on one cluster.conf"
    one = only(node(4, storing=[1, 2]))
    assert one.waits_for == "web2 and Mysql1 to store it"


def test_a_withdrawn_mount() -> None:
    one = only(node(4, clients=[client(mount(withdrawn="damaged block 7", blocked=True), space=space())]))
    assert one.kind == "withdrawn"
    assert "damaged block 7" in one.waits_for


def test_a_phase_over_its_budget_that_nothing_else_explains() -> None:
    slow = {"nodeid": 1, "name": "web2", "phase": "resume", "phase_ms": 900, "budget_ms": 500, "total_ms": 3000,
            "waits_for": "my-gfs2", "phases_ms": {}}
    one = only(node(4, recoveries=[slow]))
    assert one.what == "recovery from the loss of web2 on web1: phase resume takes longer than its budget of 0.5 s"
    assert not explain([node(4, recoveries=[{**slow, "phase_ms": 400}])])


def test_another_versions_facts_are_taken_as_they_are() -> None:
    assert explain([{"nodeid": 9, "name": "new", "quorate": True, "ring": "OPERATIONAL", "more": 1}]) == []


@pytest.mark.parametrize(("ms", "text"), [(400, "0.4 s"), (12_300, "12 s"), (200_000, "3 min 20 s"),
                                          (7_500_000, "2 h 5 min")])
def test_durations(ms: int, text: str) -> None:
    assert duration(ms) == text
