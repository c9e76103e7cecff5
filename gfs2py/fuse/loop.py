"""Loop devices: a tiny one, so that an image file can be the source of a fuseblk mount.

Only fuseblk mounts get SYNCFS and a DESTROY that umount(2) waits for, and fuseblk wants a block device. It
never reads it. So a 4 KiB file in memory becomes one; it goes by itself when the mount goes
(LO_FLAGS_AUTOCLEAR).
Source: include/uapi/linux/loop.h, loop(4).
"""

import errno
import fcntl
import os
import struct

LOOP_CTL_GET_FREE = 0x4C82
LOOP_CONFIGURE = 0x4C0A
LOOP_CLR_FD = 0x4C01
LO_FLAGS_READ_ONLY, LO_FLAGS_AUTOCLEAR = 1, 4
DUMMY_BYTES = 4096
_ATTEMPTS = 50
_CONFIG = struct.Struct("=II QQQQQIIII64s64s32s2Q 8Q")   # loop_config: fd, block_size, loop_info64, reserved


def dummy_loop(label: str) -> tuple[str, int]:
    """Attach a tiny file in memory to a free loop device.

    Returns its path and an open descriptor: the device is detached once that is closed and no mount uses it.
    `label` is what losetup shows as the backing file. Raises OSError.
    """
    memory = os.memfd_create(label[:200], os.MFD_CLOEXEC)
    try:
        os.ftruncate(memory, DUMMY_BYTES)
        config = _CONFIG.pack(memory, 0, *(0,) * 8, LO_FLAGS_AUTOCLEAR,
                              label.encode()[:63], b"", b"", 0, 0, *(0,) * 8)
        control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
        try:
            return _attach(control, config)
        finally:
            os.close(control)
    finally:
        os.close(memory)


def _attach(control: int, config: bytes) -> tuple[str, int]:
    """Somebody may take the free device before us: then the next."""
    for _ in range(_ATTEMPTS):
        path = f"/dev/loop{fcntl.ioctl(control, LOOP_CTL_GET_FREE)}"
        device = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(device, LOOP_CONFIGURE, config)
        except OSError as e:
            os.close(device)
            if e.errno != errno.EBUSY:
                raise
            continue
        return path, device
    raise OSError(errno.EBUSY, "no free loop device")
