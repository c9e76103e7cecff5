"""What Prometheus is told: names by its conventions, values in base units, every name in docs/metrics.md."""

from __future__ import annotations

import http.client
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from rhcs_tools import cluster_exporter, metrics
from rhcs_tools.plain import Failed

TOP = Path(__file__).resolve().parents[2]
TOTEM = dict.fromkeys("tokens token_retransmits token_losses sent resent received delivered dropped rings pauses "
                      "queued_bytes queued kept_packets".split(), 0)
CMAN: dict[str, Any] = {
    "up_ms": 90_500, "nodes": 4, "members": 3, "quorate": True, "votes": 3, "quorum": 3, "expected": 4,
    "disk_votes": 0, "unconfirmed": 1, "config_version": 35, "standing": {"web1": "member", "web2": "lost"},
    "victims": {"web2": 2}, "fence": {"attempts": 3, "failures": 2, "successes": 0},
    "totem": {**TOTEM, "tokens": 50, "rotations": 40, "rotations_ns": 6 * 10**9}, "ring": "OPERATIONAL",
    "generation": 77, "recovery": {"losses": 1, "recovered": 0, "over_budget": 1},
    "recovering": {"web2": {"phase": "fence", "phase_ms": 4200}}, "phases_ms": {"detection": 550, "fence": 0},
    "groups": 2, "clients": 3, "subsystems": 2, "unread_bytes": 0, "qdisk": {
        "configured": True, "device": "/dev/sdb7", "label": "q", "state": "run", "master": 4, "score": 1,
        "score_max": 2, "score_needed": 1, "counts": True, "visible": [1, 4], "hung_s": 0, "trouble": "",
        "heuristics": [{"program": "ping", "score": 1, "up": True, "misses": 0, "says": ""}]}}
HISTOGRAM = {"count": 6, "ns": 3_000_000, "max_ns": 1_000_000,
             "buckets": [[3584, 1], [4096, 2], [4608, 1], [1 << 20, 1], [1 << 35, 1]]}
MOUNT: dict[str, Any] = {
    "uptime_s": 12.5, "requests": {"READ": {**HISTOGRAM, "errors": 1, "bytes": 8192},
                                   "WRITE": {**HISTOGRAM, "count": 0, "errors": 0, "bytes": 0}},
    "latencies": {"device_flush": HISTOGRAM},
    "engine": {"cache_hits": 9, "cache_buffers": 4, "withdrawn": 0}, "session": {"parks": 2, "idle_poll_ns": 5 * 10**8},
    "process": {"rss_bytes": 1 << 20, "user_s": 1.0, "system_s": 0.5}, "cluster": {"blocked": 1},
    "glocks": [[0, 0, 0, 0, 0, 0, n, 10 + n] for n in range(10)]}
SPACE: dict[str, Any] = {"name": "my-gfs2", "command": "gfs2d", "running": True, "members": [1, 2], "generation": 3,
                         "statistics": {"requests": 5, "locks": 4, "recoveries": 1, "waiting": 0}}
NODE = metrics.Node("0.1.0", CMAN, [metrics.Mount("mycluster:my-gfs2", "/gfs2", MOUNT), metrics.Mount("8.5", "", None)],
                    [SPACE], ["other"])


def samples(node: metrics.Node, *parts: str) -> dict[tuple[str, ...], float]:
    """(name, label values in order of their names) -> value."""
    found = {}
    for family in metrics.families(node, parts or cluster_exporter.PARTS):
        for one in family.samples:
            found[(one.name, *(one.labels[k] for k in sorted(one.labels)))] = one.value
    return found


def test_values() -> None:
    found = samples(NODE)
    where = ("/gfs2", "mycluster:my-gfs2")
    assert found[("cman_up",)] == found[("cman_quorate",)] == 1
    assert found[("cman_uptime_seconds",)] == 90.5
    assert (found[("cman_token_rotation_seconds_count",)], found[("cman_token_rotation_seconds_sum",)]) == (40, 6)
    assert (found[("cman_node_member", "web1")], found[("cman_node_member", "web2")]) == (1, 0)
    assert found[("cman_fence_victim_failed_tries", "web2")] == 2
    assert (found[("cman_quorum_disk_master",)], found[("cman_quorum_disk_heuristic_up", "ping")]) == (4, 1)
    assert found[("cman_recovering_phase_seconds", "web2", "fence")] == 4.2
    assert found[("cman_recovery_phase_seconds_total", "detection")] == 0.55
    assert (found[("gfs2_up", *where)], found[("gfs2_up", "", "8.5")]) == (1, 0)
    assert found[("gfs2_request_bytes_total", *where[:1], "READ", where[1])] == 8192
    assert not [key for key in found if "WRITE" in key]         # never happened: no series
    assert found[("gfs2_cache_hits_total", *where)] == 9
    assert found[("gfs2_cache_buffers", *where)] == 4
    assert found[("gfs2_idle_poll_seconds_total", *where)] == 0.5
    assert found[("gfs2_process_cpu_seconds_total", *where)] == 1.5
    assert found[("gfs2_locks_blocked", *where)] == 1
    assert found[("gfs2_glock_dlm_requests_total", *where, "flock")] == 6
    assert found[("gfs2_glock_holders_queued_total", *where, "inode")] == 12
    assert found[("dlm_requests_total", "my-gfs2", "gfs2d")] == 5
    assert found[("dlm_locks", "my-gfs2", "gfs2d")] == 4
    assert found[("dlm_up", "other", "")] == 0


def test_histograms_are_cumulative_and_always_have_the_same_boundaries() -> None:
    found = metrics.buckets(HISTOGRAM)
    empty = metrics.buckets({"count": 0, "ns": 0, "buckets": []})
    assert [bound for bound, _ in found] == [bound for bound, _ in empty]
    assert found[0] == ("4.096e-06", 3)
    assert dict(found)["0.004194304"] == 5
    assert found[-1] == ("+Inf", 6)
    assert [n for _, n in found] == sorted(n for _, n in found)


def test_a_daemon_that_does_not_answer() -> None:
    found = samples(metrics.Node("0.1.0", None), "cman")
    assert found == {("cluster_exporter_build_info", "0.1.0"): 1, ("cman_up",): 0}


def test_names_follow_the_conventions_and_are_documented() -> None:
    page = (TOP / "docs" / "metrics.md").read_text()
    for family in metrics.families(NODE):
        assert re.fullmatch(r"(cman|gfs2|dlm|cluster_exporter)_[a-z0-9_]+", family.name)
        assert not family.name.endswith(("_ms", "_ns", "_total"))
        assert family.documentation.endswith(".")
        generic = family.documentation.startswith(("Now: ", "Since the mount: ", "Of this process: "))
        assert generic or f"`{family.name}" in page, f"{family.name} is not in docs/metrics.md"


@pytest.fixture
def unix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An exporter on a socket whose node is NODE."""
    monkeypatch.setattr(cluster_exporter, "look", lambda parts, limit_s: NODE)
    path = tmp_path / "exporter.sock"
    server = cluster_exporter.make_server("", str(path), cluster_exporter.application(cluster_exporter.PARTS, 1.0))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield path
    server.shutdown()
    thread.join()
    server.server_close()


def get(path: Path, url: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with connection.sock:
        connection.sock.connect(str(path))
        connection.request("GET", url)
        with connection.getresponse() as answer:
            return answer.status, answer.read().decode()


def test_served_on_a_socket_that_is_roots_alone(unix: Path) -> None:
    assert unix.stat().st_mode & 0o777 == 0o600
    status, text = get(unix, "/metrics")
    assert status == 200
    names = {family.name for family in text_string_to_metric_families(text)}
    assert {"cman_members", "gfs2_request_duration_seconds", "dlm_up"} <= names
    names = {family.name for family in text_string_to_metric_families(get(unix, "/metrics/dlm")[1])}
    assert names == {"cluster_exporter_build_info"} | {n for n in names if n.startswith("dlm_")}
    assert get(unix, "/other")[0] == 404
    with pytest.raises(Failed, match="another exporter"):
        cluster_exporter.make_server("", str(unix), cluster_exporter.application((), 1.0))


def test_listens_on_loopback_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cluster_exporter.ADDRESS == "127.0.0.1"
    server = cluster_exporter.make_server("127.0.0.1:0", "", cluster_exporter.application((), 1.0))
    assert server.socket.getsockname()[0] == "127.0.0.1"
    server.server_close()
    for wrong in ("9719", ":9719", "host:port", "127.0.0.1:70000"):
        with pytest.raises(Failed, match="wanted ADDRESS:PORT"):
            cluster_exporter.make_server(wrong, "", cluster_exporter.application((), 1.0))


def test_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cluster_exporter, "look", lambda parts, limit_s: NODE)
    assert cluster_exporter.main(["-1", "cman"]) == 0
    told = capsys.readouterr().out
    assert "cman_quorate 1.0" in told
    assert "gfs2_" not in told
    assert cluster_exporter.main(["-1", "nonsense"]) == 1
    assert cluster_exporter.main(["-t", "x"]) == 1
