"""Is a tree consistent in itself? readdir, stat and link counts have to agree."""

from __future__ import annotations

import os
import stat
from collections import Counter
from pathlib import Path


def walk(top: Path) -> dict[str, int]:
    """Walk a file system at rest from its root. Returns counts. Raises AssertionError with what disagrees."""
    names: Counter[int] = Counter()
    nlinks: dict[int, int] = {}
    counts = {"dirs": 1, "others": 0}
    wrong: list[str] = []
    below = [os.fspath(top)]
    while below:
        folder = below.pop()
        subdirs = 0
        seen: set[str] = set()
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name in seen:
                    wrong.append(f"{entry.path}: twice in readdir")
                seen.add(entry.name)
                st = os.lstat(entry.path)
                if st.st_ino != entry.inode():
                    wrong.append(f"{entry.path}: readdir says inode {entry.inode()}, stat says {st.st_ino}")
                if (entry.is_dir(follow_symlinks=False), entry.is_symlink()) != (
                        stat.S_ISDIR(st.st_mode), stat.S_ISLNK(st.st_mode)):
                    wrong.append(f"{entry.path}: readdir's type is not that of mode {st.st_mode:o}")
                if stat.S_ISDIR(st.st_mode):
                    subdirs += 1
                    below.append(entry.path)
                else:
                    counts["others"] += 1
                    names[st.st_ino] += 1
                    nlinks[st.st_ino] = st.st_nlink
                    if stat.S_ISREG(st.st_mode):
                        size = len(Path(entry.path).read_bytes())
                        if size != st.st_size:
                            wrong.append(f"{entry.path}: {size} bytes to read, st_size {st.st_size}")
        counts["dirs"] += subdirs
        nlink = os.lstat(folder).st_nlink
        if nlink != 2 + subdirs:
            wrong.append(f"{folder}: nlink {nlink}, but {subdirs} subdirectories")
    wrong += [f"inode {ino}: {names[ino]} names, nlink {nlink}" for ino, nlink in nlinks.items()
              if names[ino] != nlink]
    assert not wrong, "\n".join(wrong[:40])
    return counts
