"""A node that stands still for longer than the cluster waits, is fenced, and wakes: nothing of it reaches the disk."""

from __future__ import annotations

import hashlib
import re
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.rooms import START_S, assert_gone, pids_of, wait_until
from lab import Lab, guide_topology
from lab.etc import cluster_conf

pytestmark = [pytest.mark.mount, pytest.mark.slow, pytest.mark.timeout(600)]

MKFS = "mkfs.gfs2 -O -q -p lock_dlm -t mycluster:my-gfs2 -j 3 -J 8 /dev/sdb5"
VICTIM, OTHERS = "web2", ("web1", "Mysql1")
# Without an fsync: some of it is in memory only when the node stops.
WRITER = """
import os, sys
fd = os.open("/gfs2/d/by-" + sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
n = 0
while True:
    os.write(fd, b"%015d\\n" % n)
    open("/gfs2/d/%s-%d" % (sys.argv[1], n % 50), "w").write("x" * 5000)
    n += 1
    if n == 200:
        print("working", flush=True)
"""
# Asks the lab to cut the node off from the disk and waits until that is done: its power stays on.
AGENT = """#!/bin/sh
node=
while read -r line; do
    case "$line" in nodename=*) node=${line#nodename=} ;; esac
done
: > "/lab/cut.$node"
while [ ! -e "/lab/is-cut.$node" ]; do sleep 0.05; done
"""


def sh(room: Lab, node: str, script: str) -> str:
    return room.exec(node, ["timeout", "60", "sh", "-c", script], check=True).stdout


def log(room: Lab, node: str) -> str:
    return room.path(node, "/var/log/messages").read_text(errors="replace")


def start(room: Lab) -> list[subprocess.Popen[str]]:
    """Mounted on all, and all write."""
    room.start_cluster()
    sh(room, "web1", MKFS)
    for node in (*OTHERS, VICTIM):
        sh(room, node, "mount -t gfs2 /dev/sdb5 /gfs2; mkdir -p /gfs2/d")
    writers = [room.popen(node, [sys.executable, "-IS", "-c", WRITER, node], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) for node in (*OTHERS, VICTIM)]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "working\n"
    return writers


def end(writers: list[subprocess.Popen[str]]) -> None:
    for writer in writers:
        writer.kill()
        writer.communicate()


def survivors_done(room: Lab) -> None:
    """They go on; then nobody has it mounted any more."""
    for node in OTHERS:
        sh(room, node, "echo alive > /gfs2/d/after-$(hostname) && cat /gfs2/d/by-web2 > /dev/null")
    for node in OTHERS:
        sh(room, node, "umount /gfs2")


def disk(room: Lab) -> str:
    with (room.place.disks / "sdb5.img").open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def test_the_power_switch_ends_a_frozen_node() -> None:
    """SIGSTOP of all; the switch kills them where they stand, so that there is nothing left to thaw."""
    with Lab(guide_topology(3, size="128M", post_join_delay=START_S)) as room:
        writers = start(room)
        before = room.pid(VICTIM)
        room.freeze(VICTIM)
        wait_until(lambda: f'fence "{VICTIM}" success' in log(room, "web1"), "the fencing")
        assert not Path(f"/proc/{before}").exists() or room.pid(VICTIM) != before
        end(writers)
        survivors_done(room)
        wait_until(lambda: {m["name"]: m["state"] for m in room.status()["machines"]}[VICTIM] == "up", "the reboot")
        held = disk(room)
        sh(room, VICTIM, "sync; ls /gfs2")          # it lives again, without any memory of the mount
        assert disk(room) == held
        sh(room, "web1", "fsck.gfs2 -n /dev/sdb5")
        pids = pids_of(room.place)
    assert_gone(room.place, pids)


def test_a_node_that_is_only_cut_off_thaws() -> None:
    """Fenced by taking its disk away; it is thawed when that has succeeded, with dirty data and all its locks."""
    room_plan = guide_topology(3, size="128M", post_join_delay=START_S)
    conf = re.sub(r'agent="fence_wti"[^>]*name="(\S+)"[^>]*/>', r'agent="fence_cut" name="\1"/>',
                  cluster_conf(room_plan))
    with Lab(replace(room_plan, cluster_conf=conf)) as room:
        agent = room.place.shared / "fence_cut"
        agent.write_text(AGENT)
        agent.chmod(agent.stat().st_mode | stat.S_IXUSR)
        for node in (*OTHERS, VICTIM):
            sh(room, node, "ln -s /lab/fence_cut /sbin/fence_cut")
        writers = start(room)
        room.freeze(VICTIM)
        wait_until((room.place.shared / f"cut.{VICTIM}").exists, "a request to fence the frozen node")
        room.disk(VICTIM, cut=True)
        (room.place.shared / f"is-cut.{VICTIM}").touch()
        wait_until(lambda: f'fence "{VICTIM}" success' in log(room, "web1"), "the fencing")
        end(writers[:-1])
        survivors_done(room)
        held = disk(room)
        room.thaw(VICTIM)
        wait_until(lambda: "this node is out of the cluster" in log(room, VICTIM), "the woken node to notice")
        wait_until(lambda: "withdr" in log(room, VICTIM), "its mount to withdraw")
        end(writers[-1:])
        assert disk(room) == held
        sh(room, "web1", "fsck.gfs2 -n /dev/sdb5")
        pids = pids_of(room.place)
    assert_gone(room.place, pids)
