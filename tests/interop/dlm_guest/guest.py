"""QEMU with a stock kernel and the line to its agent."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import threading
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from interop.oracle.guest import CMDLINE
from interop.oracle.prepare import kernel_dir, qemu

from .image import build

ANSWER_S = 60.0
BOOT_S = 120.0
POLL_S = 0.02
TROUBLE = re.compile(r"BUG|Oops|Kernel panic|WARNING: CPU|general protection|blocked for more than|"
                     r"GFS2:.*(fatal|inconsisten|corrupt)|withdraw")


class AgentError(AssertionError):
    """What the agent was asked failed in the guest; the text is its traceback."""


class Wire(Protocol):
    """A network with a tap for the guest."""

    @property
    def command(self) -> list[str]:
        """What a command begins with that is to run in the network."""

    @property
    def tap(self) -> str: ...


class Guest:
    """One kernel node. `guest("lock", "space", 5, "name")` calls that function of agent.py."""

    def __init__(self, network: Wire, address: str, work: Path, *, disk: Path | None = None, mem_mib: int = 512,
                 mac: str = "52:54:00:00:00:01", extra: Iterable[tuple[str, int, bytes]] = (),
                 modules: Collection[str] = ()) -> None:
        """disk: shared with others, /dev/vda in the guest. extra, modules: for its initramfs, see image.py."""
        self.address, self.work, self.disk = address, work, disk
        self.mem_mib, self.mac, self.extra, self.modules = mem_mib, mac, extra, modules
        self.network = network
        self._console = work / "console"
        self._path = work / "agent"
        self._rest = b""
        self._one_by_one = threading.Lock()

    def __enter__(self) -> Guest:
        initrd = self.work / "initrd"
        build(initrd, self.extra, self.modules)
        self._process = subprocess.Popen(
            [*self.network.command, qemu(), "-M", "q35", "-accel", "tcg", "-cpu", "max",
             "-smp", "1", "-m", str(self.mem_mib), "-nodefaults", "-display", "none", "-no-reboot",
             "-kernel", str(kernel_dir() / "vmlinux"), "-initrd", str(initrd), "-serial", f"file:{self._console}",
             "-append", f"{CMDLINE} console=ttyS0 guest_ip={self.address}/24",
             "-device", "virtio-serial-pci",
             "-chardev", f"socket,id=agent,path={self._path},server=on,wait=off",
             "-device", "virtserialport,chardev=agent,name=agent",
             "-netdev", f"tap,id=net,ifname={self.network.tap},script=no,downscript=no",
             "-device", f"virtio-net-pci,netdev=net,mac={self.mac}", *self._drive()], stdin=subprocess.DEVNULL)
        try:
            self._socket = self._connect()
            self._answer(BOOT_S)
        except BaseException:
            self.close()
            raise
        return self

    def _drive(self) -> list[str]:
        """The disk is shared: what is written is on it when that is acknowledged, and no lock keeps others away."""
        if self.disk is None:
            return []
        return ["-drive", f"if=none,id=disk,format=raw,cache=none,file.locking=off,file={self.disk}",
                "-device", "virtio-blk-pci,drive=disk,share-rw=on"]

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        if hasattr(self, "_socket"):
            self._socket.close()

    def _connect(self) -> socket.socket:
        end = time.monotonic() + BOOT_S
        sock = socket.socket(socket.AF_UNIX)
        while True:
            try:
                sock.connect(str(self._path))
                return sock
            except (FileNotFoundError, ConnectionRefusedError):
                if self._process.poll() is not None or time.monotonic() > end:
                    sock.close()
                    raise AgentError(f"QEMU does not start: status {self._process.poll()}") from None
                time.sleep(POLL_S)

    def _answer(self, limit_s: float) -> Any:
        end = time.monotonic() + limit_s
        while b"\n" not in self._rest:
            self._socket.settimeout(max(0.01, end - time.monotonic()))
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                data = b""
            if not data:
                raise AgentError(f"the guest does not answer; its console ends:\n{self.console()[-3000:]}")
            self._rest += data
        line, self._rest = self._rest.split(b"\n", 1)
        told = json.loads(line)
        if "err" in told:
            raise AgentError(told["err"] + self.console()[-2000:])
        return told["out"]

    def __call__(self, function: str, *arguments: object) -> Any:
        with self._one_by_one:
            self._socket.sendall(json.dumps([function, *arguments]).encode() + b"\n")
            return self._answer(ANSWER_S)

    def power_off(self) -> None:
        """The node is gone at once: no packet leaves it any more."""
        self._process.kill()
        self._process.wait()

    def console(self) -> str:
        return self._console.read_text(errors="replace") if self._console.exists() else ""

    def trouble(self) -> list[str]:
        """Kernel lines that mean that something broke."""
        return [x for x in self.console().splitlines() if TROUBLE.search(x)]

    def log(self) -> list[str]:
        return [x for x in self.console().splitlines() if "dlm" in x]
