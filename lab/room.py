"""Pid 1 of the room: the bridge, the machines' power, the power switch, and the socket that `lab` speaks to.

It lives in namespaces of its own (pid, network, mounts, host name, IPC); the machines' are below it. Requests and
answers are JSON, one packet each, over BASE/NAME/control:

    {"op": "power", "action": "off", "node": "web2"}   ->   {"ok": true} or {"error": "one line"}

`enter` also hands over a pidfd of the node's pid 1: that is all it takes to run something there.
"""

from __future__ import annotations

import array
import json
import os
import random
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import trio

from lab import foreign, rootfs, syscalls, wti
from lab.delay import Relay
from lab.errors import LabError
from lab.machine import Machine
from lab.network import Faults, Pair, between, bridge_batch, everyone, nft_rules
from lab.place import Place
from lab.spec import needed_paths, specs
from lab.topology import SWITCH_ADDRESS, Topology, from_json

PACKET_BYTES_MAX = 64 << 10
CLIENTS_MAX = 64
TELNET_PORT = 23
# Source: kernel/pid_namespace.c reboot_pid_ns.
_REBOOT_SIGNALS: dict[int, str] = {signal.SIGHUP: "reboot", signal.SIGINT: "poweroff"}

Request = dict[str, Any]
Answer = dict[str, object]


def say(text: str) -> None:
    """A line of room.log."""
    now = time.time()
    print(time.strftime("%H:%M:%S", time.localtime(now)) + f".{int(now % 1 * 1000):03d} {text}", flush=True)


async def run_tool(command: list[str], text: str) -> None:
    """Run a tool of the host's in the room's namespaces. Raises LabError with what it said."""
    try:
        done = await trio.run_process(command, stdin=text.encode(), capture_stdout=True, capture_stderr=True,
                                      check=False)
    except FileNotFoundError:
        raise LabError(f"{command[0]} is not installed") from None
    if done.returncode:
        raise LabError(f"{' '.join(command)}: {done.stderr.decode(errors='replace').strip()}")


class Room:
    """All of it."""

    def __init__(self, place: Place, topology: Topology, nursery: trio.Nursery) -> None:
        self.place = place
        self.topology = topology
        self.faults = Faults()
        self._nursery = nursery
        self._net_lock = trio.Lock()
        self._relay = trio.CancelScope()
        self._rng = random.Random()
        nodes = specs(place, topology)
        self.machines = {n.name: Machine(n, place, topology, nodes[n.name], run_tool) for n in topology.machines}
        self._ops: dict[str, Callable[[Request], Awaitable[Answer]]] = {
            "status": self._status, "power": self._power, "freeze": self._freeze, "partition": self._partition,
            "heal": self._heal, "loss": self._loss, "delay": self._delay}

    # -- machines

    async def boot(self, name: str) -> None:
        machine = self.machines[name]
        start = time.monotonic()
        await machine.boot()
        say(f"{name}: up in {(time.monotonic() - start) * 1000:.0f} ms")
        self._nursery.start_soon(self._watch, machine)
        if self.faults.delays:
            self._relay_anew()

    async def _watch(self, machine: Machine) -> None:
        """What a machine does of itself: crash, power off, reboot. A kill by us is somebody else's business."""
        boots = machine.boots
        why = await machine.watch()
        async with machine.lock:
            if machine.boots != boots or machine.state != "up":
                return
            try:
                await machine.kill()
                # reboot(2) of a process in the node ends its pid 1 by a signal that says what was asked for.
                why = why or _REBOOT_SIGNALS.get(machine.ended_by, "")
                if why not in ("reboot", "poweroff"):
                    self._crashed(machine, why or "pid 1 was killed")
                    return
                say(f"{machine.node.name}: {why}")
                if why == "reboot":
                    await self.boot(machine.node.name)
            except (LabError, OSError) as e:
                say(f"error: {machine.node.name}: {e}")

    @staticmethod
    def _crashed(machine: Machine, why: str) -> None:
        """It hangs, as a machine after a panic: under power until the switch takes it away."""
        machine.power, machine.state = True, f"crashed ({why})"
        say(f"{machine.node.name}: crashed: {why}")

    async def power(self, name: str, action: str) -> None:
        """on, off, cycle or crash; returns when it is done. Raises LabError."""
        machine = self.machines[self.topology.machine(name).name]
        if action not in ("on", "off", "cycle", "boot", "crash"):
            raise LabError(f"power {action!r}: on, off, cycle, crash or status")
        async with machine.lock:
            if action == "crash":
                machine.pid()
                await machine.kill()
                self._crashed(machine, "by request")
                return
            if action != "on":
                was = machine.state
                await machine.kill()
                say(f"{name}: power off (was {was})")
            if action != "off" and not machine.power:
                await self.boot(name)

    # -- requests

    async def answer(self, request: Request) -> Answer:
        """Never raises for a wrong request: the answer says what is wrong."""
        try:
            operation = self._ops.get(str(request.get("op")))
            if operation is None:
                raise LabError(f"unknown request {request.get('op')!r}")
            return {"ok": True, **await operation(request)}
        except LabError as e:
            return {"error": str(e)}
        except OSError as e:
            return {"error": f"{e.filename or ''} {e.strerror or e}".strip()}
        except (KeyError, TypeError, ValueError) as e:
            return {"error": f"bad request: {e!r}"}

    async def _status(self, _: Request) -> Answer:
        return {"name": self.place.name, "cluster": self.topology.cluster, "disk": self.topology.disk_kind,
                "switch": SWITCH_ADDRESS, "machines": [m.status() for m in self.machines.values()],
                "faults": self.faults.as_json()}

    async def _power(self, request: Request) -> Answer:
        name, action = str(request["node"]), str(request["action"])
        # Somebody who switches a crashed machine on presses its reset button as well; the power switch has no finger.
        if action == "on" and self.machines[self.topology.machine(name).name].crashed:
            action = "cycle"
        await self.power(name, action)
        return {}

    async def _freeze(self, request: Request) -> Answer:
        machine = self.machines[self.topology.machine(str(request["node"])).name]
        async with machine.lock:
            await machine.freeze(bool(request["frozen"]))
        say(f"{machine.node.name}: {'frozen' if machine.frozen else 'thawed'}")
        return {}

    def _groups(self, request: Request) -> list[list[str]]:
        """Raises LabError for a name that is not in the room."""
        groups = [[str(n) for n in group] for group in request["groups"]]
        known = everyone(self.topology)
        for name in (n for group in groups for n in group):
            if name not in known:
                raise LabError(f"there is no {name} in this room: it has {' '.join(known)}")
        return groups

    def _pairs(self, request: Request) -> list[Pair]:
        """Which pairs a request is about; without groups all of them."""
        groups = self._groups(request) or [[name] for name in everyone(self.topology)]
        return between(groups, one_way=bool(request.get("one_way")))

    async def _apply(self, faults: Faults, what: str) -> Answer:
        async with self._net_lock:
            await run_tool(["nft", "-j", "-f", "-"], json.dumps(nft_rules(self.topology, faults)))
            self.faults = faults
            self._relay_anew()
        say(f"network: {what}")
        return {"faults": faults.as_json()}

    async def _partition(self, request: Request) -> Answer:
        pairs = self._pairs(request)
        return await self._apply(self.faults.cut(pairs), f"cut {request['groups']}")

    async def _heal(self, request: Request) -> Answer:
        pairs = self._pairs(request) if request.get("groups") else None
        return await self._apply(self.faults.heal(pairs), "healed")

    async def _loss(self, request: Request) -> Answer:
        percent = float(request["percent"])
        return await self._apply(self.faults.lose(self._pairs(request), percent), f"loss {percent:g} %")

    async def _delay(self, request: Request) -> Answer:
        milliseconds = float(request["milliseconds"])
        return await self._apply(self.faults.delay(self._pairs(request), milliseconds), f"delay {milliseconds:g} ms")

    def _relay_anew(self) -> None:
        """After a change of the faults or of the ports."""
        self._relay.cancel()
        self._relay = trio.CancelScope()
        if self.faults.delays:
            self._nursery.start_soon(self._carry, self._relay, self.faults)

    async def _carry(self, scope: trio.CancelScope, faults: Faults) -> None:
        with scope:
            try:
                await Relay(self.topology, faults, self._rng).run()
            except* OSError as group:
                say(f"error: delayed packets are not carried: {_first(group)}")

    def enter(self, request: Request) -> tuple[Answer, list[int]]:
        """What a process needs to go into a node: a pidfd of its pid 1, and the cgroup. Raises LabError."""
        machine = self.machines[self.topology.machine(str(request.get("node"))).name]
        if machine.frozen:
            raise LabError(f"{machine.node.name} is frozen: nothing can be started there before `lab thaw`")
        return {"ok": True, "cgroup": machine.group}, [os.pidfd_open(machine.pid())]

    # -- sockets

    async def serve_control(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        listener = trio.socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        old_mask = os.umask(0o177)
        try:
            await listener.bind(str(self.place.control))
        finally:
            os.umask(old_mask)
        listener.listen(CLIENTS_MAX)
        task_status.started()
        clients = trio.CapacityLimiter(CLIENTS_MAX)
        while True:
            client, _ = await listener.accept()
            self._nursery.start_soon(self._serve_client, client, clients)

    async def _serve_client(self, client: trio.socket.SocketType, clients: trio.CapacityLimiter) -> None:
        async with clients:
            with client:
                try:
                    while packet := await client.recv(PACKET_BYTES_MAX):
                        await self._serve_packet(client, packet)
                except OSError:
                    return                  # it went away: its request has been carried out all the same

    async def _serve_packet(self, client: trio.socket.SocketType, packet: bytes) -> None:
        fds: list[int] = []
        answer: Answer
        try:
            request = json.loads(packet)
            if not isinstance(request, dict):
                raise ValueError("not an object")
        except ValueError as e:
            answer = {"error": f"not a request: {e}"}
        else:
            if request.get("op") == "enter":
                try:
                    answer, fds = self.enter(request)
                except (LabError, OSError) as e:
                    answer = {"error": str(e)}
            else:
                answer = await self.answer(request)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            await client.sendmsg([json.dumps(answer).encode()], ancillary)
        finally:
            for fd in fds:
                os.close(fd)

    def plugs(self) -> list[wti.Plug]:
        return [wti.Plug(m.node.plug, m.node.name, m.power) for m in self.machines.values()]

    async def serve_switch(self, sessions: trio.CapacityLimiter, stream: trio.SocketStream) -> None:
        """A telnet session at the power switch; too many at once are turned away, as a real one does."""
        if sessions.available_tokens < 1:
            await stream.aclose()
            return
        async with sessions, stream:
            session = wti.Session(self.plugs, self.topology.switch_password)
            try:
                await self._switch_session(session, stream)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                say("power switch: a session broke off")

    async def _switch_session(self, session: wti.Session, stream: trio.SocketStream) -> None:
        while True:
            out = bytes(session.out)
            session.out.clear()
            if out:
                await stream.send_all(out)
            if session.effects:
                effect = session.effects.pop(0)
                error = ""
                try:
                    say(f"power switch: {effect.action} {effect.name}")
                    await self.power(effect.name, effect.action)
                except (LabError, OSError) as e:
                    error = str(e)
                session.done(error)
                continue
            if session.closed:
                return
            data = await stream.receive_some(4096)
            if not data:
                return
            session.feed(data)


async def _main(place: Place, topology: Topology, notify: int) -> None:
    def tell(**event: object) -> None:
        """To the builder, who may be gone."""
        try:
            os.write(notify, json.dumps(event).encode() + b"\n")
        except BrokenPipeError:
            say("the builder is gone")

    async def first_boot(room: Room, name: str) -> None:
        await room.boot(name)
        tell(event="up", node=name)

    await run_tool(["ip", "-batch", "-"], bridge_batch())
    await run_tool(["nft", "-j", "-f", "-"], json.dumps(nft_rules(topology, Faults())))
    async with trio.open_nursery() as nursery:
        room = Room(place, topology, nursery)
        listeners = await trio.open_tcp_listeners(TELNET_PORT, host=SWITCH_ADDRESS)
        nursery.start_soon(partial(trio.serve_listeners,
                                   partial(room.serve_switch, trio.CapacityLimiter(wti.SESSIONS_MAX)), listeners))
        async with trio.open_nursery() as boots:
            for name in room.machines:
                boots.start_soon(first_boot, room, name)
        await nursery.start(room.serve_control)
        tell(event="ready")
        os.close(notify)


def main(place: Place, notify: int) -> int:
    """Runs until it is killed; returns only when the room could not be built."""
    syscalls.set_name("lab-room")
    try:
        topology = from_json((place.path / "topology.json").read_text())
        syscalls.unshare(syscalls.CLONE_NEWNS | syscalls.CLONE_NEWNET | syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWIPC)
        rootfs.private_mounts()
        foreign.drop_fuse(needed_paths(place, topology))
        syscalls.mount("proc", "/proc", "proc", syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC)
        socket.sethostname(f"lab-{place.name}"[:64])
        for name in ("all", "default"):
            path = f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6"
            if os.path.exists(path):
                with open(path, "w") as f:
                    f.write("1")
        trio.run(_main, place, topology, notify)
    except* LabError as group:
        _failed(notify, str(_first(group)))
    except* OSError as group:
        error = _first(group)
        assert isinstance(error, OSError)
        _failed(notify, f"{error.filename or ''} {error.strerror or error}".strip())
    return 1


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    """Of errors that happened together, one is enough for a person."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _failed(notify: int, why: str) -> None:
    say(f"error: {why}")
    try:
        os.write(notify, json.dumps({"event": "failed", "why": why}).encode() + b"\n")
    except OSError:
        say("the builder is gone")


