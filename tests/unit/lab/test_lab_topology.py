"""The room on paper: the guide's by default, refusals that name what is wrong, cluster.conf, files."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from lab import etc
from lab.errors import LabError
from lab.topology import NODES_MAX, Disk, checked, from_json, from_toml, guide_topology, parse_size


def test_the_guides_room() -> None:
    room = guide_topology()
    assert {n.name: n.address for n in room.machines} == {
        "web1": "192.168.12.230", "web2": "192.168.12.240", "Mysql1": "192.168.12.231", "Mysql2": "192.168.12.232",
        "storgae-server": "192.168.12.246"}
    assert [d.name for d in room.disks] == ["sdb5", "sdb6", "sdb7"]
    assert room.disks[2].size_bytes < 10 << 20
    assert room.machine("web1").nodeid == 4
    assert room.machine("web1").mac == "02:00:c0:a8:0c:e6"


def test_json_round_trip() -> None:
    room = guide_topology(7, disk="iscsi", size="3G", qdisk_votes=2)
    assert from_json(room.to_json()) == room


def test_sizes() -> None:
    assert [parse_size(s) for s in ("8192", "16M", "2GiB", "1t")] == [8192, 16 << 20, 2 << 30, 1 << 40]
    with pytest.raises(LabError, match="no size"):
        parse_size("big")


@pytest.mark.parametrize("count", [0, NODES_MAX + 1])
def test_number_of_nodes(count: int) -> None:
    with pytest.raises(LabError, match="1 to 16"):
        guide_topology(count)


def test_all_sixteen_fit() -> None:
    room = guide_topology(NODES_MAX)
    assert len({n.address for n in room.machines}) == NODES_MAX + 1


@pytest.mark.parametrize(("change", "message"), [
    ({"cluster": "a name"}, "cluster name"),
    ({"disk_kind": "nbd"}, "loop and iscsi"),
    ({"nodes": ()}, "0 nodes"),
    ({"disks": (Disk("sdb5", 100),)}, "at least 1M"),
    ({"disks": (Disk("../x", 1 << 20),)}, "a name such as"),
    ({"disks": (Disk("sdb5", 1 << 20), Disk("sdb5", 1 << 20))}, "disk sdb5"),
])
def test_wrong_rooms(change: dict[str, object], message: str) -> None:
    with pytest.raises(LabError, match=message):
        checked(replace(guide_topology(), **change))  # type: ignore[arg-type]


@pytest.mark.parametrize(("change", "message"), [
    ({"address": "192.168.12.251"}, "power switch"), ({"address": "10.0.0.1"}, "not free"),
    ({"address": "here"}, "no IPv4"), ({"address": "192.168.12.240"}, "address 192.168.12.240"),
    ({"name": "a/b"}, "no host name"), ({"name": "web2"}, "name web2"), ({"nodeid": 1}, "node id 1"),
    ({"plug": 2}, "plug 2"),
])
def test_wrong_nodes(change: dict[str, object], message: str) -> None:
    room = guide_topology()
    first = replace(room.nodes[0], **change)  # type: ignore[arg-type]
    with pytest.raises(LabError, match=message):
        checked(replace(room, nodes=(first, *room.nodes[1:])))


def test_a_room_from_a_file() -> None:
    room = from_toml('cluster = "c1"\ndisk = "iscsi"\nsizes = { sdb5 = "8M" }\n'
                     '[[node]]\nname = "a"\naddress = "192.168.12.10"\nvotes = 3\n', "room.toml")
    assert (room.cluster, room.disk_kind, room.disks[0].size_bytes) == ("c1", "iscsi", 8 << 20)
    assert [(n.name, n.nodeid, n.plug, n.votes) for n in room.nodes] == [("a", 1, 1, 3)]


@pytest.mark.parametrize(("text", "message"), [
    ("x = ", "room.toml: "), ("colour = 1", "unknown key 'colour'"), ("nodes = 99", "room.toml: 99 nodes"),
    ('[[node]]\nname = "a"', "without 'address'"), ("node = 3", "room.toml: "),
])
def test_wrong_files(text: str, message: str) -> None:
    with pytest.raises(LabError, match=message):
        from_toml(text, "room.toml")


def test_cluster_conf() -> None:
    root = ET.fromstring(etc.cluster_conf(guide_topology(qdisk_votes=2)))
    assert (root.get("name"), root.find("cman").get("expected_votes")) == ("mycluster", "6")  # type: ignore[union-attr]
    nodes = root.findall("clusternodes/clusternode")
    assert [n.get("name") for n in nodes] == ["web2", "Mysql1", "Mysql2", "web1"]
    assert [d.get("port") for d in root.iter("device")] == ["2", "3", "4", "1"]
    assert root.find("fencedevices/fencedevice").get("agent") == "fence_wti"  # type: ignore[union-attr]
    assert root.find("quorumd") is not None


def test_two_nodes_need_no_majority() -> None:
    assert 'two_node="1" expected_votes="1"' in etc.cluster_conf(guide_topology(2))


def test_files_of_a_node() -> None:
    room = guide_topology(disk="iscsi")
    node, storage = etc.files(room, room.nodes[0]), etc.files(room, room.storage)
    assert node["etc/hostname"][1] == "web1\n"
    assert "192.168.12.246\tstorgae-server" in node["etc/hosts"][1]
    assert "etc/cluster/cluster.conf" in node
    assert "etc/cluster/cluster.conf" not in storage
    assert storage["etc/init.d/tgtd"][1].count("--op new --tid 1 --lun") == 3
    assert etc.iscsi_url(room, "sdb6").endswith("/2")
