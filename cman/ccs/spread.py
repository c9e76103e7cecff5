"""One configuration on all members: who has it, who lacks it, and how an update reaches everybody. A pure machine.

It stands on one ordered group in which each node's daemon is once. All members see the same messages in the same
order, so all decide the same without asking each other.

 view changes   every member says HELLO: version and digest of its file, and whether it is `established` (has been
                part of a quorate cluster with it). When the HELLOs of all members of the view are there, the
                established ones count, or all when none is; the greatest version wins, the lowest node id that has
                it sends the FILE if somebody has another. Then the view is synced.
 a newcomer     with an older file takes the cluster's and stores it; with a newer file runs the cluster's and keeps
                its own on disk until `ccs_tool update` spreads it; with another file of the same version is refused.
 an update      one member sends the FILE; each checks, adopts, stores it, and says ACK. Of two updates at once the
                second in the order is refused everywhere, because its version is not greater then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgpack

from cman.ccs.element import FILE_BYTES_MAX
from cman.ccs.load import Config, load
from cman.ccs.problems import ConfigError

PART_BYTES = 48 << 10
PARTS_MAX = FILE_BYTES_MAX // PART_BYTES + 1
UPDATES_MAX = 16                # under way at a time, of this node


@dataclass(frozen=True, slots=True)
class Mcast:
    """Send to the group of daemons."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Store:
    """Remember the digest as what the cluster gave, then put this text where cluster.conf is; how that went is told
    by stored()."""

    data: bytes
    version: int
    digest: bytes
    update: tuple[int, int] | None      # (node, number) of the update that it belongs to


@dataclass(frozen=True, slots=True)
class Adopt:
    """The cluster runs this configuration from here on."""

    config: Config


@dataclass(frozen=True, slots=True)
class Synced:
    """All members of the view run the same configuration."""


@dataclass(frozen=True, slots=True)
class Finished:
    """An update of ours is through: `failed` has nodes that could not store it, `error` says why it was refused."""

    number: int
    old: int
    new: int
    failed: dict[int, str]
    error: str
    not_newer: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """This node cannot be a member; the daemon has to end with these words."""

    why: str


@dataclass(frozen=True, slots=True)
class Log:
    """A line for the log; a warning is for the operator."""

    text: str
    warning: bool = False


Effect = Mcast | Store | Adopt | Synced | Finished | Refused | Log


@dataclass(slots=True)
class _Update:
    """An update of ours on its way."""

    config: Config
    old: int
    delivered: bool = False
    waiting: set[int] = field(default_factory=set)
    failed: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Hello:
    cluster: str
    version: int
    digest: bytes
    established: bool


def _bytes(value: object) -> bytes:
    """Raises TypeError: of a number bytes() would make as many zeros."""
    if not isinstance(value, bytes):
        raise TypeError(f"{type(value).__name__} instead of bytes")
    return value


class Spread:
    """`nodeid` is this node; `config` what its file says; `given` the digest of what a cluster gave it last."""

    def __init__(self, nodeid: int, config: Config, given: bytes = b"") -> None:
        self._me = nodeid
        self._given = given
        self.config = config
        self.synced = False
        self.established = False
        # The daemon ends soon; what comes until then must not replace the operator's file.
        self._refused = False
        self._view = 0
        self._members: tuple[int, ...] = ()
        self._hellos: dict[int, _Hello] = {}
        self._parts: dict[int, list[bytes]] = {}
        self._updates: dict[int, _Update] = {}
        self._number = 0
        self._effects: list[Effect] = []

    def effects(self) -> list[Effect]:
        out, self._effects = self._effects, []
        return out

    def _mcast(self, **message: object) -> None:
        self._effects.append(Mcast(msgpack.packb(message)))

    def _log(self, text: str, warning: bool = False) -> None:
        self._effects.append(Log(text, warning))

    def _name(self, nodeid: int) -> str:
        node = self.config.node_by_id(nodeid)
        return node.name if node is not None else f"node {nodeid}"

    def view_changed(self, view: int, members: Sequence[int]) -> None:
        """A new configuration of the group of daemons; `view` differs from all before."""
        self._view, self._members = view, tuple(sorted(members))
        self._hellos.clear()
        self._parts.clear()
        self.synced = False
        self._mcast(t="hello", view=view, cluster=self.config.name, version=self.config.version,
                    digest=self.config.digest, established=self.established)
        for number in list(self._updates):
            self._updates[number].waiting &= set(self._members)
            self._finish_if_done(number)

    def quorate(self) -> None:
        """The cluster is quorate: what it runs now is what others have to follow."""
        self.established = self.established or self.synced

    def waits_for(self) -> tuple[int, ...]:
        """Members that keep the others from agreeing on a configuration: they have not said what they have, or (all
        have) the one whose configuration is on its way."""
        if self.synced:
            return ()
        return tuple(n for n in self._members if n not in self._hellos) or self._members[:1]

    def storing(self) -> tuple[int, ...]:
        """Members that have not stored an update of this node's clients yet."""
        return tuple(sorted({n for update in self._updates.values() for n in update.waiting}))

    def propose(self, config: Config) -> int:
        """Spread a configuration that has been checked; Finished bears the number. Raises ValueError."""
        if len(self._updates) >= UPDATES_MAX:
            raise ValueError(f"{UPDATES_MAX} updates are under way already")
        if not self.synced:
            raise ValueError("the members are agreeing on their configuration: try again")
        self._number += 1
        self._updates[self._number] = _Update(config, self.config.version)
        self._send(config.source, self._number)
        return self._number

    def stored(self, update: tuple[int, int] | None, version: int, error: str) -> None:
        """How a Store went; an empty error is success."""
        if error:
            self._log(f"configuration version {version} cannot be stored: {error}", warning=True)
        if update is not None:
            self._mcast(t="ack", node=update[0], number=update[1], error=error)

    def _send(self, data: bytes, number: int) -> None:
        """The FILE in parts; number 0 is no update."""
        count = max(1, -(-len(data) // PART_BYTES))
        for index in range(count):
            self._mcast(t="file", view=self._view, number=number, index=index, count=count,
                        data=data[index * PART_BYTES:(index + 1) * PART_BYTES])

    def deliver(self, sender: int, payload: bytes) -> None:
        """A message of the group. One that makes no sense is logged and changes nothing."""
        if self._refused:
            return
        try:
            message = msgpack.unpackb(payload, strict_map_key=True)
            kind = message["t"]
            if kind == "hello":
                self._receive_hello(sender, message)
            elif kind == "file":
                self._receive_file(sender, message)
            elif kind == "ack":
                self._receive_ack(sender, message)
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError, msgpack.UnpackException) as e:
            self._log(f"{self._name(sender)} sent a message about the configuration that cannot be read: "
                      f"{type(e).__name__}: {e}", warning=True)

    def _receive_hello(self, sender: int, message: dict[str, Any]) -> None:
        if message["view"] != self._view or sender not in self._members:
            return
        self._hellos[sender] = _Hello(str(message["cluster"]), int(message["version"]), _bytes(message["digest"]),
                                      bool(message["established"]))
        if len(self._hellos) == len(self._members):
            self._decide()

    def _decide(self) -> None:
        """All have said what they have: the same decision everywhere."""
        established = [n for n in self._members if self._hellos[n].established]
        candidates = established or list(self._members)
        cluster = self._hellos[candidates[0]].cluster
        foreign = [n for n in self._members if self._hellos[n].cluster != cluster]
        if foreign:                         # nothing is agreed until they have gone
            self._foreign(foreign, cluster)
            return
        version = max(self._hellos[n].version for n in candidates)
        chosen = next(n for n in candidates if self._hellos[n].version == version)
        digest = self._hellos[chosen].digest
        for node in self._members:
            said = self._hellos[node]
            if said.version == version and said.digest != digest:
                self._log(f"configuration version {version} differs between {self._name(chosen)} and "
                          f"{self._name(node)}: {self._name(chosen)}'s counts", warning=True)
        mine = self._hellos[self._me]
        if mine.version == version and mine.digest not in (digest, self._given) and not mine.established:
            self._refuse(
                f"cluster.conf here is version {version} and differs from that of {self._name(chosen)}: copy that one, "
                f"or give this one a greater config_version")
        elif all(self._hellos[n].digest == digest for n in self._members):
            self._now_synced()
        elif chosen == self._me:
            self._send(self.config.source, 0)

    def _foreign(self, foreign: list[int], cluster: str) -> None:
        for node in foreign:
            self._log(f"node {node} belongs to cluster {self._hellos[node].cluster!r}, not to {cluster!r}",
                      warning=True)
        if self._me in foreign:
            self._refuse(f"the nodes here belong to cluster {cluster!r}, this one to {self.config.name!r}: see "
                         f"cluster_id and port in cluster.conf")

    def _refuse(self, why: str) -> None:
        self._refused = True
        self._effects.append(Refused(why))

    def _now_synced(self) -> None:
        self.synced = True
        self._effects.append(Synced())

    def _receive_file(self, sender: int, message: dict[str, Any]) -> None:
        index, count, data = int(message["index"]), int(message["count"]), _bytes(message["data"])
        if message["view"] != self._view or not 0 < count <= PARTS_MAX or len(data) > PART_BYTES:
            self._finish(sender, int(message["number"]), "the membership changed meanwhile: try again")
            return
        parts = self._parts.setdefault(sender, []) if index == 0 else self._parts.get(sender, [])
        if index == 0:
            parts.clear()
        if len(parts) != index:
            return                      # its beginning was lost with an earlier view
        parts.append(data)
        if index + 1 == count:
            self._whole_file(sender, b"".join(self._parts.pop(sender)), int(message["number"]))

    def _whole_file(self, sender: int, data: bytes, number: int) -> None:
        try:
            config = load(data, f"configuration from {self._name(sender)}")
        except ConfigError as e:
            self._log(str(e), warning=True)
            if number:
                self._mcast(t="ack", node=sender, number=number, error=f"cannot be used: {e}"[:1000])
            return
        if number:
            self._receive_update(sender, config, number)
        else:
            self._receive_agreed(sender, config)

    def _receive_agreed(self, sender: int, config: Config) -> None:
        """What the cluster runs, as one of it sent it to those who lack it."""
        mine = self.config
        if config.digest != mine.digest:
            if mine.version > config.version and not self.established:
                self._log(f"cluster.conf here is version {mine.version}, the cluster runs {config.version}: this node "
                          f"runs the cluster's; `ccs_tool update` makes its own the cluster's", warning=True)
            else:
                self._log(f"configuration version {mine.version} replaced by version {config.version} from "
                          f"{self._name(sender)}")
                self._store(config, None)
            self.config = config
            self._effects.append(Adopt(config))
        self._now_synced()

    def why_not(self, config: Config) -> str:
        """What speaks against running this configuration here and now; empty when nothing does."""
        if config.name != self.config.name:
            return f"the cluster's name cannot change while it runs ({self.config.name} to {config.name})"
        if config.cluster_id != self.config.cluster_id:
            return "the cluster's id cannot change while it runs"
        for nodeid in self._members:
            old, new = self.config.node_by_id(nodeid), config.node_by_id(nodeid)
            if old is not None and (new is None or new.name != old.name):
                return f"{old.name} is a member: it has to leave before it can be taken out or renamed"
        return ""

    def _receive_update(self, sender: int, config: Config, number: int) -> None:
        old = self.config.version
        if config.version <= old:
            self._finish(sender, number, f"version {config.version} is not greater than {old}", not_newer=True)
            return
        if why := self.why_not(config):
            self._finish(sender, number, why)
            return
        if sender == self._me and number in self._updates:
            update = self._updates[number]
            update.waiting, update.old, update.delivered = set(self._members), old, True
        self.config = config
        self._log(f"configuration updated from version {old} to {config.version} by {self._name(sender)}")
        self._effects.append(Adopt(config))
        self._store(config, (sender, number))

    def _store(self, config: Config, update: tuple[int, int] | None) -> None:
        self._given = config.digest
        self._effects.append(Store(config.source, config.version, config.digest, update))

    def _receive_ack(self, sender: int, message: dict[str, Any]) -> None:
        number = int(message["number"])
        if message["node"] != self._me or number not in self._updates:
            return
        update = self._updates[number]
        update.waiting.discard(sender)
        if message["error"]:
            update.failed[sender] = str(message["error"])
        self._finish_if_done(number)

    def _finish_if_done(self, number: int) -> None:
        update = self._updates[number]
        if update.delivered and not update.waiting:
            del self._updates[number]
            self._effects.append(Finished(number, update.old, update.config.version, update.failed, ""))

    def _finish(self, sender: int, number: int, error: str, not_newer: bool = False) -> None:
        if sender == self._me and (update := self._updates.pop(number, None)) is not None:
            self._effects.append(Finished(number, self.config.version, update.config.version, {}, error, not_newer))
