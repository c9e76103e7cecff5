"""The shared disk as loop devices: one for each node and part, over the same image.

A device of its own gives each node what a node of a SAN has: its own page cache, its own exclusive claim, its own
fuseblk superblock, and a cable that can be pulled. The image below is one file, so a write through one device is
what the next read through another finds (with O_DIRECT, or a cache dropped, as on a SAN).

The devices have no AUTOCLEAR: a descriptor that somebody would have to hold would keep stale pages alive. They are
found again by the path of their image, whoever made them and however that one died.
Source: include/uapi/linux/loop.h, drivers/block/loop.c.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

from lab.errors import LabError

LOOP_CONFIGURE, LOOP_CLR_FD, LOOP_SET_STATUS64, LOOP_GET_STATUS64 = 0x4C0A, 0x4C01, 0x4C04, 0x4C05
LOOP_CTL_GET_FREE = 0x4C82
_INFO = struct.Struct("=QQQQQIIII64s64s32s2Q")          # loop_info64
_CONFIG_HEAD, _CONFIG_TAIL = struct.Struct("=II"), struct.Struct("=8Q")
_SIZE_LIMIT = 4                                        # its place among the fields of loop_info64
CUT_BYTES = 512
_ATTEMPTS = 100


def attach(image: str) -> int:
    """A new loop device over the image; its number. Raises LabError when there is none to be had."""
    try:
        control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    except OSError as e:
        raise LabError(f"/dev/loop-control: {e.strerror}: this machine has no loop devices for a shared disk; "
                       "use --disk iscsi") from None
    backing = os.open(image, os.O_RDWR | os.O_CLOEXEC)
    try:
        info = _INFO.pack(0, 0, 0, 0, 0, 0, 0, 0, 0, os.fsencode(image)[-63:], b"", b"", 0, 0)
        config = _CONFIG_HEAD.pack(backing, 0) + info + _CONFIG_TAIL.pack(*[0] * 8)
        for _ in range(_ATTEMPTS):
            number = fcntl.ioctl(control, LOOP_CTL_GET_FREE)
            try:
                with _opened(number) as device:
                    fcntl.ioctl(device, LOOP_CONFIGURE, config)
            except OSError as e:
                if e.errno not in (errno.EBUSY, errno.ENXIO, errno.ENOENT):
                    raise
                continue                # somebody else was given the same number and was faster
            return int(number)
    except OSError as e:
        raise LabError(f"no loop device for {image}: {e.strerror}") from None
    finally:
        os.close(backing)
        os.close(control)
    raise LabError(f"no loop device for {image}: {_ATTEMPTS} were taken by others in between")


@contextlib.contextmanager
def _opened(number: int) -> Iterator[int]:
    """The device's descriptor; a container may have no node for a new device: then one for the moment."""
    path = f"/dev/loop{number}"
    made = not os.path.exists(path)
    if made:
        path = f"/dev/.lab-{os.getpid()}-loop{number}"
        os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(7, number))
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    finally:
        if made:
            os.unlink(path)
    try:
        yield fd
    finally:
        os.close(fd)


def below(directory: str) -> dict[int, str]:
    """The loop devices over images below a directory, deleted ones included: number -> image."""
    found = {}
    for block in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            image = block.read_text().rstrip("\n").removesuffix(" (deleted)")
        except OSError:
            continue                    # it went away while we looked
        if image.startswith(directory.rstrip("/") + "/"):
            found[int(block.parts[3].removeprefix("loop"))] = image
    return found


def detach(number: int) -> None:
    """Let the image go; a device that is still in use goes with its last user."""
    try:
        with _opened(number) as device:
            fcntl.ioctl(device, LOOP_CLR_FD)
    except OSError as e:
        if e.errno not in (errno.ENXIO, errno.ENOENT):
            raise


def limit(number: int, size_bytes: int) -> None:
    """Show only the first bytes of the image, 0 for all: CUT_BYTES pulls the cable, 0 plugs it in again."""
    with _opened(number) as device:
        info = list(_INFO.unpack(fcntl.ioctl(device, LOOP_GET_STATUS64, bytes(_INFO.size))))
        info[_SIZE_LIMIT] = size_bytes
        fcntl.ioctl(device, LOOP_SET_STATUS64, _INFO.pack(*info))
