"""A human's word that a node is off: the FIFO that fence_ack_manual of the fence-agents package writes to.

It exists while fencing has failed and is not over. A line is a node's name, as it is or with "=ok".
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from pathlib import Path

import trio

log = logging.getLogger("cman.FENCE")

LINE_BYTES_MAX = 4096


def names(data: bytes) -> list[str]:
    """The nodes in what was written; what is nonsense is left out."""
    found = []
    for line in data[:LINE_BYTES_MAX].decode(errors="replace").split("\n"):
        name, _, word = line.strip().partition("=")
        if name and word in ("", "ok"):
            found.append(name)
    return found


async def listen(path: Path, tell: Callable[[str], None]) -> None:
    """Until cancelled; tell(name) for each node that somebody vouches for. The FIFO is root's alone."""
    try:
        fd = _make(path)
    except OSError as e:
        log.warning("%s: %s: nobody can say there that a node is off", path, e.strerror)
        return
    try:
        while True:
            await trio.lowlevel.wait_readable(fd)
            try:
                data = os.read(fd, LINE_BYTES_MAX)
            except OSError as e:
                if e.errno in (errno.EAGAIN, errno.EINTR):
                    continue
                raise
            for name in names(data):
                tell(name)
    finally:
        os.close(fd)
        _unlink(path)


def _unlink(path: Path) -> None:
    path.unlink(missing_ok=True)


def _make(path: Path) -> int:
    """Raises OSError."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    _unlink(path)
    os.mkfifo(path, 0o600)
    # Open for writing, too: else each writer that closes it would look like an end.
    return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
