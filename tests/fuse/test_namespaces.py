"""A mount that another mount namespace has a copy of: the unmount says whose; a room of the lab keeps none."""

from __future__ import annotations

import os
import select
import subprocess
from pathlib import Path

import pytest

from interop.commands import Commands, Mounted, Mounts, wait_until_gone
from lab import Lab, guide_topology

pytestmark = pytest.mark.mount

PATIENCE_S = 100


@pytest.fixture
def gfs2(commands: Commands, mounts: Mounts, tmp_path: Path) -> Mounted:
    image = tmp_path / "image"
    with image.open("wb") as f:
        f.truncate(64 << 20)
    commands.mkfs(image, "-J", "8")
    return mounts.mount(image)


def test_umount_names_who_has_a_copy(gfs2: Mounted) -> None:
    daemon = gfs2.daemon()
    other = subprocess.Popen(["unshare", "-m", "sh", "-c", "echo there; exec sleep 1000"], stdout=subprocess.PIPE,
                             text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "there\n"
        umount = subprocess.Popen([gfs2.commands.bin_dir / "umount.gfs2", gfs2.path], stderr=subprocess.PIPE, bufsize=0)
        assert umount.stderr is not None
        # The last of possibly several: other namespaces of the machine may have been copied meanwhile, too.
        namespace = os.readlink(f"/proc/{other.pid}/ns/mnt")
        line = ""
        while namespace not in line:
            assert select.select([umount.stderr], [], [], PATIENCE_S)[0], "it waits silently"
            line = umount.stderr.readline().decode()
            assert line.startswith(f"umount.gfs2: {gfs2.image} stays in use, waiting: namespace mnt:["), line
        assert f"mounted on {gfs2.path}, pid {other.pid} (sleep)" in line
        assert Path(f"/proc/{daemon}").exists()
    finally:
        other.kill()
        other.communicate()
    wait_until_gone(daemon)
    umount.communicate(timeout=PATIENCE_S)
    assert umount.returncode == 0


def test_a_room_keeps_no_mount_of_the_host(gfs2: Mounted, tmp_path: Path) -> None:
    """Made while it is mounted, and up for longer."""
    daemon = gfs2.daemon()
    with Lab(guide_topology(1, size="16M")):
        seen = Path("/proc/self/mountinfo").read_text().count(f" {gfs2.path} ")
        assert seen == 1
        gfs2.umount()
        wait_until_gone(daemon)
