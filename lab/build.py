"""Everything of a room that can be made before its first process: directories, images, loop devices, files."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from lab import etc, loops
from lab.errors import LabError
from lab.place import Place
from lab.rootfs import KEPT
from lab.topology import Topology

Progress = Callable[[str], None]
# Debian package that brings it -> commands that a room needs from it
TOOLS = {"iproute2": ("ip",), "nftables": ("nft",), "coreutils": ("cp",), "util-linux": ("setpriv", "nsenter")}
TOOLS_ISCSI = {"tgt": ("tgtd", "tgtadm")}
_VAR = ("cache", "lib", "log", "spool", "lib/cluster", "log/cluster")
# Of the host's /etc: what a node sees where it lies (many files that no node changes), and what it has no use for.
SHOWN_ETC = ("alternatives", "ssl")
_LEFT_OUT = re.compile("|".join(["X11", "apt", "dbus-1", "dpkg", "fonts", "init.d", r"java.*", r"rc.\.d", "systemd",
                                 "udev", "xdg", *SHOWN_ETC]))


def check_host(room: Topology) -> None:
    """Raises LabError with the first thing that is missing, and how to get it."""
    if os.geteuid() != 0:
        raise LabError("only root can build a machine room: it needs namespaces, mounts and loop devices")
    for package, commands in (TOOLS | (TOOLS_ISCSI if room.disk_kind == "iscsi" else {})).items():
        for command in commands:
            if shutil.which(command, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is None:
                raise LabError(f"{command} is not installed: apt-get install {package}")
    for kind in ("pid", "net", "mnt", "uts", "ipc"):
        if not os.path.exists(f"/proc/self/ns/{kind}"):
            raise LabError(f"this kernel has no {kind} namespaces")
    if _in_chroot():
        raise LabError("this is a chroot: commands for a node would run outside of it; use the machine itself or a "
                       "container")
    if not os.path.exists("/dev/fuse"):
        raise LabError("there is no /dev/fuse: nothing could be mounted on the nodes")


def _in_chroot() -> bool:
    """Whether setns(2) into this mount namespace leads to another root than ours: pivot_root(2) could not help it."""
    own = os.stat("/")
    seen = subprocess.run(["nsenter", "--mount=/proc/self/ns/mnt", "stat", "-c", "%d:%i", "/"], check=False,
                          capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return seen.stdout.strip() != f"{own.st_dev}:{own.st_ino}"


def make_directories(place: Place, room: Topology) -> None:
    """The room's own directory; raises LabError, OSError."""
    place.path.mkdir(mode=0o700, exist_ok=True)
    place.disks.mkdir(exist_ok=True)
    place.shared.mkdir()
    (place.path / "topology.json").write_text(room.to_json())
    for node in room.machines:
        home = place.node(node.name)
        home.mkdir(parents=True)
        (home / "root.mount").mkdir()
        for name in KEPT:
            (home / name).mkdir(mode=0o700 if name == "root" else 0o755)


def make_images(place: Place, room: Topology) -> None:
    """Sparse files; those that an earlier room left are used again. Raises LabError."""
    for disk in room.disks:
        path = place.disks / f"{disk.name}.img"
        if path.exists():
            if path.stat().st_size != disk.size_bytes:
                raise LabError(f"{path} was kept and has {path.stat().st_size} bytes, not {disk.size_bytes}: "
                               "remove it or ask for its size")
            continue
        with path.open("wb") as f:
            f.truncate(disk.size_bytes)
        path.chmod(0o600)


def attach_disks(place: Place, room: Topology) -> None:
    """A loop device for each node and disk, written down in loops.json. Raises LabError."""
    found: dict[str, dict[str, int]] = {}
    if room.disk_kind == "loop":
        for node in room.nodes:
            found[node.name] = {d.name: loops.attach(str(place.disks / f"{d.name}.img")) for d in room.disks}
    (place.path / "loops.json").write_text(json.dumps(found))


def fill_homes(place: Place, room: Topology) -> None:
    """/etc of the host with the lab's own files over it, an empty /var. Raises LabError."""
    wanted = [f"/etc/{name}" for name in sorted(os.listdir("/etc")) if not _LEFT_OUT.fullmatch(name)]
    # A copy must not outlive the builder: it would fill a directory that is being removed.
    copies = [subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "cp", "-a", "-t", str(place.node(n.name) / "etc"),
                                *wanted], stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
              for n in room.machines]
    errors = [copy.communicate()[1] for copy in copies]
    for copy, error in zip(copies, errors, strict=True):
        if copy.returncode:
            raise LabError(f"cannot copy /etc: {error.strip().splitlines()[-1] if error else copy.returncode}")
    key = secrets.token_hex(64)         # of the cluster: the same on every node, as an administrator copies it
    for node in room.machines:
        home = place.node(node.name)
        _var(home / "var")
        for name in ("cluster", "init.d", *shown_etc()):
            (home / "etc" / name).mkdir(exist_ok=True)
        for name, (mode, text) in etc.files(room, node).items():
            _write(home / name, mode, text)
        if node.nodeid:
            _write(home / "etc/cluster/cluster.key", 0o600, key)
        _link(home / "etc/mtab", "../proc/self/mounts")


def shown_etc() -> list[str]:
    """Those of SHOWN_ETC that this host has."""
    return [name for name in SHOWN_ETC if os.path.isdir(f"/etc/{name}")]


def _var(var: Path) -> None:
    for name in _VAR:
        (var / name).mkdir(parents=True, exist_ok=True)
    (var / "tmp").mkdir()
    (var / "tmp").chmod(0o1777)
    _link(var / "run", "../run")
    _link(var / "lock", "../run/lock")


def _write(path: Path, mode: int, text: str) -> None:
    """Anew: what stood there may be a link that leads out of the node's files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_text(text)
    path.chmod(mode)


def _link(path: Path, goal: str) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(goal)
