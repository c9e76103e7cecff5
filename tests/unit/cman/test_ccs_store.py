"""cluster.conf on disk, edited and compared; and property: what is edited can be read again with the same values."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from guide_conf import GUIDE
from hypothesis import given
from hypothesis import strategies as st

from cman.ccs import store
from cman.ccs.edit import Document, EditError, skeleton
from cman.ccs.element import FILE_BYTES_MAX
from cman.ccs.load import load
from cman.ccs.problems import ConfigError

NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9._-]{0,20}", fullmatch=True)
VALUES = st.text(st.characters(exclude_categories=["Cs", "Cc", "Cn"]), max_size=40)


def test_replace_is_whole_and_private(tmp_path: Path) -> None:
    path = tmp_path / "cluster.conf"
    path.write_text("old")
    store.replace(path, GUIDE.encode())
    assert store.load_file(path).version == 35
    assert stat.S_IMODE(path.stat().st_mode) == store.MODE
    assert os.listdir(tmp_path) == ["cluster.conf"]


def test_a_failed_replace_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cluster.conf"
    path.write_text("old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        store.replace(path, b"new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["cluster.conf"]


def test_missing_and_huge_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.conf: No such file"):
        store.load_file(tmp_path / "nothing.conf")
    (tmp_path / "huge").write_bytes(b" " * (FILE_BYTES_MAX + 1))
    with pytest.raises(ConfigError, match="huge: more than"):
        store.load_file(tmp_path / "huge")


def test_edits_raise_the_version_and_keep_comments() -> None:
    edited = Document(GUIDE.replace("<cman ", "<!-- six votes --><cman ").encode(), "x")
    edited.add_node("web3", 5, 1, "WTI-Fence", [("port", "5")])
    edited.add_fence("apc", "fence_apc", [("ipaddr", "apc.example")])
    edited.delete_node("Mysql2")
    edited.raise_version()
    text = edited.text()
    assert b"six votes" in text
    config = load(text)
    assert config.version == 36
    assert [(n.name, n.nodeid) for n in config.nodes] == [("web2", 1), ("Mysql1", 2), ("web1", 4), ("web3", 5)]
    assert edited.delete_fence("WTI-Fence") == ["web2", "Mysql1", "web1", "web3"]


@pytest.mark.parametrize(("nodeid", "name", "fence", "why"), [
    (1, "new", None, "already in use"), (0, "new", None, "wanted 1 to"), (9, "web1", None, "already exists"),
    (9, "new", "nothing", "does not exist")])
def test_impossible_nodes_are_refused(nodeid: int, name: str, fence: str | None, why: str) -> None:
    with pytest.raises(EditError, match=why):
        Document(GUIDE.encode(), "x").add_node(name, nodeid, 1, fence, [])


def test_node_ids_are_given_to_those_without() -> None:
    text = GUIDE.replace(' nodeid="2"', "").replace(' nodeid="3"', "")
    edited = Document(text.encode(), "x")
    assert edited.add_node_ids(1) == [("Mysql1", 2), ("Mysql2", 3)]
    assert load(edited.text()).node_by_id(3) is not None


def test_a_skeleton_of_two_nodes_can_be_loaded() -> None:
    config = load(skeleton("small", True, ["a", "b"]))
    assert config.flag("cman", "two_node")
    assert config.expected_votes == 1


@given(cluster=NAMES.map(lambda n: n[:20]), nodes=st.lists(NAMES, min_size=1, max_size=8, unique=True), agent=NAMES,
       options=st.dictionaries(NAMES.filter(lambda n: n not in ("name", "agent") and not n.lower().startswith("xml")),
                               VALUES, max_size=4))
def test_what_is_built_is_read(cluster: str, nodes: list[str], agent: str, options: dict[str, str]) -> None:
    edited = Document(skeleton(cluster, False), "x")
    edited.add_fence("device", agent, list(options.items()))
    for nodeid, name in enumerate(nodes, 1):
        edited.add_node(name, nodeid, nodeid, "device", [("port", str(nodeid))])
        edited.raise_version()
    once = load(edited.text())
    assert once.name == cluster
    assert once.version == 1 + len(nodes)
    assert [(n.name, n.nodeid, n.votes) for n in once.nodes] == [(n, i, i) for i, n in enumerate(nodes, 1)]
    device = once.root.first("fencedevices/fencedevice")
    assert device is not None
    assert dict(device.attributes) == {"name": "device", "agent": agent, **options}
    assert load(Document(once.source, "x").text()).root == once.root, "editing nothing changes something"
