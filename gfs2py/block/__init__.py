"""Block devices: file, memory, and the recording and faulty ones for tests."""

from gfs2py.block._device import BlockDevice
from gfs2py.block._file import FileDevice
from gfs2py.block._memory import MemoryDevice, Snapshot

__all__ = ["BlockDevice", "FileDevice", "MemoryDevice", "Snapshot"]
