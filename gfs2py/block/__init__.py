"""Block devices: file, memory, and the recording and faulty ones for tests.

Each is loaded when its name is first used: the commands need only files, and quickly.
"""

from importlib import import_module

TYPE_CHECKING = False       # typing takes longer to load than all that is here
if TYPE_CHECKING:
    from gfs2py.block._device import BlockDevice
    from gfs2py.block._faulty import FaultyDevice
    from gfs2py.block._file import FileDevice
    from gfs2py.block._memory import MemoryDevice, Snapshot
    from gfs2py.block._recording import Cut, PendingWrite, RecordingDevice

__all__ = [
    "BlockDevice",
    "Cut",
    "FaultyDevice",
    "FileDevice",
    "MemoryDevice",
    "PendingWrite",
    "RecordingDevice",
    "Snapshot",
]

_WHERE = {
    "BlockDevice": "_device", "FaultyDevice": "_faulty", "FileDevice": "_file", "MemoryDevice": "_memory",
    "Snapshot": "_memory", "Cut": "_recording", "PendingWrite": "_recording", "RecordingDevice": "_recording",
}


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
