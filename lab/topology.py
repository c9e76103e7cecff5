"""What stands in the room: nodes, addresses, the shared disk. The guide's by default; from options or a TOML file.

Pure: nothing here looks at the machine.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import re
import tomllib
from dataclasses import dataclass, field

from lab.errors import LabError

NODES_MAX = 16
DISK_KINDS = ("loop", "iscsi")
NETWORK = ipaddress.IPv4Network("192.168.12.0/24")
SWITCH_ADDRESS = "192.168.12.251"
SWITCH = "power-switch"         # what commands that cut the network call it
IQN = "iqn.2010-08.com.example:storage.sdb"
SIZE_BYTES_MIN = 1 << 20
_GUIDE = (("web1", "192.168.12.230", 4), ("web2", "192.168.12.240", 1), ("Mysql1", "192.168.12.231", 2),
          ("Mysql2", "192.168.12.232", 3))
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of the room. `plug` is its outlet of the power switch; node id 0: no member of the cluster."""

    name: str
    address: str
    nodeid: int
    plug: int
    votes: int = 1

    @property
    def mac(self) -> str:
        """Always the same, so that a reboot leaves no stale ARP entry behind. Locally administered."""
        return "02:00:" + ":".join(f"{byte:02x}" for byte in ipaddress.IPv4Address(self.address).packed)


@dataclass(frozen=True, slots=True)
class Disk:
    """A partition of the shared disk: /dev/`name` on every node."""

    name: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Topology:
    """The whole room."""

    nodes: tuple[Node, ...]
    storage: Node
    disks: tuple[Disk, ...]
    cluster: str = "mycluster"
    disk_kind: str = "loop"
    config_version: int = 1
    qdisk_votes: int = 0            # 0: no quorum disk in cluster.conf
    post_join_delay: int = 3        # seconds that nodes have to appear at the start before they are fenced
    switch_password: str = "wti"
    cluster_conf: str = ""          # a text of one's own instead of the generated one
    cgroups: bool = True            # False: freeze by signals, as where no cgroup may be made
    binds: tuple[str, ...] = field(default=())

    @property
    def machines(self) -> tuple[Node, ...]:
        return (*self.nodes, self.storage)

    def machine(self, name: str) -> Node:
        """Raises LabError."""
        for node in self.machines:
            if node.name == name:
                return node
        names = " ".join(n.name for n in self.machines)
        raise LabError(f"there is no machine {name} in this room: it has {names}")

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))


def parse_size(text: str) -> int:
    """"1G" as bytes. Raises LabError."""
    found = re.fullmatch(r"(\d+)\s*([KMGT]?)(i?B)?", text.strip(), re.IGNORECASE)
    if not found:
        raise LabError(f"{text!r} is no size: a number with K, M, G or T, such as 4G")
    return int(found[1]) * _UNITS[found[2].upper()]


def from_json(text: str) -> Topology:
    """What to_json wrote. Raises ValueError, KeyError, TypeError on anything else."""
    raw = json.loads(text)
    raw["nodes"] = tuple(Node(**n) for n in raw["nodes"])
    raw["disks"] = tuple(Disk(**d) for d in raw["disks"])
    raw["storage"] = Node(**raw["storage"])
    raw["binds"] = tuple(raw["binds"])
    return checked(Topology(**raw))


def guide_nodes(count: int) -> tuple[Node, ...]:
    """The guide's four, then node5 ... Raises LabError."""
    if not 1 <= count <= NODES_MAX:
        raise LabError(f"{count} nodes: a room has 1 to {NODES_MAX}")
    known = list(_GUIDE[:count])
    known += [(f"node{n}", f"192.168.12.{200 + n}", n) for n in range(5, count + 1)]
    return tuple(Node(name, address, nodeid, plug) for plug, (name, address, nodeid) in enumerate(known, 1))


def guide_topology(nodes: int = 4, *, disk: str = "loop", size: str | int = "2G", cluster: str = "mycluster",
                   qdisk_votes: int = 0, post_join_delay: int = 3, binds: tuple[str, ...] = ()) -> Topology:
    """The room of the guide with some of its measures changed; `size` is that of /dev/sdb5. Raises LabError."""
    size_bytes = parse_size(size) if isinstance(size, str) else size
    return checked(Topology(
        nodes=guide_nodes(nodes), storage=Node("storgae-server", "192.168.12.246", 0, NODES_MAX + 1, 0),
        disks=(Disk("sdb5", size_bytes), Disk("sdb6", 256 << 20), Disk("sdb7", 9 << 20)),
        cluster=cluster, disk_kind=disk, qdisk_votes=qdisk_votes, post_join_delay=post_join_delay,
        binds=binds))


def checked(room: Topology) -> Topology:
    """The same room if it can be built. Raises LabError naming what is wrong."""
    if room.disk_kind not in DISK_KINDS:
        raise LabError(f"disk kind {room.disk_kind!r}: this lab knows {' and '.join(DISK_KINDS)}")
    if not 1 <= len(room.nodes) <= NODES_MAX:
        raise LabError(f"{len(room.nodes)} nodes: a room has 1 to {NODES_MAX}")
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,15}", room.cluster):
        raise LabError(f"cluster name {room.cluster!r}: 1 to 15 letters, digits, - or _")
    for node in room.machines:
        if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9-]{0,62})", node.name):
            raise LabError(f"{node.name!r} is no host name")
        try:
            address = ipaddress.IPv4Address(node.address)
        except ValueError:
            raise LabError(f"{node.name}: {node.address!r} is no IPv4 address") from None
        if address not in NETWORK or node.address == SWITCH_ADDRESS:
            raise LabError(f"{node.name}: {address} is not free in {NETWORK} (the power switch has {SWITCH_ADDRESS})")
    _unique("name", [n.name for n in room.machines] + [SWITCH])
    _unique("address", [n.address for n in room.machines])
    _unique("node id", [str(n.nodeid) for n in room.nodes])
    _unique("plug", [str(n.plug) for n in room.machines])
    _unique("disk", [d.name for d in room.disks])
    for disk in room.disks:
        if not re.fullmatch(r"[a-z][a-z0-9]{1,14}", disk.name):
            raise LabError(f"disk {disk.name!r}: a name such as sdb5")
        if disk.size_bytes < SIZE_BYTES_MIN or disk.size_bytes % 4096:
            raise LabError(f"disk {disk.name}: {disk.size_bytes} bytes; at least 1M and whole blocks of 4096")
    return room


def _unique(what: str, values: list[str]) -> None:
    for value in values:
        if values.count(value) > 1:
            raise LabError(f"two machines or disks have the {what} {value}")


def from_toml(text: str, name: str) -> Topology:
    """A room from a file; every key may be left out. Raises LabError naming the file and the key.

        cluster = "mycluster"
        disk = "iscsi"
        sizes = { sdb5 = "8G" }
        [[node]]
        name = "web1"
        address = "192.168.12.230"
    """
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        raise LabError(f"{name}: {e}") from None
    known = {"cluster", "disk", "sizes", "node", "qdisk_votes", "config_version", "cluster_conf", "nodes"}
    if unknown := sorted(set(raw) - known):
        raise LabError(f"{name}: unknown key {unknown[0]!r}; known are {', '.join(sorted(known))}")
    try:
        room = guide_topology(int(raw.get("nodes", 4)), disk=str(raw.get("disk", "loop")),
                              cluster=str(raw.get("cluster", "mycluster")),
                              qdisk_votes=int(raw.get("qdisk_votes", 0)))
        if "sizes" in raw:
            sizes = {**{d.name: d.size_bytes for d in room.disks},
                     **{k: parse_size(str(v)) for k, v in dict(raw["sizes"]).items()}}
            room = dataclasses.replace(room, disks=tuple(Disk(k, v) for k, v in sizes.items()))
        if "node" in raw:
            nodes = tuple(Node(str(n["name"]), str(n["address"]), int(n.get("nodeid", at)), int(n.get("plug", at)),
                               int(n.get("votes", 1))) for at, n in enumerate(raw["node"], 1))
            room = dataclasses.replace(room, nodes=nodes)
        return checked(dataclasses.replace(room, config_version=int(raw.get("config_version", 1)),
                                           cluster_conf=str(raw.get("cluster_conf", ""))))
    except LabError as e:
        raise LabError(f"{name}: {e}") from None
    except KeyError as e:
        raise LabError(f"{name}: a [[node]] without {e.args[0]!r}") from None
    except (TypeError, ValueError) as e:
        raise LabError(f"{name}: {e}") from None
