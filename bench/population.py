"""A file system full of files, made in process: what checkers and walks are measured on.

The mix is seeded and much like a home or build server's: directories nested at random, most of them small, some
with thousands of entries; files that are empty, live in their inode, have some blocks or some hundred; symbolic
links, second links and extended attributes here and there; some names taken away again.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gfs2py.block import FileDevice
from gfs2py.engine._calls import Calls
from gfs2py.engine.volume import ROOT, Volume
from gfs2py.mkfs.make import make_fs
from gfs2py.mkfs.options import MkfsOptions

MIB = 1 << 20
CONTENT = random.Random(1).randbytes(MIB)
# Of a thousand directories so many have up to that many entries.
DIRECTORIES = ((600, 20), (300, 150), (85, 1500), (14, 8000), (1, 60000))
# Of a thousand files so many have up to that many bytes.
FILES = ((300, 0), (450, 3800), (230, 8192), (19, 65536), (1, MIB))
XATTRS = ((b"user.short", 12), (b"user.longer", 700), (b"user.blocks", 9000))


@dataclass
class Made:
    """What there is now."""

    files: int = 0
    directories: int = 0
    links: int = 0
    xattrs: int = 0


def _draw(rng: random.Random, classes: tuple[tuple[int, int], ...]) -> int:
    """A number up to the limit of a class that is drawn by its weight, above the limit of the class before."""
    at = rng.randrange(1000)
    low = 0
    for weight, limit in classes:
        if at < weight:
            return rng.randint(min(low + 1, limit), limit)
        at -= weight
        low = limit
    raise ValueError("weights do not add up to 1000")


class Filler:
    """Fills a volume; one directory after the other."""

    def __init__(self, calls: Calls, rng: random.Random) -> None:
        self.calls, self.rng = calls, rng
        self.made = Made()
        self.folders = [ROOT]

    def file(self, folder: int, name: bytes) -> None:
        calls, rng = self.calls, self.rng
        kind = rng.randrange(100)
        if kind == 0:
            node, _ = calls.symlink(folder, name, b"../" * rng.randrange(1, 5) + name)
        else:
            node, fh, _ = calls.create(folder, name)
            size = _draw(rng, FILES)
            if size:
                at = rng.randrange(MIB - size + 1)
                calls.write(node, 0, CONTENT[at:at + size], fh)
            calls.release(node, fh)
        if kind in (1, 2, 3):
            key, length = XATTRS[min(rng.randrange(30) // 14, 2)]
            calls.setxattr(node, key, CONTENT[:length])
            self.made.xattrs += 1
        elif kind == 4:
            calls.link(node, self.folders[rng.randrange(len(self.folders))], b"link-%d" % self.made.files)
            calls.forget(node)
            self.made.links += 1
        calls.forget(node)
        self.made.files += 1

    def folder(self, most: int) -> None:
        """A new directory and up to `most` files in it; of each hundred one is removed again."""
        rng = self.rng
        up = self.folders[rng.randrange(len(self.folders))]
        node, _ = self.calls.mkdir(up, b"dir-%d" % len(self.folders))
        self.made.directories += 1
        for number in range(min(_draw(rng, DIRECTORIES), most)):
            name = b"%x-%s" % (rng.getrandbits(32), b"name"[:rng.randrange(5)] * rng.randrange(8))
            name += b"%d" % number
            self.file(node, name)
            if rng.randrange(100) == 0:
                self.calls.unlink(node, name)
                self.made.files -= 1
        self.folders.append(node)


def least_bytes(files: int) -> int:
    """The size of a file system that so many files nearly fill."""
    return (files * 9_000 + (1 << 30)) // MIB * MIB


def fill(image: Path, files: int, size_bytes: int = 0, *, seed: int = 1,
         say: Callable[[str], None] = lambda _: None) -> Made:
    """An image with a new file system of that size (default: what they need) and that many files.

    Raises OSError, MkfsError.
    """
    image.touch()
    os.truncate(image, size_bytes or least_bytes(files))
    make_fs(image, MkfsOptions(lockproto="lock_nolock", jsize_mb=64))
    with FileDevice(image, direct=False) as device, \
            Volume(device, cache_bytes=256 * MIB, inodes=65536, quiet=True) as volume:
        filler = Filler(volume.calls, random.Random(seed))
        shown = 0
        while filler.made.files < files:
            filler.folder(files - filler.made.files)
            if filler.made.files - shown >= 100_000:
                shown = filler.made.files
                say(f"{shown} files made")
        for node in filler.folders[1:]:
            volume.calls.forget(node)
    return filler.made
