"""What the daemons of a node count, as metric families of Prometheus: names, units, labels. Pure.

The input is what the daemons answer to `statistics` (cman, gfs2d) and `describe` (lockspaces). Names follow Prometheus'
conventions: base units, _total for counters. docs/metrics.md has the list; a test compares it with this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)

from gfs2py.stats import LEVELS

Facts = Mapping[str, Any]
NS_PER_S = 1e9
# Boundaries that the daemon's histograms have, too (four to an octave, in ns): 4 us to 17 s, by factors of 4.
BOUNDS_NS = tuple(1 << n for n in range(12, 35, 2))
DLM_LEVELS = frozenset("parked locks resources tossed waiting queued_messages queued_events".split())
GLOCK_TYPES = ("reserved", "nondisk", "inode", "rgrp", "meta", "iopen", "flock", "plock", "quota", "journal")
DLM_COLUMN, QUEUE_COLUMN = 6, 7         # of a row of sbstats
_ENGINE_SKIPPED = frozenset({"withdrawn"})


@dataclass(frozen=True, slots=True)
class Mount:
    """One gfs2d. `statistics` None: it did not answer."""

    table: str
    mount_point: str
    statistics: Facts | None


@dataclass(frozen=True, slots=True)
class Node:
    """What was found on this node. cman None: no answer. spaces: `describe` of each lockspace; silent_spaces: sockets
    behind which nobody answered."""

    version: str
    cman: Facts | None
    mounts: Sequence[Mount] = ()
    spaces: Sequence[Facts] = ()
    silent_spaces: Sequence[str] = ()


@dataclass(slots=True)
class _Families:
    """Families by name, each with all its rows, in the order in which they were first named."""

    made: dict[str, Metric] = field(default_factory=dict)

    def _family(self, kind: Callable[..., Any], name: str, help_text: str, labels: Mapping[str, str]) -> Any:
        if name not in self.made:
            self.made[name] = kind(name, help_text, labels=list(labels))
        return self.made[name]

    def gauge(self, name: str, help_text: str, value: float, **labels: str) -> None:
        self._family(GaugeMetricFamily, name, help_text, labels).add_metric(list(labels.values()), float(value))

    def counter(self, name: str, help_text: str, value: float, **labels: str) -> None:
        """`name` without its _total."""
        self._family(CounterMetricFamily, name, help_text, labels).add_metric(list(labels.values()), float(value))

    def summary(self, name: str, help_text: str, count: int, seconds: float, **labels: str) -> None:
        self._family(SummaryMetricFamily, name, help_text, labels).add_metric(list(labels.values()), count, seconds)

    def histogram(self, name: str, help_text: str, told: Facts, **labels: str) -> None:
        self._family(HistogramMetricFamily, name, help_text, labels).add_metric(
            list(labels.values()), buckets(told), told["ns"] / NS_PER_S)


def buckets(histogram: Facts) -> list[tuple[str, float]]:
    """Cumulative, always the same boundaries: rates need series that do not come and go."""
    found = [(repr(bound / NS_PER_S), float(sum(n for highest, n in histogram["buckets"] if highest <= bound)))
             for bound in BOUNDS_NS]
    return [*found, ("+Inf", float(histogram["count"]))]


def families(node: Node, parts: Iterable[str] = ("cman", "gfs2d", "dlm")) -> Iterator[Metric]:
    """All families of these daemons."""
    made, wanted = _Families(), set(parts)
    made.gauge("cluster_exporter_build_info", "Version of the exporter.", 1, version=node.version)
    if "cman" in wanted:
        made.gauge("cman_up", "Whether this node's cman answers.", node.cman is not None)
        if node.cman is not None:
            _membership(made, node.cman)
            _totem(made, node.cman)
            _fencing(made, node.cman)
            _recoveries(made, node.cman)
    if "gfs2d" in wanted:
        for mount in node.mounts:
            _mount(made, mount)
    if "dlm" in wanted:
        for space in node.spaces:
            _space(made, space)
        for name in node.silent_spaces:
            made.gauge("dlm_up", "Whether the process that holds the lockspace answers.", 0, lockspace=name, process="")
    yield from made.made.values()


def _membership(made: _Families, told: Facts) -> None:
    made.gauge("cman_uptime_seconds", "Since when this cman runs.", told["up_ms"] / 1000)
    for name, help_text, key in (
            ("cman_nodes", "Nodes of cluster.conf.", "nodes"), ("cman_members", "Members of the ring.", "members"),
            ("cman_quorate", "Whether this node is in a quorate component.", "quorate"),
            ("cman_votes", "Votes of the members and of the quorum disk.", "votes"),
            ("cman_quorum_votes", "Votes that are needed.", "quorum"),
            ("cman_expected_votes", "Votes when all are there.", "expected"),
            ("cman_quorum_disk_votes", "Votes of the quorum disk that count now.", "disk_votes"),
            ("cman_unconfirmed_nodes", "Nodes that may still be at work: lost or never seen, not fenced.",
             "unconfirmed"),
            ("cman_config_version", "Version of the cluster's configuration.", "config_version"),
            ("cman_clients", "Connections to the control socket.", "clients"),
            ("cman_subsystems", "Registered subsystems.", "subsystems"), ("cman_groups", "Process groups.", "groups"),
            ("cman_clients_unread_bytes", "What clients have not read yet.", "unread_bytes")):
        made.gauge(name, help_text, told[key])
    if told.get("qdisk"):
        _quorum_disk(made, told["qdisk"])
    for node, standing in told["standing"].items():
        made.gauge("cman_node_member", "Whether this node is a member.", standing == "member", node=node)


def _quorum_disk(made: _Families, told: Facts) -> None:
    for name, help_text, value in (
            ("counts", "Whether its votes count.", told["counts"]),
            ("master", "Node id of its master, 0: none.", told["master"]),
            ("score", "Points of this node's heuristics.", told["score"]),
            ("score_needed", "Points that this node needs.", told["score_needed"]),
            ("visible_nodes", "Other nodes that write to it.", len(told["visible"])),
            ("hung_seconds", "How long a read or write has hung.", told["hung_s"]),
            ("trouble", "Whether it cannot be read or written.", bool(told["trouble"]))):
        made.gauge(f"cman_quorum_disk_{name}", help_text, value)
    for one in told["heuristics"]:
        made.gauge("cman_quorum_disk_heuristic_up", "Whether the program succeeds.", one["up"], program=one["program"])


def _totem(made: _Families, told: Facts) -> None:
    totem = told["totem"]
    made.gauge("cman_ring_operational", "Whether the ring is operational, not being formed.",
               told["ring"] == "OPERATIONAL")
    made.gauge("cman_ring_sequence", "Sequence number of the ring.", told["generation"])
    made.summary("cman_token_rotation_seconds", "From one visit of the token to the next; an idle ring rests it.",
                 totem["rotations"], totem["rotations_ns"] / NS_PER_S)
    for name, help_text, key in (
            ("cman_tokens", "Visits of the token.", "tokens"),
            ("cman_token_retransmits", "Tokens sent again.", "token_retransmits"),
            ("cman_token_losses", "Times that the token was lost.", "token_losses"),
            ("cman_rings", "Rings that this node has been part of.", "rings"),
            ("cman_packets_sent", "Packets of messages sent.", "sent"),
            ("cman_packets_resent", "Packets sent again for members that lacked them.", "resent"),
            ("cman_packets_received", "Packets received.", "received"),
            ("cman_packets_dropped", "Packets that made no sense or came too late.", "dropped"),
            ("cman_messages_delivered", "Messages delivered in the agreed order.", "delivered"),
            ("cman_pauses", "Times that this node found that it was held up itself.", "pauses")):
        made.counter(name, help_text, totem[key])
    made.gauge("cman_send_queue_bytes", "Messages that wait for the token.", totem["queued_bytes"])


def _fencing(made: _Families, told: Facts) -> None:
    for key in ("attempts", "failures", "successes"):
        made.counter(f"cman_fence_{key}", f"Fencing {key} of the domain that this node has heard of.",
                     told["fence"][key])
    made.gauge("cman_fence_victims", "Nodes that have to be fenced.", len(told["victims"]))
    for node, tries in told["victims"].items():
        made.gauge("cman_fence_victim_failed_tries", "Tries that have failed, of a node that has to be fenced.", tries,
                   node=node)


def _recoveries(made: _Families, told: Facts) -> None:
    counts = told["recovery"]
    made.counter("cman_losses", "Members that went without a word.", counts["losses"])
    made.counter("cman_recoveries", "Losses that this node has recovered from.", counts["recovered"])
    made.counter("cman_recovery_phases_over_budget", "Phases that took longer than their budget.",
                 counts["over_budget"])
    for phase, ms in told["phases_ms"].items():
        made.counter("cman_recovery_phase_seconds", "Time spent in each phase of recoveries.", ms / 1000, phase=phase)
    made.gauge("cman_recovering_nodes", "Losses that are not recovered from yet.", len(told["recovering"]))
    for node, one in told["recovering"].items():
        made.gauge("cman_recovering_phase_seconds", "How long a recovery has been in its phase.",
                   one["phase_ms"] / 1000, node=node, phase=one["phase"])


def _mount(made: _Families, mount: Mount) -> None:
    where = {"table": mount.table, "mount_point": mount.mount_point}
    made.gauge("gfs2_up", "Whether the mount's gfs2d answers.", mount.statistics is not None, **where)
    told = mount.statistics
    if told is None:
        return
    made.gauge("gfs2_uptime_seconds", "Since when it is mounted.", told["uptime_s"], **where)
    for opcode, one in sorted(told["requests"].items()):
        if not one["count"]:
            continue
        made.histogram("gfs2_request_duration_seconds", "From taking a request to after its answer.", one, **where,
                       opcode=opcode)
        made.counter("gfs2_request_errors", "Requests answered with an error.", one["errors"], **where, opcode=opcode)
        if one["bytes"]:
            made.counter("gfs2_request_bytes", "Bytes read or written.", one["bytes"], **where, opcode=opcode)
    for name, one in sorted(told["latencies"].items()):
        made.histogram("gfs2_wait_duration_seconds", "Device operations, commits, and waits by kind.", one, **where,
                       wait=name)
    for part in ("engine", "session"):
        for name, value in told[part].items():
            if name not in _ENGINE_SKIPPED:
                _number(made, name, value, where)
    process = told["process"]
    made.gauge("gfs2_process_resident_memory_bytes", "Memory of gfs2d.", process["rss_bytes"], **where)
    made.counter("gfs2_process_cpu_seconds", "Processor time of gfs2d.", process["user_s"] + process["system_s"],
                 **where)
    made.gauge("gfs2_withdrawn", "Whether the mount has withdrawn.", told["engine"].get("withdrawn", 0), **where)
    cluster = told.get("cluster") or {}
    if cluster:
        made.gauge("gfs2_locks_blocked", "Whether grants wait for a recovery.", cluster["blocked"], **where)
    for kind, row in zip(GLOCK_TYPES, told.get("glocks") or (), strict=False):
        made.counter("gfs2_glock_dlm_requests", "Requests of glocks to the lock manager.", row[DLM_COLUMN], **where,
                     type=kind)
        made.counter("gfs2_glock_holders_queued", "Holders that were queued at glocks.", row[QUEUE_COLUMN], **where,
                     type=kind)


def _number(made: _Families, name: str, value: float, where: Mapping[str, str]) -> None:
    """A counter or level of the engine or the session under its own name."""
    words = name.replace("_", " ")
    if name.endswith("_ns"):
        name, value = f"{name.removesuffix('_ns')}_seconds", value / NS_PER_S
    if name in LEVELS:
        made.gauge(f"gfs2_{name}", f"Now: {words}.", value, **where)
    else:
        made.counter(f"gfs2_{name}", f"Since the mount: {words}.", value, **where)


def _space(made: _Families, told: Facts) -> None:
    where = {"lockspace": str(told["name"]), "process": str(told["command"])}
    made.gauge("dlm_up", "Whether the process that holds the lockspace answers.", 1, **where)
    made.gauge("dlm_running", "Whether locks are granted, no recovery is under way.", told["running"], **where)
    made.gauge("dlm_members", "Nodes in the lockspace.", len(told["members"]), **where)
    made.gauge("dlm_generation", "Generation of its members.", told["generation"], **where)
    for name, value in told["statistics"].items():
        words = name.replace("_", " ")
        if name in DLM_LEVELS:
            made.gauge(f"dlm_{name}", f"Now: {words}.", value, **where)
        else:
            made.counter(f"dlm_{name}", f"Of this process: {words}.", value, **where)
