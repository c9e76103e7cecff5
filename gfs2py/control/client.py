"""The asking end of the control socket: find a mount's daemon, ask it, with a limit on how long it may take."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from gfs2py.control import protocol
from gfs2py.control.paths import DIRECTORY, socket_path, sockets
from gfs2py.fuse.control import find_mount, mounts
from gfs2py.sources import canonical, same

TIMEOUT_S = 5.0
YOUNG_LIMIT_S, _YOUNG_RETRY_S = 3.0, 0.02
_READ_BYTES = 64 << 10
_TIMEVAL = struct.Struct("@ll")


class Unreachable(Exception):
    """No daemon answers; the text says why."""


class NobodyThere(Unreachable):
    """There is no socket, or nobody listens on it."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who answers on a control socket."""

    pid: int
    source: str
    mount_point: str
    device: int
    table: str
    type: str
    files: str = ""         # the directory of the control files; empty as long as there is none


class Control:
    """A connection to one daemon. Raises Unreachable, and ControlError for what the daemon refuses."""

    def __init__(self, path: Path, timeout_s: float = TIMEOUT_S) -> None:
        self.path = path
        self._deadline_s = timeout_s
        self._decoder = protocol.Decoder(protocol.REPLY_MAX_BYTES)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # Where all places to wait are taken only a blocking connect waits; it has a limit of its own.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO,
                                    _TIMEVAL.pack(int(timeout_s), int(timeout_s % 1 * 1e6)))
            self._socket.connect(os.fspath(path))
            self._socket.settimeout(timeout_s)
        except OSError as e:
            self._socket.close()
            kind = NobodyThere if e.errno in (errno.ENOENT, errno.ECONNREFUSED) else Unreachable
            raise kind(self._why(e)) from e

    def _why(self, error: OSError) -> str:
        if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
            return "no gfs2d answers (it has ended or was killed)"
        if error.errno in (errno.ECONNRESET, errno.EPIPE):
            return "gfs2d has ended while it was asked"
        if isinstance(error, TimeoutError) or error.errno == errno.EAGAIN:
            return f"gfs2d does not answer within {self._deadline_s:g} s: it hangs or is stopped"
        if error.errno in (errno.EACCES, errno.EPERM):
            return "only root may ask gfs2d"
        return f"gfs2d cannot be asked: {error.strerror or error}"

    def ask(self, op: str, **arguments: object) -> dict[str, Any]:
        """One request and its result."""
        limit = time.monotonic() + self._deadline_s
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):    # its reason may have come before
                self._socket.sendall(protocol.request(op, arguments))
            while (message := self._decoder.next()) is None:
                self._socket.settimeout(max(0.001, limit - time.monotonic()))
                data = self._socket.recv(_READ_BYTES)
                if not data:
                    raise Unreachable("gfs2d has ended while it was asked")
                self._decoder.feed(data)
        except OSError as e:
            raise Unreachable(self._why(e)) from e
        return protocol.result(message)

    def identity(self) -> Identity:
        told = self.ask("identity")
        try:
            return Identity(int(told["pid"]), str(told["source"]), str(told["mount_point"]), int(told["device"]),
                            str(told["table"]), str(told["type"]), str(told.get("files", "")))
        except (KeyError, TypeError, ValueError) as e:
            raise protocol.ProtocolError(f"an identity without {e}") from e

    def statistics(self) -> dict[str, Any]:
        """Everything that is counted; see docs/design/observability.md for the names."""
        return self.ask("statistics")

    def in_flight(self, min_age_ms: int = 0) -> list[dict[str, Any]]:
        """Requests being served or parked for at least this long, oldest first."""
        return list(self.ask("in-flight", min_age_ms=min_age_ms)["requests"])

    def describe(self) -> dict[str, Any]:
        """What is mounted and how: superblock, journals, space."""
        return self.ask("describe")

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Control:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()


def device_of(target: str) -> int:
    """The mount that a mount point, a path below one, a device or an image names, as st_dev.

    Reads the mount table only: the file system itself may hang. Raises Unreachable.
    """
    entry = find_mount(target)
    if entry is None:
        source = canonical(target)
        found = [m for m in mounts() if m.fs_type.endswith(".gfs2") and same(m.source, source)]
        entry = found[-1] if found else None
    if entry is None or not entry.fs_type.endswith(".gfs2"):
        raise Unreachable("not a mounted GFS2")
    return entry.device


def connect(target: str, timeout_s: float = TIMEOUT_S, directory: Path = DIRECTORY) -> Control:
    """A connection to the daemon behind a mount point or device. Raises Unreachable."""
    path = socket_path(device_of(target), directory)
    limit = time.monotonic() + min(timeout_s, YOUNG_LIMIT_S)
    while True:
        try:
            return Control(path, timeout_s)
        except NobodyThere:
            # A mount is live before its socket is.
            if time.monotonic() > limit:
                raise
            time.sleep(_YOUNG_RETRY_S)


def all_mounts(timeout_s: float = TIMEOUT_S,
               directory: Path = DIRECTORY) -> Iterator[tuple[Path, Identity | Unreachable]]:
    """Every daemon that has a socket; those that do not answer with the reason."""
    for _, path in sockets(directory):
        try:
            with Control(path, timeout_s) as control:
                yield path, control.identity()
        except Unreachable as e:
            yield path, e
