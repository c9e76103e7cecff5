"""What clients can ask of the daemon: each operation of the control socket, and what they are told unasked."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import trio

from cman import cpg, protocol
from cman.ccs import spread, store
from cman.ccs.load import Config, load
from cman.ccs.problems import ConfigError
from cman.ccs.settings import VOTES_MAX
from cman.fence.domain import FenceOver
from cman.fence.shell import Shell
from cman.leftovers import start_ticks
from cman.node import NodeMachine, State
from cman.protocol import Arguments, CmanError
from cman.qdisk.shell import QuorumDisk
from cman.server import Client, Handler
from cman.views import Cluster, FenceDomainView, VictimView

log = logging.getLogger("cman.CMAN")

# Of the protocol between nodes; RHEL 5's cman was 6.2.0, with which this one cannot be mixed.
VERSION = "7.0.0"
PORT_MAX = 255
# A client's mcast waits for room in the send queue; others are served meanwhile.
_NOTHING: Mapping[str, object] = {}


class Owner(Protocol):
    """The daemon, as the handlers see it."""

    node: NodeMachine
    addresses: Mapping[int, str]
    config_path: Path

    def now(self) -> int: ...                               # monotonic ns
    def pump(self) -> None: ...                             # do the machine's effects
    async def room(self) -> None: ...                       # until the send queue has room again
    async def finished(self, number: int) -> spread.Finished: ...
    async def ended(self) -> None: ...
    def multicast_address(self) -> str: ...
    def users_changed(self, users: Sequence[Use]) -> None: ...    # raises OSError
    fencing: Shell
    disk: QuorumDisk
    def set_debug(self, level: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Use:
    """A subsystem that a client has registered."""

    name: str
    pid: int


class Handlers:
    """State that belongs to clients, and the table of operations."""

    def __init__(self, owner: Owner, clients: Mapping[int, Client]) -> None:
        self._owner, self._clients = owner, clients
        self._released = trio.Event()
        self._told: Cluster | None = None
        # Of connections that ended without giving them back: the process may live on.
        self._lost: list[Use] = []

    def table(self) -> dict[str, Handler]:
        return {"cluster": self.cluster, "nodes": self.nodes, "version": self.version, "config": self.config,
                "config-update": self.config_update, "config-reload": self.config_reload, "subscribe": self.subscribe,
                "join": self.join, "leave": self.leave, "mcast": self.mcast, "register": self.register,
                "unregister": self.unregister, "services": self.services, "leave-cluster": self.leave_cluster,
                "kill": self.kill, "votes": self.votes, "expected": self.expected, "fenced": self.fenced,
                "fence": self.fence, "fence-domain": self.fence_domain, "qdisk": self.qdisk, "debug": self.debug}

    # What is so

    def in_use(self) -> list[Use]:
        return [Use(name, c.pid) for c in self._clients.values() for name in c.subsystems]

    def _now(self) -> Cluster:
        ports = sorted({0} | {p for c in self._clients.values() for p in c.subsystems.values() if p is not None})
        # cman itself counts as one.
        return self._owner.node.cluster(1 + len(self.in_use()), ports, self._owner.multicast_address(),
                                        self._owner.addresses)

    async def cluster(self, client: Client, arguments: Arguments) -> Mapping[str, object]:
        return dataclasses.asdict(self._now())

    async def nodes(self, client: Client, arguments: Arguments) -> Mapping[str, object]:
        return {"nodes": [dataclasses.asdict(n) for n in self._owner.node.nodes(self._owner.addresses)]}

    async def version(self, client: Client, arguments: Arguments) -> Mapping[str, object]:
        return {"version": VERSION, "config_version": self._owner.node.config.version}

    async def services(self, client: Client, arguments: Arguments) -> Mapping[str, object]:
        return {"groups": [{"name": name, "members": [list(m) for m in members]}
                           for name, members in self._owner.node.groups.groups().items()],
                "subsystems": [dataclasses.asdict(u) for u in self.in_use()]}

    async def subscribe(self, client: Client, arguments: Arguments) -> Mapping[str, object]:
        client.subscribed = True
        return dataclasses.asdict(self._now())

    def changed(self) -> None:
        """Tell those who watch, if there is something new."""
        now = self._now()
        if now == self._told:
            return
        self._told = now
        data = protocol.frame({"event": "cluster", **dataclasses.asdict(now)})
        for client in list(self._clients.values()):
            if client.subscribed:
                client.push(data)

    # Configuration

    async def config(self, client: Client, arguments: Arguments) -> Mapping[str, object]:
        config = self._owner.node.config
        return {"name": config.name, "version": config.version, "text": config.source}

    async def config_update(self, client: Client, arguments: Arguments) -> Mapping[str, object]:
        data = protocol.blob(arguments, "data", protocol.MESSAGE_MAX_BYTES)
        try:
            return await self._propose(load(data, "the proposed configuration"))
        except ConfigError as e:
            raise CmanError(protocol.BAD_ARGUMENT, str(e)) from None

    async def config_reload(self, client: Client, arguments: Arguments) -> Mapping[str, object]:
        try:
            return await self._propose(store.load_file(self._owner.config_path))
        except ConfigError as e:
            raise CmanError(protocol.BAD_ARGUMENT, str(e)) from None

    async def _propose(self, config: Config) -> Mapping[str, object]:
        node = self._owner.node
        self._need_member()
        if not node.quorum.quorate:
            raise CmanError(protocol.FAILED, "the cluster is not quorate: its configuration cannot be changed")
        if config.version <= node.config.version:
            raise CmanError(protocol.NOT_NEWER,
                            f"version {config.version} is not greater than {node.config.version}")
        if why := node.spread.why_not(config):
            raise CmanError(protocol.FAILED, why)
        try:
            number = node.propose(config, self._owner.now())
        except ValueError as e:
            raise CmanError(protocol.BUSY, str(e)) from None
        self._owner.pump()
        done = await self._owner.finished(number)
        if done.error:
            raise CmanError(protocol.NOT_NEWER if done.not_newer else protocol.FAILED, done.error)
        return {"old": done.old, "new": done.new,
                "failed": [[node.name_of(n), why] for n, why in sorted(done.failed.items())]}

    # Groups

    def _need_member(self) -> None:
        if not self._owner.node.ready:
            leaving = self._owner.node.state is State.LEAVING
            raise CmanError(protocol.NOT_MEMBER,
                            f"this node is {'leaving the cluster' if leaving else 'not a member of the cluster yet'}")

    async def join(self, client: Client, arguments: Arguments) -> Mapping[str, object]:
        group = protocol.text(arguments, "group", protocol.GROUP_NAME_MAX)
        self._need_member()
        if group in client.groups:
            raise CmanError(protocol.EXISTS, f"this client is in group {group} already")
        if len(client.groups) >= protocol.GROUPS_PER_CLIENT_MAX:
            raise CmanError(protocol.BUSY, f"this client is in {len(client.groups)} groups already")
        try:
            self._owner.node.join_group(group, client.number, self._owner.now())
        except cpg.CpgError as e:
            raise CmanError(protocol.FAILED, str(e)) from None
        client.groups[group] = None
        self._owner.pump()
        return {"member": [self._owner.node.me, client.number]}

    async def leave(self, client: Client, arguments: Arguments) -> Mapping[str, object]:
        group = protocol.text(arguments, "group", protocol.GROUP_NAME_MAX)
        if group not in client.groups:
            raise CmanError(protocol.NOT_FOUND, f"this client is not in group {group}")
        self._need_member()
        del client.groups[group]
        self._owner.node.leave_group(group, client.number, self._owner.now())
        self._owner.pump()
        return _NOTHING

    async def mcast(self, client: Client, arguments: Arguments) -> Mapping[str, object]:
        group = protocol.text(arguments, "group", protocol.GROUP_NAME_MAX)
        data = protocol.blob(arguments, "data", protocol.MCAST_MAX_BYTES)
        if group not in client.groups:
            raise CmanError(protocol.NOT_FOUND, f"this client is not in group {group}")
        self._need_member()
        while not self._owner.node.mcast(group, client.number, data, self._owner.now()):
            self._owner.pump()
            await self._owner.room()
            self._need_member()
        self._owner.pump()
        return _NOTHING

    def group_message(self, effect: cpg.GroupMessage) -> None:
        data = protocol.frame({"event": "deliver", "group": effect.group, "sender": list(effect.sender),
                               "data": effect.payload, "late": effect.late})
        for number in effect.to:
            if (client := self._clients.get(number)) is not None:
                client.push(data)

    def group_change(self, effect: cpg.GroupChange) -> None:
        for number in effect.to:
            if (client := self._clients.get(number)) is not None:
                client.push(protocol.frame({
                    "event": "configuration", "group": effect.group, "me": [self._owner.node.me, number],
                    "members": [list(m) for m in effect.members],
                    "joined": [[list(m), int(r)] for m, r in effect.joined],
                    "left": [[list(m), int(r)] for m, r in effect.left],
                    "view": [*effect.ring_id, effect.place]}))

    # Subsystems and the end

    async def register(self, client: Client, arguments: Arguments) -> Mapping[str, object]:
        name = protocol.text(arguments, "subsystem")
        port = protocol.whole(arguments, "port", 0, PORT_MAX) if "port" in arguments else None
        self._need_member()
        if name in client.subsystems:
            raise CmanError(protocol.EXISTS, f"{name} is registered already")
        if len(client.subsystems) >= protocol.SUBSYSTEMS_PER_CLIENT_MAX:
            raise CmanError(protocol.BUSY, f"{len(client.subsystems)} subsystems are registered already")
        client.subsystems[name] = port
        try:
            self._write_down()
        except OSError as e:
            del client.subsystems[name]
            raise CmanError(protocol.FAILED, f"{name} cannot be written down: {e.strerror} ({e.filename})") from None
        self._owner.node.dirty = True
        self.changed()
        return _NOTHING

    async def unregister(self, client: Client, arguments: Arguments) -> Mapping[str, object]:
        name = protocol.text(arguments, "subsystem")
        if client.subsystems.pop(name, -1) == -1:
            raise CmanError(protocol.NOT_FOUND, f"{name} is not registered")
        self._release()
        return _NOTHING

    def _write_down(self) -> None:
        """For a later cman of this node (cman.leftovers). Raises OSError."""
        self._lost = [u for u in self._lost if start_ticks(u.pid) is not None]
        self._owner.users_changed(self.in_use() + self._lost)

    def _release(self) -> None:
        with contextlib.suppress(OSError):      # a line too many names a process that has ended
            self._write_down()
        self._released.set()
        self._released = trio.Event()
        self.changed()

    def gone(self, client: Client) -> None:
        """A connection has ended: the client leaves its groups with PROCDOWN, and what it registered is free."""
        for name in client.subsystems:
            log.warning("subsystem %s of pid %d has gone without a word", name, client.pid)
            self._lost.append(Use(name, client.pid))
        self._owner.node.process_gone(client.number, self._owner.now())
        self._owner.pump()
        if client.subsystems:
            self._release()

    async def wait_released(self) -> None:
        """Until no subsystem is registered."""
        while self.in_use():
            log.warning("leaving as soon as these are released: %s", self._users())
            await self._released.wait()

    def _users(self) -> str:
        return ", ".join(f"{u.name} (pid {u.pid})" for u in self.in_use())

    async def leave_cluster(self, client: Client, arguments: Arguments) -> Mapping[str, object]:
        remove, force = protocol.switch(arguments, "remove"), protocol.switch(arguments, "force")
        if self.in_use() and not force:
            raise CmanError(protocol.BUSY, f"subsystems are in use: {self._users()}")
        self.begin_leave(remove)
        await self._owner.ended()
        return _NOTHING

    def begin_leave(self, remove: bool) -> None:
        self._owner.node.control(self._owner.now(), t="leave", remove=remove)
        self._owner.pump()

    def _find(self, name: str) -> int:
        found = self._owner.node.config.node(name)
        if found is None:
            raise CmanError(protocol.NOT_FOUND, f"no node {name}")
        return found.nodeid

    async def kill(self, client: Client, arguments: Arguments) -> Mapping[str, object]:
        nodeid = self._find(protocol.text(arguments, "node"))
        self._need_member()
        if nodeid not in self._owner.node.members:
            raise CmanError(protocol.NOT_FOUND, f"{self._owner.node.name_of(nodeid)} is not a member")
        self._owner.node.control(self._owner.now(), t="kill", node=nodeid)
        self._owner.pump()
        return _NOTHING

    async def votes(self, client: Client, arguments: Arguments) -> Mapping[str, object]:
        votes = protocol.whole(arguments, "votes", 0, VOTES_MAX)
        nodeid = self._find(protocol.text(arguments, "node")) if "node" in arguments else self._owner.node.me
        self._need_member()
        try:
            self._owner.node.config.quorum({nodeid: votes})
        except ValueError as e:
            raise CmanError(protocol.BAD_ARGUMENT, str(e)) from None
        self._owner.node.control(self._owner.now(), t="votes", node=nodeid, votes=votes)
        self._owner.pump()
        return _NOTHING

    async def expected(self, client: Client, arguments: Arguments) -> Mapping[str, object]:
        quorum = self._owner.node.quorum
        most = max(sum(quorum.config.votes.values()) + quorum.config.qdisk_votes, quorum.total_votes)
        votes = protocol.whole(arguments, "votes", 1, most)
        self._need_member()
        self._owner.node.control(self._owner.now(), t="expected", votes=votes)
        self._owner.pump()
        return _NOTHING

    async def fenced(self, client: Client, arguments: Arguments) -> Mapping[str, object]:
        """Fencing of a node is confirmed: its votes count no more, and what waits for that may go on."""
        nodeid, agent = self._find(protocol.text(arguments, "node")), protocol.text(arguments, "by")
        self._need_member()
        if nodeid in self._owner.node.members:
            raise CmanError(protocol.BUSY, f"{self._owner.node.name_of(nodeid)} is a member")
        self._owner.node.control(self._owner.now(), t="fenced", node=nodeid, by=agent)
        self._owner.pump()
        return _NOTHING

    async def fence(self, client: Client, arguments: Arguments) -> Mapping[str, object]:
        """Have this node fence another, whatever that is; answered when the agents are through."""
        nodeid = self._find(protocol.text(arguments, "node"))
        self._need_member()
        if nodeid == self._owner.node.me:
            raise CmanError(protocol.BAD_ARGUMENT, "a node does not fence itself")
        try:
            self._owner.node.ask_fence(nodeid, self._owner.now())
        except ValueError as e:
            raise CmanError(protocol.FAILED, str(e)) from None
        async with trio.open_nursery() as nursery:      # wait first: the effects may end it at once
            told: list[FenceOver] = []

            async def wait() -> None:
                told.append(await self._owner.fencing.wait(nodeid))

            nursery.start_soon(wait)
            await trio.lowlevel.checkpoint()
            self._owner.pump()
        if not told[0].success:
            raise CmanError(protocol.FAILED, told[0].says)
        return {"by": told[0].says}

    async def fence_domain(self, client: Client, arguments: Arguments) -> Mapping[str, object]:
        domain, now = self._owner.node.fence, self._owner.now()
        return dataclasses.asdict(FenceDomainView(
            list(domain.members), domain.master, domain.acting,
            [VictimView(v.nodeid, domain.name(v.nodeid), v.lost, v.stage.value, v.claimed_by, v.tries, v.says,
                        domain.waits_for(v), max(0, now - v.since_ns) // 1_000_000)
             for v in domain.victims.values()], list(domain.history)))

    async def qdisk(self, client: Client, arguments: Arguments) -> Mapping[str, object]:
        return dataclasses.asdict(self._owner.disk.view())

    async def debug(self, client: Client, arguments: Arguments) -> Mapping[str, object]:
        self._owner.set_debug(protocol.whole(arguments, "level", 0, 255))
        return _NOTHING
