"""Lockspaces of real cman daemons: dlm_tool, a member that is killed, a node whose cable is cut."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from cluster.netns import NodeRig, Rig, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture
def lockspaces(ring: Rig) -> Iterator[Rig]:
    """Three members whose processes hold their sockets apart; what they hold in the end is ended."""
    for node in ring.nodes:
        node.environment["DLM_RUN"] = str(node.folder / "dlm")
    yield ring
    for node in ring.nodes:
        for told in spaces(node):
            os.kill(told["pid"], signal.SIGKILL)
        print(*(x.read_text() for x in node.folder.glob("dlm_lockspace.log")))


def spaces(node: NodeRig) -> list[dict[str, Any]]:
    return list(json.loads(node.run("dlm_tool", "ls", "--json").stdout))


def agreed(nodes: list[NodeRig], members: list[int]) -> bool:
    told = [spaces(n)[0] for n in nodes]
    return all(t["members"] == members and t["running"] for t in told) and len({t["generation"] for t in told}) == 1


def test_members_come_go_and_die(lockspaces: Rig) -> None:
    one, two, three = lockspaces.nodes
    for node in lockspaces.nodes:
        node.run("dlm_tool", "join", "store")
    wait_for("three members", lambda: agreed(lockspaces.nodes, [1, 2, 3]))
    lines = two.run("dlm_tool", "ls", "-n").stdout.splitlines()
    assert lines[0] == "dlm lockspaces"
    assert lines[1] == "name          store"
    assert "members       1 2 3" in lines
    assert "change        none" in lines
    assert "slots         1:1 2:2 3:3" in lines
    assert "dlm:store" in one.run("cman_tool", "services").stdout
    again = one.run("dlm_tool", "join", "store", check=False)
    assert again.stderr == "dlm_tool: a process of this node holds lockspace store already\n"
    three.run("dlm_tool", "leave", "store")
    wait_for("two members", lambda: agreed([one, two], [1, 2]))
    assert three.run("dlm_tool", "ls").stdout == "dlm lockspaces\n"
    unknown = three.run("dlm_tool", "leave", "store", check=False)
    assert unknown.stderr == "dlm_tool: no process of this node holds lockspace store\n"
    os.kill(spaces(two)[0]["pid"], signal.SIGKILL)
    wait_for("one member", lambda: agreed([one], [1]))
    history = one.run("dlm_tool", "dump").stdout
    assert "store members [1, 2] 3 leave" in history
    assert "store members [1] 2 procdown" in history
    assert "failed [2]" in history
    two.run("dlm_tool", "join", "store")
    wait_for("it is back", lambda: agreed([one, two], [1, 2]))
    assert "recoveries=" in one.run("dlm_tool", "status").stdout


def test_without_quorum_nobody_joins_and_nobody_goes_on(lockspaces: Rig) -> None:
    one, two, three = lockspaces.nodes
    for node in (one, two):
        node.run("dlm_tool", "join", "store")
    wait_for("two members", lambda: agreed([one, two], [1, 2]))
    two.kill()
    three.kill()
    wait_for("alone", lambda: one.cluster().members == [1] and not one.cluster().quorate)
    wait_for("it says what it waits for",
             lambda: "waits for quorum" in one.run("dlm_tool", "dump").stdout)
    assert not spaces(one)[0]["running"]
    refused = one.run("dlm_tool", "join", "other", check=False)
    assert refused.returncode == 1
    assert "cluster mycluster is not quorate" in refused.stderr
    # Without cman a member must not go on believing that it is one.
    wait_for("the member without cman ends", lambda: not spaces(two))
