"""Connect to the kernel's FUSE and attach to the tree, with the source shown that was asked for.

Block devices are the source of a fuseblk mount themselves; the kernel claims them exclusively. An image
file is mounted as fuseblk too, on a dummy loop device, because plain `fuse` mounts get no SYNCFS and umount
does not wait for them. /proc/mounts shall show the image's path all the same: the superblock is made by a
thread in a mount namespace of its own, where the loop's device node is bound over the path, and attached
here.
"""

from __future__ import annotations

import errno
import os
import stat
from _thread import allocate_lock, start_new_thread

from gfs2py.errors import ignored
from gfs2py.fuse import _mount, control, loop
from gfs2py.options import (
    MS_DIRSYNC,
    MS_LAZYTIME,
    MS_NOATIME,
    MS_NODEV,
    MS_NODIRATIME,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    MS_STRICTATIME,
    MS_SYNCHRONOUS,
)
from gfs2py.sources import is_url

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

CLONE_FS = 0x200
# mount(2) flag -> MOUNT_ATTR_* of fsmount(2), and the superblock options that fsconfig(2) takes
_ATTRIBUTES = {MS_RDONLY: 1, MS_NOSUID: 2, MS_NODEV: 4, MS_NOEXEC: 8, MS_NOATIME: 0x10, MS_STRICTATIME: 0x20,
               MS_NODIRATIME: 0x80}
_SB_OPTIONS = {MS_RDONLY: b"ro", MS_SYNCHRONOUS: b"sync", MS_DIRSYNC: b"dirsync", MS_LAZYTIME: b"lazytime"}
BLOCK_BYTES = 4096


class NoLoopDevice(OSError):
    """An image file cannot be the source of a fuseblk mount here; a plain one still can be made."""


class Connection:
    """A FUSE connection with its superblock, not in the tree yet: nobody can hang on it before it is served.

    `fd` is /dev/fuse; whoever serves it owns it once start() succeeded.
    """

    def __init__(self, fd: int, mount_fd: int, block: bool) -> None:
        self.fd = fd
        self._mount_fd = mount_fd
        self.block = block
        self.target: str | None = None
        self.device = 0

    @property
    def number(self) -> int:
        """What fusectl calls it."""
        return control.connection_number(self.device)

    def attach(self, target: str) -> None:
        """Put it into the tree and raise its limits. Raises OSError."""
        _mount.move_mount(self._mount_fd, os.fsencode(target))
        self.target = target
        self.device = self._find_device()
        control.tune(self.device, self.block)

    def _find_device(self) -> int:
        """The superblock's device number by the mount's number: stat would be a request to ourselves."""
        with open(f"/proc/self/fdinfo/{self._mount_fd}") as f:
            numbers = [int(line.split()[1]) for line in f if line.startswith("mnt_id:")]
        for entry in control.mounts():
            if entry.mount_id in numbers:
                return entry.device
        raise OSError(errno.ENOENT, "the new mount is not to be found")

    def forget_mount(self) -> None:
        """Close the mount's descriptor: it keeps the mount busy."""
        if self._mount_fd >= 0:
            os.close(self._mount_fd)
            self._mount_fd = -1

    def detach(self) -> None:
        """Take the mount out of the tree, whoever uses it."""
        entry = control.find_mount(self.target) if self.target else None
        if entry is not None and entry.device == self.device:
            with ignored(OSError):
                _mount.umount(os.fsencode(entry.mount_point), control.MNT_DETACH)


def _fuse_options(fd: int) -> dict[bytes, bytes | None]:
    return {b"fd": b"%d" % fd, b"rootmode": b"40000", b"user_id": b"0", b"group_id": b"0",
            b"default_permissions": None, b"allow_other": None}


def _configure(fs_type: bytes, source: bytes, options: dict[bytes, bytes | None], flags: int) -> int:
    """Build a superblock by the new mount calls; returns the detached mount's descriptor."""
    config = _mount.fsopen(fs_type)
    try:
        _mount.fsconfig_string(config, b"source", source)
        for key, value in options.items():
            if value is None:
                _mount.fsconfig_flag(config, key)
            else:
                _mount.fsconfig_string(config, key, value)
        for bit, name in _SB_OPTIONS.items():
            if flags & bit:
                _mount.fsconfig_flag(config, name)
        _mount.fsconfig_create(config)
        return _mount.fsmount(config, sum(a for bit, a in _ATTRIBUTES.items() if flags & bit))
    finally:
        os.close(config)


def _in_thread(work: Callable[[], int]) -> int:
    """Run in a thread that ends after it (its namespace with it); hand over result or exception."""
    result: list[int] = []
    failure: list[OSError] = []
    done = allocate_lock()

    def body() -> None:
        try:
            result.append(work())
        except OSError as e:
            failure.append(e)
        finally:
            done.release()

    done.acquire()
    start_new_thread(body, ())
    done.acquire()
    if failure:
        raise failure[0]
    return result[0]


def _chroot_with_node(path: str, device: int) -> None:
    """Make the root of this thread a nameless tmpfs in which `path` is a node of the block device.

    It is attached nowhere, so nothing can propagate, and it goes with the thread; unlike a mount over `path` in a
    namespace of its own it also works below a chroot, whose root cannot be made private.
    """
    config = _mount.fsopen(b"tmpfs")
    try:
        _mount.fsconfig_create(config)
        root = _mount.fsmount(config, 0)
    finally:
        os.close(config)
    try:
        os.fchdir(root)
    finally:
        os.close(root)
    os.chroot(".")
    os.makedirs(os.path.dirname(path), exist_ok=True)  # a URL is a path too, from the new root: iscsi:/PORTAL/IQN/LUN
    os.mknod(path, stat.S_IFBLK | 0o600, device)


def _image_superblock(image: str, options: dict[bytes, bytes | None], flags: int) -> int:
    """A fuseblk mount on a dummy loop device whose source reads as the image's path (or the name of a LUN)."""
    try:
        _, loop_fd = loop.dummy_loop(f"gfs2:{os.path.basename(image)}")
    except OSError as e:
        raise NoLoopDevice(e.errno, f"no loop device to be had: {e.strerror}") from e
    path = image if is_url(image) else os.path.abspath(image)

    def work() -> int:
        _mount.unshare(CLONE_FS)
        _chroot_with_node(path, os.fstat(loop_fd).st_rdev)
        return _configure(b"fuseblk", os.fsencode(path), options, flags)

    try:
        return _in_thread(work)
    finally:
        os.close(loop_fd)


def connect(source: str, flags: int, *, subtype: str = "gfs2", plain: bool = False, shown: str = "") -> Connection:
    """Open /dev/fuse and make a superblock on it. Raises NoLoopDevice, OSError; nothing stays behind then.

    `plain` asks for type fuse (no DESTROY, no SYNCFS): where there is no loop device to have. `shown`: another name for
    the source in the mount table.
    """
    fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    try:
        options = _fuse_options(fd) | {b"subtype": subtype.encode()}
        if plain:
            return Connection(fd, _configure(b"fuse", os.fsencode(shown or source), options, flags), False)
        options |= {b"blksize": b"%d" % BLOCK_BYTES}
        if not is_url(source) and stat.S_ISBLK(os.stat(source).st_mode):
            return Connection(fd, _configure(b"fuseblk", os.fsencode(source), options, flags), True)
        return Connection(fd, _image_superblock(shown or source, options, flags), True)
    except BaseException:
        os.close(fd)
        raise
