from collections.abc import Iterable, Iterator, Mapping
from random import Random
from typing import NamedTuple

from gfs2py.block._device import BlockDevice
from gfs2py.block._memory import MemoryDevice

class PendingWrite(NamedTuple):
    off: int
    length: int
    discard: bool
    fua: bool

class Cut(NamedTuple):
    epoch: int
    keep: tuple[int, ...]
    torn: dict[int, tuple[int, ...]]
    device: MemoryDevice

def tear(write: PendingWrite, rng: Random) -> tuple[int, ...]: ...

class RecordingDevice(BlockDevice):
    base: BlockDevice
    def __init__(self, base: BlockDevice) -> None: ...
    @property
    def epochs(self) -> int: ...
    @property
    def writes(self) -> int: ...
    def mark(self, label: object) -> None: ...
    @property
    def marks(self) -> list[tuple[object, int]]: ...
    def acknowledged(self, epoch: int) -> list[object]: ...
    def pending(self, epoch: int) -> list[PendingWrite]: ...
    def cut(
        self, epoch: int, keep: Iterable[int] = (), torn: Mapping[int, Iterable[int]] | None = None
    ) -> MemoryDevice: ...
    def cut_random(self, seed: int) -> Cut: ...
    def cuts(
        self, epoch: int, *, max_exhaustive: int = 8, samples: int = 32, rng: Random | None = None
    ) -> Iterator[Cut]: ...
