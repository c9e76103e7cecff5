"""The room as an object: building it, everything that can be done to it, taking it away.

For a test:

    with Lab(guide_topology(nodes=2)) as room:
        room.exec("web1", ["mkfs.gfs2", "-O", "-p", "lock_nolock", "/dev/sdb5"], check=True)

A room that is used this way goes when the process that made it ends, however it ends. `up(attached=False)` makes one
that stays.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from lab import build, keeper, loops, network, remains, throttle
from lab.build import Progress
from lab.errors import LabError
from lab.place import DEFAULT_NAME, Place
from lab.rootfs import KEPT
from lab.spec import project_commands
from lab.topology import Topology, from_json, guide_topology

ANSWER_TIMEOUT_S = 120.0
PACKET_BYTES_MAX = 64 << 10
START = Path(__file__).with_name("start.py")


class Lab:
    """One room. Without a name it gets one of its own, so that rooms do not meet."""

    def __init__(self, topology: Topology | None = None, *, name: str = "", base: str = "",
                 progress: Progress | None = None) -> None:
        self.place = Place(name or f"room-{secrets.token_hex(4)}", base)
        self._topology = topology
        self._progress = progress or (lambda _: None)
        self._leash = -1
        self._keeper: subprocess.Popen[bytes] | None = None

    @classmethod
    def existing(cls, name: str = DEFAULT_NAME, base: str = "") -> Self:
        """A room that somebody else built. Raises LabError when it is not up."""
        room = cls(name=name, base=base)
        if not room.is_up():
            raise LabError(f"room {name} is not up" + (": it has crashed, `lab down` takes it away"
                                                       if room.place.exists() else ": `lab up` builds it"))
        room._topology = from_json((room.place.path / "topology.json").read_text())
        return room

    @property
    def topology(self) -> Topology:
        if self._topology is None:
            self._topology = guide_topology()
        return self._topology

    def is_up(self) -> bool:
        return len(self.place.processes()) == 2 and self.place.control.exists()

    # -- up and down

    def up(self, *, attached: bool = True) -> Self:
        """Build the room and boot everything. Raises LabError; nothing is left then.

        `attached`: the room goes when this process ends.
        """
        room = self.topology
        build.check_host(room)
        with self.place.locked():
            if self.place.processes():
                raise LabError(f"room {self.place.name} is up already: `lab status`, or `lab down` before a new one")
            if (self.place.path / "topology.json").exists():
                self._progress("taking away what a crashed room has left")
                remains.clean(self.place)
            try:
                self._progress("disks and files")
                build.make_directories(self.place, room)
                build.make_images(self.place, room)
                build.attach_disks(self.place, room)
                build.fill_homes(self.place, room)
                self._start_keeper()
                if not attached:
                    self.let_go()
            except BaseException as e:
                # Killed before the leash goes: it would come to clean up as well, and wait for us.
                if self._keeper is not None:
                    self._keeper.kill()
                self._close_leash()
                self._reap_keeper()
                remains.clean(self.place)
                if isinstance(e, OSError):
                    raise LabError(f"{e.filename or ''} {e.strerror or e}".strip()) from e
                raise
        return self

    def _start_keeper(self) -> None:
        """Start the room's processes and wait until all machines are up. Raises LabError."""
        end, self._leash = os.pipe()
        events, notify = os.pipe()
        try:
            with open(self.place.path / "room.log", "ab") as log:
                self._keeper = subprocess.Popen(
                    [sys.executable, "-m", "lab.keeper", str(self.place.path), str(notify)], stdin=end, stdout=log,
                    stderr=log, pass_fds=(notify,), start_new_session=True, cwd="/", env=_environment())
            os.close(notify)
            notify = -1
            with os.fdopen(events, "rb") as lines:
                self._follow(lines)
        finally:
            os.close(end)
            if notify >= 0:
                os.close(notify)
                os.close(events)

    def _follow(self, lines: IO[bytes]) -> None:
        for line in lines:
            event = json.loads(line)
            if event["event"] == "up":
                self._progress(f"{event['node']} is up")
            elif event["event"] == "ready":
                return
            else:
                raise LabError(str(event["why"]))
        log = (self.place.path / "room.log").read_text(errors="replace").strip().splitlines()
        raise LabError("the room ended while it was built: " + (log[-1] if log else "it said nothing"))

    def let_go(self) -> None:
        """The room stays when this process ends, for somebody else to take down."""
        os.write(self._leash, keeper.KEEP)
        self._close_leash()

    def down(self, *, keep_disks: bool = False) -> None:
        """Take all of it away, in whatever state it is. Raises LabError when something does not go."""
        with self.place.locked():
            try:
                remains.clean(self.place, keep_disks=keep_disks)
            except OSError as e:
                raise LabError(f"cannot take room {self.place.name} away: {e}") from e
        self._close_leash()
        self._reap_keeper()

    def _close_leash(self) -> None:
        if self._leash >= 0:
            os.close(self._leash)
            self._leash = -1

    def _reap_keeper(self) -> None:
        if self._keeper is not None:
            self._keeper.wait()
            self._keeper = None

    def __enter__(self) -> Self:
        return self.up()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.down()

    # -- asking the room

    def request(self, op: str, **arguments: object) -> dict[str, Any]:
        """One question to the room's pid 1. Raises LabError with its refusal, or when it is gone."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
                s.settimeout(ANSWER_TIMEOUT_S)
                s.connect(str(self.place.control))
                s.send(json.dumps({"op": op, **arguments}).encode())
                data = s.recv(PACKET_BYTES_MAX)
        except TimeoutError:
            raise LabError(f"room {self.place.name}: no answer to {op} in {ANSWER_TIMEOUT_S:.0f} s; see "
                           f"{self.place.path / 'room.log'}") from None
        except OSError as e:
            raise LabError(f"room {self.place.name} is not up: {e.strerror}") from None
        if not data:
            raise LabError(f"room {self.place.name} went away")
        answer: dict[str, Any] = json.loads(data)
        if "error" in answer:
            raise LabError(answer["error"])
        return answer

    def status(self) -> dict[str, Any]:
        answer = self.request("status")
        answer.pop("ok")
        answer["disk_cut"] = self._cut_disks() if self.topology.disk_kind == "loop" else []
        return answer

    # -- in the nodes

    def command(self, node: str, argv: Sequence[str], *, cwd: str = "", env: Mapping[str, str] | None = None,
                tty: bool = False) -> list[str]:
        """The command of the host that runs `argv` in the node."""
        self.topology.machine(node)
        options = ["--tty"] if tty else []
        options += ["--cwd", cwd] if cwd else []
        for name, value in (env or {}).items():
            options += ["--env", f"{name}={value}"]
        return [sys.executable, "-IS", str(START), "enter", str(self.place.control), node, *options, "--", *argv]

    def popen(self, node: str, argv: Sequence[str], *, cwd: str = "", env: Mapping[str, str] | None = None,
              **options: Any) -> subprocess.Popen[Any]:
        """As subprocess.Popen; kill() of it kills the command, power off does too."""
        return subprocess.Popen(self.command(node, argv, cwd=cwd, env=env), **options)

    def exec(self, node: str, argv: Sequence[str], *, check: bool = False, cwd: str = "",
             env: Mapping[str, str] | None = None, **options: Any) -> subprocess.CompletedProcess[str]:
        """As subprocess.run with the output captured as text. Raises LabError with `check` and a failure."""
        options = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL, **options}
        if "input" in options:
            del options["stdin"]
        done = subprocess.run(self.command(node, argv, cwd=cwd, env=env), check=False, **options)
        if check and done.returncode:
            raise LabError(f"{node}: {' '.join(argv)}: status {done.returncode}: "
                           f"{(done.stderr or '').strip() or (done.stdout or '').strip()}")
        return done

    def path(self, node: str, path: str) -> Path:
        """Where the host finds a file of a node's /etc, /var, /root or /srv. Raises LabError for others."""
        self.topology.machine(node)
        parts = Path(path).parts
        if len(parts) < 2 or parts[0] != "/" or parts[1] not in KEPT or ".." in parts:
            raise LabError(f"{path}: only /{', /'.join(KEPT)} of a node lie on the host")
        return self.place.node(node).joinpath(*parts[1:])

    def pid(self, node: str) -> int:
        """The node's pid 1 as the host counts. Raises LabError."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
            s.connect(str(self.place.control))
            s.send(json.dumps({"op": "enter", "node": node}).encode())
            data, fds, _, _ = socket.recv_fds(s, PACKET_BYTES_MAX, 1)
        answer = json.loads(data)
        if "error" in answer:
            raise LabError(answer["error"])
        try:
            lines = Path(f"/proc/self/fdinfo/{fds[0]}").read_text().splitlines()
        finally:
            os.close(fds[0])
        return next(int(line.split()[1]) for line in lines if line.startswith("Pid:"))

    # -- what can happen to them

    def power(self, action: str, *nodes: str) -> None:
        """on, off, cycle, crash (dead, but under power): done when it returns."""
        for node in nodes:
            self.request("power", action=action, node=node)

    def freeze(self, *nodes: str) -> None:
        """Stop every process of the nodes where it stands."""
        for node in nodes:
            self.request("freeze", node=node, frozen=True)

    def thaw(self, *nodes: str) -> None:
        for node in nodes:
            self.request("freeze", node=node, frozen=False)

    def partition(self, *groups: Sequence[str], one_way: bool = False, everything: bool = False) -> None:
        """Cut the network between groups; one way: nothing gets from an earlier group to a later one.

        One group alone is cut off from all other nodes; with `everything` from the storage host and the power switch
        too.
        """
        parts = [list(g) for g in groups]
        if len(parts) == 1:
            others = network.everyone(self.topology) if everything else [n.name for n in self.topology.nodes]
            parts.append([name for name in others if name not in parts[0]])
        self.request("partition", groups=parts, one_way=one_way)

    def heal(self, *groups: Sequence[str]) -> None:
        """The network is whole again: no cut, loss or delay between these groups, or at all."""
        self.request("heal", groups=[list(g) for g in groups])

    def loss(self, percent: float, *groups: Sequence[str], one_way: bool = False) -> None:
        """Lose packets at random between groups, or between all; 0 ends it."""
        self.request("loss", percent=percent, groups=[list(g) for g in groups], one_way=one_way)

    def delay(self, milliseconds: float, *groups: Sequence[str], one_way: bool = False) -> None:
        """Let packets between groups, or all, take longer; 0 ends it."""
        self.request("delay", milliseconds=milliseconds, groups=[list(g) for g in groups], one_way=one_way)

    def _loops(self) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = json.loads((self.place.path / "loops.json").read_text())
        return found

    def _cut_disks(self) -> list[str]:
        limit = "/sys/block/loop{}/loop/sizelimit"
        return [node for node, disks in self._loops().items()
                if any(Path(limit.format(n)).read_text().strip() == str(loops.CUT_BYTES) for n in disks.values())]

    def disk(self, node: str, *, cut: bool) -> None:
        """Pull or plug in a node's cable to the shared disk. iSCSI: its network to the storage host."""
        if self.topology.disk_kind == "iscsi":
            pair = [[node], [self.topology.storage.name]]
            self.request("partition" if cut else "heal", groups=pair)
            return
        self.topology.machine(node)
        numbers = list(self._loops().get(node, {}).values())
        if not cut:
            throttle.lift(numbers)
        for number in numbers:
            loops.limit(number, loops.CUT_BYTES if cut else 0)

    def hang_disk(self, node: str, *disks: str) -> None:
        """What the node asks of these parts of the shared disk, or of all, waits until disk(node, cut=False).

        Switching the node off or on again mends it, too. Raises LabError.
        """
        if self.topology.disk_kind == "iscsi":
            raise LabError("a disk over iSCSI hangs when its network is cut: disk cut")
        self.topology.machine(node)
        found = self._loops().get(node, {})
        if unknown := [d for d in disks if d not in found]:
            raise LabError(f"there is no disk {unknown[0]} in this room: it has {' '.join(found)}")
        throttle.hang([n for d, n in found.items() if not disks or d in disks], remains.room_pids(self.place))

    # -- the cluster

    def start_cluster(self) -> dict[str, subprocess.CompletedProcess[str]]:
        """`service cman start` on all nodes at once; what each said. Raises LabError when a node failed."""
        if "cman" not in project_commands()[1]:
            raise LabError("there is no service cman in this build")
        running = {n.name: self.popen(n.name, ["service", "cman", "start"], stdin=subprocess.DEVNULL,
                                      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
                   for n in self.topology.nodes}
        said = {name: p.communicate()[0] for name, p in running.items()}
        done = {name: subprocess.CompletedProcess(p.args, p.returncode, said[name], "") for name, p in running.items()}
        for name, result in done.items():
            if result.returncode:
                raise LabError(f"{name}: service cman start: {result.stdout.strip()}")
        return done


def _environment() -> dict[str, str]:
    """For the keeper: it runs from /, so the checkout must be found without the current directory."""
    top = str(Path(__file__).resolve().parents[1])
    path = os.environ.get("PYTHONPATH", "")
    return {**os.environ, "PYTHONPATH": f"{top}:{path}" if path else top,
            "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}
