"""File systems in memory for the engine's tests: formatted once per kind, then shared copy-on-write."""

from __future__ import annotations

import functools
import random
import subprocess
import uuid
from pathlib import Path

from gfs2py.block._memory import MemoryDevice, Snapshot
from gfs2py.engine.volume import Volume
from gfs2py.fsck.check import check
from gfs2py.mkfs.make import make_fs
from gfs2py.mkfs.options import MkfsOptions

DEBIAN_FSCK = "/usr/sbin/fsck.gfs2"


@functools.cache
def _formatted(bsize: int, mib: int, jsize: int, fs_format: int) -> Snapshot:
    device = MemoryDevice(mib << 20)
    make_fs(device, MkfsOptions(bsize=bsize, jsize_mb=jsize, qcsize_mb=1, lockproto="lock_nolock",
                                format=fs_format, uuid=uuid.UUID(int=7), rng=random.Random(7),
                                now=1_700_000_000))
    return device.snapshot()


def fresh(bsize: int = 4096, mib: int = 256, *, jsize: int = 8, fs_format: int = 1802) -> MemoryDevice:
    """A new file system on a device of its own."""
    return MemoryDevice.from_snapshot(_formatted(bsize, mib, jsize, fs_format))


def mounted(device: MemoryDevice, *, quiet: bool = False, cache_mib: int = 32) -> Volume:
    """Without background threads, so that a test's timing is its own."""
    return Volume(device, background=False, quiet=quiet, cache_bytes=cache_mib << 20)


def assert_clean(device: MemoryDevice) -> None:
    """Our checker has nothing to say, not even a warning."""
    report = check(device)
    assert report.checked
    assert not report.n_errors + report.n_warnings, "\n".join(f.text for f in report.findings[:20])


def assert_debian_clean(device: MemoryDevice, tmp_path: Path) -> None:
    """fsck.gfs2 -n of gfs2-utils exits 0 on a copy of the device."""
    image = tmp_path / "judged"
    device.save(image)
    done = subprocess.run([DEBIAN_FSCK, "-n", image], capture_output=True, text=True, errors="replace",
                          check=False)
    image.unlink()
    assert done.returncode == 0, done.stdout + done.stderr


def free_blocks(volume: Volume) -> int:
    """What statfs says is free after everything freed has been committed."""
    volume.sync()
    return volume.calls.statfs()[2]
