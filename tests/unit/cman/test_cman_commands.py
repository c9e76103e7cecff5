"""What cman_tool, ccs_tool and service print and how they end, without a cluster."""

from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path

import pytest
from guide_conf import GUIDE, changed

from cman.ccs.load import load
from cman.views import Cluster, Node
from rhcs_tools import ccs_tool, cman_tool, service

GUIDES_STATUS = """Version: 7.0.0
Config Version: 40
Cluster Name: mycluster
Cluster Id: 56756
Cluster Member: Yes
Cluster Generation: 3092
Membership state: Cluster-Member
Nodes: 3
Expected votes: 6
Quorum device votes: 2
Total votes: 5
Quorum: 3
Active subsystems: 9
Flags: Dirty
Ports Bound: 0 177
Node name: web2
Node ID: 1
Multicast addresses: 239.192.221.146
Node addresses: 192.168.12.240"""


def cluster(**other: object) -> Cluster:
    fields = {"name": "mycluster", "cluster_id": 56756, "config_version": 40, "generation": 3092,
              "state": "Cluster-Member", "members": [1, 2, 3], "expected_votes": 6, "disk_votes": 2, "total_votes": 5,
              "node_votes": 1, "quorum": 3, "quorate": True, "unconfirmed": [], "subsystems": 9, "flags": ["Dirty"],
              "ports": [0, 177], "node_name": "web2", "nodeid": 1, "multicast": "239.192.221.146",
              "addresses": ["192.168.12.240"]}
    return Cluster.of({**fields, **other})


def node(**other: object) -> Node:
    fields = {"nodeid": 4, "name": "web1", "state": "M", "incarnation": 2488, "joined_s": 1282526563, "votes": 1,
              "addresses": ["192.168.12.230"], "left_reason": "", "left_s": 0, "fenced_s": 0, "fenced_by": ""}
    return Node.of({**fields, **other})


@pytest.fixture
def utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    path = tmp_path / "cluster.conf"
    path.write_text(GUIDE)
    return path


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No daemon answers."""
    monkeypatch.setenv("CMAN_SOCKET", str(tmp_path / "nothing.sock"))


def test_status_is_that_of_the_guide() -> None:
    assert cman_tool.status_lines("7.0.0", cluster()) == GUIDES_STATUS.splitlines()
    without = cman_tool.status_lines("7.0.0", cluster(disk_votes=0, quorate=False, flags=[], ports=[0]))
    assert "Quorum: 3 Activity blocked" in without
    assert "Flags:" in without
    assert not any(line.startswith("Quorum device") for line in without)


@pytest.mark.usefixtures("utc")
def test_rows_of_nodes() -> None:
    assert cman_tool.node_lines(node(), True, True) == [
        "   4   M   2488   2010-08-23 01:22:43  web1", "       Addresses: 192.168.12.230 "]
    lost = node(state="X", left_reason="lost", left_s=5, addresses=[])
    assert cman_tool.node_lines(lost, True, True) == [
        "   4   X   2488                        web1", "       Node has not been fenced since it went down"]
    fenced = node(state="X", left_reason="lost", fenced_s=1282526563, fenced_by="fence_wti")
    assert cman_tool.node_lines(fenced, False, True)[1] == "       Last fenced:   2010-08-23 01:22:43 by fence_wti"
    assert cman_tool.node_lines(node(state="X"), False, True) == ["   4   X   2488                        web1"]


@pytest.mark.parametrize(("words", "says"), [
    ([], "no operation specified"), (["dance"], "unknown operation dance"), (["status", "now"], "unknown option now"),
    (["votes"], "needs -v"), (["votes", "-v", "x"], "is not a number"), (["kill"], "No node name"),
    (["join", "-t", "5"], "only appropriate with wait"), (["leave", "soon"], "unknown option soon"),
    (["-Q"], "not recognized")])
def test_wrong_words(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cman_tool.main(words) == 1
    assert says in capsys.readouterr().err


@pytest.mark.usefixtures("alone")
def test_without_a_daemon(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["status"], ["nodes"], ["leave"], ["wait"], ["version"]):
        assert cman_tool.main(words) == 1
        assert "no cman answers" in capsys.readouterr().err
    assert service.main(["cman", "status"]) == 3
    assert capsys.readouterr().out == "cman is stopped\n"
    assert service.main(["cman", "stop"]) == 0
    assert capsys.readouterr().out == f"Stopping cluster: \n{'   Stopping cman...':<60}[  OK  ]\n"


@pytest.mark.usefixtures("alone")
def test_service_shows_what_failed(capsys: pytest.CaptureFixture[str], tmp_path: Path,
                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cman.ccs.store.PATH", tmp_path / "bad.conf")
    (tmp_path / "bad.conf").write_bytes(changed(('nodeid="2"', 'nodeid="two"')))
    assert service.main(["cman", "start"]) == 1
    done = capsys.readouterr()
    assert done.out == f"Starting cluster: \n{'   Checking configuration...':<60}[FAILED]\n"
    assert f"{tmp_path}/bad.conf:8: " in done.err
    assert service.main(["cman", "dance"]) == 2
    assert service.main([]) == 1


def test_keygen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "etc" / "cluster.key"
    assert cman_tool.main(["keygen", str(path)]) == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    key = path.read_bytes()
    assert len(key) == cman_tool.KEY_BYTES
    assert len(set(key)) > 32
    assert cman_tool.main(["keygen", str(path)]) == 1
    assert "exists already" in capsys.readouterr().err
    assert path.read_bytes() == key


def test_lists_of_ccs_tool(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ccs_tool.main(["lsnode", "-c", str(conf)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "", "Cluster name: mycluster, config_version: 35", "", f"{'Nodename':<32}Votes Nodeid Fencetype",
        *(f"{name:<32}   1    {i}    WTI-Fence" for i, name in enumerate(("web2", "Mysql1", "Mysql2", "web1"), 1))]
    assert ccs_tool.main(["lsfence", "-v", "-c", str(conf)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "Name             Agent", "WTI-Fence        fence_wti",
        "  Properties: ipaddr=192.168.12.251 passwd=password"]
    assert ccs_tool.main(["lsnode", "--json", "-c", str(conf)]) == 0
    assert json.loads(capsys.readouterr().out)[3] == {"name": "web1", "votes": 1, "nodeid": 4, "fence": ["WTI-Fence"]}


def test_a_cluster_is_made_by_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new.conf"
    for words in (["create", "small"], ["addfence", "apc", "fence_apc", "ipaddr=apc.example", "login=a"],
                  ["addnode", "-n", "1", "-f", "apc", "one", "port=1"],
                  ["addnode", "two", "-n", "2", "-v", "3", "-f", "apc", "port=2"], ["delnode", "one"]):
        assert ccs_tool.main([words[0], "-c", str(path), *words[1:]]) == 0, capsys.readouterr().err
    made = load(path.read_bytes())
    assert (made.name, made.version) == ("small", 5)
    assert [(n.name, n.nodeid, n.votes, n.fence_names) for n in made.nodes] == [("two", 2, 3, ("apc",))]
    assert ccs_tool.main(["addnode", "-c", str(path), "-o", "-", "-n", "7", "three"]) == 0
    assert 'name="three"' in capsys.readouterr().out
    assert ccs_tool.main(["create", "-c", str(path), "again"]) == 1
    assert ccs_tool.main(["delfence", "-c", str(path), "apc"]) == 0
    assert "apc is still used by two" in capsys.readouterr().err


@pytest.mark.usefixtures("alone")
def test_an_update_without_a_cluster_fails(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ccs_tool.main(["update", str(conf)]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "Failed to update config file."
    conf.write_bytes(changed(("</rm>", "")))
    assert ccs_tool.main(["update", str(conf)]) == 1
    assert f"{conf}:" in capsys.readouterr().err
    for words in (["update"], ["nonsense"], ["addnode", "x"], ["addnode", "-n", "x", "y"], ["addfence", "a", "b", "c"]):
        assert ccs_tool.main(words) == 1
        assert "ccs_tool: " in capsys.readouterr().err


def test_help_of_all(capsys: pytest.CaptureFixture[str]) -> None:
    for main, words in ((cman_tool.main, ["-h"]), (ccs_tool.main, ["help"]), (ccs_tool.main, []),
                        (service.main, ["-h"])):
        assert main(words) == 0
        assert capsys.readouterr().out.startswith("Usage: ")
    assert cman_tool.main(["-V"]) == 0
    assert capsys.readouterr().out.startswith("cman_tool 0.")
    assert os.environ.get("CMAN_SOCKET") is None
