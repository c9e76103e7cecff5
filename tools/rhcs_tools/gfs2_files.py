"""The commands of gfs2_tool that go through a mount's control files: waits, lockdump, gettune, settune, withdraw,
freeze, unfreeze and glocktop."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gfs2py import stats
from gfs2py.control.client import NobodyThere, Unreachable, connect
from gfs2py.control.paths import DIRECTORY
from gfs2py.controlfs.place import FS_TYPE
from gfs2py.fuse import _mount, control

LOOK_AGAIN_S = 0.05
PIECE_BYTES = 1 << 16
CLONE_NEWNS = 0x20000
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
# Where a tree of our own can be shown without touching anything of the machine: the first of these that is there.
SHOW_AT = ("/sys/kernel/debug", "/sys/kernel", "/mnt")


def directory_of(target: str, timeout_s: float) -> Path:
    """Where the control files of a mount are. Raises Unreachable, OSError."""
    limit = time.monotonic() + timeout_s
    while True:
        try:
            with connect(target, timeout_s) as asked:
                files = asked.identity().files
        except NobodyThere as e:
            raise Unreachable(str(e)) from None
        if files:
            return Path(files)
        # A mount is live a moment before its files are.
        if time.monotonic() > limit:
            raise Unreachable("this mount has no control files (see the log of gfs2d)")
        time.sleep(LOOK_AGAIN_S)


def read(path: Path) -> Iterator[str]:
    """A control file in pieces of whole lines, without the last newline of each."""
    with path.open(errors="replace") as f:
        while lines := f.readlines(PIECE_BYTES):
            yield "".join(lines).removesuffix("\n")


def write(path: Path, value: str) -> None:
    """One value, in one write: what the mount says to it is the error raised."""
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, value.encode())
    except OSError as e:
        e.filename = os.fspath(path)
        raise
    finally:
        os.close(fd)


def is_frozen(directory: Path) -> bool:
    return (directory / "freeze").read_text() != "0\n"


def sync(target: str) -> None:
    """syncfs(2) of a mount, by its mount point or source. Raises OSError."""
    import ctypes

    entry = control.find_mount(target)
    fd = os.open(entry.mount_point if entry is not None else target, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(fd) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), target)
    finally:
        os.close(fd)


def tunables(directory: Path) -> dict[str, str]:
    """Names and values, in order of the names."""
    return {path.name: path.read_text().strip() for path in sorted((directory / "tune").iterdir())}


def _in_the_way(glock: Mapping[str, Any]) -> str:
    """Who holds what others wait for, as far as this node knows."""
    found = [f"{h['comm']} (pid {h['pid']}, {h['request']}) holds {h['state']} here"
             for h in glock["holders"] if not h["waits"]]
    nodes = glock["nodes"]
    if nodes is not None:
        others = [g for g in nodes["granted"] if g["node"] != nodes["here"]]
        found += [f"node {g['node']} holds {g['mode']}" for g in others]
        if not others and nodes["master"] not in (0, nodes["here"]):
            found.append(f"node {nodes['master']} knows (it masters the lock)")
    return ", ".join(found) or "nobody that is known here"


def _frozen(glock: Mapping[str, Any], frozen: Mapping[str, Any]) -> list[tuple[int, str]]:
    """Writers of a frozen file system; without any, that it is frozen."""
    nodes = [f"node {g['node']}" for g in (glock["nodes"] or {"granted": []})["granted"] if g["mode"] == "EX"]
    by = "this node" if frozen["by"] == "here" else nodes[0] if nodes else "another node"
    cure = "gfs2_tool unfreeze" if frozen["by"] == "here" else "gfs2_tool unfreeze there"
    since = f"frozen by {by} for {stats.time_text(frozen['for_ns'])} ({cure})"
    return [(one["for_ns"], f"{one['comm']} (pid {one['pid']}, {one['request']}) waits for the thaw for "
                            f"{stats.time_text(one['for_ns'])}: {since}") for one in glock["holders"]] \
        or [(frozen["for_ns"], f"nobody waits, but the file system is {since}")]


def waits(lines: Iterable[str]) -> Iterator[str]:
    """glocks.json for a person: a line per waiter, and who is in its way; the longest wait first."""
    found = []
    for glock in map(json.loads, lines):
        where = f"{glock['type']} {glock['number']}" + (f" ({glock['path']})" if glock["path"] else "")
        if frozen := glock.get("frozen"):
            found += _frozen(glock, frozen)
            continue
        for one in glock["holders"]:
            if one["waits"]:
                who = f"{one['comm']} (pid {one['pid']}, {one['request']})"
                found.append((one["for_ns"], f"{who} waits for {one['state']} of {where} for "
                                             f"{stats.time_text(one['for_ns'])}: {_in_the_way(glock)}"))
    yield from (text for _, text in sorted(found, key=lambda pair: -pair[0]))


# ---- glocktop -------------------------------------------------------------------------------------------------------

def _escape(text: str) -> str:
    return "".join(f"\\{ord(c):03o}" if c in " \t\n\\" else c for c in text)


def mount_lines(debugfs: str, entries: Sequence[control.MountEntry]) -> str:
    """A mount table in which our mounts look like the kernel's: type gfs2, and debugfs where our tree stands."""
    lines = [f"debugfs {_escape(debugfs)} debugfs rw 0 0"]
    lines += [f"{_escape(one.source)} {_escape(one.mount_point)} gfs2 rw 0 0" for one in entries
              if one.fs_type.endswith(".gfs2") and os.path.exists(one.source)]
    return "".join(line + "\n" for line in lines)


def _lay_out(top: str, entries: Sequence[control.MountEntry]) -> None:
    """The directories of debugfs that glocktop reads, as links to our files."""
    os.mkdir(f"{top}/gfs2")
    os.mkdir(f"{top}/dlm")
    for one in entries:
        where, name = os.path.split(one.mount_point)
        if one.fs_type != FS_TYPE or where != os.fspath(DIRECTORY):
            continue
        os.symlink(one.mount_point, f"{top}/gfs2/{name}")
        space = name.partition(":")[2] or name
        for kind in ("locks", "waiters"):
            if os.path.exists(f"{one.mount_point}/dlm_{kind}"):
                os.symlink(f"{one.mount_point}/dlm_{kind}", f"{top}/dlm/{space}_{kind}")


def glocktop(arguments: Sequence[str]) -> None:
    """Becomes glocktop of gfs2-utils, which finds our files where it looks for the kernel's. Raises OSError.

    It has fixed paths and reads /proc/mounts; so it runs in a mount namespace of its own, in which a small tmpfs stands
    in for debugfs and its own /proc/PID/mounts calls our mounts gfs2. Outside nothing changes.
    """
    program = shutil.which("glocktop", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if program is None:
        raise FileNotFoundError(2, "not found: install gfs2-utils", "glocktop")
    entries = control.mounts()
    _mount.unshare(CLONE_NEWNS)
    _mount.mount(b"none", b"/", b"", MS_REC | MS_PRIVATE, b"")
    top = next((path for path in SHOW_AT if os.path.isdir(path)), None) or tempfile.gettempdir()
    _mount.mount(b"tmpfs", os.fsencode(top), b"tmpfs", 0, b"size=1m,mode=700")
    _lay_out(top, entries)
    table = f"{top}/mounts"
    Path(table).write_text(mount_lines(top, entries), errors="surrogateescape")
    _mount.mount(os.fsencode(table), f"/proc/{os.getpid()}/mounts".encode(), b"", MS_BIND, b"")
    os.execv(program, ["glocktop", *arguments])
