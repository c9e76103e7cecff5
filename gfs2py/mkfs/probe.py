"""What stands on a device now, who uses it, and how it likes to be written."""

import contextlib
import errno
import fcntl
import os
import re
import stat
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gfs2py.block._device import BlockDevice
from gfs2py.block._file import FileDevice
from gfs2py.block.opening import open_device as open_source
from gfs2py.mkfs.options import DEFAULT_BSIZE, MkfsError
from gfs2py.mkfs.plan import Alignment
from gfs2py.ondisk.constants import BLOCK_SIZES
from gfs2py.sources import is_url

# linux/fs.h
ENDS_BYTES = 1 << 20
BLKSSZGET, BLKIOMIN, BLKIOOPT, BLKALIGNOFF, BLKPBSZGET = 0x1268, 0x1278, 0x1279, 0x127A, 0x127B


@dataclass(slots=True)
class Topology:
    """Sizes in bytes as the block layer gives them; 0 is unknown."""

    alignment_offset: int = 0
    logical_sector_size: int = 0
    minimum_io_size: int = 0
    optimal_io_size: int = 0
    physical_sector_size: int = 0

    @property
    def known(self) -> bool:
        return self.logical_sector_size != 0 and self.physical_sector_size != 0

    def alignment(self, bsize: int) -> Alignment | None:
        """Stripe width and unit in blocks, when the device says plausible ones."""
        unit, width = self.minimum_io_size, self.optimal_io_size
        sector = self.physical_sector_size
        if width <= sector or unit <= sector or width % unit or unit % bsize:
            return None
        return Alignment(width // bsize, unit // bsize)


def topology(dev: BlockDevice) -> Topology:
    """The topology of an open device; all unknown for a file."""
    if isinstance(dev, FileDevice):
        return block_topology(dev.fileno())
    physical = getattr(dev, "physical_bytes", dev.align)
    return Topology(0, dev.align, physical, 0, physical)


def block_topology(fd: int) -> Topology:
    """That of a block device by its descriptor, as the kernel has it."""
    if not stat.S_ISBLK(os.fstat(fd).st_mode):
        return Topology()

    def ask(request: int) -> int:
        raw = fcntl.ioctl(fd, request, bytes(4))
        return int(struct.unpack("i" if request == BLKALIGNOFF else "I", raw)[0])

    return Topology(max(ask(BLKALIGNOFF), 0), ask(BLKSSZGET), ask(BLKIOMIN), ask(BLKIOOPT), ask(BLKPBSZGET))


def choose_bsize(wanted: int | None, topo: Topology) -> tuple[int, list[str]]:
    """The block size for a device, and warnings. Raises MkfsError if the device cannot have it."""
    warnings = []
    physical = topo.physical_sector_size
    if topo.known and topo.alignment_offset:
        warnings.append("Warning: device is not properly aligned. This may harm performance.")
        physical = topo.logical_sector_size
    largest = BLOCK_SIZES[-1]
    bsize = wanted
    if bsize is None:
        bsize = DEFAULT_BSIZE
        for candidate in (topo.optimal_io_size, physical):
            if topo.known and DEFAULT_BSIZE <= candidate <= largest:
                bsize = candidate
                break
    if bsize not in BLOCK_SIZES:
        raise MkfsError(f"Block size must be a power of two between 512 and {largest}")
    if bsize < topo.logical_sector_size:
        raise MkfsError(f"Error: Block size {bsize} is less than minimum logical block size "
                        f"({topo.logical_sector_size}).")
    if bsize < physical:
        warnings.append(f"Warning: Block size {bsize} is inefficient because it is less than the physical "
                        f"block size ({physical}).")
    return bsize, warnings


@contextlib.contextmanager
def visible(path: str) -> Iterator[str]:
    """A path under which other programs see the ends of the device, where every format has its marks."""
    if not is_url(path):
        yield os.path.abspath(path)
        return
    with open_source(path, readonly=True) as dev, tempfile.NamedTemporaryFile(prefix="mkfs.gfs2-") as copy:
        ends = min(ENDS_BYTES, dev.size_bytes)
        os.truncate(copy.fileno(), dev.size_bytes)
        os.pwrite(copy.fileno(), dev.read(0, ends), 0)
        os.pwrite(copy.fileno(), dev.read(dev.size_bytes - ends, ends), dev.size_bytes - ends)
        yield copy.name


def contents(path: str) -> str | None:
    """One line about the file system or partition table that is there; None if nothing is known of it.

    Raises MkfsError when the prober is missing: overwriting blindly is only for who asks for it.
    """
    import shutil  # these two take longer than a small file system, and -O -q needs neither
    import subprocess

    blkid = shutil.which("blkid", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if blkid is None:
        raise MkfsError("blkid of util-linux is needed to see what is on the device; -O does without", 1)
    with visible(path) as name:
        # No cache: the device itself, now.
        found = subprocess.run([blkid, "-p", "-o", "export", "--", name], capture_output=True, text=True,
                               errors="replace", check=False)
    if found.returncode == 2:
        return None
    if found.returncode == 8:
        return "It appears to contain several file systems or partition tables"
    if found.returncode != 0:
        raise MkfsError("Failed to probe device", 1)
    tags = dict(line.split("=", 1) for line in found.stdout.splitlines() if "=" in line)
    if "TYPE" in tags:
        return f"It appears to contain an existing filesystem ({tags['TYPE']})"
    if "PTTYPE" in tags:
        return f"It appears to contain a partition table ({tags['PTTYPE']})."
    return None


def open_device(path: str | os.PathLike[str]) -> BlockDevice:
    """Opens for this process alone. Raises MkfsError (status 1) with the reason why not."""
    path = os.fspath(path)
    if is_url(path):
        try:
            return open_source(path)
        except OSError as e:
            raise MkfsError(f"{path}: {e.strerror}", 1) from None
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
            raise MkfsError(f"'{path}' is not a block device or regular file", 1)
        if (user := user_of(path)) is not None:
            raise MkfsError(f"{path}: {os.strerror(errno.EBUSY)} ({user})", 1)
        # Buffered: everything is written once, in order, and flushed at the end.
        dev = FileDevice(path, direct=False, exclusive=True)
    except OSError as e:
        raise MkfsError(f"{path}: {os.strerror(e.errno or errno.EIO)}", 1) from None
    if dev.size_bytes < 1:
        dev.close()
        raise MkfsError(f"Device '{path}' is too small", 1)
    return dev


def unescape(text: str) -> str:
    """A path as mountinfo writes it: octal escapes for white space and backslashes."""
    return re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), text)


def user_of(path: str) -> str | None:
    """Who uses the file behind `path` in a way that opening it does not tell: a mount, or a busy loop device.

    A block device that is mounted refuses O_EXCL by itself; an image file does not.
    """
    real = os.path.realpath(path)
    for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
        left, _, right = line.partition(" - ")
        if unescape(right.split(" ")[1]) == real:
            return f"mounted on {unescape(left.split(' ')[4])}"
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            if backing.read_text().rstrip("\n") != real:
                continue
        except OSError:
            continue  # it was detached meanwhile
        loop = "/dev/" + backing.parts[3]
        try:
            os.close(os.open(loop, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
        except OSError as e:
            if e.errno == errno.EBUSY:
                return f"in use by {loop}"
    return None
