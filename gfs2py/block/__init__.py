"""Block devices: file, memory, and the recording and faulty ones for tests."""

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
