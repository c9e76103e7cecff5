"""A Volume on a memory device as the models see a file system: paths are tuples of names."""

from __future__ import annotations

import random
import struct
from typing import TYPE_CHECKING

from gfs2py.block import MemoryDevice
from gfs2py.engine.volume import Volume
from gfs2py.fsck import check
from gfs2py.mkfs.make import make_fs
from gfs2py.mkfs.options import MkfsOptions
from interop.commands import DEBIAN_SBIN

if TYPE_CHECKING:
    from pathlib import Path as FilePath

    from volume_model import Path

    from interop.commands import Commands

FS_IOC_SETFLAGS = 0x40086602
FS_JOURNAL_DATA_FL = 0x4000

_made: dict[tuple[int, int, int, int], MemoryDevice] = {}


def made_device(bsize: int, mib: int, *, qc_mb: int = 1, rgrp_mb: int = 32) -> MemoryDevice:
    """A fresh file system with an 8 MiB journal; made once per kind, then shared as a snapshot."""
    key = bsize, mib, qc_mb, rgrp_mb
    if key not in _made:
        device = MemoryDevice(mib << 20)
        make_fs(device, MkfsOptions(bsize=bsize, jsize_mb=8, qcsize_mb=qc_mb, rgsize_mb=rgrp_mb,
                                    lockproto="lock_nolock", rng=random.Random(1)))
        _made[key] = device
    return MemoryDevice.from_snapshot(_made[key].snapshot())


def text(path: Path) -> bytes:
    return b"/".join(path)


class TestVolume:
    """The Fs of volume_model on a Volume; `remount` unmounts cleanly and mounts again."""

    __test__ = False

    def __init__(self, *, bsize: int, mib: int, qc_mb: int = 1, rgrp_mb: int = 32,
                 cache_bytes: int = 4 << 20, inodes: int = 64) -> None:
        self.device = made_device(bsize, mib, qc_mb=qc_mb, rgrp_mb=rgrp_mb)
        self.cache_bytes, self.inodes = cache_bytes, inodes
        self.volume: Volume | None = self.mount()

    def mount(self) -> Volume:
        return Volume(self.device, cache_bytes=self.cache_bytes, inodes=self.inodes)

    @property
    def vol(self) -> Volume:
        assert self.volume is not None
        return self.volume

    def remount(self) -> None:
        self.close()
        self.volume = self.mount()

    def crash(self) -> None:
        """Everything synced, then the machine is gone: the next mount replays the journal."""
        assert self.volume is not None
        volume, self.volume = self.volume, None
        try:
            volume.sync()
        finally:
            volume.abandon()
        self.volume = self.mount()

    def close(self) -> None:
        if self.volume is not None:
            volume, self.volume = self.volume, None
            volume.close()

    def check(self, commands: Commands, image: FilePath) -> None:
        """Unmounts; both checkers must be silent (ours in process: its start takes longer than its work)."""
        self.close()
        found = check(self.device).findings
        assert found == [], "\n".join(f.text for f in found)
        self.device.save(image)
        commands.assert_silent(DEBIAN_SBIN / "fsck.gfs2", image)
        image.unlink()

    # -- operations

    def exists(self, path: Path) -> bool:
        return self.vol.exists(text(path))

    def create(self, path: Path, mode: int) -> bool:
        self.vol.create(text(path), mode=mode)
        return True

    def mkdir(self, path: Path, mode: int) -> None:
        self.vol.mkdir(text(path), mode)

    def symlink(self, path: Path, target: bytes) -> None:
        self.vol.symlink(target, text(path))

    def readlink(self, path: Path) -> bytes:
        return self.vol.readlink(text(path))

    def link(self, path: Path, new: Path) -> None:
        self.vol.link(text(path), text(new))

    def unlink(self, path: Path) -> None:
        self.vol.unlink(text(path))

    def rmdir(self, path: Path) -> None:
        self.vol.rmdir(text(path))

    def rename(self, path: Path, new: Path, flags: int) -> None:
        self.vol.rename(text(path), text(new), flags)

    def write(self, path: Path, off: int, data: bytes) -> int:
        node = self.vol.node(text(path))
        try:
            return self.vol.calls.write(node, off, data)
        finally:
            self.vol.calls.forget(node)

    def read(self, path: Path, off: int, size: int) -> bytes:
        return self.vol.read(text(path), off, size)

    def truncate(self, path: Path, size: int) -> None:
        self.vol.truncate(text(path), size)

    def fallocate(self, path: Path, mode: int, off: int, length: int) -> None:
        self.vol.fallocate(text(path), mode, off, length)

    def seek(self, path: Path, off: int, whence: int) -> int:
        node = self.vol.node(text(path))
        try:
            return self.vol.calls.lseek(node, off, whence)
        finally:
            self.vol.calls.forget(node)

    def setxattr(self, path: Path, name: bytes, value: bytes, flags: int) -> None:
        self.vol.setxattr(text(path), name, value, flags)

    def getxattr(self, path: Path, name: bytes) -> bytes:
        return self.vol.getxattr(text(path), name)

    def listxattr(self, path: Path) -> list[bytes]:
        return self.vol.listxattr(text(path))

    def removexattr(self, path: Path, name: bytes) -> None:
        self.vol.removexattr(text(path), name)

    def readdir(self, path: Path) -> list[bytes]:
        return self.vol.listdir(text(path))

    def stat(self, path: Path) -> tuple[int, int, int]:
        attr = self.vol.stat(text(path))
        return attr.mode, attr.nlink, attr.size

    def sync(self) -> None:
        self.vol.sync()

    def set_jdata(self, path: Path) -> None:
        """The (empty) file's data goes through the journal from now on."""
        node = self.vol.node(text(path))
        try:
            self.vol.calls.ioctl(node, FS_IOC_SETFLAGS, struct.pack("<I", FS_JOURNAL_DATA_FL))
        finally:
            self.vol.calls.forget(node)
