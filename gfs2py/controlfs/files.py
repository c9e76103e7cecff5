"""Which files a mount has, and what reading and writing them does.

Names and meanings are those of kernel GFS2's /sys/fs/gfs2/TABLE and /sys/kernel/debug/gfs2/TABLE (fs/gfs2/sys.c). What
would say nothing here is left out; what would be dangerous or is not ours to set can only be read.
"""

from __future__ import annotations

import errno
import os
import time
import uuid
from collections.abc import Callable

import trio

from gfs2py.controlfs import formats
from gfs2py.controlfs.tree import File, Folder, Tree, Writer, number_of
from gfs2py.controlfs.view import View

SYNC_LOOK_S = 0.02
TUNE_MAX = 2**31 - 1


def _line(value: Callable[[], object]) -> Callable[[], bytes]:
    return lambda: f"{value()}\n".encode()


def _only_one(act: Callable[[], object]) -> Writer:
    """1 does it; anything else is no request."""
    async def write(text: str) -> None:
        number_of(text, 1, 1)
        act()
    return write


def _sync(view: View, quota: bool) -> Writer:
    """Returns when the mount's own thread has done it; the caller may be interrupted at any time."""
    async def write(text: str) -> None:
        number_of(text, 1, 1)
        ticket = view.ask_sync(quota)
        if ticket == 0:
            raise OSError(errno.EROFS, "nothing is synced on this mount")
        while not view.sync_done(ticket):  # noqa: ASYNC110  another thread's work has no event that trio knows
            await trio.sleep(SYNC_LOOK_S)
    return write


def _tunable(view: View, name: str) -> File:
    async def write(text: str) -> None:
        value = number_of(text, 0, TUNE_MAX)
        try:
            view.set_tune(name, value)
        except ValueError as e:
            raise OSError(errno.EINVAL, str(e)) from None
    return File(_line(lambda: view.tune()[name]), write)


def _freeze(view: View) -> Writer:
    """Returns when all nodes stand still, or go on. Whoever writes may be interrupted; the work goes on then."""
    async def write(text: str) -> None:
        act = view.freeze if number_of(text, 0, 1) else view.unfreeze
        await trio.to_thread.run_sync(act, abandon_on_cancel=True)
    return write


def _lock_module(view: View) -> Folder:
    def told(name: str, default: int) -> File:
        return File(_line(lambda: int(view.cluster().get(name, default))))

    return Folder({
        "proto_name": File(_line(lambda: view.describe()["lockproto"])),
        "jid": File(_line(lambda: view.describe()["jid"])),
        "first": told("first", 1), "first_done": told("first_done", 1), "block": told("blocked", 0),
        "recover_done": told("recover_done", -1), "recover_status": told("recover_status", 0)})


def _uuid(view: View) -> bytes:
    number = view.uuid()
    return f"{str(uuid.UUID(bytes=number)).upper()}\n".encode() if any(number) else b""


def make_tree(view: View, clock_ns: Callable[[], int] = time.monotonic_ns) -> Tree:
    """The files of one mount."""
    device = view.device
    files: dict[str, File | Folder] = {
        # As in debugfs.
        "glocks": File(lambda: formats.glocks(view)),
        "glocks.json": File(lambda: formats.glocks_json(view)),
        "glstats": File(view.glock_statistics),
        "sbstats": File(lambda: formats.sbstats(view)),
        "rgrps": File(view.resource_groups),
        # As in sysfs.
        "id": File(_line(lambda: f"{os.major(device)}:{os.minor(device)}")),
        "fsname": File(_line(lambda: f"{view.table}.{view.describe()['jid']}")),
        "uuid": File(lambda: _uuid(view)),
        "freeze": File(_line(lambda: int(view.frozen() is not None)), _freeze(view)),
        "withdraw": File(_line(lambda: int(view.describe()["withdrawn"] is not None)), _only_one(view.withdraw)),
        "statfs_sync": File(None, _sync(view, False)),
        "quota_sync": File(None, _sync(view, True)),
        "status": File(lambda: formats.status(view.describe(), view.cluster(), view.frozen())),
        "mount_point": File(_line(lambda: view.mount_point)),
        "lock_module": _lock_module(view),
        "tune": Folder({name: _tunable(view, name) for name in sorted(view.tune())})}
    if view.cluster():
        # What `cman_tool why` says of this node.
        files["why"] = File(lambda: view.why().encode(errors="replace"), slow=True)
        # As in dlm's debugfs.
        files["dlm_locks"] = File(lambda: formats.dlm_locks(view, clock_ns))
        files["dlm_waiters"] = File(lambda: formats.dlm_waiters(view.resources()))
    return Tree(Folder(files))
