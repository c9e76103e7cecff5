"""System calls that Python 3.11 has no names for: namespaces, mounts, prctl.

Everything raises OSError with the path or the flags that were refused.
Source: unshare(2), setns(2), mount(2), pivot_root(2), prctl(2), ioctl_ns(2).
"""

from __future__ import annotations

import ctypes
import fcntl
import os

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWPID, CLONE_NEWNET = 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND = 1, 2, 4, 8, 0x20, 0x1000
MS_REC, MS_PRIVATE = 0x4000, 1 << 18
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15
NS_GET_PARENT = 0xB702
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "riscv64": 41, "ppc64le": 203, "s390x": 217}

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def unshare(flags: int) -> None:
    _check(_libc.unshare(ctypes.c_int(flags)), f"unshare 0x{flags:x}")


def setns(fd: int, flags: int = 0) -> None:
    """Enter a namespace; with a pidfd those namespaces of its process that `flags` names."""
    _check(_libc.setns(ctypes.c_int(fd), ctypes.c_int(flags)), f"setns 0x{flags:x}")


def mount(source: str, target: str, fs_type: str = "", flags: int = 0, data: str = "") -> None:
    _check(_libc.mount(os.fsencode(source), os.fsencode(target), fs_type.encode(), ctypes.c_ulong(flags),
                       os.fsencode(data)), f"mount {fs_type or 'bind'} {source} on {target}")


def bind(source: str, target: str, *, read_only: bool = False) -> None:
    """Show a directory or file at a second place; what is mounted below it stays behind."""
    mount(source, target, flags=MS_BIND)
    if read_only:
        kept = os.statvfs(target).f_flag & (MS_NOSUID | MS_NODEV | MS_NOEXEC)
        mount("none", target, flags=MS_REMOUNT | MS_BIND | MS_RDONLY | kept)


def umount(target: str, flags: int = 0) -> None:
    _check(_libc.umount2(os.fsencode(target), ctypes.c_int(flags)), f"umount {target}")


def pivot_root(new: str) -> None:
    """Make `new` (a mount) the root of this mount namespace; the old root is gone afterwards."""
    number = _SYS_PIVOT_ROOT.get(os.uname().machine)
    if number is None:
        raise OSError(38, f"pivot_root is not known on {os.uname().machine}")
    os.chdir(new)
    # Both on one directory: the old root then lies on top of the new one and can be taken off.
    _check(_libc.syscall(ctypes.c_long(number), b".", b"."), f"pivot_root {new}")
    umount(".", MNT_DETACH)
    os.chdir("/")


def die_with_parent(signal_number: int) -> None:
    """The kernel sends this signal when the parent's thread ends. Not inherited by children."""
    _check(_libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal_number), 0, 0, 0), "prctl PDEATHSIG")


def set_name(name: str) -> None:
    """The name in ps and top, 15 bytes."""
    _check(_libc.prctl(PR_SET_NAME, name.encode()[:15], 0, 0, 0), "prctl NAME")


def parent_namespace(fd: int) -> int:
    """A descriptor of the pid namespace above. Raises PermissionError at the top of what this process may see."""
    return fcntl.ioctl(fd, NS_GET_PARENT)
