"""Control sockets of the processes that hold lockspaces: what dlm_tool asks. Root's alone, one socket per lockspace.

The words are those of cman.protocol: a request has an operation, the reply a map. Operations: describe, resources,
history, leave (only where the process exists for the lockspace's sake).
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import trio

from cman import protocol
from cman.protocol import CmanError, Message
from dlm.locks import Lockspace

log = logging.getLogger("dlm.inspect")

RUN = Path("/run/dlm")
RUN_VARIABLE = "DLM_RUN"                # environment: another directory, for tests
CLIENTS_MAX = 16
RESOURCES_MAX = 4000                    # in one reply; `after` asks for more
ANSWER_LIMIT_S = 5.0
_READ_BYTES = 64 << 10


def directory() -> Path:
    return Path(os.environ.get(RUN_VARIABLE) or RUN)


def describe(space: Lockspace) -> Message:
    """A lockspace in plain values."""
    machine, control = space.machine, space.control
    history = control.history if control is not None else []
    return {"name": space.name, "id": machine.global_id, "pid": os.getpid(), "nodeid": machine.our_nodeid,
            "phase": machine.phase, "running": machine.running, "generation": machine.generation,
            "members": machine.members(), "slots": sorted(space.slots.items()), "lvb_bytes": machine.lvblen,
            "command": Path("/proc/self/comm").read_text().strip(),
            "waits_for": control.waits_for() if control is not None else [], "last": history[-1] if history else "",
            "statistics": dataclasses.asdict(space.statistics())}


def resources(space: Lockspace, after: bytes) -> Message:
    """Resources and their locks, in order of their names, from behind `after`."""
    found = sorted((r for r in space.dump() if r.name > after), key=lambda r: r.name)
    return {"resources": [dataclasses.asdict(r) for r in found[:RESOURCES_MAX]], "more": len(found) > RESOURCES_MAX}


class Server:
    """Answers for one lockspace. on_leave: what `dlm_tool leave` does; None where it is refused."""

    def __init__(self, space: Lockspace, on_leave: Callable[[], object] | None) -> None:
        self.space, self.on_leave = space, on_leave
        self._clients = trio.CapacityLimiter(CLIENTS_MAX)

    def answer(self, op: str, arguments: Message) -> Message:
        """Raises CmanError."""
        if op == "describe":
            return describe(self.space)
        if op == "resources":
            return resources(self.space, protocol.blob(arguments, "after", 64) if "after" in arguments else b"")
        if op == "history":
            return {"lines": list(self.space.control.history) if self.space.control is not None else []}
        if op == "leave":
            if self.on_leave is None:
                raise CmanError(protocol.BUSY, f"lockspace {self.space.name} is in use by "
                                f"{describe(self.space)['command']} (pid {os.getpid()})")
            self.on_leave()
            return {}
        raise CmanError(protocol.UNKNOWN_OPERATION, f"no operation {op!r}")

    async def client(self, stream: trio.SocketStream) -> None:
        """One connection."""
        decoder = protocol.Decoder()
        async with stream, self._clients:
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                while data := await stream.receive_some(_READ_BYTES):
                    decoder.feed(data)
                    while True:
                        number = 1
                        try:
                            if (message := decoder.next()) is None:
                                break
                            number = protocol.whole(message, "id", 1, 1 << 31)
                            reply = protocol.reply(number, self.answer(protocol.text(message, "op"), message))
                        except CmanError as e:
                            await stream.send_all(protocol.refusal(number, e))
                            if isinstance(e, protocol.ProtocolError):
                                return
                            continue
                        await stream.send_all(reply)

    async def run(self, task_status: trio.TaskStatus[Path] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        folder = directory()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = os.lstat(folder)
        if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.geteuid():
            raise PermissionError(1, "not a directory of this user", os.fspath(folder))
        os.chmod(folder, 0o700)
        path = folder / f"{self.space.name}.{self.space.machine.our_nodeid}.{os.getpid()}.sock"
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as raw:
            raw.bind(os.fspath(path))
            os.chmod(path, 0o600)
            raw.listen(CLIENTS_MAX)
            try:
                task_status.started(path)
                listener = trio.SocketListener(trio.socket.from_stdlib_socket(raw.dup()))
                await trio.serve_listeners(self.client, [listener])
            finally:
                path.unlink(missing_ok=True)


class Asker:
    """The asking end, for tools. Raises CmanError, and Unreachable when nobody answers."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def ask(self, op: str, **arguments: Any) -> Message:
        decoder = protocol.Decoder()
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
                s.settimeout(ANSWER_LIMIT_S)
                s.connect(os.fspath(self.path))
                s.sendall(protocol.request(1, op, arguments))
                while (message := decoder.next()) is None:
                    data = s.recv(_READ_BYTES)
                    if not data:
                        raise protocol.Unreachable(f"{self.path}: the process has ended while it was asked")
                    decoder.feed(data)
        except OSError as e:
            raise protocol.Unreachable(f"{self.path}: {e.strerror or e}") from e
        return protocol.result(message)


def askers() -> Iterator[Asker]:
    """One for every socket that somebody listens on; those of dead processes are taken away."""
    try:
        paths = sorted(directory().glob("*.sock"))
    except OSError:
        return
    for path in paths:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(os.fspath(path))
            except ConnectionRefusedError:
                path.unlink(missing_ok=True)
                continue
            except FileNotFoundError:
                continue
        yield Asker(path)
