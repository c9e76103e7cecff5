"""Everything that is done with a damaged image: walks, work, the checker, the printer. Raises Finding.

Any errno is a fair answer to damage. Findings are: anything but OSError; EIO without a line that names block,
structure and field; lack of memory; listings that never end; writes outside of what the operation owns (rule.py).
A crash, a hang and memory without bound are for the parent process to see.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import re
import struct
from collections.abc import Callable, Iterator
from typing import TypeVar

from gfs2py.block import BlockDevice, MemoryDevice, RecordingDevice
from gfs2py.edit import targets
from gfs2py.edit.reader import Reader
from gfs2py.engine._calls import Attr, DirEntry
from gfs2py.engine.volume import Volume
from gfs2py.errors import CorruptionError, MountError
from gfs2py.fsck import check
from hostile.bank import MAGIC, acl
from hostile.mutate import Damage
from hostile.rule import Rule

T = TypeVar("T")
# How a line about damage begins; the superblock and a journal stand for a block where there is none to name.
NAMED = re.compile(r"damaged block \d+ \(0x[0-9a-f]+\): [\w -]+\.\S.* is \S.*, wanted \S|superblock: \w+")
ENTRIES_MAX = 20_000
VISITS_MAX = 1500
READ_MAX = 256 << 10
GETFLAGS, SETFLAGS = 0x80086601, 0x40086602


class Finding(Exception):
    """What must not be."""


class Mounted:
    """A volume whose errors are looked at."""

    def __init__(self, dev: BlockDevice, rng: random.Random, flags: tuple[str, ...]) -> None:
        self.rng = rng
        self.errors: dict[int, int] = {}
        self.v = Volume(dev, flags=flags, background=rng.random() < 0.05, quiet=True,
                        commit_ms=rng.choice((0, 0, 0, 5)), cache_bytes=rng.choice((1 << 18, 4 << 20)),
                        inodes=rng.choice((16, 1024)))

    def call(self, what: Callable[..., T], *args: object, **kwargs: object) -> T | None:
        """One operation; None if it failed as it may."""
        try:
            return what(*args, **kwargs)
        except OSError as e:
            self.errors[e.errno or 0] = self.errors.get(e.errno or 0, 0) + 1
            self.judge(e, what)
            return None

    def judge(self, e: OSError, what: object) -> None:
        name = getattr(what, "__name__", str(what))
        if e.errno == errno.ENOMEM:
            raise Finding(f"{name}: no memory") from e
        if e.errno == errno.EIO and not NAMED.search(self.v.fs.withdrawn or ""):
            raise Finding(f"{name}: EIO, and the log says {self.v.fs.withdrawn!r}") from e
        if not e.errno or e.errno >= 512:
            raise Finding(f"{name}: errno {e.errno}") from e

    def close(self) -> None:
        try:
            self.v.close()
        except OSError as e:
            if not NAMED.search(str(e)):
                raise Finding(f"unmount: {e}") from e


@contextlib.contextmanager
def mounted(dev: BlockDevice, rng: random.Random, flags: tuple[str, ...],
            seen: dict[str, int]) -> Iterator[Mounted | None]:
    """The volume, or None when damage keeps it from being mounted."""
    try:
        m = Mounted(dev, rng, flags)
    except (MountError, CorruptionError) as e:
        seen["refused"] = seen.get("refused", 0) + 1
        if e.errno in (errno.EIO, errno.EUCLEAN) and not NAMED.search(str(e)):
            raise Finding(f"mount: {e}") from e
        if e.errno == errno.ENOMEM:
            raise Finding(f"mount: {e}") from e
        yield None
        return
    try:
        yield m
    finally:
        if m.v.fs.withdrawn:
            seen["withdrawn"] = seen.get("withdrawn", 0) + 1
        m.close()
    seen["mounted"] = seen.get("mounted", 0) + 1


# -- walking


class Walk:
    """Lists, stats and reads everything that can be reached, each inode once."""

    def __init__(self, m: Mounted, limit: int) -> None:
        self.m, self.limit = m, limit
        self.seen: set[int] = set()

    def run(self) -> None:
        todo = [1]
        self.m.call(self.m.v.calls.statfs)
        while todo and len(self.seen) < self.limit:
            found_here = self.listing(todo.pop())
            self.m.rng.shuffle(found_here)
            for e in found_here:
                if e.name in (b".", b".."):
                    continue
                if found := self.m.call(self.m.v.calls.lookup, *e_parent(e, self.here)):
                    node, attr = found
                    if node not in self.seen:
                        self.seen.add(node)
                        self.look(node, attr)
                        if attr.mode >> 12 == 4:
                            todo.append(node)
                            continue        # forgotten at the unmount
                    self.m.call(self.m.v.calls.forget, node)

    def listing(self, node: int) -> list[DirEntry]:
        found: list[DirEntry] = []
        off = 0
        self.here = node
        while batch := self.m.call(self.m.v.calls.readdir, node, off):
            found += batch
            if batch[-1].next_off == off or len(found) > ENTRIES_MAX:
                raise Finding(f"readdir of {node} never ends: {len(found)} entries, cookie {off}")
            off = batch[-1].next_off
        return found

    def look(self, node: int, attr: Attr) -> None:
        m, calls = self.m, self.m.v.calls
        m.call(calls.getattr, node)
        for name in m.call(calls.listxattr, node) or []:
            m.call(calls.getxattr, node, name)
        kind = attr.mode >> 12
        if kind == 10:
            m.call(calls.readlink, node)
        elif kind == 8:
            for off in {0, max(attr.size // 2 - 100, 0), max(attr.size - 5000, 0)}:
                m.call(calls.read, node, off, min(READ_MAX, attr.size + 10))
            off = 0
            for _ in range(6):
                data = m.call(calls.lseek, node, off, 3)
                hole = m.call(calls.lseek, node, off, 4)
                if data is None or hole is None or max(data, hole) <= off:
                    break
                off = max(data, hole)
        else:
            m.call(calls.read, node, 0, 4096)
        m.call(calls.ioctl, node, GETFLAGS, b"", 4)


def e_parent(e: DirEntry, parent: int) -> tuple[int, bytes]:
    return parent, e.name


# -- working


class Work:
    """Changes of all kinds, in /w only."""

    def __init__(self, m: Mounted, rng: random.Random) -> None:
        self.m, self.v, self.rng = m, m.v, rng
        self.files: list[bytes] = []
        self.dirs: list[bytes] = []
        self.serial = 0

    def discover(self) -> None:
        todo = [b"/w"]
        while todo and len(self.dirs) < 40:
            top = todo.pop(0)
            self.dirs.append(top)
            for e in (self.m.call(self.v.readdir, top) or [])[:400]:
                path = top + b"/" + e.name
                (todo if e.dtype == 4 else self.files).append(path)

    def run(self, steps: int) -> None:
        self.discover()
        kinds = [getattr(self, name) for name in dir(type(self)) if name.startswith("do_")]
        for _ in range(steps):
            self.rng.choice(kinds)()
            if self.v.fs.withdrawn:
                break
        for kind in kinds if self.v.fs.withdrawn else ():
            kind()
        self.m.call(self.v.sync)

    def new(self) -> bytes:
        self.serial += 1
        return self.rng.choice(self.dirs) + b"/new-%d-%s" % (self.serial, b"n" * self.rng.choice((0, 1, 30, 200)))

    def file(self) -> bytes:
        return self.rng.choice(self.files or [b"/w/none"])

    def off(self) -> int:
        return self.rng.choice((0, 1, 100, 5000, 100_000, 1 << 20, self.rng.randrange(1 << 34)))

    def do_create(self) -> None:
        path = self.new()
        data = self.rng.choice((b"", b"x" * 100, MAGIC + b"y" * 3000, b"z" * 20_000))
        if self.m.call(self.v.create, path, data):
            self.files.append(path)

    def do_fill(self) -> None:
        top = self.rng.choice(self.dirs)
        for n in range(self.rng.choice((3, 12, 40))):
            self.serial += 1
            self.m.call(self.v.mknod, top + b"/fill-%d-%s" % (self.serial, b"f" * (n % 60)), 0o100644)

    def do_mkdir(self) -> None:
        path = self.new()
        if self.m.call(self.v.mkdir, path):
            self.dirs.append(path)

    def do_symlink(self) -> None:
        self.m.call(self.v.symlink, b"target" * self.rng.choice((1, 30)), self.new())

    def do_link(self) -> None:
        self.m.call(self.v.link, self.file(), self.new())

    def do_write(self) -> None:
        self.m.call(self.v.write, self.file(), self.off(), b"w" * self.rng.choice((1, 700, 9000)))

    def do_append(self) -> None:
        path = self.file()
        if attr := self.m.call(self.v.stat, path):
            self.m.call(self.v.write, path, min(attr.size, 1 << 40), b"a" * 3000)

    def do_truncate(self) -> None:
        self.m.call(self.v.truncate, self.file(), self.rng.choice((0, 0, 10, 4096, 70_000, 1 << 33)))

    def do_fallocate(self) -> None:
        mode = self.rng.choice((0, 1, 3, 3, 17))
        self.m.call(self.v.fallocate, self.file(), mode, self.off(), self.rng.choice((1, 5000, 40_000)))

    def do_read(self) -> None:
        self.m.call(self.v.read, self.file(), self.off(), 10_000)

    def do_unlink(self) -> None:
        path = self.file()
        self.m.call(self.v.unlink, path)
        if path in self.files:
            self.files.remove(path)

    def do_rmdir(self) -> None:
        self.m.call(self.v.rmdir, self.rng.choice(self.dirs[1:] or [b"/w/none"]))

    def do_empty(self) -> None:
        top = self.rng.choice(self.dirs)
        for e in (self.m.call(self.v.readdir, top) or [])[:100]:
            self.m.call(self.v.unlink, top + b"/" + e.name)

    def do_rename(self) -> None:
        old = self.rng.choice(self.files + self.dirs[1:] or [b"/w/none"])
        new = self.rng.choice((self.new(), self.file()))
        self.m.call(self.v.rename, old, new, self.rng.choice((0, 0, 1, 2)))

    def do_xattr(self) -> None:
        name = self.rng.choice((b"user.a", b"user.large", b"user.name", b"user.attribute-%d" % self.rng.randrange(60)))
        size = self.rng.choice((0, 20, 400, 9000))
        self.m.call(self.v.setxattr, self.rng.choice(self.files + self.dirs), name, b"v" * size)

    def do_unxattr(self) -> None:
        path = self.file()
        for name in (self.m.call(self.v.listxattr, path) or [])[:20]:
            self.m.call(self.v.removexattr, path, name)

    def do_acl(self) -> None:
        self.m.call(self.v.setxattr, self.rng.choice(self.dirs), b"system.posix_acl_default", acl(7))
        self.m.call(self.v.setxattr, self.file(), b"system.posix_acl_access", acl(8))

    def do_setattr(self) -> None:
        what = self.rng.choice(({"mode": 0o600}, {"uid": 1001, "gid": 2000}, {"mtime_ns": 10**18}))
        self.m.call(self.v.setattr, self.rng.choice(self.files + self.dirs), **what)

    def do_flags(self) -> None:
        if node := self.m.call(self.v.node, self.file()):
            self.m.call(self.v.calls.ioctl, node, SETFLAGS, struct.pack("=I", self.rng.choice((0, 0x4000))))
            self.m.call(self.v.calls.forget, node)

    def do_copy(self) -> None:
        a, b = self.m.call(self.v.node, self.file()), self.m.call(self.v.node, self.file())
        if a and b:
            self.m.call(self.v.calls.copy_file_range, a, self.off(), b, self.off(), 20_000)

    def do_tmpfile(self) -> None:
        if (node := self.m.call(self.v.node, self.rng.choice(self.dirs))) and (
                made := self.m.call(self.v.calls.tmpfile, node)):
            self.m.call(self.v.calls.write, made[0], 0, b"t" * 9000)
            self.m.call(self.v.calls.release, made[0], made[1])
            self.m.call(self.v.calls.forget, made[0])

    def do_statfs(self) -> None:
        self.m.call(self.v.calls.statfs)

    def do_sync(self) -> None:
        self.m.call(self.rng.choice((self.v.sync, self.v.fs.drain)))

    def do_fsync(self) -> None:
        self.m.call(self.v.fsync, self.file())


# -- a case


def print_all(dev: MemoryDevice, damage: Damage, rng: random.Random) -> None:
    """gfs2_edit -p of the system's structures and of what was changed."""
    places = ["sb", "size", "root", "master", "jindex", "per_node", "statfs", "inum", "rindex", "rgs", "rg",
              "statfs_change0", "inum_range0", "/w", "/w/hashed", "/w/deep/deep"]
    places = rng.sample(places, 4) + [str(b) for b in sorted(damage.blocks())[:4]]
    if rng.random() < 0.004:
        places += ["journal0", "journals", "quota", "quota_change0"]    # long
    try:
        reader = Reader(dev, lenient=True)
    except OSError:
        return
    for place in places:
        try:
            target = targets.rgrp_target(reader, "0") if place == "rg" else targets.find_target(reader, place)
            size = sum(map(len, targets.show_target(reader, target, as_hex=rng.random() < 0.2)))
        except (OSError, ValueError, targets.UnknownTarget):
            continue
        if size > 64 << 20:
            raise Finding(f"gfs2_edit -p {place}: {size} characters")


def check_all(dev: MemoryDevice, rng: random.Random) -> None:
    for finding in check(dev, full_journals=rng.random() < 0.2, quota=True).findings:
        str(finding)


def run_case(damage: Damage, rng: random.Random) -> dict[str, int]:
    """All of it for one damage; counts of what became of the mounts. Raises Finding."""
    seen: dict[str, int] = {}
    start = damage.device().snapshot()
    check_all(MemoryDevice.from_snapshot(start), rng)
    print_all(MemoryDevice.from_snapshot(start), damage, rng)
    rule = Rule(damage)
    rec = RecordingDevice(MemoryDevice.from_snapshot(start))
    with mounted(rec, rng, ("noatime", "acl", "rdonly"), seen) as m:
        if m is not None:
            Walk(m, rng.choice((100, VISITS_MAX))).run()
    if said := rule.broken(rec, reading=True):
        raise Finding("read-only: " + said)
    dev = MemoryDevice.from_snapshot(start)
    rec = RecordingDevice(dev)
    flags = damage.base.flags + rng.choice(((), (), ("writeback",), ("discard",)))
    with mounted(rec, rng, flags, seen) as m:
        if m is not None:
            if rng.random() < 0.2:
                Walk(m, 100).run()
            Work(m, rng).run(rng.choice((5, 20, 40)))
            if rng.random() < 0.2:
                Walk(m, 100).run()
    if said := rule.broken(rec, reading=False):
        raise Finding("writable: " + said)
    if rng.random() < 0.5:
        check_all(dev, rng)
    return seen


def sanitised() -> bool:
    return os.environ.get("GFS2PY_ASAN") == "1"
