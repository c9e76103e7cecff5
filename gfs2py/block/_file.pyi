from os import PathLike

from gfs2py.block._device import BlockDevice

class FileDevice(BlockDevice):
    direct: bool
    is_block: bool
    def __init__(
        self,
        path: str | PathLike[str],
        *,
        readonly: bool = False,
        direct: bool = True,
        exclusive: bool = False,
        rings: bool = True,
    ) -> None: ...
    def fileno(self) -> int: ...
