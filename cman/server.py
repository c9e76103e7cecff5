"""The daemon's end of the control socket: many clients in one trio task each, none of which can harm the others.

What is pushed to a client is written at once when its socket has room; else it waits in a buffer with a limit, and a
client that lets it run over is cut off, with a line in the log. A client whose request cannot be taken now (the
cluster's send queue is full) is not read from until it can: it feels that as back pressure on its socket.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import stat
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import TracebackType

import trio

from cman import protocol
from cman.protocol import Arguments, CmanError

log = logging.getLogger(__name__)

CLIENTS_MAX = 256
OUT_BYTES_MAX = 8 << 20                 # that wait for one client to read them
FAREWELL_LIMIT_S = 1.0                  # a refused client has to read why
_READ_BYTES = 64 << 10
_CREDENTIALS = struct.Struct("=iII")    # pid, uid, gid


class SocketTaken(OSError):
    """A living daemon answers on this path."""


def listen(path: Path) -> socket.socket:
    """A listening socket, root's alone; what a dead daemon left there is replaced. Raises OSError, SocketTaken."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(os.fspath(path))
        except FileNotFoundError:
            pass
        except ConnectionRefusedError:
            if not stat.S_ISSOCK(os.lstat(path).st_mode):
                raise
            path.unlink(missing_ok=True)
        except BlockingIOError:
            raise SocketTaken(errno.EADDRINUSE, "another cman serves this socket", os.fspath(path)) from None
        else:
            raise SocketTaken(errno.EADDRINUSE, "another cman serves this socket", os.fspath(path))
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    before = os.umask(0o177)            # at no time can somebody else connect
    try:
        made.bind(os.fspath(path))
        made.listen(64)
    except BaseException:
        made.close()
        raise
    finally:
        os.umask(before)
    return made


class Client:
    """One connection. `number` is unique in this daemon's life; what it holds is forgotten when it ends."""

    def __init__(self, sock: socket.socket, number: int, pid: int) -> None:
        self.number, self.pid = number, pid
        self.groups: dict[str, None] = {}
        self.subsystems: dict[str, int | None] = {}
        self.subscribed = False
        self.explains = False           # it can say what it waits for
        self.scope = trio.CancelScope()
        self._socket = sock
        self._out: deque[bytes] = deque()
        self._out_bytes = 0
        self._wake = trio.Event()
        self._empty = trio.Event()      # once, when the last message of a farewell is out
        self._closing = False

    def __str__(self) -> str:
        return f"client {self.number} (pid {self.pid})"

    @property
    def waiting_bytes(self) -> int:
        return self._out_bytes

    def push(self, data: bytes) -> None:
        """Send without waiting. A client that does not read loses its connection instead of growing this daemon."""
        if self._closing:
            return
        if not self._out:
            try:
                data = data[self._socket.send(data, socket.MSG_NOSIGNAL):]
            except BlockingIOError:
                pass
            except OSError:
                self.scope.cancel()
                return
            if not data:
                return
        if self._out_bytes + len(data) > OUT_BYTES_MAX:
            log.warning("%s is cut off: it leaves more than %d bytes unread", self, OUT_BYTES_MAX)
            self._closing = True
            self.scope.cancel()
            return
        self._out.append(data)
        self._out_bytes += len(data)
        self._wake.set()

    async def write(self) -> None:
        """What could not be sent at once."""
        while True:
            await self._wake.wait()
            while self._out:
                await trio.lowlevel.wait_writable(self._socket)
                data = self._out[0]
                try:
                    sent = self._socket.send(data, socket.MSG_NOSIGNAL)
                except BlockingIOError:
                    continue
                except OSError:
                    self.scope.cancel()
                    return
                self._out_bytes -= sent
                if sent == len(data):
                    self._out.popleft()
                else:
                    self._out[0] = data[sent:]
            self._wake = trio.Event()
            if self._closing:
                self._empty.set()

    async def read(self) -> bytes:
        """The next bytes; empty when the client has gone."""
        while True:
            await trio.lowlevel.wait_readable(self._socket)
            try:
                return self._socket.recv(_READ_BYTES)
            except BlockingIOError:
                continue
            except OSError:
                return b""

    async def farewell(self, data: bytes) -> None:
        """A last message, and the end."""
        self.push(data)
        self._closing = True
        if not self._out:
            self._empty.set()
        with trio.move_on_after(FAREWELL_LIMIT_S):
            await self._empty.wait()
        self.scope.cancel()

    def close(self) -> None:
        self._socket.close()


Handler = Callable[[Client, Arguments], Awaitable[Mapping[str, object]]]


class Server:
    """Serves a table of operations on a listening socket."""

    def __init__(self) -> None:
        self.clients: dict[int, Client] = {}
        self._handlers: Mapping[str, Handler] = {}
        self._gone: Callable[[Client], None] = lambda client: None
        self._number = 0

    async def run(self, listener: socket.socket, handlers: Mapping[str, Handler],
                  gone: Callable[[Client], None]) -> None:
        """Until cancelled; `gone` is called once for each client that has ended."""
        self._handlers, self._gone = handlers, gone
        async with trio.open_nursery() as nursery:
            while True:
                await trio.lowlevel.wait_readable(listener)
                try:
                    made, _ = listener.accept()
                except BlockingIOError:
                    continue
                except OSError as e:
                    log.warning("no client can be accepted: %s", e.strerror)
                    await trio.sleep(0.1)       # out of descriptors: those who are here may go
                    continue
                made.setblocking(False)
                pid, uid, _ = _CREDENTIALS.unpack(
                    made.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
                self._number += 1
                client = Client(made, self._number, pid)
                refused = None
                if uid not in (0, os.geteuid()):
                    refused = CmanError(protocol.NOT_PERMITTED, "only root may talk to cman")
                elif len(self.clients) >= CLIENTS_MAX:
                    refused = CmanError(protocol.BUSY, f"{CLIENTS_MAX} clients are connected already")
                nursery.start_soon(self._serve, client, refused)

    async def _serve(self, client: Client, refused: CmanError | None) -> None:
        self.clients[client.number] = client
        try:
            with client.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(client.write)
                    if refused is None:
                        await self._requests(client)
                    else:
                        log.warning("%s is refused: %s", client, refused)
                        await client.farewell(protocol.refusal(0, refused))
                    nursery.cancel_scope.cancel()
        finally:
            del self.clients[client.number]
            client.close()
            self._gone(client)

    async def _requests(self, client: Client) -> None:
        decoder = protocol.Decoder()
        while data := await client.read():
            decoder.feed(data)
            while True:
                try:
                    message = decoder.next()
                except CmanError as e:
                    log.warning("%s is cut off: %s", client, e)
                    await client.farewell(protocol.refusal(0, e))
                    return
                if message is None:
                    break
                await self._request(client, message)

    async def _request(self, client: Client, message: protocol.Message) -> None:
        number = message.get("id")
        if not isinstance(number, int) or not 0 <= number < 1 << 63:
            number = 0
        try:
            if message.get("v") != protocol.VERSION:
                raise CmanError(protocol.BAD_VERSION, f"this cman speaks version {protocol.VERSION}")
            handler = self._handlers.get(str(message.get("op")))
            if handler is None:
                raise CmanError(protocol.UNKNOWN_OPERATION, f"no operation {str(message.get('op'))[:64]!r}")
            told = await handler(client, message)
            if number:
                client.push(protocol.reply(number, told))
        except CmanError as e:
            client.push(protocol.refusal(number, e))


class SocketPlace:
    """A listening socket and its path, which is taken away before the clients are: who finds nothing there may start
    another daemon."""

    def __init__(self, path: Path) -> None:
        """Raises OSError, SocketTaken."""
        self._path = path
        self.listener = listen(path)
        self._inode: int | None = os.stat(path).st_ino

    def release(self) -> None:
        """Nobody connects from here on; a path that a later daemon has is left alone."""
        if self._inode is not None:
            with contextlib.suppress(OSError):
                if os.stat(self._path).st_ino == self._inode:
                    self._path.unlink()
            self._inode = None

    def __enter__(self) -> SocketPlace:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.release()
        self.listener.close()
