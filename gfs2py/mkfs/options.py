"""What a new file system shall be like, and whether that can be.

Limits and messages follow mkfs.gfs2(8) of gfs2-utils 3.5.
"""

import random
import string
import time
import uuid as uuidlib
from dataclasses import dataclass, field

from gfs2py.ondisk import constants as c

DEFAULT_BSIZE = 4096
DEFAULT_RGSIZE_MB = 256
MIN_RGSIZE_MB, MAX_RGSIZE_MB = 32, 2048
MIN_JSIZE_MB, MAX_JSIZE_MB = 8, 1024
DEFAULT_QCSIZE_MB = 1
MAX_QCSIZE_MB = 64
MAX_CLUSTER_NAME = 32
MAX_FS_NAME = 30
MIB = 1 << 20

# (file system smaller than so many blocks, journal size in blocks), for each journal's share of the device
_JOURNAL_BLOCKS = (
    (131_072, None),  # the smallest journal
    (524_288, 4096),
    (2_097_152, 8192),
    (4_194_304, 16_384),
    (268_435_456, 32_768),
    (2_684_354_560, 131_072),
)
_LARGEST_JOURNAL_BLOCKS = 262_144


class MkfsError(Exception):
    """One line for the user; `status` is the command's exit status (255 for bad options, as the original)."""

    def __init__(self, message: str, status: int = 255) -> None:
        super().__init__(message)
        self.status = status


@dataclass(slots=True)
class MkfsOptions:
    """Options of one run; sizes named _mb are in MiB, stripe sizes in bytes, `fssize` in blocks."""

    bsize: int | None = None
    qcsize_mb: int = DEFAULT_QCSIZE_MB
    jsize_mb: int | None = None
    journals: int = 1
    rgsize_mb: int = DEFAULT_RGSIZE_MB
    sunit: int | None = None
    swidth: int | None = None
    align: bool = True
    format: int = c.GFS2_FORMAT_FS
    fssize: int | None = None
    lockproto: str = "lock_dlm"
    locktable: str | None = None
    uuid: uuidlib.UUID = field(default_factory=uuidlib.uuid4)
    root_inherit_jdata: bool = False
    rng: random.Random = field(default_factory=random.SystemRandom)  # where the journals' numbers start
    now: int = field(default_factory=lambda: int(time.time()))  # seconds; di_atime and its like

    def check(self) -> None:
        """Raises MkfsError with the first thing that cannot be."""
        check_locking(self.lockproto, self.locktable)
        if not MIN_RGSIZE_MB <= self.rgsize_mb <= MAX_RGSIZE_MB:
            raise MkfsError("Bad resource group size")
        if self.journals == 0:
            raise MkfsError("No journals specified")
        if self.journals < 0:
            raise MkfsError(f"Number of journals cannot be negative: {self.journals}")
        if self.jsize_mb is not None and not MIN_JSIZE_MB <= self.jsize_mb <= MAX_JSIZE_MB:
            raise MkfsError("Bad journal size")
        if not 1 <= self.qcsize_mb <= MAX_QCSIZE_MB:
            raise MkfsError("Bad quota change size")
        if (self.sunit is None) != (self.swidth is None):
            raise MkfsError("Stripe unit and stripe width must be specified together")
        if not c.GFS2_FS_FORMAT_MIN <= self.format <= c.GFS2_FS_FORMAT_MAX:
            raise MkfsError(f"Invalid filesystem format: {self.format}")
        if self.bsize is not None and self.bsize not in c.BLOCK_SIZES:
            raise MkfsError(f"Block size must be a power of two between 512 and {c.BLOCK_SIZES[-1]}")


def check_locking(lockproto: str, locktable: str | None) -> None:
    """Raises MkfsError unless the protocol exists and the table is cluster:name as the protocol needs it."""
    if lockproto not in ("lock_dlm", "lock_nolock"):
        raise MkfsError(f"Invalid lock protocol: {lockproto}")
    if locktable is None:
        if lockproto == "lock_dlm":
            raise MkfsError("No lock table specified.")
        return
    if not locktable:
        raise MkfsError("Lock table is empty.")
    for char in locktable:
        if char not in string.ascii_letters + string.digits + "-_:":
            raise MkfsError(f"Invalid lock table: invalid character '{char}'")
    cluster, colon, name = locktable.partition(":")
    if not colon:
        raise MkfsError("Invalid lock table: missing colon")
    if not cluster:
        raise MkfsError("Invalid lock table: cluster name is missing")
    if len(cluster) > MAX_CLUSTER_NAME:
        raise MkfsError("Invalid lock table: cluster name is too long")
    if ":" in name:
        raise MkfsError("Invalid lock table: contains more than one colon")
    if not name:
        raise MkfsError("Invalid lock table: file system name is missing")
    if len(name) > MAX_FS_NAME:
        raise MkfsError("Invalid lock table: file system name is too long")


def journal_size_mb(options: MkfsOptions, bsize: int, fs_blocks: int) -> int:
    """Size of each journal: what was asked for, if half of the file system holds it, or a sensible default.

    Raises MkfsError when it does not fit.
    """
    if options.jsize_mb is not None:
        if (options.jsize_mb * options.journals * MIB) // bsize > fs_blocks // 2:
            message = "gfs2 will not fit on this device."
            largest = fs_blocks // 2 * bsize // options.journals // MIB
            if largest >= MIN_JSIZE_MB:
                message += f"\nMaximum size for {options.journals} journals on this device is {largest}MB."
            raise MkfsError(message)
        return options.jsize_mb
    smallest = MIN_JSIZE_MB * MIB // bsize
    share = fs_blocks // options.journals
    if share < 2 * smallest:
        raise MkfsError("gfs2 will not fit on this device.")
    blocks = _LARGEST_JOURNAL_BLOCKS
    for limit, size in _JOURNAL_BLOCKS:
        if share < limit:
            blocks = size or smallest
            break
    return max(blocks * bsize // MIB, MIN_JSIZE_MB)
