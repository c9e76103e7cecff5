"""Mounts of the host's that a room must not keep: a copy of somebody's FUSE mount lives as long as the room does.

A new mount namespace is a copy of the old one. Whoever unmounts on the host takes his mount out of the host's tree
only; where the room still has it the superblock lives on, and with it the daemon that waits for its end.
"""

from __future__ import annotations

from collections.abc import Sequence

from gfs2py.fuse import control
from lab import syscalls

FUSE_TYPES = ("fuse", "fuseblk")


def is_fuse(entry: control.MountEntry) -> bool:
    return entry.fs_type.partition(".")[0] in FUSE_TYPES


def is_needed(mount_point: str, paths: Sequence[str]) -> bool:
    """Whether one of the paths is on the mount."""
    return any(path == mount_point or path.startswith(mount_point.rstrip("/") + "/") for path in paths)


def drop_fuse(needed: Sequence[str]) -> int:
    """Detach every FUSE mount of this mount namespace that none of these paths is on; how many.

    From the outermost on, for below a mount that hangs no path may be walked; what is below goes along.
    """
    seen: set[int] = set()
    dropped = 0
    while True:
        entry = next((e for e in control.mounts() if e.mount_id not in seen and is_fuse(e)
                      and not is_needed(e.mount_point, needed)), None)
        if entry is None:
            return dropped
        seen.add(entry.mount_id)        # what stays in spite of all is not tried again
        try:
            syscalls.umount(entry.mount_point, control.MNT_DETACH)
            dropped += 1
        except OSError:
            continue
