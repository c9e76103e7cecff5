"""From mount options to a mounted file system: opens the device and translates options into flags of the engine."""

from __future__ import annotations

from errno import EINVAL

from gfs2py.block.opening import open_device
from gfs2py.engine import _standstill
from gfs2py.engine._mount import Gfs2
from gfs2py.errors import MountError
from gfs2py.sources import is_url

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Protocol

    from gfs2py.engine._lockmanager import LockManager

    class Seat(Protocol):
        """This node's place among those that have the file system mounted."""

        @property
        def jid(self) -> int: ...
        @property
        def first(self) -> bool: ...

    class Shared(Protocol):
        """The cluster's side of a mount (gfs2py.lock_dlm.shared)."""

        @property
        def locks(self) -> LockManager: ...
        def start(self) -> Seat: ...
        def mounted(self, fs: Mounted) -> None: ...
        def state(self) -> dict[str, Any]: ...
        def contended(self) -> Sequence[Any]: ...
        def explain_with(self, look: Look) -> None: ...
        def why(self) -> str: ...
        def freeze(self) -> None: ...
        def unfreeze(self) -> None: ...
        def unfreeze_at_end(self) -> None: ...
        def stop(self, *, dead: bool = False) -> None: ...

    # From waits and holds of fcntl locks to all that wait on the mount (controlfs.waits).
    Look = Callable[[list[dict[str, Any]], list[dict[str, Any]]], dict[str, Any]]
    # With the lock table and what to call when the cluster is lost.
    Join = Callable[[str, Callable[[str], object]], Shared]

    from gfs2py.block._device import BlockDevice
    from gfs2py.block.iscsi import IscsiOptions
    from gfs2py.options import MountOptions

CACHE_DEFAULT_BYTES = 256 << 20
# Memory for inodes beside the buffer cache: one per 4 KiB of cache, at about half a KiB each.
BYTES_PER_INODE = 4096
INODES_MIN, INODES_MAX = 1024, 262144
SB_OFFSET_BYTES, SB_MAGIC = 65536, b"\x01\x16\x19\x70"


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
    """A Gfs2 that owns its device, and its place in the cluster if it is shared."""

    def __init__(self, device: BlockDevice, options: MountOptions, say: Callable[[str], None] | None,
                 join: Join | None = None) -> None:
        self._file = device
        self._shared: Shared | None = None
        seated: dict[str, Any] = {"jid": journal_id(options)}
        proto, table = superblock_locking(device)
        if (options.lockproto or proto) == "lock_dlm":
            if join is None:
                raise MountError(EINVAL, "a mount with lock_dlm needs a cluster")
            self._shared = join(options.locktable or table, lambda why: self.withdraw(f"the cluster is lost: {why}"))
            seat = self._shared.start()
            seated = {"jid": seat.jid, "first": seat.first, "locks": self._shared.locks}
        try:
            self._mount(device, options, say, seated)
            if self._shared is not None:
                self._shared.mounted(self)
        except BaseException:
            if self._shared is not None:
                self._leave()
            raise

    def _mount(self, device: BlockDevice, options: MountOptions, say: Callable[[str], None] | None,
               seated: dict[str, Any]) -> None:
        cache_bytes = options.cache_size_bytes or CACHE_DEFAULT_BYTES
        inodes = min(max(cache_bytes // BYTES_PER_INODE, INODES_MIN), INODES_MAX)
        super().__init__(device, flags=engine_flags(options), **seated,
                         norecovery=options.norecovery, cache_bytes=cache_bytes, inodes=inodes,
                         commit_ms=options.commit_s * 1000, statfs_s=options.statfs_quantum_s,
                         quota_s=options.quota_quantum_s, lockproto=options.lockproto, locktable=options.locktable,
                         say=say)

    @property
    def device(self) -> BlockDevice:
        """What it is mounted from: for a LUN the session that a fence agent registers."""
        return self._file

    def describe(self) -> dict[str, Any]:
        """As Gfs2's, and how the session with the target is doing."""
        told = super().describe()
        if is_url(self._file.name):
            from gfs2py.block.iscsi import IscsiDevice

            assert isinstance(self._file, IscsiDevice)
            told["iscsi"] = self._file.status().as_dict()
        return told

    def cluster(self) -> dict[str, Any]:
        """How this node stands in the cluster; empty with lock_nolock."""
        return self._shared.state() if self._shared is not None else {}

    def contended(self) -> Sequence[Any]:
        """The locks at which nodes meet, as the lock manager knows them here."""
        return self._shared.contended() if self._shared is not None else []

    def explain_with(self, look: Look) -> None:
        """What to ask when somebody in the cluster wants to know what this mount waits for (controlfs.waits)."""
        if self._shared is not None:
            self._shared.explain_with(look)

    def why(self) -> str:
        """What is blocked on this node and why, in lines."""
        return self._shared.why() if self._shared is not None else ""

    def replay(self, jid: int) -> bool:
        """Another node's journal, after its death; False when another survivor is at it. For any thread."""
        try:
            self.recover_jid(jid)               # which tells the log of it, if there was anything to do
        except BlockingIOError:
            return False
        return True

    def _leave(self) -> None:
        """The end of a shared mount. What is left in its journal, if anything, others have to replay before they get
        its locks: then it goes as the dead do. Raises OSError."""
        assert self._shared is not None
        try:
            self._shared.unfreeze_at_end()
            super().close()
        finally:
            self._shared.stop(dead=self.was_live and not self.closed_well)

    def close(self) -> None:
        try:
            if self._shared is not None:
                self._leave()
            else:
                super().close()
        finally:
            self._file.close()

    # -- standing still

    @property
    def withdraw_fd(self) -> int:
        """Readable once it has withdrawn."""
        return _standstill.withdraw_fd(self)

    def freeze_here(self) -> None:
        _standstill.freeze(self)

    def thaw_here(self) -> None:
        _standstill.thaw(self)

    def dirty_journals(self) -> list[int]:
        return _standstill.dirty_journals(self)

    def passing(self) -> int:
        return _standstill.passing(self)

    def take_back(self) -> None:
        _standstill.take_back(self)

    def giving_back(self) -> int:
        return _standstill.giving_back(self)

    def freeze(self) -> None:
        """On all nodes that have it mounted; returns when nobody writes. From any thread but the cluster's.

        Raises OSError: EBUSY when it is frozen already, ETIMEDOUT when a node does not stand still.
        """
        if self._shared is not None:
            self._shared.freeze()
        else:
            self.freeze_here()

    def unfreeze(self) -> None:
        """Raises OSError EINVAL when it was not frozen here."""
        if self._shared is not None:
            self._shared.unfreeze()
        elif _standstill.frozen(self) is None:
            raise OSError(EINVAL, "the file system is not frozen")
        else:
            self.thaw_here()

    def frozen(self) -> dict[str, Any] | None:
        """None, or state, for_ns, parked as _standstill.frozen tells them, and `by`: "here" or "another node"."""
        told: dict[str, Any] | None = _standstill.frozen(self)
        if told is not None:
            told["by"] = "another node" if self.cluster().get("frozen") == "yielded" else "here"
        return told


def iscsi_options(source: str, options: MountOptions) -> IscsiOptions | None:
    """How to log in to the target that a URL names, None for a path."""
    if not is_url(source):
        return None
    from gfs2py.block.iscsi import TIMEOUT_DEFAULT_S, IscsiOptions

    timeout_s = TIMEOUT_DEFAULT_S if options.iscsi_timeout_s is None else options.iscsi_timeout_s
    return IscsiOptions(timeout_s=timeout_s, cache=options.iscsi_cache or "through",
                        credentials=options.iscsi_credentials, header_digest=options.iscsi_digest == "header")


def choose_cache(device: BlockDevice, options: MountOptions) -> None:
    """Writes that a target may forget are repeated after an outage, if this node alone writes to the disk.

    On a shared disk what is repeated could be older than what another node wrote meanwhile, under a lock that this one
    had let go of: there every write goes through the target's cache.
    """
    from gfs2py.block.iscsi import IscsiDevice

    if isinstance(device, IscsiDevice) and options.iscsi_cache is None:
        proto = options.lockproto or superblock_locking(device)[0]
        device.set_cache("through" if proto == "lock_dlm" else "replay")


def superblock_locking(device: BlockDevice) -> tuple[str, str]:
    """Lock protocol and table that the superblock names, both empty when there is no GFS2. Raises OSError."""
    if device.size_bytes < SB_OFFSET_BYTES + 512:
        return "", ""
    block = device.read(SB_OFFSET_BYTES, 512)
    if block[:4] != SB_MAGIC:
        return "", ""
    proto, table = (block[at:at + 64].partition(b"\0")[0].decode(errors="replace") for at in (96, 160))
    return proto, table


def open_filesystem(source: str, options: MountOptions, say: Callable[[str], None] | None = None,
                    join: Join | None = None) -> Mounted:
    """Mounts the device or image `source`; `join` is for lock_dlm. Raises MountError, CorruptionError, OSError."""
    device = open_device(source, readonly=options.read_only, iscsi=iscsi_options(source, options))
    try:
        if is_url(source):
            choose_cache(device, options)
        return Mounted(device, options, say, join)
    except BaseException:
        device.close()
        raise
