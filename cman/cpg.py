"""Process groups with virtual synchrony: named groups of processes that see the same messages and members in one order.

A pure machine on top of totem. Each node keeps the whole table (group -> members); joins, leaves and messages of
processes are totem payloads, and so change it at the same place of the order everywhere.

When rings meet, the tables differ. Until the tables are one again ("synced"), a node believes only its peers: the
nodes with which it has been together ever since it was last synced. All nodes first send the list of their own
processes; when the lists of all members of the ring have come, which is one place in the order for all, the members
of the others are added, and everybody is everybody's peer. Nothing else is given to totem in the meantime, and what
was given before is delivered before the list of its sender: to its peers, in the view in which it was sent. Hence a
message reaches exactly those members of its sender's view that are still with it, and nobody else.

The interface is libcpg's (join, leave, mcast in agreed order, configuration changes with reasons), so that a real
corosync can carry it: see `GroupPort`.
"""

from __future__ import annotations

import enum
import struct
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from cman.members import Member as Member
from cman.members import Reason as Reason
from cman.totem.config import PAYLOAD_BYTES_MAX
from cman.totem.effects import ConfigChange, Deliver, Kind, NodeId, RingId, Trace, Writable

GROUP_NAME_BYTES_MAX = 128
# Of one node: its list must fit into one payload.
LOCAL_MEMBERS_MAX = 2000
MESSAGE_BYTES_MAX = PAYLOAD_BYTES_MAX - GROUP_NAME_BYTES_MAX - 64
# Messages of this node that wait for the sync or for room in totem.
OUTBOX_MAX = 1024

HEAD = struct.Struct(">BIBB")
LIST = struct.Struct(">BIQH")
LIST_ITEM = struct.Struct(">IB")


class Type(enum.IntEnum):
    """The first byte of a payload."""

    JOIN = 1
    LEAVE = 2
    MESSAGE = 3
    LIST = 4


@dataclass(frozen=True, slots=True)
class GroupMessage:
    """A message for the local members `to` of a group, in agreed order.

    late: a member of the group is lost, of which a GroupChange is about to tell, and what it said before this message,
    and may have heard itself, is lost with it.
    """

    group: str
    sender: Member
    payload: bytes
    to: tuple[int, ...]
    late: bool = False


@dataclass(frozen=True, slots=True)
class GroupChange:
    """New members of a group. `to` are the local members, and those that just left; all tuples are sorted.

    (ring_id, place) is where in the order it happened: the place counts what totem delivered in this ring. It is the
    same for all members of the new view, and so names the view.
    """

    group: str
    ring_id: RingId
    place: int
    members: tuple[Member, ...]
    joined: tuple[tuple[Member, Reason], ...]
    left: tuple[tuple[Member, Reason], ...]
    to: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class GroupWritable:
    """mcast() refused a message; now there is room."""


GroupEffect: TypeAlias = GroupMessage | GroupChange | GroupWritable | Trace


class GroupPort(Protocol):
    """Process groups, whoever carries them: this machine over our totem, or corosync's libcpg.

    Times are monotonic nanoseconds. The answers come as GroupEffects, in order.
    """

    def join(self, group: str, pid: int, now_ns: int) -> None: ...
    def leave(self, group: str, pid: int, now_ns: int) -> None: ...
    def mcast(self, group: str, pid: int, payload: bytes, now_ns: int) -> bool: ...
    def effects(self) -> list[GroupEffect]: ...


class CpgError(ValueError):
    """A call that makes no sense: of a process that is not in the group, or with too long a name or message."""


def _head(kind: Type, pid: int, extra: int, group: str) -> bytes:
    name = group.encode()
    return HEAD.pack(kind, pid, extra, len(name)) + name


class CpgMachine:
    """All groups, as one node sees them. `submit` is totem's."""

    def __init__(self, me: NodeId, submit: Callable[[bytes, int], bool]) -> None:
        self.me = me
        self._submit = submit
        self._groups: dict[str, dict[Member, None]] = {}
        # Own processes: as their clients want it, and as it will be when totem has delivered all it was given.
        self._wanted: dict[tuple[str, int], None] = {}
        self._given: dict[tuple[str, int], None] = {}
        self._outbox: deque[bytes] = deque()
        self._list_due = False
        self._synced = True
        self._peers: frozenset[NodeId] = frozenset({me})
        self._ring = RingId(0, me)
        self._place = 0
        self._ring_members: tuple[NodeId, ...] = (me,)
        self._lists: dict[NodeId, tuple[tuple[str, int], ...]] = {}
        # Members of the ring that do not count any more; they are about to go.
        self._expelled: frozenset[NodeId] = frozenset()
        # Members of the old ring that are lost, while its last messages come.
        self._lost: frozenset[NodeId] = frozenset()
        self._refused = False
        self._effects: list[GroupEffect] = []

    # Clients

    def join(self, group: str, pid: int, now_ns: int) -> None:
        """Ask for membership: it begins with the GroupChange that has the member in it. Raises CpgError."""
        if not 0 < len(group.encode()) <= GROUP_NAME_BYTES_MAX:
            raise CpgError(f"a group name of {len(group.encode())} bytes, 1 to {GROUP_NAME_BYTES_MAX}")
        if not 0 <= pid < 1 << 32:
            raise CpgError(f"pid {pid} is no 32-bit number")
        if (group, pid) in self._wanted:
            raise CpgError(f"process {pid} is in group {group} already")
        if len(self._wanted) >= LOCAL_MEMBERS_MAX:
            raise CpgError(f"this node has {LOCAL_MEMBERS_MAX} memberships already")
        self._wanted[(group, pid)] = None
        self._send(_head(Type.JOIN, pid, 0, group), now_ns)

    def leave(self, group: str, pid: int, now_ns: int, reason: Reason = Reason.LEAVE) -> None:
        """End it: the last GroupChange to this process has it in `left`. Raises CpgError."""
        if self._wanted.pop((group, pid), 0) == 0:
            raise CpgError(f"process {pid} is not in group {group}")
        self._send(_head(Type.LEAVE, pid, reason, group), now_ns)

    def process_gone(self, pid: int, now_ns: int) -> None:
        """A process died or closed its connection: take it out of all groups."""
        for group, own in list(self._wanted):
            if own == pid:
                self.leave(group, pid, now_ns, Reason.PROCDOWN)

    def mcast(self, group: str, pid: int, payload: bytes, now_ns: int) -> bool:
        """Send to the group, the sender included; False when too much waits already. Raises CpgError."""
        if (group, pid) not in self._wanted:
            raise CpgError(f"process {pid} is not in group {group}")
        if len(payload) > MESSAGE_BYTES_MAX:
            raise CpgError(f"a message of {len(payload)} bytes, at most {MESSAGE_BYTES_MAX}")
        if len(self._outbox) >= OUTBOX_MAX:
            self._refused = True
            return False
        self._send(_head(Type.MESSAGE, pid, 0, group) + payload, now_ns)
        return True

    def _send(self, payload: bytes, now_ns: int) -> None:
        self._outbox.append(payload)
        self._flush(now_ns)

    def _flush(self, now_ns: int) -> None:
        """Give totem what it may have now: our list first, the rest when all are in sync."""
        if self._list_due:
            if not self._submit(self._encoded_list(), now_ns):
                return
            self._list_due = False
        while self._synced and self._outbox and self._submit(self._outbox[0], now_ns):
            payload = self._outbox.popleft()
            kind, pid, _, length = HEAD.unpack_from(payload)
            key = (payload[HEAD.size:HEAD.size + length].decode(), pid)
            if kind == Type.JOIN:
                self._given[key] = None
            elif kind == Type.LEAVE:
                self._given.pop(key)
        if self._refused and len(self._outbox) * 2 <= OUTBOX_MAX:
            self._refused = False
            self._effects.append(GroupWritable())

    def _encoded_list(self) -> bytes:
        parts = [LIST.pack(Type.LIST, self._ring.rep, self._ring.seq, len(self._given))]
        for group, pid in self._given:
            name = group.encode()
            parts += [LIST_ITEM.pack(pid, len(name)), name]
        return b"".join(parts)

    # Totem

    def totem(self, effect: Deliver | ConfigChange | Writable, now_ns: int) -> None:
        """What totem delivers, in its order."""
        if isinstance(effect, Deliver):
            self._place += 1
            self._deliver(effect)
        elif isinstance(effect, ConfigChange) and effect.kind is Kind.REGULAR:
            self._lost = frozenset()
            self._change(effect)
        elif isinstance(effect, ConfigChange):
            self._lost = frozenset(effect.left)
        self._flush(now_ns)

    def _change(self, change: ConfigChange) -> None:
        """Who left takes its processes along; who came must tell us of its."""
        self._ring, self._ring_members, self._place = change.ring_id, change.members, 0
        for group in sorted(self._groups):
            left = [(m, Reason.NODEDOWN) for m in sorted(self._groups[group]) if m.node in change.left]
            self._alter(group, [], left)
        self._peers &= frozenset(change.members) - frozenset(change.joined)
        self._lists, self._expelled = {}, frozenset()
        if not self._synced or self._peers != frozenset(change.members):
            self._synced = False
            self._list_due = True

    def expel(self, nodes: Iterable[NodeId]) -> None:
        """These members of the ring are about to end: nothing of theirs counts any more, or is ever seen.

        For nodes that come back with a state which the others have given up. To be called at the same place of the
        order everywhere, before the lists of a new ring are complete.
        """
        self._expelled = frozenset(nodes)
        self._place += 1            # a view of its own
        for group in sorted(self._groups):
            self._alter(group, [], [(m, Reason.NODEDOWN) for m in sorted(self._groups[group])
                                    if m.node in self._expelled])
        self._peers -= self._expelled

    def _deliver(self, m: Deliver) -> None:
        try:
            self._take(m)
        except (struct.error, UnicodeDecodeError, ValueError) as error:
            self._effects.append(Trace("group payload dropped", (("node", m.sender), ("reason", str(error)))))

    def _take(self, m: Deliver) -> None:
        if m.payload[:1] == bytes([Type.LIST]):
            self._take_list(m)
            return
        if m.sender not in self._peers:
            return
        kind, pid, extra, length = HEAD.unpack_from(m.payload)
        at = HEAD.size + length
        if at > len(m.payload):
            raise ValueError("the group name is cut off")
        group, member = m.payload[HEAD.size:at].decode(), Member(m.sender, pid)
        present = member in self._groups.get(group, {})
        if kind == Type.JOIN:
            self._alter(group, [(member, Reason.JOIN)] if not present else [], [])
        elif kind == Type.LEAVE:
            self._alter(group, [], [(member, Reason(extra))] if present else [])
        elif kind == Type.MESSAGE:
            to = self._local(group)
            if present and to:
                late = bool(self._lost) and any(m.node in self._lost for m in self._groups[group])
                self._effects.append(GroupMessage(group, member, m.payload[at:], to, late))
        else:
            raise ValueError(f"unknown type {kind}")

    def _take_list(self, m: Deliver) -> None:
        _, rep, ring_seq, count = LIST.unpack_from(m.payload)
        if RingId(ring_seq, rep) != m.ring_id or m.ring_id != self._ring or self._synced:
            return
        items, at = [], LIST.size
        for _ in range(count):
            pid, length = LIST_ITEM.unpack_from(m.payload, at)
            at += LIST_ITEM.size + length
            if at > len(m.payload):
                raise ValueError("the list is cut off")
            items.append((m.payload[at - length:at].decode(), pid))
        self._lists[m.sender] = tuple(items)
        if len(self._lists) == len(self._ring_members):
            self._merge()

    def _merge(self) -> None:
        """All lists are here: the tables become one."""
        came: dict[str, list[tuple[Member, Reason]]] = {}
        went: dict[str, list[tuple[Member, Reason]]] = {}
        for node in self._ring_members:
            if node in self._expelled:
                continue
            listed = {(group, Member(node, pid)) for group, pid in self._lists[node]}
            known = {(group, m) for group in self._groups for m in self._groups[group] if m.node == node}
            if node in self._peers and listed != known:
                # It cannot be; all see it alike, so all can follow the list.
                self._effects.append(Trace("a member's list is not what it told before", (
                    ("node", node), ("more", str(sorted(listed - known))), ("less", str(sorted(known - listed)))),
                    warning=True))
            reason = Reason.JOIN if node in self._peers else Reason.NODEUP
            for group, member in sorted(listed - known):
                came.setdefault(group, []).append((member, reason))
            for group, member in sorted(known - listed):
                went.setdefault(group, []).append((member, Reason.PROCDOWN))
        self._synced, self._peers, self._lists = True, frozenset(self._ring_members) - self._expelled, {}
        for group in sorted({*came, *went}):
            self._alter(group, came.get(group, []), went.get(group, []))

    # Groups

    def _local(self, group: str) -> tuple[int, ...]:
        return tuple(sorted(m.pid for m in self._groups.get(group, {}) if m.node == self.me))

    def _alter(self, group: str, joined: list[tuple[Member, Reason]], left: list[tuple[Member, Reason]]) -> None:
        """Change a group and tell its local members."""
        if not joined and not left:
            return
        table = self._groups.setdefault(group, {})
        for member, _ in left:
            del table[member]
        for member, _ in joined:
            table[member] = None
        to = {*self._local(group), *(m.pid for m, _ in left if m.node == self.me)}
        if not table:
            del self._groups[group]
        if to:
            self._effects.append(GroupChange(group, self._ring, self._place, tuple(sorted(table)), tuple(joined),
                                             tuple(left), tuple(sorted(to))))

    # What it is like now

    def effects(self) -> list[GroupEffect]:
        """What the clients are to be told, in order; the list is handed over."""
        done, self._effects = self._effects, []
        return done

    @property
    def synced(self) -> bool:
        """Whether the tables of all members of the ring are one."""
        return self._synced

    def groups(self) -> dict[str, tuple[Member, ...]]:
        """All groups and their members, sorted."""
        return {group: tuple(sorted(self._groups[group])) for group in sorted(self._groups)}
