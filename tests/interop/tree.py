#!/usr/bin/env python3
"""tree: makes a directory tree with everything a GFS2 can hold, from a seed, by system calls.

  tree.py [--seed N] [--scale S] [--bsize N] [--without PART,...] DIR

Standard library only and in one file, because it also runs in the oracle's guest: the same command
with the same options makes the same tree on our mount, under the kernel's gfs2 and (without what
they lack) on other file systems. At the end all mtimes are set, so that two trees made apart have
equal manifests. Needs root. Scale 1 is about 7,000 inodes and 30 MiB.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import os
import random
import stat
import struct
import zlib
from collections.abc import Callable, Iterator

FS_IOC_GETFLAGS, FS_IOC_SETFLAGS = 0x80086601, 0x40086602
FS_SYNC_FL, FS_IMMUTABLE_FL, FS_APPEND_FL, FS_NOATIME_FL = 0x8, 0x10, 0x20, 0x80
FS_JOURNAL_DATA_FL = 0x4000
FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE = 1, 2
GFS2_MAGIC = struct.pack(">I", 0x01161970)
DINODE_SIZE = 232
STEP_NS = 3_600_000_017      # between the mtimes of neighbouring hashes: all digits get used
EPOCH_NS = 1_600_000_000 * 10 ** 9
OWNERS = (0, 1, 1000, 65533, 65536, 2 ** 31, 2 ** 32 - 2)
MODES = (0o644, 0o600, 0o400, 0o000, 0o777, 0o4755, 0o2755, 0o1777, 0o7777)


class Maker:
    """The tree's root and generator, and the few calls that every part uses."""

    def __init__(self, root: str, seed: int, scale: float, bsize: int, trusted: bool) -> None:
        self.root = os.fsencode(root)
        self.spaces = ("user", "trusted", "security") if trusted else ("user", "security")
        self.seed, self.scale, self.bsize = seed, scale, bsize
        self.rng = random.Random(seed)
        self.stuffed_max = bsize - DINODE_SIZE
        self.mtimes: dict[bytes, int] = {}
        self.flags: dict[bytes, int] = {}

    def part(self, name: str) -> None:
        """Each part draws from its own stream: leaving one out does not change the others."""
        self.rng = random.Random(f"{self.seed}/{name}")

    def count(self, number: int) -> int:
        return max(1, int(number * self.scale))

    def path(self, *names: str | bytes) -> bytes:
        return os.path.join(self.root, *(os.fsencode(n) for n in names))

    def mkdir(self, *names: str | bytes) -> bytes:
        path = self.path(*names)
        os.makedirs(path, exist_ok=True)
        return path

    def write(self, path: bytes, data: bytes, offset: int = 0) -> bytes:
        fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o644)
        try:
            while data:
                done = os.pwrite(fd, data, offset)
                data, offset = data[done:], offset + done
        finally:
            os.close(fd)
        return path

    def data(self, size: int) -> bytes:
        return self.rng.randbytes(size)

    def set_flags(self, path: bytes, flags: int) -> None:
        fd = os.open(path, os.O_RDONLY)
        try:
            (old,) = struct.unpack_from("<I", fcntl.ioctl(fd, FS_IOC_GETFLAGS, bytes(8)))
            fcntl.ioctl(fd, FS_IOC_SETFLAGS, struct.pack("<Q", old | flags))
        finally:
            os.close(fd)


# ------------------------------------------------------------------ hash --

def crc_unwind(crc: int, data: bytes) -> int:
    """The CRC-32 register before `data`, given the one after it (both without the final inversion)."""
    table = [zlib.crc32(bytes([i])) ^ 0xff000000 ^ (zlib.crc32(b"\0") ^ 0xff000000) for i in range(256)]
    top = {entry >> 24: i for i, entry in enumerate(table)}
    for byte in reversed(data):
        index = top[crc >> 24]
        crc = ((crc ^ table[index]) << 8 & 0xffffffff) | (index ^ byte)
    return crc


def forge(prefix: bytes, want: int) -> bytes:
    """Four bytes that make the CRC-32 of prefix + bytes equal `want`."""
    now = zlib.crc32(prefix) ^ 0xffffffff
    before = crc_unwind(want ^ 0xffffffff, bytes(4))
    return struct.pack("<I", now ^ before)


def colliding_names(want: int, count: int) -> Iterator[bytes]:
    """Names that all have the directory hash `want`; their last four bytes are whatever it takes."""
    number = 0
    while count:
        prefix = b"same-%05d-" % number
        tail = forge(prefix, want)
        if b"/" not in tail and b"\0" not in tail:
            yield prefix + tail
            count -= 1
        number += 1


def colliding_pairs(limit: int) -> Iterator[tuple[bytes, bytes]]:
    """Pairs of plain names with one hash, found by birthday."""
    seen: dict[int, bytes] = {}
    for number in range(limit):
        name = b"pair-%d" % (number * 7919)
        other = seen.setdefault(zlib.crc32(name), name)
        if other != name:
            yield other, name


# ----------------------------------------------------------------- parts --

def make_many(make: Maker) -> None:
    """A directory of more than 5,000 entries, with the gaps of deleted ones."""
    where = make.mkdir("many")
    names = [b"entry-%05d%s" % (n, b"x" * make.rng.randrange(40)) for n in range(5400)]
    make.rng.shuffle(names)
    for number, name in enumerate(names):
        path = os.path.join(where, name)
        make.write(path, make.data(make.rng.randrange(200)) if number % 20 == 0 else b"")
    for name in make.rng.sample(names, 300):
        os.unlink(os.path.join(where, name))
    survivors = [n for n in names if os.path.lexists(os.path.join(where, n))]
    for name in make.rng.sample(survivors, 100):
        os.rename(os.path.join(where, name), os.path.join(where, b"renamed-" + name))


def make_collide(make: Maker) -> None:
    """Names with equal hashes: leaf chains at the greatest depth, and pairs that telldir confuses."""
    where = make.mkdir("collide", "one-hash")
    for name in colliding_names(0x9e3779b9, make.count(250)):
        make.write(os.path.join(where, name), b"")
    where = make.mkdir("collide", "pairs")
    for pair in colliding_pairs(300_000):
        for name in pair:
            make.write(os.path.join(where, name), name)
    where = make.mkdir("collide", "ends")       # the first and the last slot of the hash table
    for want in (0, 0xffffffff):
        for name in colliding_names(want, 3):
            make.write(os.path.join(where, name), b"")


def make_links(make: Maker) -> None:
    """Symbolic links up to the longest that a dinode holds, and hard links across directories."""
    where = make.mkdir("links")
    longest = make.stuffed_max - 1
    for size in sorted({1, 59, 60, 255, min(300, longest), longest // 2, longest}):
        target = b"/".join([b"t" * 50] * 90)[:size]
        os.symlink(target, os.path.join(where, b"symlink-%d" % size))
    os.symlink(b"odd \xff\n\\ target", os.path.join(where, b"symlink-odd"))
    os.symlink(b"../many", os.path.join(where, b"symlink-dir"))
    source = make.write(os.path.join(where, b"linked"), make.data(5000))
    for number in range(make.count(60)):
        folder = make.mkdir("links", f"d{number % 7}")
        os.link(source, os.path.join(folder, b"link-%d" % number))
    os.unlink(source)


def make_sizes(make: Maker) -> None:
    """Files at every boundary of the format, and overwritten, shortened and lengthened ones."""
    where = make.mkdir("sizes")
    pointers = (make.bsize - DINODE_SIZE) // 8
    edges = [1, make.stuffed_max, make.bsize, make.bsize * 2, make.bsize * pointers]
    for size in sorted({max(0, edge + d) for edge in edges for d in (-1, 0, 1)}):
        make.write(os.path.join(where, b"file-%d" % size), make.data(size))
    make.write(os.path.join(where, b"big"), make.data(make.count(6 << 20) + 123))
    path = make.write(os.path.join(where, b"shortened"), make.data(1 << 20))
    os.truncate(path, 100_001)
    path = make.write(os.path.join(where, b"lengthened"), make.data(100_001))
    os.truncate(path, 60_000)
    os.truncate(path, 300_000)
    path = make.write(os.path.join(where, b"unstuffed"), make.data(100))
    make.write(path, make.data(make.bsize), 50)
    path = make.write(os.path.join(where, b"patched"), make.data(400_000))
    for _ in range(50):
        make.write(path, make.data(make.rng.randrange(1, 9000)), make.rng.randrange(390_000))
    path = make.write(os.path.join(where, b"emptied"), make.data(200_000))
    os.truncate(path, 0)


def make_sparse(make: Maker) -> None:
    """Holes at the beginning, between and at the end; offsets that need every height of the tree."""
    where = make.mkdir("sparse")
    for shift in (13, 17, 20, 24, 30, 34, 38):
        path = os.path.join(where, b"at-2^%d" % shift)
        make.write(path, make.data(5000), (1 << shift) - 1234)
    path = make.write(os.path.join(where, b"scattered"), make.data(100))
    for _ in range(make.count(120)):
        make.write(path, make.data(make.rng.randrange(1, 3000)), make.rng.randrange(1 << 33))
    os.truncate(path, (1 << 33) + 77)
    path = make.write(os.path.join(where, b"only-hole"), b"")
    os.truncate(path, 123_456_789)


def make_fallocate(make: Maker) -> None:
    """Preallocated space, within and beyond the size, and punched holes."""
    where = make.mkdir("fallocate")
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)

    def fallocate(name: bytes, mode: int, offset: int, length: int) -> None:
        fd = os.open(os.path.join(where, name), os.O_CREAT | os.O_RDWR, 0o644)
        try:
            if libc.fallocate(fd, mode, offset, length):
                error = ctypes.get_errno()
                raise OSError(error, os.strerror(error), name)
        finally:
            os.close(fd)

    fallocate(b"within", 0, 0, 700_000)
    make.write(os.path.join(where, b"beyond"), make.data(1000))
    fallocate(b"beyond", FALLOC_FL_KEEP_SIZE, 0, 500_000)
    make.write(os.path.join(where, b"punched"), make.data(600_000))
    for offset, length in ((4096, 8192), (100_000, 77_777), (590_000, 50_000)):
        fallocate(b"punched", FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length)


def make_jdata(make: Maker) -> None:
    """Journaled data, with blocks that begin with the magic number and have to be escaped."""
    where = make.mkdir("jdata")
    for name, size in ((b"small", 100), (b"medium", 30_000), (b"large", make.count(400_000))):
        path = make.write(os.path.join(where, name), b"")
        make.set_flags(path, FS_JOURNAL_DATA_FL)
        make.write(path, make.data(size))
    path = make.write(os.path.join(where, b"magic"), b"")
    make.set_flags(path, FS_JOURNAL_DATA_FL)
    make.write(path, (GFS2_MAGIC + bytes(range(256)) * 16)[:make.bsize].ljust(make.bsize, b"m") * 20)
    heirs = make.mkdir("jdata", "heirs")
    make.set_flags(heirs, FS_JOURNAL_DATA_FL)
    for number in range(3):
        make.write(os.path.join(heirs, b"heir-%d" % number), make.data(20_000))


def make_xattrs(make: Maker) -> None:
    """Extended attributes: every name space, all sizes, many on one file, replaced and removed ones."""
    where = make.mkdir("xattrs")
    for size in (0, 1, 7, 100, 1000, make.bsize - 300, make.bsize, 10_000, 65_536):
        path = make.write(os.path.join(where, b"value-%d" % size), b"")
        os.setxattr(path, b"user.value", make.data(size))
    path = make.write(os.path.join(where, b"many"), b"with many")
    for number in range(make.count(150)):
        space = make.spaces[number % len(make.spaces)]
        os.setxattr(path, f"{space}.name-{number:03}".encode(), make.data(make.rng.randrange(300)))
    for number in range(0, make.count(150), 10):
        space = make.spaces[number % len(make.spaces)]
        os.removexattr(path, f"{space}.name-{number:03}".encode())
    path = make.write(os.path.join(where, b"replaced"), b"")
    for size in (10, 5000, 20, 20_000, 3):
        os.setxattr(path, b"user.value", make.data(size))
    path = make.write(os.path.join(where, b"long-name"), b"")
    os.setxattr(path, b"user." + b"n" * 250, b"value")
    folder = make.mkdir("xattrs", "folder")
    os.setxattr(folder, b"user.on-dir", b"value")
    os.setxattr(folder, f"{make.spaces[1]}.on-dir".encode(), make.data(2000))
    link = os.path.join(where, b"symlink")
    os.symlink(b"nowhere", link)
    os.setxattr(link, f"{make.spaces[1]}.on-link".encode(), b"value", follow_symlinks=False)


def acl(*entries: tuple[int, int, int]) -> bytes:
    """An ACL as the xattr calls take it: version 2, then (tag, permissions, id), little-endian."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *e) for e in entries)


def make_acls(make: Maker) -> None:
    """POSIX ACLs: on files, defaults on directories, and children that inherit them."""
    where = make.mkdir("acls")
    none = 0xffffffff
    small = acl((1, 6, none), (2, 5, 1000), (4, 4, none), (8, 6, 2000), (16, 6, none), (32, 0, none))
    users = [(2, n % 8, 3000 + n) for n in range(40)]
    large = acl((1, 7, none), *users, (4, 5, none), (16, 7, none), (32, 1, none))
    for name, value in ((b"small", small), (b"large", large)):
        path = make.write(os.path.join(where, name), name)
        os.setxattr(path, b"system.posix_acl_access", value)
    folder = make.mkdir("acls", "folder")
    os.setxattr(folder, b"system.posix_acl_default", small)
    make.write(os.path.join(folder, b"heir"), b"")
    make.write(os.path.join(make.mkdir("acls", "folder", "sub"), b"heir"), b"")


def make_nodes(make: Maker) -> None:
    """Devices, fifos and sockets."""
    where = make.mkdir("nodes")
    for name, mode, device in ((b"null", stat.S_IFCHR, (1, 3)), (b"disk", stat.S_IFBLK, (8, 17)),
                               (b"wide", stat.S_IFCHR, (511, 1048575)), (b"fifo", stat.S_IFIFO, (0, 0)),
                               (b"socket", stat.S_IFSOCK, (0, 0))):
        os.mknod(os.path.join(where, name), mode | 0o640, os.makedev(*device))


def make_times(make: Maker) -> None:
    """Times before 1970, in the far future, and with every digit of the nanoseconds."""
    where = make.mkdir("times")
    for number, seconds in enumerate((-2 ** 33, -2 ** 31 - 1, -2, -1, 0, 1, 2 ** 31 - 1, 2 ** 31,
                                      2 ** 32 - 1, 2 ** 32, 2 ** 33, 253_402_300_800)):
        path = make.write(os.path.join(where, b"time-%d" % number), b"")
        make.mtimes[path] = seconds * 10 ** 9 + make.rng.randrange(10 ** 9)
    path = make.write(os.path.join(where, b"last-nanosecond"), b"")
    make.mtimes[path] = 999_999_999


def make_names(make: Maker) -> None:
    """Names of 255 bytes, in UTF-8, in no encoding at all, and unfriendly to shells."""
    where = make.mkdir("names")
    names = [b"n" * 255, "ü".encode() * 127, "文件系统".encode(), "e\u0301".encode(), "é".encode(),
             b"\xff\xfe\x80", b" leading", b"trailing ", b"-rf", b"new\nline", b"back\\slash", b"*", b"?",
             b"...", b".hidden", b"tab\t", b"quote'\"", b"\x01\x7f", b"a", b"A"]
    for name in names:
        make.write(os.path.join(where, name), name)
    for name in names[:6]:
        make.mkdir("names", "dirs", name)


def make_deep(make: Maker) -> None:
    """A path near the longest there is, and a tall and a wide little tree."""
    names: list[str | bytes] = ["deep"]
    for number in range(36):
        names.append(f"level-{number:02}-" + "d" * 90)
    make.write(os.path.join(make.mkdir(*names), b"bottom"), b"bottom")
    for number in range(make.count(400)):
        make.mkdir("wide", f"d{number % 20}", f"e{number % 50}", f"f{number}")


def make_owners(make: Maker) -> None:
    """Owners up to the greatest id, all kinds of permission bits, set-group-id directories."""
    where = make.mkdir("owners")
    for number, (uid, mode) in enumerate((u, m) for u in OWNERS for m in MODES):
        path = make.write(os.path.join(where, b"file-%02d" % number), b"")
        os.chown(path, uid, OWNERS[number % len(OWNERS)])
        os.chmod(path, mode)
    folder = make.mkdir("owners", "group")
    os.chown(folder, 1000, 2000)
    os.chmod(folder, 0o2775)
    make.write(os.path.join(folder, b"heir"), b"")
    make.mkdir("owners", "group", "heir-dir")


def make_moved(make: Maker) -> None:
    """Renames of files and directories, within and across directories, over what was there."""
    a, b = make.mkdir("moved", "a"), make.mkdir("moved", "b")
    for number in range(make.count(60)):
        make.write(os.path.join(a, b"f%d" % number), b"%d" % number)
        if number % 3 == 0:
            make.write(os.path.join(b, b"f%d" % number), b"to be replaced")
    for number in range(0, make.count(60), 2):
        os.rename(os.path.join(a, b"f%d" % number), os.path.join(b, b"f%d" % number))
    for number in range(10):
        make.write(os.path.join(make.mkdir("moved", "a", f"d{number}", "sub"), b"file"), b"moved")
        os.rename(os.path.join(a, b"d%d" % number), os.path.join(b, b"d%d" % number))
    os.makedirs(os.path.join(b, b"empty"))
    os.rename(os.path.join(b, b"d0"), os.path.join(b, b"empty"))


def make_flags(make: Maker) -> None:
    """Inode flags that chattr sets; they come last of all because they forbid changes."""
    where = make.mkdir("flags")
    for name, flag in ((b"immutable", FS_IMMUTABLE_FL), (b"append", FS_APPEND_FL),
                       (b"noatime", FS_NOATIME_FL), (b"sync", FS_SYNC_FL)):
        path = make.write(os.path.join(where, name), name)
        make.flags[path] = flag


PARTS: dict[str, Callable[[Maker], None]] = {
    "many": make_many, "collide": make_collide, "links": make_links, "sizes": make_sizes,
    "sparse": make_sparse, "fallocate": make_fallocate, "jdata": make_jdata, "xattrs": make_xattrs,
    "acls": make_acls, "nodes": make_nodes, "times": make_times, "names": make_names, "deep": make_deep,
    "owners": make_owners, "moved": make_moved, "flags": make_flags,
}


def settle(make: Maker) -> None:
    """Set every mtime to one that follows from the path alone; then the flags.

    In the order of the paths, not of the directories: of a file's hard links the last one counts.
    """
    paths = [os.path.join(folder, name) for folder, dirs, files in os.walk(make.root)
             for name in dirs + files]
    for path in sorted(paths):
        default = EPOCH_NS + zlib.crc32(os.path.relpath(path, make.root)) * STEP_NS
        when = make.mtimes.get(path, default)
        os.utime(path, ns=(when, when), follow_symlinks=False)
    os.utime(make.root, ns=(EPOCH_NS, EPOCH_NS))
    for path, flags in make.flags.items():
        make.set_flags(path, flags)


def make_tree(root: str, *, seed: int = 1, scale: float = 1.0, bsize: int = 4096,
              without: tuple[str, ...] = ()) -> None:
    """Make the tree in an existing directory. Raises OSError where the file system cannot do a part."""
    os.umask(0o022)
    make = Maker(root, seed, scale, bsize, "trusted" not in without)
    for name, part in PARTS.items():
        if name not in without:
            make.part(name)
            part(make)
    settle(make)


def main() -> None:
    parser = argparse.ArgumentParser(prog="tree", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("dir", metavar="DIR")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--bsize", type=int, default=4096, help="the file system's block size")
    parser.add_argument("--without", default="", help="parts to leave out, of: " + " ".join(PARTS) +
                        " trusted (the xattrs of that name space, which format 1801 does not have)")
    args = parser.parse_args()
    make_tree(args.dir, seed=args.seed, scale=args.scale, bsize=args.bsize,
              without=tuple(args.without.replace(",", " ").split()))


if __name__ == "__main__":
    main()
