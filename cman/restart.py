"""The end of this machine, at once: nothing is written any more, not even what the kernel still has to write."""

from __future__ import annotations

import ctypes
import os

_AUTOBOOT = 0x01234567          # source: include/uapi/linux/reboot.h


def restart_machine() -> None:
    """Does not return where it is allowed; in a pid namespace it is the namespace that ends. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.reboot(_AUTOBOOT):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
