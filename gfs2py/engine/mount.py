"""From mount options to a mounted file system: opens the device and translates options into flags of the engine."""

from __future__ import annotations

from gfs2py.block._file import FileDevice
from gfs2py.engine._mount import Gfs2
from gfs2py.errors import MountError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from gfs2py.options import MountOptions

CACHE_DEFAULT_BYTES = 256 << 20
# Memory for inodes beside the buffer cache: one per 4 KiB of cache, at about half a KiB each.
BYTES_PER_INODE = 4096
INODES_MIN, INODES_MAX = 1024, 262144


def engine_flags(options: MountOptions) -> set[str]:
    """The engine's flags for these mount options."""
    wanted = {
        "rdonly": options.read_only, "spectator": options.spectator, "writeback": options.data == "writeback",
        "quota_account": options.quota != "off", "quota_enforce": options.quota in ("on", "quiet"),
        "quota_quiet": options.quota == "quiet", "acl": options.acl, "nobarrier": not options.barrier,
        "discard": options.discard, "noatime": options.noatime, "nodiratime": options.nodiratime,
        "relatime": options.relatime, "errors_panic": options.errors == "panic", "debug": options.debug,
        "suiddir": options.suiddir,
    }
    return {name for name, on in wanted.items() if on}


def journal_id(options: MountOptions) -> int:
    """Which journal hostdata asks for (jid=N, colon separated among others); 0 without."""
    for part in (options.hostdata or "").split(":"):
        name, _, value = part.partition("=")
        if name == "jid":
            if not value.isdecimal():
                raise MountError(22, f"hostdata={options.hostdata}: jid must be a number")
            return int(value)
    return 0


class Mounted(Gfs2):
    """A Gfs2 that owns its device."""

    def __init__(self, device: FileDevice, options: MountOptions, say: Callable[[str], None] | None) -> None:
        self._file = device
        cache_bytes = options.cache_size_bytes or CACHE_DEFAULT_BYTES
        inodes = min(max(cache_bytes // BYTES_PER_INODE, INODES_MIN), INODES_MAX)
        super().__init__(device, flags=engine_flags(options), jid=journal_id(options),
                         norecovery=options.norecovery, cache_bytes=cache_bytes, inodes=inodes,
                         commit_ms=options.commit_s * 1000, statfs_s=options.statfs_quantum_s,
                         quota_s=options.quota_quantum_s, lockproto=options.lockproto, locktable=options.locktable,
                         say=say)

    def close(self) -> None:
        try:
            super().close()
        finally:
            self._file.close()


def open_filesystem(source: str, options: MountOptions, say: Callable[[str], None] | None = None) -> Mounted:
    """Mounts the device or image `source`. Raises MountError, CorruptionError, OSError."""
    device = FileDevice(source, readonly=options.read_only)
    try:
        return Mounted(device, options, say)
    except BaseException:
        device.close()
        raise
