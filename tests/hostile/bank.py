"""The base images that are damaged: ours with one of everything, and the kernel's of the checker's tests.

Every image has two trees: /w, in which the workload works, and the rest, which it only reads. All are made from
fixed seeds without background threads, so that a case's number means the same damage in every run.
"""

from __future__ import annotations

import contextlib
import random
import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from fsck.conftest import load_image
from gfs2py.block import MemoryDevice, Snapshot
from gfs2py.engine.volume import Volume
from gfs2py.mkfs.make import Plan, write_plan
from gfs2py.mkfs.options import MkfsOptions
from gfs2py.mkfs.plan import Alignment, plan_rgrps
from gfs2py.ondisk import constants as c
from gfs2py.ondisk import structs
from gfs2py.ondisk.geometry import geometry
from gfs2py.ondisk.spec import BY_METATYPE
from hostile.sites import Map

MIB = 1 << 20
PIECE_BYTES = 1 << 16
SETFLAGS, JOURNAL_DATA = 0x40086602, 0x4000
NOW = 1_700_000_000
TIMES = {c.GFS2_METATYPE_DI: dict.fromkeys(("di_atime", "di_mtime", "di_ctime"), NOW)
         | dict.fromkeys(("di_atime_nsec", "di_mtime_nsec", "di_ctime_nsec"), 0),
         c.GFS2_METATYPE_LF: {"lf_sec": NOW, "lf_nsec": 0}, c.GFS2_METATYPE_LH: {"lh_sec": NOW, "lh_nsec": 0}}
MAGIC = struct.pack(">I", 0x01161970)
QUOTA = ("noatime", "acl", "quota_account", "quota_enforce")


@dataclass(frozen=True)
class Base:
    """One image. `flags` suit its workload; `dirty` journals must be replayed by the first mount."""

    name: str
    snapshot: Snapshot
    flags: tuple[str, ...] = ("noatime", "acl")
    dirty: bool = False

    @cached_property
    def map(self) -> Map:
        """What lies where, the journals' content not replayed."""
        return Map(MemoryDevice.from_snapshot(self.snapshot))

    @cached_property
    def pieces(self) -> list[int]:
        """Where the image is not empty."""
        dev = MemoryDevice.from_snapshot(self.snapshot)
        return [at for at in range(0, dev.size_bytes, PIECE_BYTES) if dev.read(at, PIECE_BYTES).strip(b"\0")]

    @cached_property
    def edges(self) -> dict[int, list[int]]:
        """What each block leads to, before replay or after."""
        edges = dict(self.map.edges)
        if self.dirty:
            for block, more in self.after.edges.items():
                edges[block] = edges.get(block, []) + more
        return edges

    @cached_property
    def after(self) -> Map:
        """The same after replay."""
        if not self.dirty:
            return self.map
        dev = MemoryDevice.from_snapshot(self.snapshot)
        with quiet(dev, flags=("noatime",)):
            pass
        return Map(dev)


def quiet(dev: MemoryDevice, **more: object) -> Volume:
    options: dict[str, object] = {"background": False, "quiet": True, "commit_ms": 0} | more
    return Volume(dev, **options)  # type: ignore[arg-type]


def acl(who: int) -> bytes:
    entries = [(1, 6, 0xFFFFFFFF), (2, 6, who), (4, 4, 0xFFFFFFFF), (16, 6, 0xFFFFFFFF), (32, 4, 0xFFFFFFFF)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *e) for e in entries)


def text(rng: random.Random, size: int) -> bytes:
    return rng.randbytes(min(size, 64)) * (size // 64 + 1)


def remove(v: Volume, path: bytes) -> None:
    """Unlink, and wait for the thread that frees the blocks: what comes next must find the same ones free."""
    v.unlink(path)
    v.fs.drain()


def fill(v: Volume, top: bytes, rng: random.Random, bsize: int) -> None:
    """One of everything that lies differently on the disk."""
    v.mkdir(top)
    fill_files(v, top, rng, bsize)
    fill_directories(v, top, bsize)
    fill_xattrs(v, top, rng, bsize)
    v.symlink(b"short", top + b"/symlink")
    v.symlink(b"l" * (bsize - 240), top + b"/long-symlink")
    v.mknod(top + b"/fifo", 0o010644)
    v.mknod(top + b"/char", 0o020600, 0x103)
    v.link(top + b"/small", top + b"/small-too")
    for n in range(3):
        path = top + b"/owned%d" % n
        v.create(path, b"o" * (n * 3 * bsize))
        v.setattr(path, uid=1000 + n, gid=2000)


def fill_files(v: Volume, top: bytes, rng: random.Random, bsize: int) -> None:
    v.create(top + b"/empty")
    v.create(top + b"/small", b"stuffed " * 12)
    v.create(top + b"/nearly-stuffed", text(rng, bsize - 232))
    v.create(top + b"/some-blocks", text(rng, 7 * bsize + 100))
    for height, far in ((2, 600), (3, 60_000), (4, 6_000_000), (6, 1 << 34)):
        path = top + b"/far%d" % height
        v.create(path, b"begin")
        v.write(path, far * bsize // 8 * 8, b"far" * 50)
    v.create(top + b"/cut", text(rng, 12 * bsize))
    v.truncate(top + b"/cut", bsize + 10)
    v.create(top + b"/grown")
    v.truncate(top + b"/grown", 1 << 33)
    v.create(top + b"/allocated")
    v.fallocate(top + b"/allocated", 0, 0, 5 * bsize)
    path = top + b"/jdata"
    v.create(path)
    node = v.node(path)
    v.calls.ioctl(node, SETFLAGS, struct.pack("=I", JOURNAL_DATA))
    v.calls.forget(node)
    v.write(path, 0, (MAGIC + b"escaped!" * 7) * (3 * bsize // 60))


def fill_directories(v: Volume, top: bytes, bsize: int) -> None:
    v.mkdir(top + b"/flat")
    for n in range(4):
        v.create(top + b"/flat/f%d" % n, b"x")
    v.mkdir(top + b"/hashed")
    for n in range(90 if bsize > 1024 else 60):
        v.mknod(top + b"/hashed/name-%d-%s" % (n, b"y" * (n % 50)), 0o100644)
    for n in range(0, 60, 7):
        remove(v, top + b"/hashed/name-%d-%s" % (n, b"y" * (n % 50)))
    path = top
    for _ in range(4):
        path += b"/deep"
        v.mkdir(path)
    v.create(path + b"/file", b"bottom")


def fill_xattrs(v: Volume, top: bytes, rng: random.Random, bsize: int) -> None:
    for name in (b"ea-small", b"ea-large", b"ea-many", b"ea-acl", b"ea-removed"):
        v.create(top + b"/" + name, b"" if name != b"ea-many" else text(rng, bsize))
    v.mkdir(top + b"/ea-dir")
    v.setxattr(top + b"/ea-small", b"user.name", b"value")
    v.setxattr(top + b"/ea-small", b"security.capability", b"c" * 20)
    v.setxattr(top + b"/ea-large", b"user.large", rng.randbytes(3 * bsize))
    with contextlib.suppress(OSError):          # format 1801 has none of these
        v.setxattr(top + b"/ea-large", b"trusted.too", rng.randbytes(100))
    for n in range(3 * bsize // 60):
        v.setxattr(top + b"/ea-many", b"user.attribute-%d" % n, b"v" * (n % 90))
    for n in range(0, bsize // 60, 3):
        v.removexattr(top + b"/ea-many", b"user.attribute-%d" % n)
    v.setxattr(top + b"/ea-acl", b"system.posix_acl_access", acl(1000))
    v.setxattr(top + b"/ea-dir", b"system.posix_acl_default", acl(1001))
    v.setxattr(top + b"/ea-removed", b"user.one", b"1" * 200)
    v.removexattr(top + b"/ea-removed", b"user.one")


def timeless(dev: MemoryDevice) -> Snapshot:
    """The content with one time everywhere: nothing in an image may depend on when it was made."""
    bsize = int.from_bytes(dev.read(65536 + 36, 4), "big")
    for at in range(0, dev.size_bytes, PIECE_BYTES):
        piece = dev.read(at, PIECE_BYTES)
        place = piece.find(MAGIC)
        while place >= 0:
            kind = piece[place + 7] if place % bsize == 0 else 0
            if kind in TIMES:
                block = bytearray(piece[place:place + bsize])
                for name, value in TIMES[kind].items():
                    structs.put(BY_METATYPE[kind], block, name, value)
                if kind == c.GFS2_METATYPE_LH:
                    structs.seal("log_header", block)
                if block != piece[place:place + bsize]:
                    dev.write(at + place, bytes(block))
            place = piece.find(MAGIC, place + 4)
    return dev.snapshot()


def formatted(bsize: int, mib: int, *, journals: int = 1, fmt: int = 1802, seed: int = 1,
              rg_mib: int = 8) -> MemoryDevice:
    """A new file system with resource groups smaller than mkfs.gfs2 makes them: several in a small image."""
    dev = MemoryDevice(mib * MIB)
    options = MkfsOptions(bsize=bsize, jsize_mb=8, journals=journals, lockproto="lock_nolock", locktable="",
                          format=fmt, uuid=uuid.UUID(int=seed), rng=random.Random(seed), now=NOW)
    options.locktable = None
    options.check()
    geo = geometry(bsize)
    rgrps = plan_rgrps(geo, mib * MIB // bsize, journals, 8, rg_mib, Alignment())
    write_plan(dev, Plan(options, geo, mib * MIB, 8, rgrps, Alignment()))
    return dev


def ours(name: str, bsize: int, *, journals: int = 1, fmt: int = 1802,
         flags: tuple[str, ...] = ("noatime", "acl")) -> Base:
    """Filled and cleanly unmounted."""
    dev = formatted(bsize, 24 + 16 * journals, journals=journals, fmt=fmt)
    rng = random.Random(name)
    with quiet(dev, flags=flags) as v:
        fill(v, b"/w", rng, bsize)
        fill(v, b"/b", rng, bsize)
    return Base(name, timeless(dev), flags)


def left_dirty(base: Base, name: str, *, second: bool = False) -> Base:
    """More work, and the power goes: a journal to replay, blocks to revoke, deletions that were interrupted."""
    dev = MemoryDevice.from_snapshot(base.snapshot)
    rng = random.Random(name)
    v = quiet(dev, flags=base.flags)
    bsize = v.fs.block_size
    node, _, _ = v.calls.tmpfile(1)
    v.calls.write(node, 0, text(rng, 9 * bsize))
    held = v.node(b"/w/some-blocks")
    remove(v, b"/w/some-blocks")
    v.mkdir(b"/w/late")
    for n in range(80):
        v.create(b"/w/late/%d" % n, b"d" * (n % 30 * 40))
    v.write(b"/w/jdata", 0, (MAGIC + b"again" * 11) * (bsize // 20))
    v.sync()
    for n in range(70):
        remove(v, b"/w/late/%d" % n)
    remove(v, b"/w/far3")
    v.setxattr(b"/w/ea-small", b"user.large", rng.randbytes(2 * bsize))
    v.rename(b"/w/flat", b"/w/renamed")
    v.setattr(b"/w/small", uid=1001)
    v.sync()
    assert held
    assert node
    v.abandon()
    if second:
        with contextlib.closing(Second(dev, base.flags)) as other:
            other.touch()
    return Base(name, timeless(dev), base.flags, dirty=True)


class Second:
    """Another node's journal, dirty too: it changes only what the first did not."""

    def __init__(self, dev: MemoryDevice, flags: tuple[str, ...]) -> None:
        self.v = quiet(dev, flags=flags, jid=1, norecovery=True)

    def touch(self) -> None:
        self.v.setattr(b"/b/small", mode=0o600)
        self.v.setattr(b"/b/flat", mode=0o700)
        self.v.sync()

    def close(self) -> None:
        self.v.abandon()


def trimmed(base: Base) -> Base:
    """Without the log headers that mkfs.gfs2 fills a journal with: quicker to mount, and what trimming leaves."""
    dev = MemoryDevice.from_snapshot(base.snapshot)
    m = base.map
    keep = {s.block for roles in m.sites.values() for role, found in roles.items() if "active" in role for s in found}
    for addr in (a for a, name in m.names.items() if name.startswith("jindex/journal")):
        for block in m.owned[addr] - keep - {addr}:
            if dev.read(block * m.bsize, 8) == MAGIC + b"\0\0\0\x08":
                dev.write(block * m.bsize, bytes(m.bsize))
    return Base(base.name, dev.snapshot(), base.flags, base.dirty)


def kernels(image: str, name: str) -> Base:
    """An image that the kernel filled; some of it is moved into /w."""
    dev = load_image(image)
    with quiet(dev, flags=("noatime", "acl")) as v:
        v.mkdir(b"/w")
        for top in (b"plain", b"xattrs", b"sparse", b"jdata"):
            v.mkdir(b"/w/" + top)
            for entry in sorted(v.listdir(b"/" + top))[::2]:
                with contextlib.suppress(PermissionError):      # immutable files
                    v.rename(b"/" + top + b"/" + entry, b"/w/" + top + b"/" + entry)
        for top in (b"deep", b"big", b"links"):      # of one tree: hard links
            v.rename(b"/" + top, b"/w/" + top)
    return Base(name, timeless(dev))


def bases() -> Iterator[Base]:
    """All of them, in an order that must not change without need: a case's number draws by position."""
    big = ours("ours-4096", 4096, journals=2, flags=QUOTA)
    small = ours("ours-512", 512, flags=QUOTA)
    mid = ours("ours-1024", 1024, fmt=1801)
    yield big
    yield trimmed(small)
    yield trimmed(mid)
    yield trimmed(ours("ours-2048", 2048, journals=3))
    yield trimmed(left_dirty(big, "dirty-4096", second=True))
    yield trimmed(left_dirty(small, "dirty-512"))
    yield trimmed(left_dirty(mid, "dirty-1024"))
    yield kernels("kernel-4096", "kernel-4096")
    yield kernels("kernel-512", "kernel-512")
