"""Process groups: the same views in the same places, the same messages in the same views.

1. Views of one group at one place of the order are equal or have nobody in common.
2. Processes that go together from one view to the next heard the same messages in the first, in the same order.
3. The sender of a message is in the view in which it is heard; nothing is heard twice; a process hears what it sent
   itself, without a gap, while it is in the group.
4. `joined` and `left` are the difference of the views.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any

from cman.cpg import GroupChange, GroupMessage, Member
from cman.node import Log
from cman.totem import RingId
from sim.checkers import Violation
from sim.kernel import SimNode

VIEWS_KEPT = 500
# Node, life, pid, group.
Key = tuple[int, int, int, str]
Place = tuple[RingId, int]


@dataclass
class Heard:
    """What one process heard since its last view."""

    members: tuple[Member, ...] = ()
    place: Place | None = None
    digest: int = 0
    count: int = 0
    seen: dict[tuple[int, int, int], int] = field(default_factory=dict)


class GroupChecker:
    """Watches GroupMessage and GroupChange."""

    def __init__(self, ignore: tuple[str, ...] = ()) -> None:
        self.heard: dict[Key, Heard] = {}
        self.views: dict[tuple[str, Place], list[tuple[Member, ...]]] = {}
        self.moves: dict[tuple[object, ...], tuple[int, int]] = {}
        self.sent: dict[Key, int] = {}
        self.messages = 0
        self.changes = 0
        self._ignore = ignore

    def payload(self, key: Key) -> bytes:
        """The next message of a process; call accepted() when it was taken."""
        return b"%d.%d.%d.%d|" % (key[0], key[1], key[2], self.sent.get(key, 0) + 1)

    def accepted(self, key: Key) -> None:
        self.sent[key] = self.sent.get(key, 0) + 1

    def __call__(self, node: SimNode, what: Any, now_ns: int) -> None:
        if isinstance(what, Log) and what.part == "CPG" and what.warning:
            raise Violation(f"node {(node.node_id, node.life)}: {what.text}")
        if isinstance(what, GroupMessage | GroupChange) and what.group not in self._ignore:
            for pid in what.to:
                key = (node.node_id, node.life, pid, what.group)
                if isinstance(what, GroupMessage):
                    self.on_message(key, what)
                else:
                    self.on_change(key, what)

    def on_message(self, key: Key, m: GroupMessage) -> None:
        self.messages += 1
        heard = self.heard.setdefault(key, Heard())
        if m.sender not in heard.members:
            raise Violation(f"{key} hears {m.sender} in the view {heard.members}")
        node, life, pid, number = (int(x) for x in m.payload.split(b"|")[0].split(b"."))
        if Member(node, pid) != m.sender:
            raise Violation(f"{key} hears a message of {node}.{pid} as one of {m.sender}")
        last = heard.seen.get((node, life, pid), 0)
        own = (node, life, pid) == key[:3]
        if number <= last or (own and number != last + 1):
            raise Violation(f"{key} hears number {number} of {m.sender} after {last}")
        heard.seen[(node, life, pid)] = number
        heard.digest = zlib.crc32(m.payload, heard.digest)
        heard.count += 1

    def on_change(self, key: Key, change: GroupChange) -> None:
        self.changes += 1
        heard = self.heard.setdefault(key, Heard())
        place: Place = (change.ring_id, change.place)
        self.check_difference(key, heard, change)
        self.check_view(key, place, change)
        if heard.place is not None:
            move = (change.group, heard.place, heard.members, place, change.members)
            mine = (heard.digest, heard.count)
            known = self.moves.setdefault(move, mine)
            if known != mine:
                raise Violation(f"{key} heard {mine[1]} messages between {heard.place} and {place}, "
                                f"another member {known[1]}")
        heard.members, heard.place, heard.digest, heard.count = change.members, place, 0, 0
        if Member(key[0], key[2]) not in change.members:
            # Its numbers go on when it joins again; its views do not.
            heard.members, heard.place = (), None
        for table in (self.views, self.moves):
            while len(table) > VIEWS_KEPT:
                del table[next(iter(table))]

    def check_difference(self, key: Key, heard: Heard, change: GroupChange) -> None:
        if heard.place is None:
            return
        came = {m for m, _ in change.joined}
        went = {m for m, _ in change.left}
        if (set(heard.members) - went) | came != set(change.members) or came & set(heard.members):
            raise Violation(f"{key}: {heard.members} + {sorted(came)} - {sorted(went)} is not {change.members}")

    def check_view(self, key: Key, place: Place, change: GroupChange) -> None:
        views = self.views.setdefault((change.group, place), [])
        for other in views:
            if other != change.members and set(other) & set(change.members):
                raise Violation(f"{key} has the view {change.members} at {place}, another has {other}")
        if change.members not in views:
            views.append(change.members)
