"""The tree as a FUSE file system: pyfuse3's handlers, and the thread with trio that serves them.

A reader gets a picture that was made when it first read after its open, and pages through that; nothing is shared with
the threads of the mount, so no reader waits for them and they for none. Only root may come in: the mount admits its own
user alone, and every mode is root's.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass

import pyfuse3
import trio

from gfs2py.controlfs.tree import File, Folder, Tree, value_of

HANDLES_MAX = 128                       # open files at once; more get ENFILE
PICTURES_BYTES_MAX = 256 << 20          # of all open files together; a read beyond that gets ENOMEM
TASKS_MAX = 16                          # requests served at once; a write may have to wait
VALID_S = 3600.0                        # names and attributes never change


@dataclass(slots=True)
class _Open:
    node: File
    picture: bytes | None = None


class Handlers(pyfuse3.Operations):
    """One mount's control files. Errors of a file's own reader or writer reach the caller as they are."""

    supports_dot_lookup = False
    enable_writeback_cache = False
    enable_acl = False

    def __init__(self, tree: Tree, log: Callable[[str], object]) -> None:
        super().__init__()
        self._tree, self._told = tree, _Told(log)
        self._open: dict[int, _Open] = {}
        self._next = 1
        self._made_ns = 0
        self._held_bytes = 0

    # -- names

    def _attributes(self, number: int) -> pyfuse3.EntryAttributes:
        node = self._tree.node(number)
        found = pyfuse3.EntryAttributes()
        found.st_ino = pyfuse3.InodeT(number)
        found.entry_timeout = found.attr_timeout = VALID_S
        if isinstance(node, Folder):
            found.st_mode = pyfuse3.ModeT(stat.S_IFDIR | 0o700)
            found.st_nlink = 2
        else:
            found.st_mode = pyfuse3.ModeT(stat.S_IFREG | node.mode)
        found.st_uid, found.st_gid = os.geteuid(), os.getegid()
        return found

    async def lookup(self, parent_inode: pyfuse3.InodeT, name: pyfuse3.FileNameT,
                     ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        with self._told:
            return self._attributes(self._tree.lookup(parent_inode, os.fsdecode(name)))

    async def getattr(self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        with self._told:
            return self._attributes(inode)

    async def setattr(self, inode: pyfuse3.InodeT, attr: pyfuse3.EntryAttributes, fields: pyfuse3.SetattrFields,
                      fh: pyfuse3.FileHandleT | None, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        """A shell's `>` cuts the file short first; nothing else can be changed."""
        if fields.update_mode or fields.update_uid or fields.update_gid:
            raise pyfuse3.FUSEError(errno.EPERM)
        with self._told:
            return self._attributes(inode)

    async def opendir(self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext) -> pyfuse3.FileHandleT:
        return pyfuse3.FileHandleT(inode)

    async def readdir(self, fh: pyfuse3.FileHandleT, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        for at, (name, number) in enumerate(self._tree.children(fh), 1):
            if at > start_id and not pyfuse3.readdir_reply(token, pyfuse3.FileNameT(os.fsencode(name)),
                                                           self._attributes(number), at):
                return

    # -- content

    async def open(self, inode: pyfuse3.InodeT, flags: pyfuse3.FlagT,
                   ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        with self._told:
            node = self._tree.node(inode)
        if isinstance(node, Folder):
            raise pyfuse3.FUSEError(errno.EISDIR)
        way = flags & os.O_ACCMODE
        if (way != os.O_WRONLY and node.read is None) or (way != os.O_RDONLY and node.write is None):
            raise pyfuse3.FUSEError(errno.EACCES)
        if len(self._open) >= HANDLES_MAX:
            raise pyfuse3.FUSEError(errno.ENFILE)
        number, self._next = self._next, self._next + 1
        self._open[number] = _Open(node)
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(number), direct_io=True)

    async def read(self, fh: pyfuse3.FileHandleT, off: int, size: int) -> bytes:
        one = self._open[fh]
        if one.picture is None or off == 0:
            await self._take(one)
        assert one.picture is not None
        return one.picture[off:off + size]

    async def _take(self, one: _Open) -> None:
        """A new picture: at the first read, and whenever somebody begins anew at the start."""
        assert one.node.read is not None
        self._drop(one)
        with self._told:
            made = await trio.to_thread.run_sync(one.node.read) if one.node.slow else one.node.read()
        self._drop(one)         # somebody else of this descriptor may have been faster
        if self._held_bytes + len(made) > PICTURES_BYTES_MAX:
            raise pyfuse3.FUSEError(errno.ENOMEM)
        one.picture = made
        self._held_bytes += len(made)

    def _drop(self, one: _Open) -> None:
        if one.picture is not None:
            self._held_bytes -= len(one.picture)
            one.picture = None

    async def write(self, fh: pyfuse3.FileHandleT, off: int, buf: bytes) -> int:
        one = self._open[fh]
        assert one.node.write is not None
        if off:
            raise pyfuse3.FUSEError(errno.EINVAL)
        with self._told:
            await one.node.write(value_of(buf))
        return len(buf)

    async def flush(self, fh: pyfuse3.FileHandleT) -> None:
        pass

    async def release(self, fh: pyfuse3.FileHandleT) -> None:
        self._drop(self._open.pop(fh))

    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        told = pyfuse3.StatvfsData()
        told.f_bsize = told.f_frsize = 4096
        told.f_namemax = 255
        return told


class _Told:
    """Turns an OSError into the answer to the request; any other error, too, with a line in the log: one file that
    cannot be made must not take the others along."""

    def __init__(self, log: Callable[[str], object]) -> None:
        self._log = log

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise pyfuse3.FUSEError(error.errno or errno.EIO) from error
        if isinstance(error, Exception):
            self._log(f"control file: {type(error).__name__}: {error}")
            raise pyfuse3.FUSEError(errno.EIO) from error


def serve(tree: Tree, path: str, mounted: Callable[[], object], log: Callable[[str], object]) -> None:
    """Mount on `path` and serve until it is unmounted, in this thread. Raises OSError, RuntimeError.

    mounted: called when the mount is in the tree, right before it is served. One at a time in a process: pyfuse3 keeps
    one session.
    """
    pyfuse3.init(Handlers(tree, log), path, {"fsname=gfs2d", "subtype=gfs2control", "default_permissions", "noexec"})
    try:
        mounted()
        trio.run(_main)
    finally:
        pyfuse3.close(unmount=False)


def end() -> None:
    """Let serve() return, even where a copy of the mount in another namespace keeps it going; from any thread."""
    token = pyfuse3.trio_token
    if token is not None:
        try:
            token.run_sync_soon(pyfuse3.terminate)
        except trio.RunFinishedError:
            return


async def _main() -> None:
    await pyfuse3.main(min_tasks=1, max_tasks=TASKS_MAX)
