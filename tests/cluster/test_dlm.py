"""Lockspaces of real cman daemons: dlm_tool, a member that is killed, a node whose cable is cut."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from cluster.netns import NodeRig, Rig, wait_for
from cman.protocol import Unreachable
from dlm.inspect import Asker

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


def ask(node: NodeRig, op: str) -> list[dict[str, Any]]:
    """What the processes of a node answer; asked without a command, whose start costs more than all else here."""
    found = []
    for path in sorted((node.folder / "dlm").glob("*.sock")):
        with contextlib.suppress(Unreachable):      # left by a process that was killed
            found.append(Asker(path).ask(op))
    return found


def spaces(node: NodeRig) -> list[dict[str, Any]]:
    return ask(node, "describe")


def agreed(nodes: list[NodeRig], members: list[int]) -> bool:
    told = [t for n in nodes for t in spaces(n)]
    return len(told) == len(nodes) and all(t["members"] == members and t["running"] for t in told) \
        and len({t["generation"] for t in told}) == 1


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
    assert [t["members"] for t in json.loads(two.run("dlm_tool", "ls", "--json").stdout)] == [[1, 2, 3]]
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
             lambda: "waits for quorum" in ask(one, "history")[0]["lines"])
    assert not spaces(one)[0]["running"]
    refused = one.run("dlm_tool", "join", "other", check=False)
    assert refused.returncode == 1
    assert "cluster mycluster is not quorate" in refused.stderr
    # Without cman a member must not go on believing that it is one.
    wait_for("the member without cman ends", lambda: not spaces(two))
