"""The nodes of the configuration and what became of each: who is a member since when, how the others went. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cman.ccs.load import Config
from cman.views import Node, NodeState


@dataclass(slots=True)
class _Record:
    incarnation: int = 0
    joined_s: int = 0
    member: bool = False
    leaving: str = ""           # it has said that it goes: "left", "removed"; or was told to: "killed"
    left_reason: str = ""
    left_s: int = 0
    fenced_s: int = 0
    fenced_by: str = ""


class Roster:
    """Times are seconds of the wall clock, for people only."""

    def __init__(self) -> None:
        self._records: dict[int, _Record] = {}

    def _record(self, nodeid: int) -> _Record:
        return self._records.setdefault(nodeid, _Record())

    def changed(self, generation: int, members: Sequence[int], joined: Sequence[int], left: Sequence[int],
                wall_s: int) -> dict[int, str]:
        """A new ring. How those who left went; some may be back already, in a new life."""
        went = {}
        for nodeid in left:
            record = self._record(nodeid)
            record.member, record.left_s = False, wall_s
            went[nodeid] = record.left_reason = record.leaving or "lost"
            record.leaving = ""
        for nodeid in joined:
            self._records[nodeid] = _Record(generation, wall_s, True)
        for nodeid in members:
            record = self._record(nodeid)
            if not record.member:
                self._records[nodeid] = _Record(generation, wall_s, True)
        return went

    def leaving(self, nodeid: int, how: str) -> None:
        """The node will go, and this is how: it is not lost then."""
        self._record(nodeid).leaving = how

    def said_goodbye(self, nodeid: int) -> bool:
        """Whether a node that is no member went in order."""
        return self._record(nodeid).left_reason in ("left", "removed")

    def fenced(self, nodeid: int, by: str, wall_s: int) -> None:
        record = self._record(nodeid)
        record.fenced_s, record.fenced_by = wall_s, by

    def rows(self, config: Config, votes: Mapping[int, int], addresses: Mapping[int, str]) -> list[Node]:
        """One row per node of the configuration, by id; members that are not in it too."""
        strangers = [i for i, r in self._records.items() if r.member and config.node_by_id(i) is None]
        rows = []
        for nodeid in sorted([n.nodeid for n in config.nodes] + strangers):
            node, record = config.node_by_id(nodeid), self._record(nodeid)
            state = NodeState.MEMBER if record.member else NodeState.DEAD
            rows.append(Node(nodeid, node.name if node is not None else f"Node{nodeid}", state.value,
                             record.incarnation, record.joined_s if record.member else 0, votes.get(nodeid, 0),
                             [addresses[nodeid]] if nodeid in addresses else [], record.left_reason, record.left_s,
                             record.fenced_s, record.fenced_by))
        return rows
