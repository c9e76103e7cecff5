"""What goes wrong with locks and with peers."""

from __future__ import annotations


class DlmError(OSError):
    """An operation that the engine refuses; `errno` says why, as in the kernel's API."""


class RemoteProtocolError(Exception):
    """A packet that no node of this protocol sends. The peer is at fault: drop the packet, or the peer."""

    def __init__(self, nodeid: int, reason: str) -> None:
        super().__init__(f"node {nodeid}: {reason}")
        self.nodeid = nodeid
        self.reason = reason
