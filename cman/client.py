"""The async client: `async with open_cman() as cman`, then ask, watch, join groups.

One task reads the socket and hands replies and events to whom they belong. When the daemon ends or cuts this client
off, everything that waits raises Unreachable. Order of events in a group is the cluster's: every member sees the
same messages and configurations in the same order.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from cman import protocol
from cman.members import Member, Reason
from cman.protocol import CmanError, Message, ProtocolError, Unreachable
from cman.views import Cluster, Node

__all__ = ["Cluster", "Cman", "CmanError", "Configuration", "Delivered", "Event", "Group", "Member", "Node", "Reason",
           "Unreachable", "open_cman", "socket_path"]

EVENTS_MAX = 65536                      # that wait for one reader of a group before this client gives up
SENDS_MAX = 8                           # requests that wait for the socket
FLUSH_LIMIT_S = 2.0
REPORTS_MAX = 256                       # of progress that wait for the socket; more are left out
QUESTIONS_MAX = 8
_READ_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Delivered:
    """A message, at the same place in the order on every member.

    late: a member is lost, of which the next Configuration tells, and what it said before this message is lost with it;
    the lost one itself may have heard it.
    """

    sender: Member
    data: bytes
    late: bool = False


@dataclass(frozen=True, slots=True)
class Configuration:
    """Who is in the group from here on. A join or a loss of several nodes may come as one change.

    view names it: the same numbers on all members, and never used again in this group.
    """

    members: tuple[Member, ...]
    joined: tuple[tuple[Member, Reason], ...]
    left: tuple[tuple[Member, Reason], ...]
    view: tuple[int, int, int] = (0, 0, 0)      # of the ring its seq and representative, and the place in its order


Event = Delivered | Configuration


def socket_path() -> Path:
    return Path(os.environ.get(protocol.SOCKET_VARIABLE) or protocol.SOCKET)


def why_unreachable(error: OSError, path: Path) -> str:
    """What a failed connection means, in one line."""
    if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
        return f"no cman answers on {path}: is it running?"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "only root may talk to cman"
    return f"cman cannot be asked on {path}: {error.strerror or error}"


def _member(told: Any) -> Member:
    try:
        nodeid, pid = told
        return Member(int(nodeid), int(pid))
    except (TypeError, ValueError):
        raise ProtocolError("a member must be a pair of numbers") from None


def _view(told: Any) -> tuple[int, int, int]:
    if told is None:
        return (0, 0, 0)
    seq, rep, place = told
    return int(seq), int(rep), int(place)


def _event(told: Message) -> Event:
    if told["event"] == "deliver":
        data = told.get("data")
        if not isinstance(data, bytes):
            raise ProtocolError("a message without data")
        return Delivered(_member(told.get("sender")), data, told.get("late") is True)
    try:
        return Configuration(tuple(_member(m) for m in told["members"]),
                             tuple((_member(m), Reason(r)) for m, r in told["joined"]),
                             tuple((_member(m), Reason(r)) for m, r in told["left"]), _view(told.get("view")))
    except (KeyError, TypeError, ValueError) as e:
        raise ProtocolError(f"a configuration without {e}") from None


class Group:
    """A group that this client is in. Iterate over it to get its events; the first one tells that the join is through.

    Leaving (or the end of the connection) ends the iteration.
    """

    def __init__(self, cman: Cman, name: str, me: Member) -> None:
        self.name, self.me = name, me
        self._cman = cman
        self._send, self._receive = trio.open_memory_channel[Event](EVENTS_MAX)

    async def mcast(self, data: bytes) -> None:
        """Send to all members, this one included. It is delivered unless this node dies first.

        Waits while the cluster takes no more (the daemon stops reading from its clients then).
        """
        await self._cman.send("mcast", group=self.name, data=data)

    async def leave(self) -> None:
        """Leave in order; events up to the own leave still come."""
        await self._cman.ask("leave", group=self.name)

    def __aiter__(self) -> Group:
        return self

    async def __anext__(self) -> Event:
        try:
            return await self._receive.receive()
        except trio.EndOfChannel:
            self._cman.check()
            raise StopAsyncIteration from None

    async def next(self) -> Event:
        """The next event. Raises Unreachable when the connection has ended, CmanError after a leave."""
        try:
            return await self.__anext__()
        except StopAsyncIteration:
            raise CmanError(protocol.NOT_FOUND, f"group {self.name} has been left") from None

    def hand(self, event: Event) -> None:
        """For the reading task only."""
        self._send.send_nowait(event)
        if isinstance(event, Configuration) and any(m == self.me for m, _ in event.left):
            self.close()

    def close(self) -> None:
        self._send.close()


class Cman:
    """A connection to this node's daemon; made by open_cman()."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._out, self._queued = trio.open_memory_channel[bytes](SENDS_MAX)
        self._written = trio.Event()
        self._number = 0
        self._replies: dict[int, trio.MemorySendChannel[Message]] = {}
        self._groups: dict[str, Group] = {}
        self._watchers: list[trio.MemorySendChannel[Cluster]] = []
        self._reports, self._reported = trio.open_memory_channel[dict[str, object]](REPORTS_MAX)
        self._questions, self._asked = trio.open_memory_channel[int](QUESTIONS_MAX)
        self._gone: CmanError | None = None

    def check(self) -> None:
        """Raises what ended the connection, if something did."""
        if self._gone is not None:
            raise type(self._gone)(str(self._gone)) if isinstance(self._gone, Unreachable | ProtocolError) \
                else CmanError(self._gone.code, str(self._gone))

    async def send(self, op: str, **arguments: object) -> None:
        """A request without a reply."""
        await self._write(protocol.request(0, op, arguments))

    async def ask(self, op: str, **arguments: object) -> Message:
        """One request and its result. Raises CmanError, Unreachable."""
        self.check()
        self._number += 1
        number = self._number
        send, receive = trio.open_memory_channel[Message](1)
        self._replies[number] = send
        try:
            await self._write(protocol.request(number, op, arguments))
            return protocol.result(await receive.receive())
        except trio.EndOfChannel:
            self.check()
            raise
        finally:
            self._replies.pop(number, None)

    async def _write(self, data: bytes) -> None:
        self.check()
        try:
            await self._out.send(data)      # another task writes: a cancelled caller leaves no half message behind
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.check()
            raise

    async def write(self) -> None:
        """The writing task: until the connection ends."""
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for data in self._queued:
                await self._stream.send_all(data)
        self._written.set()

    async def flush(self) -> None:
        """Nothing more will be sent: wait until the daemon has taken what was, within a limit."""
        self._out.close()
        with trio.move_on_after(FLUSH_LIMIT_S, shield=True):
            await self._written.wait()

    async def cluster(self) -> Cluster:
        return Cluster.of(await self.ask("cluster"))

    async def nodes(self) -> list[Node]:
        """All nodes of the configuration, the quorum disk as node 0."""
        return [Node.of(n) for n in (await self.ask("nodes"))["nodes"]]

    async def configuration(self) -> tuple[int, bytes]:
        """Version and text of the configuration that the cluster runs."""
        told = await self.ask("config")
        return int(told["version"]), bytes(told["text"])

    @contextlib.asynccontextmanager
    async def watch(self) -> AsyncIterator[trio.MemoryReceiveChannel[Cluster]]:
        """The state of the cluster now and after each change (membership, quorum, votes, configuration)."""
        send, receive = trio.open_memory_channel[Cluster](EVENTS_MAX)
        self._watchers.append(send)
        try:
            send.send_nowait(Cluster.of(await self.ask("subscribe")))
            yield receive
        finally:
            self._watchers.remove(send)
            send.close()

    async def join(self, name: str) -> Group:
        """Join a group: the first event of the group is the configuration with this member."""
        if name in self._groups:
            raise CmanError(protocol.EXISTS, f"this client is in group {name} already")
        # Events may overtake the reply, so the place for them is made first.
        group = Group(self, name, Member(0, 0))
        self._groups[name] = group
        try:
            group.me = _member((await self.ask("join", group=name))["member"])
        except BaseException:
            self._groups.pop(name, None)
            raise
        return group

    def report(self, group: str, view: tuple[int, int, int], phase: str, done: bool, detail: str = "") -> None:
        """How far this member of a group is with recovering from a loss, for people: it is in a phase ("dlm",
        "journal", "resume"), or through with it. view: the last one that it has dealt with. Never waits or raises."""
        with contextlib.suppress(trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
            self._reports.send_nowait({"group": group, "generation": view[0], "phase": phase, "done": done,
                                       "detail": detail})

    async def write_reports(self) -> None:
        """The task that sends them; a daemon that does not know them goes without."""
        async for told in self._reported:
            with contextlib.suppress(CmanError, trio.EndOfChannel, trio.ClosedResourceError):
                await self.ask("recovery", **told)

    async def explain(self, facts: Callable[[], Awaitable[Mapping[str, object]]]) -> None:
        """Until cancelled: tell what this process waits for whenever somebody asks (cman.explain has the form)."""
        ended = (CmanError, trio.EndOfChannel, trio.ClosedResourceError)
        with contextlib.suppress(*ended):
            await self.ask("explains")
        async for number in self._asked:
            told = await facts()
            with contextlib.suppress(*ended):
                await self.ask("answer", number=number, facts=told)

    @contextlib.asynccontextmanager
    async def register(self, subsystem: str, port: int | None = None) -> AsyncIterator[None]:
        """While inside, `cman_tool leave` refuses and names this subsystem ("gfs2:my-gfs2").

        The daemon forgets it when this connection ends, however it ends.
        """
        await self.ask("register", subsystem=subsystem, **({} if port is None else {"port": port}))
        try:
            yield
        finally:
            with trio.CancelScope(shield=True), contextlib.suppress(Unreachable):
                await self.ask("unregister", subsystem=subsystem)

    async def read(self) -> None:
        """The reading task: until the connection ends."""
        decoder = protocol.Decoder()
        try:
            while True:
                data = await self._stream.receive_some(_READ_BYTES)
                if not data:
                    raise Unreachable("cman has ended or cut this client off")
                decoder.feed(data)
                while (message := decoder.next()) is not None:
                    self._dispatch(message)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._end(Unreachable("cman has ended or cut this client off"))
        except trio.WouldBlock:
            self._end(CmanError(protocol.FAILED, f"{EVENTS_MAX} events wait that nobody reads"))
        except CmanError as e:
            self._end(e)

    def _dispatch(self, message: Message) -> None:
        kind = message.get("event")
        if kind is None:
            channel = self._replies.pop(message.get("id", 0), None)
            if channel is not None:
                channel.send_nowait(message)
        elif kind in ("deliver", "configuration"):
            group = self._groups.get(str(message.get("group")))
            if group is not None:
                event = _event(message)
                if group.me.pid == 0 and isinstance(event, Configuration):
                    group.me = _member(message.get("me"))
                group.hand(event)
                if isinstance(event, Configuration) and any(m == group.me for m, _ in event.left):
                    del self._groups[group.name]
        elif kind == "why":
            with contextlib.suppress(trio.WouldBlock):
                self._questions.send_nowait(int(message["number"]))
        elif kind == "cluster":
            cluster = Cluster.of(message)
            for watcher in self._watchers:
                watcher.send_nowait(cluster)
        elif kind == "error":
            raise CmanError(str(message.get("error")), str(message.get("message")))

    def _end(self, why: CmanError) -> None:
        self._gone = why
        self._queued.close()
        self._reports.close()
        self._questions.close()
        for reply in self._replies.values():
            reply.close()
        for group in self._groups.values():
            group.close()
        for watcher in self._watchers:
            watcher.close()


@contextlib.asynccontextmanager
async def open_cman(path: Path | None = None) -> AsyncIterator[Cman]:
    """A connection to the daemon of this node. Raises Unreachable."""
    path = path or socket_path()
    try:
        stream = await trio.open_unix_socket(os.fspath(path))
    except OSError as e:
        raise Unreachable(why_unreachable(e, path)) from e
    cman = Cman(stream)
    try:
        async with stream, trio.open_nursery() as nursery:
            nursery.start_soon(cman.read)
            nursery.start_soon(cman.write)
            nursery.start_soon(cman.write_reports)
            try:
                yield cman
            finally:
                await cman.flush()
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        # Our tasks raise nothing: what is in here came out of the caller's block, and is given back as it was.
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from None
        raise
