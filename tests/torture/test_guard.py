"""The guard of the torture programs: a daemon that does not answer is noticed, named, and left behind."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from interop.commands import is_mounted
from torture.place import crowd, place

pytestmark = pytest.mark.mount

STALL_S = 3.0          # mkfs and mount are to be done in less, also on a busy machine


def hang(seen: list[Any]) -> None:
    """Three processes ask a daemon that is stopped; all are freed. Then the guard says what it had to do."""
    with place("", STALL_S) as (where, guard):
        where.mkfs(64, 4096)
        root = where.mount()
        assert where.mounted is not None
        daemon = where.mounted.daemon()
        guard.tick()
        os.kill(daemon, signal.SIGSTOP)
        try:
            with pytest.raises(AssertionError, match="process 0 ended with 1; process 1"):
                crowd(3, lambda n: os.stat(root / f"nothing{n}"), 60)()
        finally:
            os.kill(daemon, signal.SIGCONT)
        seen[:] = [daemon, root]


def test_hang_is_noticed_and_ended(capfd: pytest.CaptureFixture[str]) -> None:
    seen: list[Any] = []
    with pytest.raises(AssertionError, match="nothing moved"):
        hang(seen)
    daemon, root = seen
    said = capfd.readouterr().err
    assert "HANG" in said
    assert f"{daemon}/" in said, "the daemon's threads are listed"
    assert not is_mounted(root)


def test_who_waits_for_something_else_is_ended() -> None:
    """Found by a soak: locks that the kernel keeps do not go with the connection, so the run never ended."""
    def stuck() -> None:
        with place("", STALL_S) as (where, guard):
            where.mkfs(64, 4096)
            where.mount()
            guard.tick()
            with pytest.raises(AssertionError, match="process 0 ended with -9"):
                crowd(1, lambda _: signal.pause(), 60)()
    with pytest.raises(AssertionError, match="nothing moved"):
        stuck()
