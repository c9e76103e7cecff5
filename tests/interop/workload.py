#!/usr/bin/env python3
"""workload: works on a directory until the file system fails, and logs what must survive that.

  workload.py DIR LOG SEED

Every line of LOG is written before or after the fact, whichever keeps it true: "keep PATH SHA256"
after fsync of a file and of its directory has returned, "forget PATH" before a kept file is changed,
renamed or removed again. Exits 0 when the file system goes away (the daemon was killed).
"""

from __future__ import annotations

import errno
import hashlib
import os
import random
import sys
from pathlib import Path

GONE = (errno.ENOTCONN, errno.EIO, errno.ECONNABORTED)
FILES_MAX = 120
LONG = 300_000


class Workload:
    """A few directories of files, changed at random; one process, one log."""

    def __init__(self, top: Path, log: int, seed: int) -> None:
        self.top, self.log, self.rng = top, log, random.Random(seed)
        self.kept: set[Path] = set()
        self.files: list[Path] = []
        self.made = 0

    def say(self, word: str, path: Path, *more: str) -> None:
        os.write(self.log, " ".join([word, str(path.relative_to(self.top)), *more]).encode() + b"\n")

    def forget(self, path: Path) -> None:
        if path in self.kept:
            self.say("forget", path)
            self.kept.discard(path)

    def sync(self, path: Path) -> None:
        for target in (path, path.parent, path.parent.parent):
            fd = os.open(target, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        self.say("keep", path, hashlib.sha256(path.read_bytes()).hexdigest())
        self.kept.add(path)

    def create(self) -> None:
        folder = self.top / f"d{self.rng.randrange(12)}"
        folder.mkdir(exist_ok=True)
        self.made += 1
        path = folder / f"f{self.made}-{'n' * self.rng.randrange(60)}"
        path.write_bytes(self.rng.randbytes(self.rng.choice((0, 10, 3000, 5000, 70_000, LONG))))
        self.files.append(path)

    def change(self, path: Path) -> None:
        self.forget(path)
        with path.open("r+b") as f:
            f.seek(self.rng.randrange(LONG))
            f.write(self.rng.randbytes(self.rng.randrange(1, 20_000)))
            if self.rng.random() < 0.3:
                f.truncate(self.rng.randrange(LONG))

    def move(self, path: Path) -> None:
        folder = self.top / f"d{self.rng.randrange(12)}"
        folder.mkdir(exist_ok=True)
        self.forget(path)
        new = folder / f"m-{path.name[-100:]}"
        self.forget(new)
        path.rename(new)
        self.files = [f for f in self.files if f not in (path, new)] + [new]

    def remove(self, path: Path) -> None:
        self.forget(path)
        path.unlink()
        self.files.remove(path)

    def step(self) -> None:
        if not self.files or (len(self.files) < FILES_MAX and self.rng.random() < 0.3):
            self.create()
            return
        path = self.rng.choice(self.files)
        if len(self.files) >= FILES_MAX:
            self.remove(path)
            return
        act = self.rng.choices((self.sync, self.change, self.move, self.remove), (4, 3, 2, 1))[0]
        act(path)


def survivors(log: Path) -> dict[str, str]:
    """Path -> SHA-256 of what the log says must be there."""
    kept: dict[str, str] = {}
    for line in log.read_text().splitlines():
        word, path, *digest = line.split(" ")
        if word == "keep":
            kept[path] = digest[0]
        else:
            kept.pop(path, None)
    return kept


def gone(top: Path, error: OSError) -> bool:
    """Whether the error means that the file system has died. What pathlib makes of it may be another error: a mkdir
    that finds the name and then cannot stat it says that it exists. A dead mount may be unmounted already, too."""
    if error.errno in GONE:
        return True
    try:
        os.listdir(top)
    except OSError as now:
        return now.errno in (*GONE, errno.ENOENT)
    return False


def main() -> int:
    top, log, seed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    top.mkdir(exist_ok=True)
    work = Workload(top, os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), seed)
    try:
        while True:
            work.step()
    except OSError as error:
        if gone(top, error):
            return 0
        print(f"workload {seed}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
