"""What each machine's pid 1 is told: what of the host it sees, which links and devices it has, its network."""

from __future__ import annotations

import json
import os
import sys
from importlib import metadata
from pathlib import Path

from lab import etc, network
from lab.build import shown_etc
from lab.errors import LabError
from lab.place import Place
from lab.rootfs import root_links, sbin_links
from lab.topology import Topology

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lab.rootfs import Spec

HOST_SBIN = "/usr/sbin"
DISTRIBUTION = "gfs2py"


def project_commands() -> tuple[str, list[str]]:
    """The directory of the project's commands and their names; none when it is not installed."""
    bin_dir = Path(sys.prefix) / "bin"
    try:
        files = metadata.distribution(DISTRIBUTION).files or []
    except metadata.PackageNotFoundError:
        return str(bin_dir), []
    names = sorted({f.name for f in files if f.parent.name == "bin"})
    return str(bin_dir), [n for n in names if (bin_dir / n).exists()]


def _covered(path: str, by: list[str]) -> bool:
    return any(path == b or path.startswith(b.rstrip("/") + "/") for b in by)


def host_paths() -> list[str]:
    """What a node needs of the host beside its own files, shortest first: /usr, the project, its interpreter."""
    wanted = {"/usr", str(Path(__file__).resolve().parents[1]), sys.prefix, sys.base_prefix,
              os.path.realpath(sys.prefix), os.path.realpath(sys.base_prefix),
              str(Path(os.path.realpath(sys.executable)).parents[1])}
    wanted |= {f"/{name}" for name in os.listdir("/")
               if name in ("bin", "lib", "lib32", "lib64", "libx32") and not os.path.islink(f"/{name}")}
    # An environment inside a checkout runs that checkout, and this package may be a copy elsewhere (the checked build).
    checkout = Path(sys.prefix).parent
    if (checkout / "pyproject.toml").exists():
        wanted.add(str(checkout))
    found: list[str] = []
    for path in sorted(wanted, key=lambda p: (len(p), p)):
        if path != "/" and os.path.isdir(path) and not _covered(path, found):
            found.append(path)
    return found


def needed_paths(place: Place, room: Topology) -> list[str]:
    """What of the host the room and its nodes use, wherever it is mounted."""
    return [str(place.path), os.getcwd(), *host_paths(), *room.binds, *sys.path]


def specs(place: Place, room: Topology) -> dict[str, Spec]:
    """For every machine. Raises LabError on a host that is laid out in a way we do not know."""
    if not os.path.islink("/sbin"):
        raise LabError("/sbin is no link to /usr/sbin here: the lab needs a host with a merged /usr, such as Debian 12")
    devices: dict[str, dict[str, int]] = json.loads((place.path / "loops.json").read_text())
    binds = [(p, p, True) for p in host_paths()] + [(p, p, False) for p in room.binds]
    bin_dir, ours = project_commands()
    links = root_links() | sbin_links(HOST_SBIN, bin_dir, ours)
    scripts = {name: text for name, text in etc.commands().items() if name not in ours}
    out: dict[str, Spec] = {}
    for node in room.machines:
        home = place.node(node.name)
        extra = [(f"/etc/{name}", f"/etc/{name}", True) for name in shown_etc()]
        extra.append((str(place.shared), "/lab", False))
        if not node.nodeid:
            extra.append((str(place.disks), "/srv/iscsi", False))
        iscsi = bool(node.nodeid) and room.disk_kind == "iscsi"
        out[node.name] = {
            "node": node.name, "hostname": node.name, "root": str(home / "root.mount"), "home": str(home),
            "binds": binds + extra, "links": links, "scripts": scripts,
            "devices": {name: (7, number) for name, number in devices.get(node.name, {}).items()},
            "device_links": {d.name: etc.iscsi_url(room, d.name) for d in room.disks} if iscsi else {},
            "network": network.node_batch(node)}
    return out
