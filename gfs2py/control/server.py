"""The daemon's end of the control socket: one thread (whoever calls run()), many clients, none of which can hold it up.

It shares nothing with the threads that serve the mount; handlers run under the GIL and never block. So it answers
as well while the main thread is closing the file system and waits for a slow disk.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gfs2py.control import protocol

CLIENTS_MAX = 32
IDLE_LIMIT_S = 60.0             # a client that neither asks nor reads its answer is let go
_READ_BYTES = 16 << 10
_CREDENTIALS = struct.Struct("=iII")            # pid, uid, gid


class SocketTaken(OSError):
    """A living daemon answers on this path."""


def listen(path: Path) -> socket.socket:
    """A listening socket on `path`; what a dead daemon left there is replaced. Raises OSError, SocketTaken."""
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    with probe:
        try:
            probe.connect(os.fspath(path))
        except FileNotFoundError:
            pass
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except BlockingIOError:
            raise SocketTaken(errno.EADDRINUSE, "another gfs2d serves this socket", os.fspath(path)) from None
        else:
            raise SocketTaken(errno.EADDRINUSE, "another gfs2d serves this socket", os.fspath(path))
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        made.bind(os.fspath(path))
        os.chmod(path, 0o600)
        made.listen(CLIENTS_MAX)
    except BaseException:
        made.close()
        raise
    return made


@dataclass(slots=True)
class _Client:
    socket: socket.socket
    since: float                # when it last got on
    decoder: protocol.Decoder = field(default_factory=lambda: protocol.Decoder(protocol.REQUEST_MAX_BYTES))
    out: bytes = b""
    closing: bool = False       # once `out` is written


class ControlServer:
    """Serves `handlers` on a socket until stop(). `every` is called each `every_s` seconds, and must not block."""

    def __init__(self, path: Path, handlers: Mapping[str, protocol.Handler], *,
                 every: Callable[[], None] = lambda: None, every_s: float = 5.0,
                 idle_limit_s: float = IDLE_LIMIT_S) -> None:
        self.path = path
        self.handlers = handlers
        self._every, self._every_s, self._idle_limit_s = every, every_s, idle_limit_s
        self._listener: socket.socket | None = listen(path)
        self._inode = os.stat(path).st_ino
        self._clients: dict[int, _Client] = {}
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def stop(self) -> None:
        """Remove the socket and let run() return; from any thread, idempotent."""
        if self._wake_write < 0:
            return
        with contextlib.suppress(OSError):
            if os.stat(self.path).st_ino == self._inode:        # not that of a daemon that came after us
                self.path.unlink()
        os.close(self._wake_write)
        self._wake_write = -1

    def run(self) -> None:
        """Serve until stop()."""
        assert self._listener is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_read, selectors.EVENT_READ)
            selector.register(self._listener, selectors.EVENT_READ)
            next_look = time.monotonic() + self._every_s
            while True:
                ready = selector.select(max(0.0, next_look - time.monotonic()))
                for key, _ in ready:
                    if key.fd == self._wake_read:
                        self._end()
                        return
                    if key.fileobj is self._listener:
                        self._accept(selector)
                    elif key.data.socket.fileno() >= 0:     # not let go earlier in this round
                        self._serve(selector, key.data)
                if time.monotonic() >= next_look:
                    next_look = time.monotonic() + self._every_s
                    self._every()
                    self._drop_idle(selector)

    def _end(self) -> None:
        for client in self._clients.values():
            client.socket.close()
        self._clients.clear()
        assert self._listener is not None
        self._listener.close()
        self._listener = None
        os.close(self._wake_read)

    def _accept(self, selector: selectors.BaseSelector) -> None:
        assert self._listener is not None
        try:
            made, _ = self._listener.accept()
        except OSError:         # gone again, or out of descriptors: tried anew when the next one knocks
            return
        made.setblocking(False)
        client = _Client(made, time.monotonic())
        self._clients[made.fileno()] = client
        selector.register(made, selectors.EVENT_READ, client)
        _, uid, _ = _CREDENTIALS.unpack(made.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        if uid not in (0, os.geteuid()):
            self._refuse(selector, client, protocol.NOT_PERMITTED, "only root may ask")
        elif len(self._clients) > CLIENTS_MAX:
            self._refuse(selector, client, protocol.BUSY, f"{CLIENTS_MAX} clients are connected already")

    def _refuse(self, selector: selectors.BaseSelector, client: _Client, code: str, message: str) -> None:
        client.out += protocol.refusal(protocol.ControlError(code, message))
        client.closing = True
        self._write(selector, client)

    def _serve(self, selector: selectors.BaseSelector, client: _Client) -> None:
        if client.out:
            self._write(selector, client)
        elif not self._read(client):
            self._drop(selector, client)
            return
        # The next request is looked at when the answer to the last is out: nothing piles up here.
        while not client.out and not client.closing:
            try:
                message = client.decoder.next()
            except protocol.ProtocolError as e:
                self._refuse(selector, client, e.code, str(e))
                return
            if message is None:
                return
            client.out = protocol.answer(message, self.handlers)
            client.since = time.monotonic()
            self._write(selector, client)

    def _read(self, client: _Client) -> bool:
        """False when the client has gone."""
        try:
            data = client.socket.recv(_READ_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            return False
        client.since = time.monotonic()
        client.decoder.feed(data)
        return bool(data)

    def _write(self, selector: selectors.BaseSelector, client: _Client) -> None:
        if client.socket.fileno() < 0:
            return
        try:
            sent = client.socket.send(client.out, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._drop(selector, client)
            return
        if sent:
            client.since = time.monotonic()
        client.out = client.out[sent:]
        if client.closing and not client.out:
            self._drop(selector, client)
            return
        # While an answer waits to go out nothing is read.
        selector.modify(client.socket, selectors.EVENT_WRITE if client.out else selectors.EVENT_READ, client)

    def _drop(self, selector: selectors.BaseSelector, client: _Client) -> None:
        if client.socket.fileno() < 0:
            return
        del self._clients[client.socket.fileno()]
        selector.unregister(client.socket)
        client.socket.close()
        client.out, client.closing = b"", True

    def _drop_idle(self, selector: selectors.BaseSelector) -> None:
        limit = time.monotonic() - self._idle_limit_s
        for client in [c for c in self._clients.values() if c.since < limit]:
            self._drop(selector, client)
