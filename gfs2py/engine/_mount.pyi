from collections.abc import Callable, Iterable

from gfs2py.block._device import BlockDevice
from gfs2py.fuse._ops import FileSystemHandle

FLAGS: dict[str, int]

class Gfs2(FileSystemHandle):
    jid: int
    journals: int
    recovered: list[dict[str, int]]
    def __init__(self, device: BlockDevice, *, flags: Iterable[str] = ..., jid: int = 0, norecovery: bool = False,
                 cache_bytes: int = ..., inodes: int = ..., commit_ms: int = 30000, statfs_s: int = 30,
                 quota_s: int = 60, lockproto: str | None = None, locktable: str | None = None, quiet: bool = False,
                 background: bool = True, say: Callable[[str], None] | None = None) -> None: ...
    def close(self) -> None: ...
    def abandon(self) -> None: ...
    @property
    def withdrawn(self) -> str | None: ...
    @property
    def label(self) -> str: ...
    @property
    def block_size(self) -> int: ...
    def statistics(self) -> dict[str, int]: ...
