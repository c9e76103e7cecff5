"""The daemon's lines on their way to syslog."""

from __future__ import annotations

import logging
import socket
import threading
from pathlib import Path

import pytest

from cman.logs import LINES_MAX, Syslog


@pytest.fixture
def daemon(tmp_path: Path) -> socket.socket:
    """A log daemon that takes few datagrams at a time, as the kernel's default is."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.bind(str(tmp_path / "log"))
    made.settimeout(60)
    return made


def record(text: str, level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord("cman.TOTEM", level, "", 0, text, None, None)


def test_a_burst_arrives_whole_and_in_order(daemon: socket.socket, tmp_path: Path) -> None:
    made = Syslog(str(tmp_path / "log"))
    for n in range(200):
        made.emit(record(f"line {n}", logging.WARNING if n == 7 else logging.INFO))
    with daemon:
        told = [daemon.recv(4096).decode() for _ in range(200)]
    assert [line.rpartition(" ")[2] for line in told] == [str(n) for n in range(200)]
    assert told[6].startswith("<29>cman[")
    assert "[TOTEM] line 6" in told[6]
    assert told[7].startswith("<28>cman[")
    assert "[TOTEM] <warning> line 7" in told[7]
    made.close()


def test_a_log_daemon_that_hangs_holds_nobody_up(daemon: socket.socket, tmp_path: Path) -> None:
    made = Syslog(str(tmp_path / "log"))
    for n in range(LINES_MAX + 500):
        made.emit(record(f"line {n}"))
    threads = [t for t in threading.enumerate() if t.name == "cman-syslog"]
    daemon.close()          # its end frees the thread
    made.close()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
