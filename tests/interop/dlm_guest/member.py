"""A machine of the lab that is a stock kernel in QEMU: with our cman and dlm_controld, and GFS2 mounted by the kernel.

It stands at the place of one of the room's machines, whose power is off: the same name, address and port of the bridge.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import sysconfig
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from types import TracebackType

import trio

import cman
from lab import Lab
from lab.network import BRIDGE, NETWORK, port

from .guest import AgentError, Guest
from .image import compiled

SITE = "opt/site"
# What cman and dlm_controld import, beside Python's own library.
PACKAGES = ("attr", "attrs", "cryptography", "idna", "lxml", "msgpack", "outcome", "sniffio", "sortedcontainers",
            "trio")
OURS = ("cman", "dlm")
LEFT_OUT = ("tests", "_tests", "testing", "__pycache__", "includes", "isoschematron", "html", "objectify", "builder")
# The kernel's own: it saves a message that comes before its recovery is through in a structure whose declaration has no
# room for what follows, and warns of that once (6.1; the copy itself is right).
KERNEL_BUG = re.compile(r"WARNING: .* at fs/dlm/requestqueue\.c")
PATIENCE_S = 240.0
POLL_S = 0.05


def tree(top: Path, where: str, loaded: Collection[str]) -> Iterator[tuple[str, int, bytes]]:
    """A package as it is imported: directories, .py, .so."""
    yield where, stat.S_IFDIR | 0o755, b""
    for path in sorted(top.iterdir()):
        name = f"{where}/{path.name}"
        if path.name.split(".")[0] in LEFT_OUT:
            continue
        if path.is_dir():
            yield from tree(path, name, loaded)
        elif path.suffix in (".py", ".so"):
            data = path.read_bytes()
            yield name, stat.S_IFREG | 0o644, data
            if name in loaded:
                yield from compiled(name, data)


def loaded_by(modules: Iterable[str]) -> set[str]:
    """The sources that importing these modules reads, as they lie in the guest."""
    program = (f"import sys, {', '.join(modules)}\n"
               "print(*(f for m in list(sys.modules.values()) if (f := getattr(m, '__file__', None))), sep='\\n')")
    library, ours = Path(trio.__file__).parents[1], Path(cman.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": f"{ours}:{ours}/tools:{ours}/tests"})
    stdlib = sysconfig.get_path("stdlib")
    found = set()
    for file in done.stdout.splitlines():
        for top, where in ((str(library), SITE), (f"{ours}/tools", SITE), (str(ours), SITE),
                           (stdlib, "usr/lib/python3.11")):
            if file.startswith(top + "/") and file.endswith(".py"):
                found.add(where + file.removeprefix(top))
                break
    return found


def site(loaded: Collection[str]) -> Iterator[tuple[str, int, bytes]]:
    """Our own packages and what they need."""
    library, ours = Path(trio.__file__).parents[1], Path(cman.__file__).parents[1]
    yield "opt", stat.S_IFDIR | 0o755, b""
    yield SITE, stat.S_IFDIR | 0o755, b""
    for name in PACKAGES:
        yield from tree(library / name, f"{SITE}/{name}", loaded)
    for path in [*library.glob("_cffi_backend*.so"), *library.glob("sortedcontainers.py")]:
        yield f"{SITE}/{path.name}", stat.S_IFREG | 0o644, path.read_bytes()
    for name in OURS:
        yield from tree(ours / name, f"{SITE}/{name}", loaded)
    yield from tree(ours / "tools" / "rhcs_tools", f"{SITE}/rhcs_tools", loaded)
    for info in library.glob("gfs2py-*.dist-info"):         # its version
        yield f"{SITE}/{info.name}", stat.S_IFDIR | 0o755, b""
        yield f"{SITE}/{info.name}/METADATA", stat.S_IFREG | 0o644, (info / "METADATA").read_bytes()


class RoomWire:
    """The machine's port of the room's bridge, as a tap."""

    def __init__(self, room: Lab, name: str) -> None:
        self.tap = port(room.topology, name)
        self.plugged = False
        self.command = ["nsenter", "-t", str(room.place.processes()[1].pid), "-n", "--"]

    def _ip(self, *args: str) -> None:
        subprocess.run([*self.command, "ip", *args], check=True, capture_output=True)

    def __enter__(self) -> RoomWire:
        self._ip("tuntap", "add", self.tap, "mode", "tap")
        self.plugged = True
        self._ip("link", "set", self.tap, "master", BRIDGE, "up")
        return self

    def __exit__(self, *_: object) -> None:
        if self.plugged:
            self.plugged = False
            self._ip("link", "del", self.tap)


class KernelMember:
    """`with KernelMember(room, "Mysql1", disk, work) as node`: booted, a member of the cluster, nothing mounted."""

    def __init__(self, room: Lab, name: str, disk: Path, work: Path) -> None:
        self.room, self.name = room, name
        self.machine = room.topology.machine(name)
        self.wire = RoomWire(room, name)
        loaded = loaded_by(["cman.daemon", "rhcs_tools.dlm_controld", "interop.dlm_guest.agent"])
        self.guest = Guest(self.wire, self.machine.address, work, disk=disk, mem_mib=768, mac=self.machine.mac,
                           extra=site(loaded), modules=loaded)

    def __enter__(self) -> KernelMember:
        self.room.power("off", self.name)
        self.wire.__enter__()
        try:
            self.guest.__enter__()
            try:
                self._configure()
                self.start()
            except BaseException:
                print(self.logs())
                self.guest.close()
                raise
        except BaseException:
            self.wire.__exit__()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        try:
            if kind is not None:
                print(self.logs())
            self.guest.close()
        finally:
            self.wire.__exit__()

    def _configure(self) -> None:
        """The files of its namesake in the room."""
        like = self.room.topology.nodes[0].name
        for path in ("/etc/hosts", "/etc/cluster/cluster.conf", "/etc/cluster/cluster.key"):
            self.guest("write", path, 0o600, self.room.path(like, path).read_bytes().hex())
        self.sh(f"busybox ip addr flush dev eth0; busybox ip addr add {self.machine.address}/{NETWORK.prefixlen} "
                "brd + dev eth0; busybox ip route add 224.0.0.0/4 dev eth0; mkdir -p /gfs2 /var/lib/cman /var/log")

    def start(self) -> None:
        """cman, then dlm_controld."""
        self.guest("begin", f"PYTHONPATH=/{SITE} exec python3.11 -S -m cman.daemon -P -n {self.name} "
                            ">/var/log/cman 2>&1")
        self.wait_for("test -S /run/cman/cman.sock")
        self.guest("begin", f"PYTHONPATH=/{SITE} exec python3.11 -S -m rhcs_tools.dlm_controld >/var/log/controld 2>&1")
        self.wait_for("grep -q ready /var/log/controld")

    def wait_for(self, condition: str) -> None:
        end = time.monotonic() + PATIENCE_S
        while self.run(condition)[0]:
            assert time.monotonic() < end, f"waited for: {condition}\n{self.logs()}"
            time.sleep(POLL_S)

    def begin(self, script: str) -> int:
        return int(self.guest("begin", script))

    def end(self, job: int) -> tuple[int, str]:
        """Status and output of what begin() has started."""
        end = time.monotonic() + PATIENCE_S
        while (told := self.guest("ended", job, POLL_S)) is None:
            if time.monotonic() > end:
                raise AgentError(f"the guest is not done:\n{self.logs()}")
        return int(told[0]), str(told[1])

    def run(self, script: str) -> tuple[int, str]:
        return self.end(self.begin(script))

    def sh(self, script: str) -> str:
        status, output = self.run(f"set -e; {script}")
        assert status == 0, f"{script}: status {status}\n{output}\n{self.logs()}"
        return output

    def mount(self) -> None:
        self.sh("busybox mount -t gfs2 /dev/vda /gfs2")

    def umount(self) -> None:
        self.sh("umount /gfs2")

    def unplug(self) -> None:
        """The machine is gone at once; its place is free for the room's own, which the power switch may start."""
        self.guest.power_off()
        self.wire.__exit__()

    def trouble(self) -> list[str]:
        """What its kernel complained about."""
        return [x for x in self.guest.trouble() if not KERNEL_BUG.search(x)]

    def logs(self) -> str:
        """What everybody there has said, as far as it still answers."""
        try:
            told = self.end(self.begin("tail -n 40 /var/log/cman /var/log/controld; "
                                       "cd /sys/kernel/debug/dlm && tail -n 30 *_waiters *_locks *_rsbs comms/*/*"))[1]
        except (OSError, AssertionError):
            told = ""
        return told + "\n".join(self.guest.console().splitlines()[-60:])
