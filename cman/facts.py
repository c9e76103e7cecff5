"""What one node knows about what is blocked, as plain values that travel in a message: the input of cman.explain. Pure.

Ages are milliseconds, not points in time: clocks of nodes differ.
"""

from __future__ import annotations

from typing import Any

from cman.node import NodeMachine
from cman.recovery import Phase, views

MS = 1_000_000
GROUPS_MAX = 64


def age_ms(since_ns: int, now_ns: int) -> int:
    return max(0, now_ns - since_ns) // MS


def _victims(node: NodeMachine, now_ns: int) -> list[dict[str, Any]]:
    domain = node.fence
    return [{"nodeid": v.nodeid, "name": domain.name(v.nodeid), "lost": v.lost, "stage": v.stage.value,
             "by": v.claimed_by, "tries": v.tries, "says": v.says, "waits_for": domain.waits_for(v),
             "devices": sorted({s.device for m in domain.methods(v.nodeid) for s in m.steps}),
             "for_ms": age_ms(v.since_ns, now_ns)} for v in domain.victims.values()]


def node_facts(node: NodeMachine, now_ns: int) -> dict[str, Any]:
    """Of the daemon itself; its owner adds what its clients say ("clients")."""
    quorum, ring = node.quorum, node.totem
    return {
        "nodeid": node.me, "name": node.name_of(node.me), "cluster": node.config.name, "state": node.state.value,
        "up_ms": age_ms(node.started_ns, now_ns), "ring": ring.state.value,
        "ring_ms": age_ms(ring.sought_ns or node.started_ns, now_ns), "members": list(node.members),
        "names": {str(n.nodeid): n.name for n in node.config.nodes},
        "quorate": quorum.quorate, "votes": quorum.total_votes, "quorum": quorum.quorum,
        "expected": quorum.expected_votes, "quorum_ms": age_ms(node.quorum_since_ns, now_ns),
        "unconfirmed": list(quorum.unconfirmed), "acting": node.fence.acting, "master": node.fence.master,
        "victims": _victims(node, now_ns), "config": node.config.version, "config_waits": list(node.spread.waits_for()),
        "storing": list(node.spread.storing()), "groups_synced": node.groups.synced,
        "recoveries": list(views(node.recoveries, now_ns)), "history": history(node)}


def history(node: NodeMachine) -> list[dict[str, Any]]:
    """The losses that were recovered from, the oldest first."""
    return [{"nodeid": d.nodeid, "name": d.name, "at_s": d.wall_s, "total_ms": d.total_ms,
             "phases_ms": dict(d.phases_ms), "text": d.text} for d in node.recoveries.history]


def statistics(node: NodeMachine, now_ns: int) -> dict[str, Any]:
    """What is counted, for metrics: names as in docs/metrics.md."""
    quorum = node.quorum
    return {
        "up_ms": age_ms(node.started_ns, now_ns), "nodes": len(node.config.nodes), "members": len(node.members),
        "quorate": quorum.quorate, "votes": quorum.total_votes, "quorum": quorum.quorum,
        "expected": quorum.expected_votes, "disk_votes": quorum.config.qdisk_votes if quorum.qdisk_alive else 0,
        "unconfirmed": len(quorum.unconfirmed), "config_version": node.config.version,
        "standing": {node.name_of(n): s.value for n, s in quorum.standing.items()},
        "victims": {node.name_of(v.nodeid): v.tries for v in node.fence.victims.values()},
        "fence": dict(node.fence.counts), "totem": node.totem.statistics(), "ring": node.totem.state.value,
        "generation": node.totem.ring_id.seq, "recovery": dict(node.recoveries.counts),
        "recovering": {r.name: {"phase": r.phase.word, "phase_ms": age_ms(r.since_ns, now_ns)}
                       for r in node.recoveries.open.values()},
        "phases_ms": _phase_sums(node), "groups": len(node.groups.groups())}


def _phase_sums(node: NodeMachine) -> dict[str, int]:
    return {p.word: node.recoveries.sums_ms[p] for p in Phase if p is not Phase.OVER}
