"""Two guests with corosync and dlm_controld that mount one image at the same time, with lock_dlm."""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from pathlib import Path

from .errors import OracleError
from .guest import Job, Machine, Outcome, Sink, quote, run_guests
from .prepare import guest_file

SB_ADDR = 128 * 512
LOCKTABLE = slice(160, 224)     # sb_locktable within the superblock


def lock_table(image: str) -> str:
    """The name cluster:filesystem in the superblock of an image."""
    with open(image, "rb") as f:
        f.seek(SB_ADDR)
        sb = f.read(LOCKTABLE.stop)
    if len(sb) < LOCKTABLE.stop or sb[:4] != b"\x01\x16\x19\x70":
        raise OracleError(f"{image} has no GFS2 superblock")
    return sb[LOCKTABLE].split(b"\0")[0].decode() or "oracle:gfs2"


def network(node: int, wires: Path, machine: Machine) -> list[str]:
    """QEMU's options for a wire between the two guests, made of two datagram sockets."""
    card = "virtio-net-" + ("device" if machine.machine == "microvm" else "pci")
    return ["-netdev", f"dgram,id=net,local.type=unix,local.path={wires}/net{node},"
                       f"remote.type=unix,remote.path={wires}/net{3 - node}",
            "-device", f"{card},netdev=net,mac=52:54:00:00:00:{node:02x}"]


def run_cluster(image: str, script: bytes, machine: Machine, *, crash_nodes: Collection[int] = (),
                mount_opts: str = "", in_dir: str | None = None, out_dir: str | None = None,
                sink: Sink | None = None) -> list[Outcome]:
    """Run the script on both nodes ($NODE is 1 or 2; `barrier NAME` waits for the other one)."""
    table = lock_table(image)
    jobs = []
    with tempfile.TemporaryDirectory(prefix="kernel-gfs2-net-") as wires:
        for node in (1, 2):
            jobs.append(Job(
                image, script, proto="lock_dlm", crash=node in crash_nodes, cluster=True,
                mount_opts=",".join(filter(None, [f"locktable={table}", mount_opts])),
                config=f"NODE={node}\nCLUSTER_NAME={quote(table.split(':')[0])}\n",
                in_dir=in_dir, out_dir=out_dir and f"{out_dir}/node{node}",
                files={"cluster": guest_file("cluster_setup.sh")},
                netdev=network(node, Path(wires), machine), prefix=f"node{node}: ", sink=sink))
        return run_guests(jobs, machine)
