"""The socket that dlm_tool asks is root's alone: the directory keeps others out, and so does the socket itself."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from dlm.core._lockspace import Lockspace as Machine
from dlm.inspect import RUN_VARIABLE, Asker, Server
from dlm.locks import Lockspace

NOBODY = 65534
CONNECT = """
import os, socket, sys
user = int(sys.argv[2])
if user:
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
try:
    socket.socket(socket.AF_UNIX).connect(sys.argv[1])
except OSError as error:
    sys.exit(error.errno)
"""


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where anybody may look: pytest's own directories would keep others out by themselves."""
    top = Path(tempfile.mkdtemp())
    top.chmod(0o755)
    monkeypatch.setenv(RUN_VARIABLE, os.fspath(top / "run"))
    yield top / "run"
    shutil.rmtree(top)


def modes(folder: Path, path: Path) -> tuple[int, int]:
    return stat.S_IMODE(folder.stat().st_mode), stat.S_IMODE(path.stat().st_mode)


def try_as(user: int, path: Path) -> int:
    return subprocess.run([sys.executable, "-I", "-S", "-c", CONNECT, os.fspath(path), str(user)],
                          check=False).returncode


def test_only_root_may_ask(folder: Path) -> None:
    async def main() -> None:
        space = Lockspace(Machine("closed", 1, 7))
        async with trio.open_nursery() as nursery:
            path = await nursery.start(Server(space, None).run)
            assert modes(folder, path) == (0o700, 0o600)
            assert await trio.to_thread.run_sync(try_as, NOBODY, path) == errno.EACCES
            await trio.to_thread.run_sync(folder.chmod, 0o755)
            assert await trio.to_thread.run_sync(try_as, NOBODY, path) == errno.EACCES
            assert await trio.to_thread.run_sync(try_as, 0, path) == 0
            answer = await trio.to_thread.run_sync(Asker(path).ask, "describe")
            assert answer["name"] == "closed"
            nursery.cancel_scope.cancel()
        space.close()
    trio.run(main)
