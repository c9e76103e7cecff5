from collections.abc import Iterable

from gfs2py.block._device import BlockDevice

KINDS: dict[str, int]

class FaultyDevice(BlockDevice):
    base: BlockDevice
    def __init__(
        self,
        base: BlockDevice,
        *,
        fail_at: int = 0,
        kinds: Iterable[str] = ("read", "write", "flush"),
        sticky: bool = False,
        torn: bool = False,
        error_rate: float = 0.0,
        rot_rate: float = 0.0,
        latency_s: float = 0.0,
        bad: tuple[int, int] = (0, 0),
        seed: int = 0,
    ) -> None: ...
    def arm(
        self,
        *,
        fail_at: int = 0,
        kinds: Iterable[str] = ("read", "write", "flush"),
        sticky: bool = False,
        torn: bool = False,
        error_rate: float = 0.0,
        rot_rate: float = 0.0,
        latency_s: float = 0.0,
        bad: tuple[int, int] = (0, 0),
        seed: int = 0,
    ) -> None: ...
    def disarm(self) -> None: ...
    @property
    def count(self) -> int: ...
    @property
    def failed(self) -> int: ...
