"""Virtual synchrony: one order, the same views, the same messages between the same views.

1. The k-th payload of a ring's packet is the same at every node that delivers it; each node delivers a ring's
   payloads in the order of their packets, and in a regular configuration without a gap.
2. A ring id has one list of members, for ever; the rings of one node grow in seq.
3. Nodes that go together from one ring to the next delivered exactly the same in the first.
4. Everybody delivers what it sent itself, in the order in which it sent it, and nothing twice.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any

from cman.totem import ConfigChange, Deliver, Kind, RingId
from sim.checkers import Violation
from sim.kernel import SimNode

# Keep the histories of so many rings: older ones can no longer be compared with anything that comes.
RINGS_KEPT = 200


@dataclass
class View:
    """What one life of one node is in."""

    ring_id: RingId | None = None
    # Digest of what was delivered in this ring, and how many.
    digest: int = 0
    count: int = 0
    position: tuple[int, int] = (0, 0)
    transitional: tuple[int, ...] | None = None
    # Last number from each (node, life).
    seen: dict[tuple[int, int], int] = field(default_factory=dict)


def payload_of(node: int, life: int, number: int, size: int) -> bytes:
    """A payload that says who sent it and its number, filled up to a size."""
    head = b"%d.%d.%d|" % (node, life, number)
    return head + b"x" * max(0, size - len(head))


class SynchronyChecker:
    """Watches Deliver and ConfigChange of totem."""

    def __init__(self) -> None:
        self.views: dict[tuple[int, int], View] = {}
        self.members: dict[RingId, tuple[int, ...]] = {}
        self.contents: dict[RingId, dict[tuple[int, int], int]] = {}
        self.moves: dict[tuple[RingId, RingId], tuple[int, int, tuple[int, ...]]] = {}
        self.submitted: dict[tuple[int, int], int] = {}
        self.delivered = 0
        self.changes = 0

    def submit(self, node: int, life: int, size: int) -> bytes:
        """The next payload of a node; call accepted() when the machine took it."""
        return payload_of(node, life, self.submitted.get((node, life), 0) + 1, size)

    def accepted(self, node: int, life: int) -> None:
        self.submitted[(node, life)] = self.submitted.get((node, life), 0) + 1

    def __call__(self, node: SimNode, what: Any, now_ns: int) -> None:
        if isinstance(what, Deliver):
            self.on_deliver((node.node_id, node.life), what)
        elif isinstance(what, ConfigChange):
            self.on_change((node.node_id, node.life), what)

    def on_deliver(self, key: tuple[int, int], m: Deliver) -> None:
        self.delivered += 1
        view = self.views.setdefault(key, View())
        if view.ring_id != m.ring_id:
            raise Violation(f"node {key} delivers {m.ring_id}/{m.seq} in ring {view.ring_id}")
        seq, index = view.position
        position = (m.seq, index + 1 if m.seq == seq else 0)
        if m.seq < seq:
            raise Violation(f"node {key} delivers {m.ring_id}/{m.seq} after {seq}")
        view.position = position
        check = zlib.crc32(m.payload, m.sender)
        known = self.contents.setdefault(m.ring_id, {}).setdefault(position, check)
        if known != check:
            raise Violation(f"node {key} delivers another payload as {m.ring_id}/{position} than others do")
        view.digest = zlib.crc32(b"%d %d %d" % (m.seq, position[1], check), view.digest)
        view.count += 1
        self.check_sender(key, view, m)

    def check_sender(self, key: tuple[int, int], view: View, m: Deliver) -> None:
        sender, life, number = (int(x) for x in m.payload.split(b"|", 1)[0].split(b"."))
        if sender != m.sender:
            raise Violation(f"node {key} delivers a payload of node {sender} as one of node {m.sender}")
        last = view.seen.get((sender, life), 0)
        if number <= last:
            raise Violation(f"node {key} delivers number {number} of node {sender} after {last}")
        if (sender, life) == key and number != last + 1:
            raise Violation(f"node {key} does not deliver its own number {last + 1}, but {number}")
        view.seen[(sender, life)] = number

    def on_change(self, key: tuple[int, int], change: ConfigChange) -> None:
        view = self.views.setdefault(key, View())
        if list(change.members) != sorted(set(change.members)) or key[0] not in change.members:
            raise Violation(f"node {key} is given the members {change.members}")
        if change.kind is Kind.TRANSITIONAL:
            if view.transitional is not None:
                raise Violation(f"node {key} has two transitional changes in a row")
            view.transitional = change.members
            return
        self.changes += 1
        if view.transitional is None:
            raise Violation(f"node {key} has a regular change without a transitional one")
        if set(change.members) - set(change.joined) != set(view.transitional) & set(change.members):
            raise Violation(f"node {key}: joined {change.joined} and transitional {view.transitional} do not fit")
        old = view.ring_id
        if old is not None and change.ring_id <= old:
            raise Violation(f"node {key} goes from ring {old} back to {change.ring_id}")
        if self.members.setdefault(change.ring_id, change.members) != change.members:
            raise Violation(f"ring {change.ring_id} has members {change.members} at node {key}, "
                            f"{self.members[change.ring_id]} elsewhere")
        if old is not None:
            self.check_move(key, view, old, change)
        view.ring_id, view.transitional = change.ring_id, None
        view.digest, view.count, view.position = 0, 0, (0, 0)
        self.forget()

    def check_move(self, key: tuple[int, int], view: View, old: RingId, change: ConfigChange) -> None:
        assert view.transitional is not None
        mine = (view.digest, view.count, view.transitional)
        known = self.moves.setdefault((old, change.ring_id), mine)
        if known[2] != mine[2]:
            raise Violation(f"from {old} to {change.ring_id}: node {key} goes with {mine[2]}, others with {known[2]}")
        if known != mine:
            raise Violation(f"from {old} to {change.ring_id}: node {key} delivered {mine[1]} payloads "
                            f"({mine[0]:08x}), another {known[1]} ({known[0]:08x})")

    def forget(self) -> None:
        for table in (self.members, self.contents, self.moves):
            while len(table) > RINGS_KEPT:
                del table[next(iter(table))]

    def own_delivered(self, key: tuple[int, int]) -> bool:
        """Whether a node has delivered all that it sent in this life."""
        view = self.views.get(key)
        return self.submitted.get(key, 0) == (view.seen.get(key, 0) if view else 0)
