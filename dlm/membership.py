"""Who is in a lockspace, agreed on by its members: the pure part of what dlm_controld does.

All members see the same configurations and messages of an ordered group in the same order (virtual synchrony). After
each configuration, before anybody locks again:

    configuration --> stopped: locking stops on every member
                      the member with the lowest id says BEGIN with a number nobody used before
    BEGIN         --> every member does what must be done first (quorum, fencing of those lost), then says READY with
                      that number, its address, its incarnation and the generation it last had
    READY of all  --> start: the same members, generation = the greatest of theirs + 1, on all of them

A message may be delivered after the configuration that it was sent in. That does no harm: a READY counts only for the
BEGIN last delivered in this configuration, so it was sent after its sender had seen both; a late BEGIN is as good as a
fresh one, for all members get it at the same place.

Effects come out as values; no clock, no I/O. Source for the order: dlm_controld (cpg.c, "changes" and conditions).
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgpack

MESSAGE_VERSION = 2
MEMBERS_MAX = 128
ADDRESS_MAX = 64
NUMBER_BITS = 63


class ControlError(Exception):
    """A message of another member that makes no sense, or members that cannot be together."""


@dataclass(frozen=True, slots=True, order=True)
class Member:
    """One process in the group: its node and the number that tells it from others of that node."""

    node_id: int
    port: int


@dataclass(frozen=True, slots=True)
class Begin:
    number: int


@dataclass(frozen=True, slots=True)
class Ready:
    """`incarnation` changes with each life of the process; `lvb_bytes` and `flags` must be the same everywhere.

    kernel: the node's kernel has the lock manager, and goes on when the process that speaks for it dies.
    """

    number: int
    address: str
    port: int
    incarnation: int
    generation: int
    lvb_bytes: int
    flags: int
    kernel: bool = False


@dataclass(frozen=True, slots=True)
class StopLocking:
    """Effect: no lock is granted from here on until Start."""


@dataclass(frozen=True, slots=True)
class Say:
    """Effect: send to the group."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Prepare:
    """Effect: wait for quorum, and until these nodes are fenced; then call `prepared(number)`.

    `processes` are nodes that live on while their member of this lockspace died: they are not fenced. `kernels`,
    among the lost, live on, too: they lost the process that spoke for them, and still write what they hold locks for.
    """

    number: int
    lost: tuple[int, ...]
    processes: tuple[int, ...]
    kernels: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class StartNode:
    """One member as the lock manager starts with it."""

    node_id: int
    address: str
    port: int
    incarnation: int


@dataclass(frozen=True, slots=True)
class Start:
    """Effect: recover with these members. `failed`: went without leaving; `left`: left in order."""

    generation: int
    nodes: tuple[StartNode, ...]
    failed: tuple[int, ...]
    left: tuple[int, ...]


Effect = StopLocking | Say | Prepare | Start


def pack(message: Begin | Ready) -> bytes:
    if isinstance(message, Begin):
        body: list[object] = [MESSAGE_VERSION, "begin", message.number]
    else:
        body = [MESSAGE_VERSION, "ready", message.number, message.address, message.port, message.incarnation,
                message.generation, message.lvb_bytes, message.flags, message.kernel]
    return bytes(msgpack.packb(body))


def whole(value: object, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= high:
        raise ControlError(f"a number from 0 to {high} is wanted")
    return value


def unpack(data: bytes) -> Begin | Ready:
    """Raises ControlError."""
    try:
        body: Any = msgpack.unpackb(data, max_array_len=16, max_map_len=0, max_ext_len=0, max_str_len=ADDRESS_MAX,
                                    max_bin_len=0)
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as e:
        raise ControlError(f"not a message: {type(e).__name__}") from None
    if not isinstance(body, list) or len(body) < 3:
        raise ControlError("not a message")
    if body[0] != MESSAGE_VERSION:
        raise ControlError("a message of another version")
    match body[1:]:
        case ["begin", number]:
            return Begin(whole(number, 1 << NUMBER_BITS))
        case ["ready", number, str(address), port, incarnation, generation, lvb_bytes, flags, bool(kernel)]:
            return Ready(whole(number, 1 << NUMBER_BITS), address, whole(port, 0xffff), whole(incarnation, 0xffffffff),
                         whole(generation, 0xffffffff), whole(lvb_bytes, 0xffff), whole(flags, 0xffffffff), kernel)
    raise ControlError("neither begin nor ready")


@dataclass(slots=True)
class _Losses:
    """Who went since the last start that everybody got to."""

    lost: dict[int, None] = field(default_factory=dict)         # the node is gone
    processes: dict[int, None] = field(default_factory=dict)    # only its process is
    left: dict[int, None] = field(default_factory=dict)
    kernels: dict[int, None] = field(default_factory=dict)      # those of the lost whose node lived on

    def clear(self) -> None:
        self.lost.clear()
        self.processes.clear()
        self.left.clear()
        self.kernels.clear()


class Membership:
    """The machine of one member of one lockspace.

    me: this member. rng: for numbers that nobody uses twice. Events come in by `configuration`, `delivered` and
    `prepared`; each returns the effects, in order.
    """

    def __init__(self, me: Member, address: str, port: int, lvb_bytes: int, flags: int, *, rng: random.Random,
                 kernel: bool = False) -> None:
        self.me, self.address, self.port = me, address, port
        self.lvb_bytes, self.flags, self.kernel = lvb_bytes, flags, kernel
        self.incarnation = rng.randrange(1, 1 << 32)
        self.generation = 0
        self.members: tuple[Member, ...] = ()
        self.started: tuple[StartNode, ...] = ()
        self.phase = "new"              # new, stopped, preparing, ready, running
        self._rng = rng
        self._number: int | None = None
        self._ready: dict[Member, Ready] = {}
        self._kernels: set[Member] = set()      # of those that started last
        self._losses = _Losses()

    def waits_for(self) -> list[int]:
        """The nodes whose READY has not come."""
        return sorted({m.node_id for m in self.members if m not in self._ready}) if self.phase != "running" else []

    def found(self) -> list[StartNode]:
        """Those whose READY has come, before the start: their packets may be here before the last READY is."""
        return [StartNode(m.node_id, r.address, r.port, r.incarnation)
                for m, r in sorted(self._ready.items(), key=lambda x: x[0])]

    def configuration(self, members: Iterable[Member], left: Iterable[tuple[Member, str]],
                      joined: Iterable[Member] = ()) -> list[Effect]:
        """A change of the group. `left`: with why: "leave" (in order), "process" (it died) or "node" (so did its node).

        Raises ControlError when another process of this node was here first: this one has to go. Until it has gone
        nobody starts.
        """
        first_time, joined = not self.members, set(joined)
        self.members = tuple(sorted(members))
        nodes = [m.node_id for m in self.members]
        if len(nodes) > MEMBERS_MAX:
            raise ControlError(f"{len(nodes)} members of a lockspace, at most {MEMBERS_MAX}")
        if first_time and any(m.node_id == self.me.node_id and (m not in joined or m < self.me)
                              for m in self.members if m != self.me):
            raise ControlError(f"another process of node {self.me.node_id} is a member of this lockspace")
        for member, why in left:
            if why == "leave":
                self._losses.left[member.node_id] = None
            elif why == "process" and member not in self._kernels:
                self._losses.processes[member.node_id] = None
            else:
                self._losses.lost[member.node_id] = None
                if why == "process":
                    self._losses.kernels[member.node_id] = None
        self._number = None
        self._ready.clear()
        self.phase = "stopped"
        effects: list[Effect] = [StopLocking()]
        if self.members and self.members[0] == self.me and len(set(nodes)) == len(nodes):
            effects.append(Say(pack(Begin(self._rng.randrange(1, 1 << NUMBER_BITS)))))
        return effects

    def delivered(self, sender: Member, data: bytes) -> list[Effect]:
        """A message of the group. Raises ControlError; nothing has changed then."""
        message = unpack(data)
        if sender not in self.members:
            return []
        if isinstance(message, Begin):
            return self._begin(sender, message)
        if message.number != self._number:
            return []
        if (message.lvb_bytes, message.flags) != (self.lvb_bytes, self.flags):
            raise ControlError(f"node {sender.node_id} has a lock value of {message.lvb_bytes} bytes and flags "
                               f"{message.flags:#x}, this node {self.lvb_bytes} and {self.flags:#x}")
        self._ready[sender] = message
        if len(self._ready) < len(self.members):
            return []
        return [self._start()]

    def _begin(self, sender: Member, message: Begin) -> list[Effect]:
        if sender != self.members[0] or self.phase == "running":
            return []
        self._number = message.number
        self._ready.clear()
        self.phase = "preparing"
        return [Prepare(message.number, tuple(self._losses.lost), tuple(self._losses.processes),
                        tuple(self._losses.kernels))]

    def prepared(self, number: int) -> list[Effect]:
        """What Prepare asked for is done; of an older one, nothing follows."""
        if number != self._number or self.phase != "preparing":
            return []
        self.phase = "ready"
        return [Say(pack(Ready(number, self.address, self.port, self.incarnation, self.generation, self.lvb_bytes,
                               self.flags, self.kernel)))]

    def _start(self) -> Start:
        self.generation = max(r.generation for r in self._ready.values()) + 1
        before = {n.node_id: n.incarnation for n in self.started}
        # Only out of sight for a while, and taken back by cman: it has its locks, and nobody recovers from its loss.
        back = {m.node_id for m, r in self._ready.items() if before.get(m.node_id) == r.incarnation}
        self.started = tuple(self.found())
        self._kernels = {m for m, r in self._ready.items() if r.kernel}
        failed = tuple(sorted({*self._losses.lost, *self._losses.processes} - back))
        left = tuple(sorted(n for n in self._losses.left if n not in failed))
        # From here on every member starts; who goes now goes in the next configuration.
        self._losses.clear()
        self.phase = "running"
        return Start(self.generation, self.started, failed, left)
