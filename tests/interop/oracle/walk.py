#!/usr/bin/env python3
"""walk: one line per path below a directory, so that two trees can be compared as text.

  walk.py [--fields "type mode ..."] DIR

Standard library only and in one file, because it also runs in the oracle's guest. A line is the
path and then name=value for each field, in the order of the paths' bytes; what is not printable
ASCII is written as a backslash, x and two hex digits. A field that cannot be read says error:WHY.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import hashlib
import os
import stat
import struct
from collections.abc import Callable, Iterator, Sequence

TYPES = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "link", stat.S_IFIFO: "fifo",
         stat.S_IFSOCK: "socket", stat.S_IFCHR: "char", stat.S_IFBLK: "block"}
FIELDS = "type mode uid gid nlink size blocks mtime rdev target sha256 xattrs".split()
ALL_FIELDS = [*FIELDS, "ino", "atime", "ctime", "flags"]
FS_IOC_GETFLAGS = 0x80086601
PLAIN_DIGEST_MAX = 1 << 26


def escape(raw: bytes) -> str:
    """Bytes as printable ASCII without blanks: others become \\xNN."""
    return "".join(chr(b) if 33 <= b < 127 and b != 92 else f"\\x{b:02x}" for b in raw)


def nanoseconds(value: int) -> str:
    return "{}.{:09d}".format(*divmod(value, 10 ** 9))


def sparse_digest(fd: int, size: int) -> str:
    """SHA-256 of offset (8 bytes, little-endian) and content of each 64 KiB block that is not all zeros."""
    digest = hashlib.sha256()
    block, offset = 1 << 16, 0
    while offset < size:
        try:
            offset = os.lseek(fd, offset, os.SEEK_DATA) // block * block
        except OSError as error:
            if error.errno == errno.ENXIO:      # nothing but a hole up to the end
                break
            if error.errno != errno.EINVAL:     # no SEEK_DATA here: all is data
                raise
        data = os.pread(fd, block, offset)
        if not data:
            break
        if data.count(0) != len(data):
            digest.update(struct.pack("<Q", offset) + data)
        offset += block
    return "sparse-" + digest.hexdigest()


def content_digest(path: bytes, size: int) -> str:
    """The SHA-256 of a file; of one above 64 MiB, as that may be all holes, the sparse one."""
    with open(path, "rb", buffering=0) as f:
        if size > PLAIN_DIGEST_MAX:
            return sparse_digest(f.fileno(), size)
        digest = hashlib.sha256()
        while data := f.read(1 << 20):
            digest.update(data)
        return digest.hexdigest()


def xattrs(path: bytes) -> str | None:
    pairs = []
    for name in sorted(os.listxattr(path, follow_symlinks=False)):
        raw = os.getxattr(path, name, follow_symlinks=False)
        pairs.append(escape(os.fsencode(name)) + ":" + raw.hex())
    return ",".join(pairs) or None


def inode_flags(path: bytes) -> str:
    fd = os.open(path, os.O_RDONLY)
    try:
        got = fcntl.ioctl(fd, FS_IOC_GETFLAGS, bytes(8))
    finally:
        os.close(fd)
    return f"0x{struct.unpack_from('<I', got)[0]:x}"


# How each field is read; None means that the field does not apply to this kind of file.
READERS: dict[str, Callable[[bytes, os.stat_result, int], str | None]] = {
    "type": lambda path, st, kind: TYPES.get(kind, oct(kind)),
    "mode": lambda path, st, kind: f"{stat.S_IMODE(st.st_mode):04o}",
    "uid": lambda path, st, kind: str(st.st_uid),
    "gid": lambda path, st, kind: str(st.st_gid),
    "nlink": lambda path, st, kind: str(st.st_nlink),
    "size": lambda path, st, kind: str(st.st_size),
    "blocks": lambda path, st, kind: str(st.st_blocks),
    "ino": lambda path, st, kind: str(st.st_ino),
    "mtime": lambda path, st, kind: nanoseconds(st.st_mtime_ns),
    "atime": lambda path, st, kind: nanoseconds(st.st_atime_ns),
    "ctime": lambda path, st, kind: nanoseconds(st.st_ctime_ns),
    "rdev": lambda path, st, kind: (f"{os.major(st.st_rdev)}:{os.minor(st.st_rdev)}"
                                    if kind in (stat.S_IFCHR, stat.S_IFBLK) else None),
    "target": lambda path, st, kind: escape(os.readlink(path)) if kind == stat.S_IFLNK else None,
    "sha256": lambda path, st, kind: content_digest(path, st.st_size) if kind == stat.S_IFREG else None,
    "xattrs": lambda path, st, kind: xattrs(path),
    "flags": lambda path, st, kind: inode_flags(path) if kind in (stat.S_IFREG, stat.S_IFDIR) else None,
}


def describe(path: bytes, fields: Sequence[str]) -> list[str]:
    """The fields of one path, as name=value."""
    st = os.lstat(path)
    out = []
    for field in fields:
        try:
            value = READERS[field](path, st, stat.S_IFMT(st.st_mode))
        except OSError as error:
            value = "error:" + (error.strerror or str(error)).replace(" ", "_")
        if value is not None:
            out.append(f"{field}={value}")
    return out


def walk(root: str | bytes, fields: Sequence[str] = FIELDS) -> Iterator[str]:
    """Yield a line for each path below root, in the order of the paths' bytes."""
    top, todo = os.fsencode(root), [b""]
    while todo:
        rel = todo.pop()
        path = os.path.join(top, rel) if rel else top
        try:
            yield " ".join([escape(b"/" + rel), *describe(path, fields)])
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                continue
            names = os.listdir(path)
        except OSError as error:
            yield f"{escape(b'/' + rel)} error={(error.strerror or '').replace(' ', '_')}"
            continue
        todo += [rel + b"/" + n if rel else n for n in sorted(names, reverse=True)]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="walk", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("dir", metavar="DIR")
    parser.add_argument("--fields", default=" ".join(FIELDS), help="of: " + " ".join(ALL_FIELDS))
    args = parser.parse_args(argv)
    fields = args.fields.replace(",", " ").split()
    if unknown := set(fields) - set(ALL_FIELDS):
        parser.error("unknown field: " + " ".join(sorted(unknown)))
    for line in walk(args.dir, fields):
        print(line)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
