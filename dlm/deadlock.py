"""Who waits for whom, and for ever: deadlock detection over resources, masters and nodes; pure.

A *party* is what must let go as one: a transaction of a program (dlm.transactions). Locks without a party, such as
those of a file system, are in nobody's circle. A party waits until all that its operations wait for is given back, so
every circle of parties is a deadlock.

No node sees a circle whole: the master of a resource knows which lock is in the way of which, the owner of a lock
which party it belongs to and what that one waits for. A *chase* follows the edges from one waiting operation on:

    owner of the waiter --ASK--> master of the resource --HELD--> owners of what is in the way --ASK--> ...
                                                                       |
                                          the party that began it: a circle, which is looked at once more

The second look begins when the first has ended. If it finds the same operations waiting for the same locks, there was
a moment at which they all did. Then BREAK goes to the owner of the victim: the party of the circle that began last, by
the clocks of their nodes, so all who find the circle choose the same one. Its operation ends with EDEADLK.

When to chase: an operation that waits for `after_ns`, then at doubled intervals; a circle is closed by the last of its
waits in most cases, but a grant out of turn can close one, too, and messages are lost with their sender. A look costs
two messages for each edge, and the parties reached are visited once. What is sent goes to all members of an ordered
group; who is not meant pays no heed.

Source of the idea: Chandy, Misra, Haas, "Distributed deadlock detection" (1983). The suite's dlm_controld gathered all
locks of all nodes in one place instead (enable_deadlk of cluster.conf).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Any, Protocol

import msgpack

from dlm.membership import ControlError

MESSAGE_VERSION = 1
MARK = "deadlock"
PREFIX: bytes = msgpack.packb(MESSAGE_VERSION) + msgpack.packb(MARK)     # after the byte of the array
# Operations in a circle; a longer one is not found.
PATH_MAX = 64
# Locks in the way of one operation that are followed, in one message.
BLOCKERS_MAX = 1024
# Chases begun at a time, the others a moment later; chases of which it is known whom they have reached.
STARTS_MAX = 32
STARTS_AGAIN_NS = 20_000_000
CHASES_MAX = 1024
VISITED_MAX = 65536
# Looks in a row, if each finds another circle.
LOOKS_MAX = 4
AFTER_NS = 500_000_000
AGAIN_MAX_NS = 8_000_000_000


@dataclass(frozen=True, slots=True, order=True)
class Party:
    """A transaction. The later born of two is the victim; born_ns by the clock of its node, `number` counts there."""

    born_ns: int
    node: int
    number: int


@dataclass(frozen=True, slots=True)
class Hop:
    """`party` waits by operation `serial` on its lock `lkid`, for the lock `blocker` of the next party."""

    party: Party
    lkid: int
    serial: int
    blocker: int


@dataclass(frozen=True, slots=True)
class Ask:
    """To the node `master`: what is in the way of the lock that it knows as `remid`, the last wait of the path?

    `chase` is the node that began it and its number there; the path's last hop has no blocker yet.
    """

    chase: tuple[int, int]
    path: tuple[Hop, ...]
    master: int
    remid: int


@dataclass(frozen=True, slots=True)
class Held:
    """To the owners: these locks (node, id there) are in the way of the last wait of the path."""

    chase: tuple[int, int]
    path: tuple[Hop, ...]
    blockers: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Break:
    """To the victim's node: this operation ends with EDEADLK. `nodes`: whose parties wait in a circle, in order."""

    victim: Party
    lkid: int
    serial: int
    nodes: tuple[int, ...]


Message = Ask | Held | Break


@dataclass(frozen=True, slots=True)
class Say:
    """Effect: send to the group."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Cancel:
    """Effect: the operation `serial` on our lock ends with EDEADLK, if it still waits."""

    lkid: int
    serial: int
    nodes: tuple[int, ...]


Effect = Say | Cancel


class View(Protocol):
    """What the node knows: its own locks, and the queues of resources that it masters."""

    def owner(self, lkid: int) -> Party | None:
        """Of a lock of this node."""

    def place(self, lkid: int) -> tuple[int, int] | None:
        """Where our lock waits: the master, and its id there; None: it is in no queue now."""

    def blockers(self, node: int, lkid: int) -> list[tuple[int, int]]:
        """On the master: the locks (node, id there) that are in the way of the lock that `node` knows as `lkid`."""


# ---- messages

def _hops(path: tuple[Hop, ...]) -> list[list[int]]:
    return [[h.party.born_ns, h.party.node, h.party.number, h.lkid, h.serial, h.blocker] for h in path]


def pack(message: Message) -> bytes:
    """The bytes for the group."""
    head: list[Any] = [MESSAGE_VERSION, MARK]
    match message:
        case Ask():
            body: list[Any] = ["ask", *message.chase, _hops(message.path), message.master, message.remid]
        case Held():
            body = ["held", *message.chase, _hops(message.path), [list(b) for b in message.blockers]]
        case Break():
            v = message.victim
            body = ["break", v.born_ns, v.node, v.number, message.lkid, message.serial, list(message.nodes)]
    return msgpack.packb(head + body)       # type: ignore[no-any-return]


def is_ours(data: bytes) -> bool:
    """Whether it is for this module rather than for dlm.membership."""
    return data[1:1 + len(PREFIX)] == PREFIX


def _numbers(value: object, count: int) -> list[int]:
    if not isinstance(value, list) or len(value) != count:
        raise ControlError(f"not {count} numbers")
    for n in value:
        if not isinstance(n, int) or isinstance(n, bool) or not 0 <= n < 1 << 63:
            raise ControlError(f"not a number: {n!r}")
    return value


def _path(value: object) -> tuple[Hop, ...]:
    if not isinstance(value, list) or not 0 < len(value) <= PATH_MAX:
        raise ControlError("not a path")
    hops = []
    for item in value:
        born, node, number, lkid, serial, blocker = _numbers(item, 6)
        hops.append(Hop(Party(born, node, number), lkid, serial, blocker))
    return tuple(hops)


def unpack(data: bytes) -> Message:
    """Raises ControlError."""
    try:
        body: Any = msgpack.unpackb(data, max_array_len=BLOCKERS_MAX, max_map_len=0, max_ext_len=0, max_str_len=16,
                                    max_bin_len=0)
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as e:
        raise ControlError(f"not a message: {type(e).__name__}") from None
    if not isinstance(body, list) or body[:2] != [MESSAGE_VERSION, MARK]:
        raise ControlError("not a message about deadlocks")
    match body[2:]:
        case ["ask", node, number, path, master, remid]:
            node, number, master, remid = _numbers([node, number, master, remid], 4)
            return Ask((node, number), _path(path), master, remid)
        case ["held", node, number, path, list(blockers)]:
            node, number = _numbers([node, number], 2)
            pairs = [_numbers(b, 2) for b in blockers]
            return Held((node, number), _path(path), tuple((a, b) for a, b in pairs))
        case ["break", born, node, number, lkid, serial, list(nodes)] if 0 < len(nodes) <= PATH_MAX:
            born, node, number, lkid, serial = _numbers([born, node, number, lkid, serial], 5)
            return Break(Party(born, node, number), lkid, serial, tuple(_numbers(nodes, len(nodes))))
    raise ControlError("neither ask, held nor break")


# ---- the machine

@dataclass(slots=True)
class _Wait:
    """An operation of ours that has no outcome yet."""

    party: Party
    lkid: int
    serial: int
    due_ns: int
    delay_ns: int
    looks: int = 0
    suspect: tuple[Hop, ...] = ()
    chase: int = 0              # the newest; what an older one still brings is not looked at
    ended: bool = False


class Detector:
    """One member's part. `begins` and `ends` tell which operations of parties wait here, `delivered` what is said.

    Each returns, or leaves to `effects`, what is to be done; `next_timer` says when `handle_timer` is due.
    """

    def __init__(self, me: int, view: View, after_ns: int = AFTER_NS) -> None:
        self.me, self.view, self.after_ns = me, view, after_ns
        self.found = 0                          # operations of this node that were ended
        self._waits: dict[int, _Wait] = {}      # by serial
        self._of: dict[Party, dict[int, _Wait]] = {}
        self._numbers = 0
        self._begun: OrderedDict[int, _Wait] = OrderedDict()
        # Parties of ours that a chase has come to.
        self._chases: OrderedDict[tuple[int, int], set[Party]] = OrderedDict()
        self._work: deque[Message] = deque()
        self._effects: list[Effect] = []

    # ---- what waits here

    def begins(self, party: Party, lkid: int, serial: int, now_ns: int) -> None:
        """An operation on our lock waits; serials are never used twice."""
        wait = _Wait(party, lkid, serial, now_ns + self.after_ns, self.after_ns)
        self._waits[serial] = wait
        self._of.setdefault(party, {})[serial] = wait

    def ends(self, serial: int) -> None:
        """It has its outcome."""
        wait = self._waits.pop(serial, None)
        if wait is not None:
            of = self._of[wait.party]
            del of[serial]
            if not of:
                del self._of[wait.party]

    def next_timer(self) -> int | None:
        return min((w.due_ns for w in self._waits.values()), default=None)

    def handle_timer(self, now_ns: int) -> None:
        """Chases for what has waited long enough."""
        starts = 0
        for wait in list(self._waits.values()):
            if wait.due_ns > now_ns:
                continue
            if starts == STARTS_MAX:
                wait.due_ns = now_ns + STARTS_AGAIN_NS
                continue
            starts += 1
            wait.due_ns = now_ns + wait.delay_ns
            wait.delay_ns = min(2 * wait.delay_ns, AGAIN_MAX_NS)
            wait.looks, wait.suspect, wait.ended = 0, (), False
            self._begin(wait)
        self._run()

    def effects(self) -> list[Effect]:
        done, self._effects = self._effects, []
        return done

    # ---- messages

    def delivered(self, data: bytes) -> None:
        """A message of the group, one's own included. Raises ControlError; nothing has happened then."""
        self._take(unpack(data))
        self._run()

    def _send(self, message: Message) -> None:
        """To itself without the group, where nobody else is meant."""
        match message:
            case Ask():
                others = message.master != self.me
            case Held():
                others = any(node != self.me for node, _ in message.blockers)
                if others and any(node == self.me for node, _ in message.blockers):
                    self._work.append(Held(message.chase, message.path,
                                           tuple(b for b in message.blockers if b[0] == self.me)))
                    message = Held(message.chase, message.path,
                                   tuple(b for b in message.blockers if b[0] != self.me))
            case Break():
                others = message.victim.node != self.me
        if others:
            self._effects.append(Say(pack(message)))
        else:
            self._work.append(message)

    def _run(self) -> None:
        while self._work:
            self._take(self._work.popleft())

    def _take(self, message: Message) -> None:
        match message:
            case Ask() if message.master == self.me:
                last = message.path[-1]
                blockers = self.view.blockers(last.party.node, message.remid)[:BLOCKERS_MAX]
                if blockers:
                    self._send(Held(message.chase, message.path, tuple(blockers)))
            case Held():
                for node, lkid in message.blockers:
                    if node == self.me:
                        self._held(message, lkid)
            case Break() if message.victim.node == self.me:
                wait = self._waits.get(message.serial)
                if wait is not None and (wait.party, wait.lkid, wait.ended) == (message.victim, message.lkid, False):
                    wait.ended = True
                    self.found += 1
                    self._effects.append(Cancel(wait.lkid, wait.serial, message.nodes))

    # ---- chasing

    def _begin(self, wait: _Wait) -> None:
        self._numbers += 1
        self._begun[self._numbers] = wait
        wait.chase = self._numbers
        while len(self._begun) > CHASES_MAX:
            self._begun.popitem(last=False)
        self._follow((self.me, self._numbers), (), wait)

    def _follow(self, chase: tuple[int, int], path: tuple[Hop, ...], wait: _Wait) -> None:
        place = self.view.place(wait.lkid)
        if place is not None and len(path) < PATH_MAX:
            self._send(Ask(chase, (*path, Hop(wait.party, wait.lkid, wait.serial, 0)), *place))

    def _held(self, message: Held, lkid: int) -> None:
        party = self.view.owner(lkid)
        if party is None:
            return
        last = message.path[-1]
        path = (*message.path[:-1], Hop(last.party, last.lkid, last.serial, lkid))
        if party == path[0].party:
            if message.chase[0] == self.me:
                self._circle(message.chase[1], path)
            return
        reached = self._reached(message.chase)
        if party in reached or len(reached) >= VISITED_MAX:
            return
        reached.add(party)
        for wait in self._of.get(party, {}).values():
            self._follow(message.chase, path, wait)

    def _reached(self, chase: tuple[int, int]) -> set[Party]:
        known = self._chases.get(chase)
        if known is None:
            known = self._chases[chase] = set()
            while len(self._chases) > CHASES_MAX:
                self._chases.popitem(last=False)
        return known

    def _circle(self, number: int, path: tuple[Hop, ...]) -> None:
        """The chase has come back. The first circle that it finds counts."""
        wait = self._begun.pop(number, None)
        if wait is None or wait.chase != number or wait.serial not in self._waits:
            return
        if wait.suspect == path:
            wait.suspect = ()
            victim = max(path, key=lambda h: h.party)
            self._send(Break(victim.party, victim.lkid, victim.serial, tuple(h.party.node for h in path)))
        elif wait.looks < LOOKS_MAX:
            wait.looks += 1
            wait.suspect = path
            self._begin(wait)
