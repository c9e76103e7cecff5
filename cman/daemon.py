"""cman: the cluster manager's daemon, one per node, always in the foreground.

It only wires: configuration and addresses, totem's UDP transport, the NodeMachine that decides everything, the
control socket. SIGTERM leaves the cluster in order as soon as no subsystem is in use; what the node loses without
that (kill -9, power), the others find out by the lost token.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from importlib.metadata import version as version_of
from pathlib import Path

import trio

from cman import cpg, totem
from cman.ask import socket_path
from cman.ccs import spread, store
from cman.ccs.load import Config
from cman.ccs.problems import ConfigError
from cman.fence import domain as fence
from cman.fence.plan import unfencing
from cman.fence.shell import Shell
from cman.handlers import Handlers, Use
from cman.leftovers import Register, Unkillable
from cman.logs import start_log
from cman.network import NetworkError, Place, find_me, locate
from cman.node import Asked, Changed, Effect, Ended, Log, NodeMachine, State, Told
from cman.notify import notify
from cman.qdisk.shell import QuorumDisk
from cman.restart import restart_machine
from cman.server import Server, SocketPlace
from cman.state import StateDirectory, StateError
from cman.totem.crypto import KEY_BYTES_MAX, CryptoError, Sealer, check_key
from cman.totem.transport import Carrier, TransportSettings
from cman.why import Why

log = logging.getLogger("cman.CMAN")

STATE_DIRECTORY = Path("/var/lib/cman")
# For what has to go out at the end.
GOODBYE_S = 0.02
REALTIME_PRIORITY = 10


class Unstartable(Exception):
    """The daemon cannot run; the text is for the operator."""


class Daemon:
    """The owner of the machine: feeds it, and does what it says."""

    def __init__(self, config: Config, place: Place, state: StateDirectory, register: Register,
                 options: argparse.Namespace) -> None:
        """Raises Unstartable, StateError."""
        self.node = NodeMachine(place.me.nodeid, config, state.ring_seq(), lambda: int(time.time()),
                                fencing=not options.no_fencing, given=state.given())
        self.addresses: Mapping[int, str] = place.addresses
        self.node.addresses = place.addresses
        self.config_path: Path = options.config
        self._place, self._state, self._options = place, state, options
        self._settings = transport_settings(config, place, options)
        self._carrier = Carrier[Effect](self._settings, self.node,
                                        Sealer(place.me.nodeid, cluster_key(config, options), os.urandom), self._do)
        self._room = trio.Event()
        self._updates: dict[int, trio.MemorySendChannel[spread.Finished]] = {}
        self._ended = trio.Event()
        self._why = ""
        self._said_votes = False
        self._server = Server()
        self._register = register
        self.fencing = Shell(self, Path(config.text("fence_daemon", "override_path") or ""))
        self.disk = QuorumDisk(self)
        self._handlers = Handlers(self, self._server.clients)
        self._explainer = Why(self, self._server.clients)

    # What the handlers ask of their owner

    def now(self) -> int:
        return time.monotonic_ns()

    def multicast_address(self) -> str:
        return self._settings.multicast or ""

    def set_debug(self, level: int) -> None:
        logging.getLogger("cman").setLevel(logging.DEBUG if level else logging.INFO)
        log.info("debugging is %s", "on" if level else "off")

    async def room(self) -> None:
        await self._room.wait()

    async def ended(self) -> None:
        await self._ended.wait()

    async def finished(self, number: int) -> spread.Finished:
        send, receive = trio.open_memory_channel[spread.Finished](1)
        self._updates[number] = send
        try:
            return await receive.receive()
        finally:
            self._updates.pop(number, None)

    def fence_result(self, nodeid: int, success: bool, says: str) -> None:
        """What the agents made of it."""
        self.node.fence_result(nodeid, success, says, self.now())
        self.pump()

    def users_changed(self, users: Sequence[Use]) -> None:
        """Raises OSError."""
        self._register.note((u.pid, u.name) for u in users)

    def vouched(self, name: str) -> None:
        """A human says that a node is off."""
        found = self.node.config.node(name)
        if found is None:
            log.warning("fence_ack_manual names %r, which is no node of this cluster", name)
        elif found.nodeid in self.node.members:
            log.warning("fence_ack_manual names %s, which is a member: it is not off", name)
        else:
            self.node.control(self.now(), t="fenced", node=found.nodeid, by="a human")
            self.pump()

    def reboot(self, why: str) -> None:
        """This machine must not go on: nobody may write what it believes to be allowed."""
        log.critical("this machine is restarted: %s", why)
        try:
            restart_machine()
        except OSError as e:
            self.end(f"{why}; this machine cannot be restarted: {e.strerror}")

    def end(self, why: str) -> None:
        """Without a goodbye: the others fence this node."""
        self._do(Ended(why))

    def pump(self) -> None:
        """Do all effects, and those that come of doing them, in order; look whether the timer moved."""
        self._carrier.drain()

    def _do(self, effect: Effect) -> None:
        """One effect that is not a packet. What it causes in the machine is done by whoever called us."""
        match effect:
            case cpg.GroupMessage():
                self._handlers.group_message(effect)
            case cpg.GroupChange():
                self._handlers.group_change(effect)
            case cpg.GroupWritable():
                self._room.set()
                self._room = trio.Event()
            case Log(part, text, warning):
                logging.getLogger(f"cman.{part}").log(logging.WARNING if warning else logging.INFO, "%s", text)
            case Asked():
                self._explainer.asked(effect)
            case Told():
                self._explainer.told(effect)
            case totem.StoreRingSeq(seq):
                self._state.store_ring_seq(seq)
            case fence.FenceStart():
                self.fencing.start(effect)
            case fence.FenceStop():
                self.fencing.stop(effect)
            case fence.FenceOver():
                self.fencing.over(effect)
            case Changed():
                self.fencing.need_word(any(v.tries or not self.node.fence.methods(v.nodeid)
                                           for v in self.node.fence.victims.values()))
                self._say_votes()
                if self.node.ready:
                    self.disk.ready()
                self._handlers.changed()
            case spread.Adopt(config):
                self._adopt(config)
            case spread.Store():
                self._store(effect)
            case spread.Finished(number):
                if (waiting := self._updates.get(number)) is not None:
                    waiting.send_nowait(effect)
            case Ended(why):
                self._why = self._why or why
                self._ended.set()

    def _say_votes(self) -> None:
        """What the command line says instead of the configuration, once this node is a member."""
        if not self.node.ready or self._said_votes:
            return
        self._said_votes = True
        if self._options.votes is not None:
            self.node.control(self.now(), t="votes", node=self.node.me, votes=self._options.votes)
        if self._options.expected is not None:
            self.node.control(self.now(), t="expected", votes=self._options.expected)

    def _store(self, effect: spread.Store) -> None:
        error = ""
        try:
            self._state.store_given(effect.digest)
            store.replace(self.config_path, effect.data)
        except OSError as e:
            error = f"{self.config_path}: {e.strerror}"
        except StateError as e:
            error = str(e)
        self.node.stored(effect.update, effect.version, error, self.now())

    def _adopt(self, config: Config) -> None:
        """A new configuration: nodes may have come or gone. Timers and transport stay until the next start."""
        try:
            self._place = locate(config, self._place.me)
        except NetworkError as e:
            log.warning("addresses stay as they are: %s", e)
            return
        self.addresses = self.node.addresses = self._place.addresses
        self.disk.configured(config)
        self._carrier.set_addresses(self._place.addresses)
        if config.totem != self.node.totem.config:
            log.info("the settings of <totem> in version %d count from the next start of cman", config.version)

    # Tasks

    async def run(self, place: SocketPlace) -> str:
        """Until this node has left or must end; why it ended, empty for a leave in order."""
        if steps := unfencing(self.node.config, self.node.me):
            outcome = await self.fencing.unfence(steps)
            if not outcome.success:
                return f"unfencing of this node failed: {outcome.says}"
            log.info("unfenced by %s", outcome.says)
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async with trio.open_nursery() as nursery:
                try:
                    await nursery.start(self._carrier.run)
                except OSError as e:
                    return (f"UDP {self.addresses[self.node.me]} port {self._settings.port} "
                            f"{self.multicast_address()}: {e.strerror}")
                nursery.start_soon(self._server.run, place.listener,
                                   {**self._handlers.table(), **self._explainer.table()}, self._handlers.gone)
                nursery.start_soon(self._explainer.run)
                nursery.start_soon(self._signals, signals)
                nursery.start_soon(self.fencing.run)
                nursery.start_soon(self.disk.run)
                notify("READY=1", f"STATUS=member of {self.node.config.name}")
                await self._ended.wait()
                place.release()
                notify("STOPPING=1")
                if not self._why:
                    await self.disk.leave()
                await trio.sleep(GOODBYE_S)         # replies and the goodbye go out
                nursery.cancel_scope.cancel()
        return self._why

    async def _signals(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            log.info("signal %s: leaving the cluster", signal.Signals(number).name)
            await self._handlers.wait_released()
            if self.node.state is not State.LEAVING:
                self._handlers.begin_leave(remove=False)


def prefer_us() -> None:
    """Membership must not wait behind other work: real-time priority where the kernel grants it."""
    try:
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(REALTIME_PRIORITY))
    except OSError as e:
        log.info("no real-time priority: %s", e.strerror)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="cman", description="Cluster manager: membership, quorum, ordered groups.")
    p.add_argument("-C", "--config", type=Path, default=store.PATH, metavar="FILE", help="default: %(default)s")
    p.add_argument("-n", "--node-name", metavar="NAME", help="this node's name in the configuration")
    p.add_argument("-m", "--multicast", metavar="ADDRESS", help="instead of the configuration's")
    p.add_argument("-p", "--port", type=int, help="instead of the configuration's")
    p.add_argument("-v", "--votes", type=int, help="of this node, instead of the configuration's")
    p.add_argument("-e", "--expected", type=int, metavar="VOTES", help="of the cluster, instead of the configuration's")
    p.add_argument("-k", "--key", type=Path, metavar="FILE", help="instead of the configuration's")
    p.add_argument("--no-fencing", action="store_true", help="leave fencing to the other nodes")
    p.add_argument("-P", "--no-priority", action="store_true", help="no real-time priority")
    p.add_argument("-d", "--debug", action="store_true", help="log what developers want to know")
    p.add_argument("--syslog", action="store_true", help="log to syslog, too")
    p.add_argument("--socket", type=Path, default=socket_path(), metavar="PATH", help="default: %(default)s")
    p.add_argument("--state", type=Path, default=Path(os.environ.get("CMAN_STATE_DIR") or STATE_DIRECTORY),
                   metavar="DIRECTORY", help="default: %(default)s")
    p.add_argument("-V", "--version", action="version", version=f"cman {version_of('gfs2py')}")
    return p


def cluster_key(config: Config, options: argparse.Namespace) -> bytes:
    """What packets are sealed with. Raises Unstartable."""
    if config.text("totem", "secauth") in ("off", "no", "0"):
        log.warning("secauth is off: whoever reaches the cluster's network can speak for its nodes")
        # Packets are sealed all the same, with a key that everybody can make.
        return hashlib.sha512(b"gfs2py without secauth " + config.name.encode()).digest()
    path = options.key or Path(config.text("totem", "keyfile") or config.text("cman", "keyfile") or "")
    try:
        with path.open("rb") as f:
            state = os.fstat(f.fileno())
            key: bytes = f.read(KEY_BYTES_MAX + 1)
    except OSError as e:
        raise Unstartable(f"the cluster's key {path}: {e.strerror} (`cman_tool keygen` makes one; every node needs the "
                          "same)") from e
    if state.st_mode & 0o077 or state.st_uid not in (0, os.geteuid()):
        raise Unstartable(f"the cluster's key {path} can be read by others: it must be root's, mode 0600")
    try:
        check_key(key)
    except CryptoError as e:
        raise Unstartable(f"{path}: {e}") from e
    return key


def transport_settings(config: Config, place: Place, options: argparse.Namespace) -> TransportSettings:
    """Raises Unstartable."""
    port = options.port or config.number("cman/multicast", "port") or config.number("cman", "port")
    assert port is not None
    unicast = config.text("cman", "transport") == "udpu"
    try:
        return TransportSettings(place.me.nodeid, place.addresses, port,
                                 None if unicast else options.multicast or config.multicast_address,
                                 config.number("cman/multicast", "ttl") or 1)
    except ValueError as e:
        raise Unstartable(str(e)) from e


def serve(options: argparse.Namespace, config: Config) -> int:
    """Exit status: 0 after a leave in order."""
    me = find_me(config, options.node_name, socket.gethostname())
    start_log(me.name, options.debug, options.syslog)
    if not options.no_priority:
        prefer_us()
    place = locate(config, me)
    state = StateDirectory(options.state, config.name, me.nodeid)
    register = Register(options.socket.with_name(f"{options.socket.name}.users"))
    daemon = Daemon(config, place, state, register, options)
    with SocketPlace(options.socket) as socket_place:       # it is ours: there is no other cman on this node
        register.end_leftovers()
        log.info("node %s (id %d, %s) of cluster %s, configuration version %d", me.name, me.nodeid,
                 place.addresses[me.nodeid], config.name, config.version)
        why = trio.run(daemon.run, socket_place)
    if why:
        log.error("this node is out of the cluster: %s", why)
        return 1
    log.info("left the cluster")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    start_log(socket.gethostname(), options.debug, options.syslog)
    try:
        return serve(options, store.load_file(options.config))
    except (ConfigError, NetworkError, StateError, Unkillable, Unstartable) as e:
        for line in str(e).splitlines():
            log.error("%s", line)
    except OSError as e:
        log.error("%s%s", f"{e.filename}: " if e.filename else "", e.strerror or e)
    except KeyboardInterrupt:
        return 130
    except BaseExceptionGroup as e:
        log.critical("cman has failed, which must not happen", exc_info=e)
    return 1


if __name__ == "__main__":
    sys.exit(main())
