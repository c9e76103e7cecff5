"""The cluster of the guide in the lab: the real daemons, started and crashed as a person would."""

from __future__ import annotations

import pytest

from cluster.rooms import assert_gone, pids_of, wait_until
from lab import Lab, guide_topology

pytestmark = pytest.mark.mount


def members(room: Lab, node: str) -> dict[str, str]:
    """What `cman_tool nodes` says there: name -> state letter."""
    out = room.exec(node, ["cman_tool", "nodes"], check=True).stdout
    return {words[-1]: words[1] for line in out.splitlines()[1:] if len(words := line.split()) >= 3}


def test_started_as_a_whole() -> None:
    with Lab(guide_topology(3, size="16M")) as room:
        said = room.start_cluster()
        assert all("Waiting for quorum...                                    [  OK  ]" in s.stdout
                   for s in said.values())
        wait_until(lambda: members(room, "web1") == {"web1": "M", "web2": "M", "Mysql1": "M"}, "three members")
        assert "Cluster Name: mycluster" in room.exec("web2", ["cman_tool", "status"], check=True).stdout
        room.power("crash", "web2")
        wait_until(lambda: "by fence_wti" in room.exec("web1", ["cman_tool", "nodes", "-f"], check=True).stdout,
                   "the fencing of web2, which switches it on again")
        assert members(room, "web1")["web2"] == "X"
        wait_until(lambda: {m["name"]: m["state"] for m in room.status()["machines"]}["web2"] == "up", "web2 to be up")
        room.exec("web2", ["service", "cman", "start"], check=True)
        wait_until(lambda: members(room, "Mysql1")["web2"] == "M", "its return")
        # A clean way out of the node.
        room.exec("web2", ["poweroff"])
        wait_until(lambda: {m["name"]: m["state"] for m in room.status()["machines"]}["web2"] == "off", "poweroff")
        wait_until(lambda: members(room, "Mysql1")["web2"] == "X", "web2 to have left")
        pids = pids_of(room.place)
    assert_gone(room.place, pids)
