"""A few nodes on one machine: a network namespace each, on a bridge in a namespace of its own; real daemons in them.

Nothing of it touches the machine's network, and all of it goes with the processes that hold the namespaces: the
holders read from a pipe of the test's process, and end when that ends, however it ends.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType

from cman.ask import Asker
from cman.protocol import CmanError, Unreachable
from cman.views import Cluster

POLL_S = 0.02
LIMIT_S = 60.0
_HOLD = ["unshare", "--net", "--mount", "--uts", "--propagation", "private", "cat"]


def wait_for(what: str, condition: Callable[[], object], limit_s: float = LIMIT_S) -> float:
    """Until the condition is true; seconds that it took. Raises AssertionError, with the last error in it."""
    start, last = time.monotonic(), ""
    while time.monotonic() - start < limit_s:
        try:
            if condition():
                return time.monotonic() - start
        except (CmanError, OSError) as e:
            last = str(e)
        time.sleep(POLL_S)
    raise AssertionError(f"not within {limit_s:g} s: {what} {last}")


class NodeRig:
    """One node: its namespaces, its files, and its daemon when it runs."""

    def __init__(self, rig: Rig, name: str, nodeid: int, address: str) -> None:
        self.rig, self.name, self.nodeid, self.address = rig, name, nodeid, address
        self.folder = rig.folder / name
        self.folder.mkdir()
        self.socket = self.folder / "cman.sock"
        self.config = self.folder / "cluster.conf"
        self.holder = rig.hold()
        self.daemon: subprocess.Popen[bytes] | None = None
        self.environment = {**os.environ, "CMAN_SOCKET": str(self.socket), "CLUSTER_CONF": str(self.config),
                            "CMAN_STATE_DIR": str(self.folder / "state"), "CLUSTER_LOG_DIR": str(self.folder),
                            "TZ": "UTC"}
        ip = ["ip", "link", "add", f"v{nodeid}", "netns", str(rig.switch.pid), "type", "veth", "peer", "name", "eth0",
              "netns", str(self.holder.pid)]
        rig.inside(rig.switch, ip)
        rig.inside(rig.switch, ["ip", "link", "set", f"v{nodeid}", "master", "br0", "up"])
        for command in (["ip", "link", "set", "lo", "up"], ["ip", "addr", "add", f"{address}/24", "dev", "eth0"],
                        ["ip", "link", "set", "eth0", "up"], ["hostname", name],
                        ["mount", "--bind", str(rig.hosts), "/etc/hosts"]):
            rig.inside(self.holder, command)

    def run(self, *command: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command of the project on this node."""
        words = [str(self.rig.bin / str(command[0])), *map(str, command[1:])]
        done = subprocess.run([*self.rig.enter(self.holder), *words], env=self.environment, capture_output=True,
                              text=True, check=False, timeout=120)
        assert not check or done.returncode == 0, (f"{self.name}: {command}: {done.returncode}\n"
                                                   f"{done.stdout}{done.stderr}")
        return done

    def start(self, *, realtime: bool = False) -> None:
        if self.daemon is not None:
            self.daemon.wait(LIMIT_S)
        self.spare_us()
        log = (self.folder / "cman.log").open("ab")
        self.daemon = subprocess.Popen([*self.rig.enter(self.holder), str(self.rig.bin / "cman"),
                                        *([] if realtime else ["-P"])],
                                       env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        log.close()

    def spare_us(self) -> None:
        """A cman that starts ends the clients of the one before; here the test's own process may be one of them."""
        users = self.socket.with_name(f"{self.socket.name}.users")
        if users.exists():
            users.write_text("".join(f"{line}\n" for line in users.read_text().splitlines()
                                     if not line.startswith(f"{os.getpid()} ")))

    def log(self) -> str:
        return (self.folder / "cman.log").read_text()

    def kill(self, number: int = signal.SIGKILL) -> None:
        assert self.daemon is not None
        self.daemon.send_signal(number)
        if number not in (signal.SIGSTOP, signal.SIGCONT):
            self.daemon.wait(LIMIT_S)

    def cluster(self) -> Cluster:
        with Asker(self.socket) as cman:
            return cman.cluster()

    def cut(self, on: bool) -> None:
        """Pull this node's cable, or plug it in."""
        self.rig.inside(self.rig.switch, ["ip", "link", "set", f"v{self.nodeid}", "down" if on else "up"])


class Rig:
    """The machine room. `with Rig(...)`: whatever happened, nothing is left."""

    def __init__(self, folder: Path, bin_dir: Path, names: Iterable[str]) -> None:
        self.folder, self.bin = folder, bin_dir
        self._holders: list[subprocess.Popen[bytes]] = []
        places = {name: f"192.168.12.{i}" for i, name in enumerate(names, 1)}
        self.hosts = folder / "hosts"
        self.hosts.write_text("127.0.0.1 localhost\n" + "".join(f"{a} {n}\n" for n, a in places.items()))
        self.key = folder / "cluster.key"
        self.key.write_bytes(os.urandom(64))
        self.key.chmod(0o600)
        self.switch = self.hold()
        for command in (["ip", "link", "add", "br0", "type", "bridge", "mcast_snooping", "0"],
                        ["ip", "link", "set", "br0", "up"]):
            self.inside(self.switch, command)
        self.nodes = [NodeRig(self, name, i, address) for i, (name, address) in enumerate(places.items(), 1)]

    def hold(self) -> subprocess.Popen[bytes]:
        holder = subprocess.Popen(_HOLD, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        self._holders.append(holder)
        own = os.readlink("/proc/self/ns/net")
        wait_for("a namespace", lambda: os.readlink(f"/proc/{holder.pid}/ns/net") != own
                 and Path(f"/proc/{holder.pid}/comm").read_text() == "cat\n")
        return holder

    @staticmethod
    def enter(holder: subprocess.Popen[bytes]) -> list[str]:
        return ["nsenter", "--target", str(holder.pid), "--net", "--mount", "--uts", "--"]

    def inside(self, holder: subprocess.Popen[bytes], command: list[str]) -> None:
        done = subprocess.run([*self.enter(holder), *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"

    def configure(self, version: int = 1, extra: str = "", votes: int = 1) -> str:
        """Give every node a cluster.conf of all nodes; its text."""
        text = self.config_text(version, extra, votes)
        for node in self.nodes:
            node.config.write_text(text)
        return text

    def config_text(self, version: int, extra: str = "", votes: int = 1) -> str:
        if "<totem" not in extra:
            extra += f'  <totem keyfile="{self.key}"/>\n'
        rows = "".join(f'    <clusternode name="{n.name}" nodeid="{n.nodeid}" votes="{votes}"/>\n' for n in self.nodes)
        return (f'<?xml version="1.0"?>\n<cluster name="mycluster" config_version="{version}">\n  <clusternodes>\n'
                f"{rows}  </clusternodes>\n{extra}</cluster>\n")

    def wait_members(self, nodes: Iterable[NodeRig], among: Iterable[NodeRig] | None = None) -> float:
        """Until each of `nodes` is in a ring of exactly `among` (default: them) and agrees on its configuration."""
        nodes = list(nodes)
        wanted = [n.nodeid for n in (nodes if among is None else among)]

        def formed() -> bool:
            states = [n.cluster() for n in nodes]
            return (all(s.members == wanted and s.state == "Cluster-Member" for s in states)
                    and len({s.generation for s in states}) == 1)

        return wait_for(f"a ring of {wanted}", formed)

    def logs(self) -> str:
        return "\n".join(f"--- {n.name}\n{n.log() if (n.folder / 'cman.log').exists() else ''}" for n in self.nodes)

    def __enter__(self) -> Rig:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        for node in self.nodes:
            try:
                pid = socket_pid(node)
            except (CmanError, OSError):
                pid = 0
            if node.daemon is not None and node.daemon.poll() is None:
                node.daemon.kill()
                node.daemon.wait(LIMIT_S)
            elif pid:
                os.kill(pid, signal.SIGKILL)
        for holder in self._holders:
            holder.kill()
            holder.wait(LIMIT_S)
            assert holder.stdin is not None
            holder.stdin.close()
        if kind is not None:
            print(self.logs())


def socket_pid(node: NodeRig) -> int:
    """The process that serves a node's control socket: one that a command has started. Raises Unreachable."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
        try:
            s.connect(str(node.socket))
        except OSError as e:
            raise Unreachable(str(e)) from None
        return int.from_bytes(s.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[:4], "little")
