"""Idle processors are kept from halting while requests flow, and only then."""

from __future__ import annotations

import os
import resource
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from background import repeating
from fuse.conftest import MakeMount, NullMount, wait_until

DEVICE = Path("/dev/cpu_dma_latency")
AVAILABLE = os.access(DEVICE, os.W_OK)      # not in every container: there the mount does without

pytestmark = pytest.mark.mount


def held() -> int:
    """How many descriptors this process (the daemon is in it) has of the device."""
    n = 0
    for entry in os.scandir("/proc/self/fd"):
        try:
            n += os.readlink(entry.path) == str(DEVICE)
        except OSError:     # scandir's own
            continue
    return n


def noticed(m: NullMount) -> bool:
    """The sentinel has seen the traffic and has asked for low latency."""
    return held() == 1 if AVAILABLE else not m.session.statistics()["idle_poll"]


def traffic(m: NullMount) -> AbstractContextManager[None]:
    """A thread whose every statvfs is a request, back to back."""
    return repeating(lambda: os.statvfs(m.path))


def test_held_while_requests_flow(make_mount: MakeMount) -> None:
    m = make_mount(idle_poll=True)
    assert held() == 0
    for turn in (1, 2):
        with traffic(m):
            wait_until(lambda: noticed(m), "the request for low latency")
        wait_until(lambda: held() == 0, "its end")
        assert (m.session.statistics()["idle_polls"] >= turn) == AVAILABLE
    spent = m.session.statistics()["idle_poll_ns"]
    assert (spent > 0) == AVAILABLE
    os.statvfs(m.path)          # a single request is no traffic
    m.settled("STATFS")
    assert m.session.statistics()["idle_poll_ns"] == spent


def test_given_back_at_the_end(make_mount: MakeMount) -> None:
    m = make_mount(idle_poll=True)
    with traffic(m):
        wait_until(lambda: noticed(m), "the request for low latency")
    m.close()
    assert held() == 0


def test_never_with_the_option(make_mount: MakeMount) -> None:
    m = make_mount(idle_poll=False)
    with traffic(m):
        wait_until(lambda: m.count("STATFS") > 2000, "2000 requests")
        assert held() == 0
    assert m.session.statistics()["idle_polls"] == 0


def test_goes_without_where_it_is_refused(make_mount: MakeMount) -> None:
    """The device cannot be opened: asked for once, and the mount serves on."""
    m = make_mount(idle_poll=True)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        with traffic(m):
            wait_until(lambda: not m.session.statistics()["idle_poll"], "the refusal")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with traffic(m):
        before = m.count("STATFS")
        wait_until(lambda: m.count("STATFS") > before + 2000, "2000 requests more")
    assert held() == 0
    assert m.session.statistics()["idle_polls"] == 0
