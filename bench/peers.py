"""The file systems that are compared, each behind the same four calls.

All of them live on the same disk: in an image file of the work directory, or, for those that pass
through to another file system, in a directory beside it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.iscsi.tgt import Tgt

COMMAND_TIMEOUT_S = 300
UMOUNT_TRIES = 100
DEVICE_FILE_MIB = 512       # at least what the I/O rows use
BIN = Path(sys.executable).parent


def call(*argv: str | Path) -> None:
    """Run a command silently. Raises RuntimeError with its output."""
    done = subprocess.run([str(a) for a in argv], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          errors="replace", timeout=COMMAND_TIMEOUT_S, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, argv))}: exit status {done.returncode}\n"
                           f"{done.stdout}{done.stderr}")


def write_zeros(path: Path, mib: int) -> None:
    """A file all of whose blocks are allocated and written, on disk, and not in the page cache."""
    zeros = bytes(1 << 20)
    with path.open("wb", buffering=0) as f:
        for _ in range(mib):
            f.write(zeros)
        os.fsync(f.fileno())
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class Peer:
    """An image file with a file system of its own; subclasses say which."""

    name = ""
    needs: tuple[str, ...] = ()     # programs without which the peer is left out
    rows: frozenset[str] | None = None      # the groups of rows that make sense for it; None: all
    without: frozenset[str] = frozenset()   # and those that it cannot do
    fio_options: tuple[str, ...] = ()       # how fio has to open its files

    def __init__(self, work: Path, size_mib: int) -> None:
        # One image for all of them in turn: it is written once, and takes room once.
        self.image, self.root = work / "image", work / f"{self.name}.mnt"
        self.size_mib = size_mib
        self.process: subprocess.Popen[bytes] | None = None

    @classmethod
    def missing(cls) -> list[str]:
        return [p for p in cls.needs if shutil.which(p) is None]

    def make(self) -> None:
        """A new, empty file system on an image that has been written before, so that no row pays for that."""
        self.root.mkdir(exist_ok=True)
        if not self.image.exists() or self.image.stat().st_size != self.size_mib << 20:
            write_zeros(self.image, self.size_mib)
        self.mkfs()

    def mkfs(self) -> None:
        raise NotImplementedError

    def mount(self) -> None:
        raise NotImplementedError

    def umount(self) -> None:
        """Unmount, wait for the server, and take its image out of the page cache's reach."""
        for _ in range(UMOUNT_TRIES):
            done = subprocess.run(["umount", self.root], capture_output=True, text=True, check=False)
            if done.returncode == 0:
                break
            time.sleep(0.05)        # a server may still be closing files
        else:
            raise RuntimeError(f"umount {self.root}: {done.stderr}")
        if self.process is not None:
            self.process.wait(COMMAND_TIMEOUT_S)
            self.process = None

    def remount(self) -> None:
        """Cold caches, the server's included."""
        self.umount()
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3")
        self.mount()

    def serve(self, *argv: str | Path) -> None:
        """Start a FUSE server in the foreground and wait until the mount is there."""
        before = os.stat(self.root).st_dev
        self.process = subprocess.Popen([str(a) for a in argv], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        deadline = time.monotonic() + COMMAND_TIMEOUT_S
        while os.stat(self.root).st_dev == before:
            if self.process.poll() is not None or time.monotonic() > deadline:
                said = self.process.stderr.read() if self.process.stderr else b""
                raise RuntimeError(f"{argv[0]} did not mount: {said.decode(errors='replace')}")
            time.sleep(0.005)

    def remove(self) -> None:
        if os.path.ismount(self.root):
            self.umount()


class Gfs2py(Peer):
    """Ours, as an administrator mounts it."""

    name = "gfs2py"

    def mkfs(self) -> None:
        call(BIN / "mkfs.gfs2", "-O", "-q", "-p", "lock_nolock", "-J", "64", self.image)

    def mount(self) -> None:
        call(BIN / "mount.gfs2", self.image, self.root)

    def umount(self) -> None:
        call(BIN / "umount.gfs2", self.root)


class Gfs2pyIscsi(Gfs2py):
    """Ours on a LUN: the same image behind Debian's tgtd on the loopback."""

    name = "gfs2py-iscsi"
    needs = ("tgtd", "tgtadm")

    def __init__(self, work: Path, size_mib: int) -> None:
        super().__init__(work, size_mib)
        self.tgt = Tgt(work, self.image, large=True)

    def mkfs(self) -> None:
        super().mkfs()
        self.tgt.start()

    def mount(self) -> None:
        call(BIN / "mount.gfs2", self.tgt.url(), self.root)

    def remove(self) -> None:
        super().remove()
        self.tgt.kill()


class Ext4Loop(Peer):
    """The kernel's ext4 on a loop device: the ceiling."""

    name = "ext4-loop"
    needs = ("mkfs.ext4",)

    def mkfs(self) -> None:
        call("mkfs.ext4", "-q", "-F", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", self.image)

    def mount(self) -> None:
        call("mount", "-o", "loop", self.image, self.root)


class Fuse2fs(Ext4Loop):
    """ext4 served by libfuse in user space: the same kind of thing for another format."""

    name = "fuse2fs"
    needs = ("mkfs.ext4", "fuse2fs")

    def mount(self) -> None:
        self.serve("fuse2fs", "-f", self.image, self.root)


class Ntfs3g(Peer):
    """NTFS in user space, the FUSE file system with a disk format that most people have used."""

    name = "ntfs-3g"
    needs = ("mkfs.ntfs", "ntfs-3g")

    def mkfs(self) -> None:
        call("mkfs.ntfs", "-q", "-F", "-f", self.image)

    def mount(self) -> None:
        self.serve("ntfs-3g", "-o", "no_detach", self.image, self.root)


class PassThrough(Peer):
    """No format at all: every request becomes a system call on a directory of the host's file system."""

    def __init__(self, work: Path, size_mib: int) -> None:
        super().__init__(work, size_mib)
        self.source = work / f"{self.name}.src"

    def make(self) -> None:
        self.root.mkdir(exist_ok=True)
        shutil.rmtree(self.source, ignore_errors=True)
        self.source.mkdir()

    def remove(self) -> None:
        super().remove()
        shutil.rmtree(self.source, ignore_errors=True)


class Bindfs(PassThrough):
    """libfuse 3's high-level interface, multithreaded."""

    name = "bindfs"
    needs = ("bindfs",)

    def mount(self) -> None:
        self.serve("bindfs", "-f", "--multithreaded", self.source, self.root)


class PassthroughLL(PassThrough):
    """libfuse's low-level example: the floor of a round trip through libfuse.

    Debian packages its source as an example but no binary; it takes part when one is in PATH.
    """

    name = "passthrough_ll"
    needs = ("passthrough_ll",)
    without = frozenset({"direct"})     # it hands O_DIRECT on with buffers that the host's file system refuses

    def mount(self) -> None:
        self.serve("passthrough_ll", "-f", "-o", f"source={self.source}", self.root)


class Device(PassThrough):
    """No server and no mount: fio on a file like the image, past the page cache, one request at a time."""

    name = "device"
    needs = ("fio",)
    rows = frozenset({"sequential", "random", "direct"})
    fio_options = ("--direct=1",)

    def make(self) -> None:
        super().make()
        self.root = self.source
        write_zeros(self.root / "data", DEVICE_FILE_MIB)

    def mount(self) -> None:
        pass

    def umount(self) -> None:
        pass


class DeviceDeep(Device):
    """The same with eight requests under way: what the device gives to whoever keeps it busy."""

    name = "device-8"
    rows = frozenset({"sequential"})
    fio_options = ("--direct=1", "--ioengine=io_uring", "--iodepth=8")


class Null(Gfs2py):
    """Our own session over a tree in memory: what a request costs before any file system does anything."""

    name = "null"
    rows = frozenset({"metadata", "threads"})

    def make(self) -> None:
        self.root.mkdir(exist_ok=True)

    def mount(self) -> None:
        call(BIN / "gfs2d", "-o", "type=null,writeback_cache", self.name, self.root)

    def umount(self) -> None:
        call("umount", self.root)

    def remount(self) -> None:
        """Only the kernel forgets: the tree would be gone with the mount."""
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3")


PEERS: tuple[type[Peer], ...] = (Gfs2py, Gfs2pyIscsi, Ext4Loop, Fuse2fs, Ntfs3g, Bindfs, PassthroughLL, Null, Device,
                                 DeviceDeep)
