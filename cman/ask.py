"""The small synchronous client for tools: one connection, one question at a time, and a wait for changes."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from cman import protocol
from cman.protocol import Message, Unreachable
from cman.views import Cluster, FenceDomainView, Node, QdiskView

ANSWER_LIMIT_S = 10.0
_READ_BYTES = 64 << 10


class TimedOut(Unreachable):
    """The daemon is there and does not answer. pid: its process, 0 when that is not known."""

    def __init__(self, message: str, pid: int) -> None:
        super().__init__(message)
        self.pid = pid


def socket_path() -> Path:
    return Path(os.environ.get(protocol.SOCKET_VARIABLE) or protocol.SOCKET)


class Asker:
    """A connection to the daemon of this node. Raises Unreachable, and CmanError for what the daemon refuses."""

    def __init__(self, path: Path | None = None, limit_s: float = ANSWER_LIMIT_S) -> None:
        self.path = path or socket_path()
        self._limit_s = limit_s
        self._decoder = protocol.Decoder()
        self._events: list[Message] = []
        self._number = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(limit_s)
            self._socket.connect(os.fspath(self.path))
        except OSError as e:
            problem = self._error(e)
            self._socket.close()
            raise problem from e

    def _error(self, e: OSError) -> Unreachable:
        if not isinstance(e, TimeoutError | BlockingIOError):
            return Unreachable(self._why(e))
        pid = 0
        with contextlib.suppress(OSError):
            pid = int.from_bytes(self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[:4], "little")
        return TimedOut(self._why(e), pid)

    def _why(self, error: OSError) -> str:
        if isinstance(error, FileNotFoundError | ConnectionRefusedError):
            return f"no cman answers on {self.path}: is it running?"
        if isinstance(error, ConnectionResetError | BrokenPipeError):
            return "cman has ended while it was asked"
        if isinstance(error, TimeoutError | BlockingIOError):
            return f"cman does not answer within {self._limit_s:g} s: it hangs or is stopped"
        if isinstance(error, PermissionError):
            return "only root may talk to cman"
        return f"cman cannot be asked: {error.strerror or error}"

    def _read(self, deadline: float) -> Message:
        try:
            while (message := self._decoder.next()) is None:
                self._socket.settimeout(max(0.001, deadline - time.monotonic()))
                data = self._socket.recv(_READ_BYTES)
                if not data:
                    raise Unreachable("cman has ended while it was asked")
                self._decoder.feed(data)
        except OSError as e:
            raise self._error(e) from e
        return message

    def ask(self, op: str, limit_s: float | None = None, **arguments: object) -> Message:
        """One request and its result, within limit_s."""
        deadline = time.monotonic() + (self._limit_s if limit_s is None else limit_s)
        self._number += 1
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):        # its reason may have come before
            self._socket.sendall(protocol.request(self._number, op, arguments))
        while True:
            message = self._read(deadline)
            if message.get("id") == self._number or "event" not in message:
                return protocol.result(message)
            self._events.append(message)

    def cluster(self) -> Cluster:
        return Cluster.of(self.ask("cluster"))

    def nodes(self) -> list[Node]:
        return [Node.of(n) for n in self.ask("nodes")["nodes"]]

    def fence_domain(self) -> FenceDomainView:
        return FenceDomainView.of(self.ask("fence-domain"))

    def quorum_disk(self) -> QdiskView:
        return QdiskView.of(self.ask("qdisk"))

    def configuration(self) -> tuple[int, bytes]:
        told = self.ask("config")
        return int(told["version"]), bytes(told["text"])

    def changes(self, deadline: float) -> Iterator[Cluster]:
        """The state now and after each change until `deadline` (time.monotonic()), which raises Unreachable."""
        yield Cluster.of(self.ask("subscribe"))
        while True:
            message = self._events.pop(0) if self._events else self._read(deadline)
            if message.get("event") == "cluster":
                yield Cluster.of(message)

    def wait_closed(self, deadline: float) -> None:
        """Until the daemon has ended. Raises Unreachable when it has not by then."""
        while True:
            try:
                self._read(deadline)
            except Unreachable:
                if time.monotonic() >= deadline:
                    raise
                return

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Asker:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()
