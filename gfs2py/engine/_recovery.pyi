from collections.abc import Iterable
from typing import NamedTuple

from gfs2py.block._device import BlockDevice

class JournalDamage(OSError):
    block: int
    structure: str
    field: str
    wanted: int
    found: int
    def __init__(
        self, device: str, block: int, structure: str, field: str, wanted: int, found: int
    ) -> None: ...

class JournalHead(NamedTuple):
    sequence: int
    flags: int
    tail: int
    blkno: int
    v1: bool
    jinode: int
    statfs_addr: int
    quota_addr: int
    local_total: int
    local_free: int
    local_dinodes: int
    @property
    def clean(self) -> bool: ...

class ReplayStats(NamedTuple):
    log_blocks: int
    found_meta: int
    found_data: int
    replayed: int
    revokes: int
    revoked: int
    stale_rgrps: int
    read_ms: float
    write_ms: float

class Journal:
    dev: BlockDevice
    def __init__(self, dev: BlockDevice, bsize: int, dinode_addr: int, fs_blocks: int = 0) -> None: ...
    @staticmethod
    def from_extents(
        dev: BlockDevice, bsize: int, extents: Iterable[tuple[int, int, int]], fs_blocks: int = 0
    ) -> Journal: ...
    @property
    def blocks(self) -> int: ...
    @property
    def extents(self) -> list[tuple[int, int, int]]: ...
    def head(self) -> JournalHead: ...
    def replay(self, *, dry_run: bool = False) -> ReplayStats: ...
    def statfs(self, master_addr: int, local_addr: int = 0) -> None: ...
    def clean(self, *, jid: int = 0, sec: int = 0, nsec: int = 0) -> None: ...
    def recover(
        self,
        *,
        master_statfs: int = 0,
        local_statfs: int = 0,
        jid: int = 0,
        sec: int = 0,
        nsec: int = 0,
    ) -> tuple[JournalHead, ReplayStats]: ...
