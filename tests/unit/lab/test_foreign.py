"""Which mounts of the host a room keeps."""

from __future__ import annotations

import pytest

from gfs2py.fuse.control import MountEntry
from lab.foreign import is_fuse, is_needed


@pytest.mark.parametrize(("fs_type", "fuse"), [("fuse", True), ("fuseblk", True), ("fuse.sshfs", True),
                                               ("fuseblk.gfs2", True), ("ext4", False), ("fusectl", False)])
def test_what_is_fuse(fs_type: str, fuse: bool) -> None:
    assert is_fuse(MountEntry(f"30 25 0:40 / /mnt rw,relatime - {fs_type} source rw")) == fuse


@pytest.mark.parametrize(("mount_point", "needed"), [("/home/me", True), ("/home/me/src/project", True), ("/", True),
                                                     ("/home/m", False), ("/home/me/src/project/x", False)])
def test_what_is_needed(mount_point: str, needed: bool) -> None:
    assert is_needed(mount_point, ["/usr", "/home/me/src/project"]) == needed
