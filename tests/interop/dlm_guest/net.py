"""A network namespace of the tests' own: a tap for the guest, an address on it for each node of ours."""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType

import trio

CLONE_NEWNET = 0x40000000
TAP = "dlmtap"


def ip(*args: str) -> None:
    subprocess.run(["ip", *args], check=True, capture_output=True)


class Network:
    """`with Network(["10.77.0.2", "10.77.0.3"]) as net`: the namespace net.name exists meanwhile."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self.name = f"dlmtest{os.getpid()}"
        self.addresses = list(addresses)
        self.tap = TAP
        self.command = ["ip", "netns", "exec", self.name]

    def __enter__(self) -> Network:
        ip("netns", "add", self.name)
        try:
            self.ip("link", "set", "lo", "up")
            self.ip("tuntap", "add", TAP, "mode", "tap")
            for address in self.addresses:
                self.ip("addr", "add", f"{address}/24", "dev", TAP)
            self.ip("link", "set", TAP, "up")
        except BaseException:
            ip("netns", "delete", self.name)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        ip("netns", "delete", self.name)

    def ip(self, *args: str) -> None:
        ip("-netns", self.name, *args)

    def enter(self) -> None:
        """Put the calling thread, and those that it starts, into the namespace."""
        libc = ctypes.CDLL(None, use_errno=True)
        fd = os.open(f"/run/netns/{self.name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if libc.setns(fd, CLONE_NEWNET):
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code))
        finally:
            os.close(fd)

    def run(self, test: Callable[[], Awaitable[None]]) -> None:
        """trio.run(test) in the namespace, in a thread that ends with it."""
        failed: list[BaseException] = []

        def body() -> None:
            try:
                self.enter()
                trio.run(test)
            except BaseException as e:      # whatever it is, it belongs to the test that waits
                failed.append(e)
                if not isinstance(e, Exception):
                    raise

        thread = threading.Thread(target=body, name="in-netns")
        thread.start()
        thread.join()
        if failed:
            raise failed[0]
