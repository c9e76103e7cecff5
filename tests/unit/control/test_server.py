"""The control socket with real sockets: many clients, slow ones, hostile ones, dead daemons."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gfs2py.control import protocol, server
from gfs2py.control.client import Control, NobodyThere, Unreachable, all_mounts
from gfs2py.control.paths import make_directory, socket_path, sockets
from gfs2py.control.server import ControlServer, SocketTaken

DEVICE = os.makedev(7, 300)
BIG_BYTES = 1 << 20
IDENTITY = {"pid": 42, "source": "/dev/x", "mount_point": "/gfs2", "device": DEVICE, "table": "a:b", "type": "gfs2"}


class Running:
    """A server in a thread."""

    def __init__(self, directory: Path, **options: float) -> None:
        make_directory(directory)
        self.directory, self.path = directory, socket_path(DEVICE, directory)
        self.looks = threading.Semaphore(0)
        self.server = ControlServer(self.path, {
            "echo": lambda a: {"a": a.get("a")}, "big": lambda _: {"x": b"x" * BIG_BYTES},
            "identity": lambda _: IDENTITY,
        }, every=self.looks.release, **options)
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()

    def stop(self) -> None:
        self.server.stop()
        self.thread.join(20)
        assert not self.thread.is_alive()

    def raw(self) -> socket.socket:
        made = socket.socket(socket.AF_UNIX)
        made.connect(os.fspath(self.path))
        made.settimeout(20)
        return made


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    made = Running(tmp_path / "run")
    yield made
    made.stop()


def echo(running: Running, value: object = 7) -> object:
    with Control(running.path) as control:
        return control.ask("echo", a=value)["a"]


def closed(client: socket.socket) -> bytes:
    """Everything until the other end closes."""
    out = b""
    try:
        while data := client.recv(65536):
            out += data
    except ConnectionResetError:
        pass
    return out


def test_questions_and_answers(running: Running) -> None:
    with Control(running.path) as control:
        assert [control.ask("echo", a=i)["a"] for i in range(100)] == list(range(100))
        assert control.identity().mount_point == "/gfs2"
        with pytest.raises(protocol.ControlError, match="nonsense"):
            control.ask("nonsense")
        assert control.ask("echo", a=1) == {"a": 1}, "an error does not end the connection"
        assert len(control.ask("big")["x"]) == BIG_BYTES


def test_the_socket_is_for_root(running: Running) -> None:
    assert stat.S_IMODE(os.stat(running.directory).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(running.path).st_mode) == 0o600


def test_another_user_is_refused(running: Running) -> None:
    """Even with a descriptor that was opened for it: who connects is asked of the kernel."""
    os.chmod(running.directory, 0o755)
    os.chmod(running.directory.parent, 0o755)
    os.chmod(running.path, 0o666)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            client = socket.socket(socket.AF_UNIX)
            directory = os.open(running.directory, os.O_PATH)
            os.setresuid(65534, 65534, 65534)
            client.connect(f"/proc/self/fd/{directory}/{running.path.name}")
            os.write(write, closed(client))
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    with open(read, "rb") as f:
        told = f.read()
    decoder = protocol.Decoder(protocol.REPLY_MAX_BYTES)
    decoder.feed(told)
    message = decoder.next()
    assert message is not None
    assert message["error"] == protocol.NOT_PERMITTED


def test_a_slow_client_holds_up_nobody(running: Running) -> None:
    """It asks for megabytes and reads none of them; it sends half a request."""
    greedy, halting = running.raw(), running.raw()
    with greedy, halting:
        greedy.sendall(protocol.request("big", {}) * 50)
        halting.sendall(protocol.request("echo", {"a": 1})[:7])
        for i in range(50):
            assert echo(running, i) == i
        halting.sendall(protocol.request("echo", {"a": 1})[7:])
        assert halting.recv(100)
        assert echo(running) == 7


def test_idle_clients_are_let_go(tmp_path: Path) -> None:
    running = Running(tmp_path / "run", every_s=0.02, idle_limit_s=0.05)
    try:
        with running.raw() as idle:
            assert closed(idle) == b""
        assert echo(running) == 7
    finally:
        running.stop()


def test_too_many_clients(running: Running) -> None:
    held = [Control(running.path) for _ in range(server.CLIENTS_MAX)]
    assert held[-1].ask("echo", a=1) == {"a": 1}
    with Control(running.path) as one_more, pytest.raises(protocol.ControlError) as refused:
        one_more.ask("echo", a=1)
    assert refused.value.code == protocol.BUSY
    assert held[0].ask("echo", a=2) == {"a": 2}
    for control in held:
        control.close()
    while True:     # until the server has seen them go
        with contextlib.suppress(protocol.ControlError):
            assert echo(running) == 7
            break


def test_hostile_bytes_are_answered_by_an_error_and_the_end(running: Running, rng: random.Random) -> None:
    good = protocol.request("echo", {"a": 5})
    for _ in range(300):
        kind = rng.randrange(4)
        if kind == 0:
            data = rng.randbytes(rng.randrange(1, 200))
        elif kind == 1:
            data = rng.randrange(1, 60).to_bytes(4, "big") + rng.randbytes(60)
        elif kind == 2:
            changed = bytearray(good)
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
            data = bytes(changed)
        else:
            data = good + rng.randbytes(40)
        with running.raw() as client:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            told = closed(client)
        decoder = protocol.Decoder(protocol.REPLY_MAX_BYTES)
        decoder.feed(told)
        while (message := decoder.next()) is not None:
            assert message["ok"] in (True, False)
        assert decoder.pending_bytes == 0
    assert echo(running) == 7
    assert running.thread.is_alive()


def test_one_that_hangs_up_without_reading(running: Running) -> None:
    for _ in range(40):
        with running.raw() as client:
            client.sendall(protocol.request("big", {}) * 3)
    assert echo(running) == 7


def test_stop_takes_the_socket_away(tmp_path: Path) -> None:
    running = Running(tmp_path / "run")
    with Control(running.path) as control:
        running.stop()
        with pytest.raises(Unreachable, match="has ended"):
            control.ask("echo")
    assert sockets(running.directory) == []
    running.server.stop()


def test_a_dead_daemons_socket_is_replaced_and_a_living_ones_is_not(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    make_directory(directory)
    path = socket_path(DEVICE, directory)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fspath(path))
        dead.listen()
    with pytest.raises(NobodyThere, match="no gfs2d answers"):
        Control(path)
    running = Running(directory)
    try:
        with pytest.raises(SocketTaken):
            server.listen(path)
        assert echo(running) == 7
    finally:
        running.stop()


def test_a_daemon_that_hangs_is_told_within_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "gfs2d-7.1.sock"
    with socket.socket(socket.AF_UNIX) as hung:
        hung.bind(os.fspath(path))
        hung.listen()
        with Control(path, 0.05) as control, pytest.raises(Unreachable, match=r"does not answer within 0\.05 s"):
            control.ask("echo")


def test_all_mounts_tells_living_from_dead(running: Running) -> None:
    other = socket_path(os.makedev(8, 1), running.directory)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fspath(other))
    (running.directory / "something else").touch()
    found = dict(all_mounts(directory=running.directory))
    assert isinstance(found[other], NobodyThere)
    living = found[running.path]
    assert not isinstance(living, Unreachable)
    assert living.pid == 42
    assert len(found) == 2


def test_a_directory_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "link").symlink_to(elsewhere)
    with pytest.raises(PermissionError):
        make_directory(tmp_path / "link")
    os.chown(elsewhere, 65534, 65534)
    with pytest.raises(PermissionError):
        make_directory(elsewhere)


def test_an_open_directory_is_closed(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o755)
    make_directory(tmp_path / "run")
    assert stat.S_IMODE(os.stat(tmp_path / "run").st_mode) == 0o700


def test_the_look_is_called_between_questions(tmp_path: Path) -> None:
    running = Running(tmp_path / "run", every_s=0.01)
    try:
        for _ in range(3):
            assert running.looks.acquire(timeout=20)
        assert echo(running) == 7
    finally:
        running.stop()
