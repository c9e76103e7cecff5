"""Telling the service manager how we are: systemd's protocol, one datagram per line. Source: sd_notify(3)."""

from __future__ import annotations

import contextlib
import os
import socket


def notify(*lines: str) -> None:
    """Send "READY=1", "STATUS=...", "STOPPING=1"; nothing happens when nobody asked to be told."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s, contextlib.suppress(OSError):
        s.connect("\0" + path[1:] if path[0] == "@" else path)
        s.send("\n".join(lines).encode())
