"""The control socket and its async client, with a table of operations that needs no cluster."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import pytest
import trio

from cman import protocol, server
from cman.client import Cman, Configuration, Delivered, open_cman
from cman.protocol import Arguments, CmanError, Unreachable
from cman.server import Client, Server, SocketPlace, SocketTaken


class Echo:
    """join makes the client the only member of a group; mcast delivers to itself."""

    def __init__(self) -> None:
        self.gone: list[int] = []
        self.blocked = trio.Event()
        self.entered = trio.Event()

    def table(self) -> dict[str, server.Handler]:
        return {"join": self.join, "mcast": self.mcast, "echo": self.echo, "fail": self.fail, "wait": self.wait}

    async def join(self, client: Client, words: Arguments) -> Mapping[str, object]:
        me = [1, client.number]
        client.push(protocol.frame({"event": "configuration", "group": words["group"], "me": me, "members": [me],
                                    "joined": [[me, 1]], "left": []}))
        return {"member": me}

    async def mcast(self, client: Client, words: Arguments) -> Mapping[str, object]:
        client.push(protocol.frame({"event": "deliver", "group": words["group"], "sender": [1, client.number],
                                    "data": words["data"]}))
        return {}

    async def echo(self, client: Client, words: Arguments) -> Mapping[str, object]:
        return {"data": words["data"]}

    async def fail(self, client: Client, words: Arguments) -> Mapping[str, object]:
        raise CmanError("busy", "not now")

    async def wait(self, client: Client, words: Arguments) -> Mapping[str, object]:
        self.entered.set()
        await self.blocked.wait()
        return {}


def serve(path: Path, body: Callable[[Echo, Server], Awaitable[None]]) -> Echo:
    """Run the body against a server."""
    async def run() -> Echo:
        echo, made = Echo(), Server()
        with SocketPlace(path) as place:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(made.run, place.listener, echo.table(), lambda c: echo.gone.append(c.number))
                with trio.fail_after(30):
                    await body(echo, made)
                nursery.cancel_scope.cancel()
        return echo

    return trio.run(run)


def test_questions_answers_and_groups(tmp_path: Path) -> None:
    path = tmp_path / "cman.sock"

    async def body(echo: Echo, made: Server) -> None:
        async with open_cman(path) as cman:
            assert (await cman.ask("echo", data=b"x"))["data"] == b"x"
            with pytest.raises(CmanError, match="not now"):
                await cman.ask("fail")
            with pytest.raises(CmanError, match="no operation"):
                await cman.ask("dance")
            group = await cman.join("g")
            first = await group.next()
            assert isinstance(first, Configuration)
            assert first.members == (group.me,)
            for i in range(20):
                await group.mcast(bytes([i]))
            assert [await group.next() for _ in range(20)] == [Delivered(group.me, bytes([i])) for i in range(20)]
            with pytest.raises(CmanError, match="already"):
                await cman.join("g")

    echo = serve(path, body)
    assert echo.gone == [1]
    assert not path.exists()


def test_what_the_callers_block_raises_comes_out_as_it_is(tmp_path: Path) -> None:
    async def body(echo: Echo, made: Server) -> None:
        async def divide() -> None:
            async with open_cman(tmp_path / "s") as cman:
                await cman.ask("echo", data=b"")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await divide()

    serve(tmp_path / "s", body)
    with pytest.raises(Unreachable, match="is it running"):
        trio.run(_open, tmp_path / "s")


async def _open(path: Path) -> None:
    async with open_cman(path):
        pass


def test_a_cancelled_question_leaves_the_connection_usable(tmp_path: Path) -> None:
    async def body(echo: Echo, made: Server) -> None:
        async with open_cman(tmp_path / "s") as cman:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_ask_wait, cman)
                await echo.entered.wait()
                nursery.cancel_scope.cancel()
            echo.blocked.set()
            assert (await cman.ask("echo", data=b"later"))["data"] == b"later"

    serve(tmp_path / "s", body)


async def _ask_wait(cman: Cman) -> None:
    await cman.ask("wait")


def test_who_does_not_read_is_cut_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def body(echo: Echo, made: Server) -> None:
        async with open_cman(tmp_path / "s") as other:
            lazy = await trio.open_unix_socket(os.fspath(tmp_path / "s"))
            block = bytes(1 << 20)
            with pytest.raises(trio.BrokenResourceError):
                await _flood(lazy, block)
            await lazy.aclose()
            assert (await other.ask("echo", data=b"fine"))["data"] == b"fine"
            assert len(made.clients) == 1

    serve(tmp_path / "s", body)
    assert "is cut off: it leaves more than" in caplog.text


async def _flood(stream: trio.SocketStream, block: bytes) -> None:
    while True:
        await stream.send_all(protocol.request(1, "echo", {"data": block}))


def test_too_many_clients_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CLIENTS_MAX", 2)

    async def body(echo: Echo, made: Server) -> None:
        async with open_cman(tmp_path / "s") as one, open_cman(tmp_path / "s") as two:
            await one.ask("echo", data=b"")
            await two.ask("echo", data=b"")
            async with open_cman(tmp_path / "s") as three:
                with pytest.raises(CmanError, match="2 clients are connected already"):
                    await three.ask("echo", data=b"")
            assert (await two.ask("echo", data=b"2"))["data"] == b"2"

    serve(tmp_path / "s", body)


def test_the_socket_is_roots_and_one_daemons(tmp_path: Path) -> None:
    path = tmp_path / "run" / "cman.sock"
    with SocketPlace(path) as place:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with pytest.raises(SocketTaken):
            SocketPlace(path)
        place.release()
        assert not path.exists()
        with SocketPlace(path):
            place.release()
            assert path.exists(), "it belongs to the later daemon"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(os.fspath(path))
    dead.close()
    with SocketPlace(path):
        assert path.exists(), "a dead daemon's is replaced"
    path.write_text("not a socket")
    with pytest.raises(OSError, match="refused"):
        SocketPlace(path)
    assert path.read_text() == "not a socket"
