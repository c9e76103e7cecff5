"""What a room of the lab must not leave behind."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from lab import Lab
from lab.place import Place
from lab.remains import left_behind
from lab.remains import room_pids as pids_of

__all__ = ["assert_gone", "explained", "left_behind", "pids_of", "wait_until"]

POLL_S = 0.005
PATIENCE_S = 60.0
# On a machine that is busy elsewhere a node may take long to start its cman, and is not fenced for that.
START_S = 100
GONE_S = 60.0


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = PATIENCE_S) -> None:
    """Poll a condition; fails naming it."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s for: {what}"
        time.sleep(POLL_S)


@contextlib.contextmanager
def explained(room: Lab, *nodes: str) -> Iterator[None]:
    """A failure in here carries along what these nodes have logged."""
    try:
        yield
    except Exception as e:
        for node in nodes:
            e.add_note(f"{node}:\n" + room.path(node, "/var/log/messages").read_text(errors="replace"))
        raise


def assert_gone(place: Place, pids: set[int], why: str = "") -> None:
    """Nothing is left. A keeper that tidied up by itself may be on its last way out."""
    deadline = time.monotonic() + GONE_S
    while left := left_behind(place, pids):
        assert time.monotonic() < deadline, f"{why}: left behind: {left}"
        time.sleep(POLL_S)
