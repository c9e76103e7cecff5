"""A file system in process: paths instead of node ids, for tests, tools and benchmarks.

Every operation goes through the same table of operations as FUSE requests do. Paths are absolute or relative to the
root, str or bytes; symbolic links are not followed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gfs2py.engine._calls import Attr, Calls, DirEntry
from gfs2py.engine._mount import Gfs2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from gfs2py.block._device import BlockDevice
    from gfs2py.engine._lockmanager import LockManager

ROOT = 1
O_RDWR = 2


class Volume:
    """A mounted device with POSIX-like calls on paths. Close it, or use it as a context manager."""

    def __init__(self, device: BlockDevice, *, flags: Iterable[str] = ("relatime", "acl"), jid: int = 0,
                 norecovery: bool = False, cache_bytes: int = 32 << 20, inodes: int = 4096, commit_ms: int = 30000,
                 statfs_s: int = 30, quota_s: int = 60, quiet: bool = False, background: bool = True, uid: int = 0,
                 gid: int = 0, umask: int = 0o022, say: Callable[[str], None] | None = None,
                 locks: LockManager | None = None, first: bool = True, parking: bool = False) -> None:
        self.fs = Gfs2(device, flags=tuple(flags), jid=jid, norecovery=norecovery, cache_bytes=cache_bytes,
                       inodes=inodes, commit_ms=commit_ms, statfs_s=statfs_s, quota_s=quota_s, lockproto="lock_nolock",
                       quiet=quiet, background=background, say=say, locks=locks, first=first)
        self.calls = Calls(self.fs, uid=uid, gid=gid, umask=umask, parking=parking)

    def __enter__(self) -> Volume:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    def close(self) -> None:
        """Unmount cleanly. Raises OSError when something could not be written."""
        self.fs.close()

    def abandon(self) -> None:
        """Free everything, write nothing more: the device stays as a power cut leaves it."""
        self.fs.abandon()

    # -- paths

    def node(self, path: str | bytes) -> int:
        """The node of a path; the lookups are forgotten again except the last one's."""
        node = ROOT
        for name in self._split(path):
            up, (node, _) = node, self.calls.lookup(node, name)
            if up != ROOT:
                self.calls.forget(up)
        return node

    def _split(self, path: str | bytes) -> list[bytes]:
        raw = path.encode("utf-8", "surrogateescape") if isinstance(path, str) else path
        return [part for part in raw.split(b"/") if part]

    def _parent(self, path: str | bytes) -> tuple[int, bytes]:
        parts = self._split(path)
        if not parts:
            raise ValueError("the root has no name")
        return self.node(b"/".join(parts[:-1])), parts[-1]

    def _drop(self, *nodes: int) -> None:
        for node in nodes:
            if node != ROOT:
                self.calls.forget(node)

    # -- making and removing

    def mkdir(self, path: str | bytes, mode: int = 0o755) -> Attr:
        parent, name = self._parent(path)
        try:
            node, attr = self.calls.mkdir(parent, name, mode)
        finally:
            self._drop(parent)
        self._drop(node)
        return attr

    def create(self, path: str | bytes, data: bytes = b"", mode: int = 0o644) -> Attr:
        """A new file with this content."""
        parent, name = self._parent(path)
        try:
            node, fh, attr = self.calls.create(parent, name, mode)
        finally:
            self._drop(parent)
        try:
            self._write_all(node, 0, data)
        finally:
            self.calls.release(node, fh)
            self._drop(node)
        return attr

    def mknod(self, path: str | bytes, mode: int, rdev: int = 0) -> Attr:
        parent, name = self._parent(path)
        try:
            node, attr = self.calls.mknod(parent, name, mode, rdev)
        finally:
            self._drop(parent)
        self._drop(node)
        return attr

    def symlink(self, target: str | bytes, path: str | bytes) -> Attr:
        parent, name = self._parent(path)
        raw = target.encode() if isinstance(target, str) else target
        try:
            node, attr = self.calls.symlink(parent, name, raw)
        finally:
            self._drop(parent)
        self._drop(node)
        return attr

    def link(self, old: str | bytes, new: str | bytes) -> Attr:
        node = self.node(old)
        try:
            parent, name = self._parent(new)
            try:
                _, attr = self.calls.link(node, parent, name)
                self._drop(node)
            finally:
                self._drop(parent)
        finally:
            self._drop(node)
        return attr

    def unlink(self, path: str | bytes) -> None:
        parent, name = self._parent(path)
        try:
            self.calls.unlink(parent, name)
        finally:
            self._drop(parent)

    def rmdir(self, path: str | bytes) -> None:
        parent, name = self._parent(path)
        try:
            self.calls.rmdir(parent, name)
        finally:
            self._drop(parent)

    def rename(self, old: str | bytes, new: str | bytes, flags: int = 0) -> None:
        parent, name = self._parent(old)
        try:
            newparent, newname = self._parent(new)
            try:
                self.calls.rename(parent, name, newparent, newname, flags)
            finally:
                self._drop(newparent)
        finally:
            self._drop(parent)

    # -- reading

    def stat(self, path: str | bytes) -> Attr:
        node = self.node(path)
        try:
            return self.calls.getattr(node)
        finally:
            self._drop(node)

    def exists(self, path: str | bytes) -> bool:
        try:
            self._drop(self.node(path))
        except FileNotFoundError:
            return False
        return True

    def readdir(self, path: str | bytes = "/") -> list[DirEntry]:
        """All entries but '.' and '..', in directory order."""
        node = self.node(path)
        found: list[DirEntry] = []
        off = 0
        try:
            while batch := self.calls.readdir(node, off):
                found += batch
                off = batch[-1].next_off
        finally:
            self._drop(node)
        return [entry for entry in found if entry.name not in (b".", b"..")]

    def listdir(self, path: str | bytes = "/") -> list[bytes]:
        return [entry.name for entry in self.readdir(path)]

    def read(self, path: str | bytes, off: int = 0, size: int | None = None) -> bytes:
        node = self.node(path)
        try:
            left = self.calls.getattr(node).size - off if size is None else size
            parts = []
            while left > 0:
                part = self.calls.read(node, off, min(left, 1 << 20))
                if not part:
                    break
                parts.append(part)
                off += len(part)
                left -= len(part)
            return b"".join(parts)
        finally:
            self._drop(node)

    def readlink(self, path: str | bytes) -> bytes:
        node = self.node(path)
        try:
            return self.calls.readlink(node)
        finally:
            self._drop(node)

    # -- changing

    def _write_all(self, node: int, off: int, data: bytes) -> None:
        while data:
            done = self.calls.write(node, off, data[:1 << 20])
            off += done
            data = data[done:]

    def write(self, path: str | bytes, off: int, data: bytes) -> None:
        node = self.node(path)
        try:
            self._write_all(node, off, data)
        finally:
            self._drop(node)

    def truncate(self, path: str | bytes, size: int) -> None:
        self.setattr(path, size=size)

    def setattr(self, path: str | bytes, **what: int) -> Attr:
        """mode, uid, gid, size, atime_ns, mtime_ns."""
        node = self.node(path)
        try:
            return self.calls.setattr(node, **what)
        finally:
            self._drop(node)

    def fallocate(self, path: str | bytes, mode: int, off: int, length: int) -> None:
        node = self.node(path)
        try:
            self.calls.fallocate(node, mode, off, length)
        finally:
            self._drop(node)

    def setxattr(self, path: str | bytes, name: bytes, value: bytes, flags: int = 0) -> None:
        node = self.node(path)
        try:
            self.calls.setxattr(node, name, value, flags)
        finally:
            self._drop(node)

    def getxattr(self, path: str | bytes, name: bytes) -> bytes:
        node = self.node(path)
        try:
            return self.calls.getxattr(node, name)
        finally:
            self._drop(node)

    def listxattr(self, path: str | bytes) -> list[bytes]:
        node = self.node(path)
        try:
            return self.calls.listxattr(node)
        finally:
            self._drop(node)

    def removexattr(self, path: str | bytes, name: bytes) -> None:
        node = self.node(path)
        try:
            self.calls.removexattr(node, name)
        finally:
            self._drop(node)

    def fsync(self, path: str | bytes, datasync: bool = False) -> None:
        node = self.node(path)
        try:
            self.calls.fsync(node, datasync)
        finally:
            self._drop(node)

    def sync(self) -> None:
        self.calls.syncfs()

    def statistics(self) -> dict[str, int]:
        return self.fs.statistics()
