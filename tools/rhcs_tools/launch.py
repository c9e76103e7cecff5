"""Starts a daemon of ours in the background where no systemd does it, and waits until it says that it is ready.

The daemons stay in the foreground and speak systemd's notification protocol (sd_notify(3)): this is the other end.
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

LOG_DIRECTORY = Path("/var/log/cluster")
LOG_VARIABLE = "CLUSTER_LOG_DIR"        # environment: another directory, for containers that share /var/log
_TAIL_LINES = 8
_POLL_S = 0.1


class NotStarted(Exception):
    """The daemon has ended or says nothing; the text has its last words."""


def log_path(name: str) -> Path:
    return Path(os.environ.get(LOG_VARIABLE) or LOG_DIRECTORY) / f"{name}.log"


def _tail(path: Path, start: int) -> str:
    with path.open("rb") as f:
        f.seek(start)
        lines = f.read()[-4096:].decode(errors="replace").strip().splitlines()
    return "\n".join(lines[-_TAIL_LINES:]) or "it said nothing"


def start(name: str, arguments: Sequence[str] = (), limit_s: float = 60.0) -> int:
    """The pid of a daemon that is ready. Raises NotStarted."""
    command = Path(sys.executable).parent / name
    log = log_path(name)
    log.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="start-") as folder, log.open("ab") as out, \
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notes:
        notes.bind(f"{folder}/notify")
        begin = out.tell()
        process = subprocess.Popen([command, *arguments], stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd="/",
                                   env={**os.environ, "NOTIFY_SOCKET": f"{folder}/notify"}, start_new_session=True)
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            if select.select([notes], [], [], _POLL_S)[0] and b"READY=1" in notes.recv(4096).split(b"\n"):
                # The child goes on without us: its end is nobody's here to collect.
                process.returncode = 0
                return process.pid
            if process.poll() is not None:
                raise NotStarted(_tail(log, begin))
        process.terminate()
        raise NotStarted(f"not ready within {limit_s:g} s; {_tail(log, begin)}")
