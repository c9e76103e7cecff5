"""The control files of a shared mount: a wait in one node names its process and the node that is in the way, and
glocktop of gfs2-utils reads it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from cluster.rooms import START_S, wait_until
from lab import Lab, guide_topology

pytestmark = [pytest.mark.mount, pytest.mark.slow]

TABLE = "mycluster:my-gfs2"


def sh(room: Lab, node: str, script: str) -> str:
    return room.exec(node, ["timeout", "60", "sh", "-c", script], check=True).stdout


def busy(room: Lab, node: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in sh(room, node, "gfs2_tool lockdump --json /gfs2").splitlines()]


def waits(room: Lab, node: str, path: str) -> list[dict[str, Any]]:
    """The glocks of this path at which somebody waits."""
    return [one for one in busy(room, node) if one["path"] == path and any(h["waits"] for h in one["holders"])]


def test_a_wait_names_who_is_in_the_way() -> None:
    """web2 masters the lock, web1 holds it exclusively and is stopped; then web2 wants to read."""
    with Lab(guide_topology(2, size="256M", post_join_delay=START_S)) as room:
        room.start_cluster()
        sh(room, "web1", f"mkfs.gfs2 -O -q -p lock_dlm -t {TABLE} -j 2 -J 8 /dev/sdb5")
        for node in ("web1", "web2"):
            sh(room, node, "mount -t gfs2 /dev/sdb5 /gfs2")
        sh(room, "web2", "mkdir /gfs2/d; echo one > /gfs2/d/file")
        sh(room, "web1", "exec 3>>/gfs2/d/file; echo two >&3")
        files = f"/run/gfs2/{TABLE}"
        wait_until(lambda: "id" in sh(room, "web2", f"ls {files} || true"), "the control files")
        assert sh(room, "web2", f"cd {files}/lock_module; cat proto_name jid first first_done block") == \
            "lock_dlm\n1\n0\n1\n0\n"
        sh(room, "web1", "kill -STOP $(pgrep -x gfs2d)")
        try:
            sh(room, "web2", "(cat /gfs2/d/file > /tmp/read) < /dev/null > /dev/null 2>&1 &")
            wait_until(lambda: waits(room, "web2", "/d/file") != [], "cat to wait")
            (one,) = waits(room, "web2", "/d/file")
            (waiter,) = [h for h in one["holders"] if h["waits"]]
            assert (one["type"], waiter["comm"], waiter["command"]) == ("inode", "cat", "cat /gfs2/d/file")
            assert waiter["pid"] == int(sh(room, "web2", "pgrep -x cat"))
            nodes = {node.name: node.nodeid for node in room.topology.nodes}
            assert one["nodes"]["master"] == nodes["web2"]
            assert [(g["node"], g["mode"]) for g in one["nodes"]["granted"]] == [(nodes["web1"], "EX")]
            line = f"G:  s:UN n:2/{one['number']:x} "
            told = sh(room, "web2", f"cat {files}/glocks")
            below = told[told.index(line):].splitlines()[1]
            assert re.fullmatch(rf" H: s:SH f:W e:0 p:{waiter['pid']} \[cat\] \w+", below)
            (told,) = sh(room, "web2", "gfs2_tool waits /gfs2").splitlines()
            assert told.startswith(f"cat (pid {waiter['pid']}, ")
            assert f" waits for SH of inode {one['number']} (/d/file) for " in told
            assert told.endswith(f": node {nodes['web1']} holds EX")
            seen = sh(room, "web2", "gfs2_tool glocktop -n 1 -d 1 -s 1 < /dev/null")
            assert f"p:{waiter['pid']} [cat]" in seen
            assert f"Granted EX on node {nodes['web1']} " in seen
        finally:
            sh(room, "web1", "kill -CONT $(pgrep -x gfs2d)")
        wait_until(lambda: sh(room, "web2", "cat /tmp/read") == "one\ntwo\n", "cat to go on")
        for node in ("web1", "web2"):
            sh(room, node, "umount /gfs2")
            assert sh(room, node, "ls -A /run/gfs2") == ""
