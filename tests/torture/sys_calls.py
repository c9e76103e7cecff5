"""System calls that Python's os module lacks."""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct

AT_FDCWD, AT_SYMLINK_FOLLOW = -100, 0x400
NOREPLACE, EXCHANGE = 1, 2                  # renameat2
KEEP_SIZE, PUNCH, ZERO = 1, 2, 16           # fallocate
FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_JOURNAL_DATA_FL = 0x80086601, 0x40086602, 0x4000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
_libc.sync_file_range.argtypes = [ctypes.c_int, ctypes.c_long, ctypes.c_long, ctypes.c_uint]
_libc.renameat2.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
_libc.getdents64.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t]
_libc.getdents64.restype = ctypes.c_ssize_t
_libc.linkat.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_int]


def _done(result: int, name: str = "") -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)


def fallocate(fd: int, mode: int, off: int, length: int) -> None:
    _done(_libc.fallocate(fd, mode, off, length))


def sync_file_range(fd: int, off: int, length: int) -> None:
    """Write back what is dirty there and wait for it; unlike fsync not for the file's lock."""
    _done(_libc.sync_file_range(fd, off, length, 7))


def renameat2(old: str, new: str, flags: int) -> None:
    _done(_libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags), old)


def renameat2_at(old_fd: int, old: str, new_fd: int, new: str, flags: int) -> None:
    """With names relative to open directories."""
    _done(_libc.renameat2(old_fd, os.fsencode(old), new_fd, os.fsencode(new), flags), old)


def link_open_file(fd: int, name: str) -> None:
    """Give a name to what a descriptor refers to, O_TMPFILE for one."""
    _done(_libc.linkat(AT_FDCWD, f"/proc/self/fd/{fd}".encode(), AT_FDCWD, os.fsencode(name),
                       AT_SYMLINK_FOLLOW), name)


def set_jdata(fd: int, on: bool) -> None:
    """chattr +j, -j. Raises OSError."""
    flags = struct.unpack("l", fcntl.ioctl(fd, FS_IOC_GETFLAGS, b"\0" * 8))[0] & 0xffffffff
    flags = flags | FS_JOURNAL_DATA_FL if on else flags & ~FS_JOURNAL_DATA_FL
    fcntl.ioctl(fd, FS_IOC_SETFLAGS, struct.pack("l", flags))


def getdents(fd: int, size: int) -> list[str]:
    """One getdents64(2): the next names of a directory, as many as `size` bytes hold; none at the end."""
    buffer = ctypes.create_string_buffer(size)
    length = _libc.getdents64(fd, buffer, size)
    if length < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    names, at = [], 0
    while at < length:
        step, = struct.unpack_from("<H", buffer, at + 16)
        names.append(os.fsdecode(buffer.raw[at + 19:at + step].split(b"\0", 1)[0]))
        at += step
    return names
