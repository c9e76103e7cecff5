"""Configuration: all members of a view that is in sync run the same file, and no node's version goes back."""

from __future__ import annotations

from typing import Any

from cman.totem import RingId
from sim.checkers import Violation
from sim.cluster_stack import Running
from sim.kernel import SimNode

VIEWS_KEPT = 200


class ConfChecker:
    """Watches Running."""

    def __init__(self) -> None:
        self.running: dict[RingId, tuple[int, bytes]] = {}
        self.versions: dict[tuple[int, int], int] = {}
        self.views = 0

    def __call__(self, node: SimNode, what: Any, now_ns: int) -> None:
        if not isinstance(what, Running):
            return
        self.views += 1
        key, mine = (node.node_id, node.life), (what.version, what.digest)
        known = self.running.setdefault(what.ring_id, mine)
        # Who comes into sync later than an update in the same view runs what it brought.
        if known[0] == mine[0] and known != mine:
            raise Violation(f"node {key} runs another version {mine[0]} in ring {what.ring_id} than others do")
        if mine[0] < self.versions.get(key, 0):
            raise Violation(f"node {key} goes back from version {self.versions[key]} to {mine[0]}")
        self.versions[key] = mine[0]
        while len(self.running) > VIEWS_KEPT:
            del self.running[next(iter(self.running))]
