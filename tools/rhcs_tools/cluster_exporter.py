"""cluster_exporter: metrics of this node's cluster daemons for Prometheus.

Usage: cluster_exporter [-l ADDRESS:PORT | -u PATH | -1] [cman gfs2d dlm]
  -l ADDRESS:PORT  listen there; default 127.0.0.1:9719, which only this machine reaches
  -u PATH          listen on a unix socket instead, root's alone
  -1               print the metrics once and end (for the text files of node_exporter)
  -t SECONDS       how long a daemon may take to answer (default 2)
Names of daemons leave out the others. /metrics has all; /metrics/cman, /metrics/gfs2d and /metrics/dlm one each.
Daemons are asked when somebody asks for metrics, never before; one that does not answer shows as cman_up, gfs2_up or
dlm_up 0.
It runs in the foreground. Exit status: 0 done, 1 failed. -h help, -V version.
"""

from __future__ import annotations

import os
import signal
import socket
import socketserver
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import version as version_of
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, generate_latest, make_wsgi_app
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from cman.ask import Asker
from cman.protocol import CmanError
from dlm import inspect
from gfs2py.control.client import Control, Unreachable, all_mounts
from gfs2py.control.protocol import ControlError
from rhcs_tools import metrics, plain
from rhcs_tools.plain import Failed

ADDRESS, PORT = "127.0.0.1", 9719
ANSWER_LIMIT_S = 2.0
REQUEST_LIMIT_S = 10.0          # for a client to send its request and to read the answer
PARTS = ("cman", "gfs2d", "dlm")

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def look(parts: Iterable[str], limit_s: float) -> metrics.Node:
    """Ask the daemons of this node."""
    wanted = set(parts)
    cman = None
    if "cman" in wanted:
        try:
            with Asker(limit_s=limit_s) as asked:
                cman = asked.ask("statistics")
        except CmanError:
            cman = None
    mounts = list(_mounts(limit_s)) if "gfs2d" in wanted else []
    spaces, silent = [], []
    for asker in inspect.askers() if "dlm" in wanted else ():
        try:
            spaces.append(asker.ask("describe"))
        except CmanError:
            silent.append(asker.path.name.partition(".")[0])
    return metrics.Node(version_of("gfs2py"), cman, mounts, spaces, silent)


def _mounts(limit_s: float) -> Iterator[metrics.Mount]:
    for path, who in all_mounts(limit_s):
        if isinstance(who, Exception):
            yield metrics.Mount(path.name.removeprefix("gfs2d-").removesuffix(".sock"), "", None)
            continue
        try:
            with Control(path, limit_s) as control:
                yield metrics.Mount(who.table, who.mount_point, control.statistics())
        except (Unreachable, ControlError):
            yield metrics.Mount(who.table, who.mount_point, None)


class Daemons(Collector):
    """Collects on each scrape; to be registered without being asked."""

    def __init__(self, parts: Sequence[str], limit_s: float) -> None:
        self._parts, self._limit_s = parts, limit_s

    def collect(self) -> Iterator[Metric]:
        yield from metrics.families(look(self._parts, self._limit_s), self._parts)

    def describe(self) -> Iterator[Metric]:
        yield from ()


def registry(parts: Sequence[str], limit_s: float) -> CollectorRegistry:
    made = CollectorRegistry(auto_describe=False)
    made.register(Daemons(parts, limit_s))
    return made


def application(parts: Sequence[str], limit_s: float) -> Application:
    """/metrics of all parts, /metrics/PART of one; anything else is not found."""
    apps: dict[str, Any] = {"/metrics": make_wsgi_app(registry(parts, limit_s))}
    apps.update({f"/metrics/{part}": make_wsgi_app(registry([part], limit_s)) for part in parts})

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        app = apps.get(environ.get("PATH_INFO", ""))
        if app is None:
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [b"metrics are at /metrics\n"]
        return app(environ, start_response)         # type: ignore[no-any-return]
    return answer


class _Quiet(WSGIRequestHandler):
    """No line per request; a client that does not go on is let go."""

    timeout = REQUEST_LIMIT_S

    def log_message(self, format: str, *args: object) -> None:
        pass

    def address_string(self) -> str:
        return "client"


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 16


class _UnixServer(_Server):
    address_family = socket.AF_UNIX

    def server_bind(self) -> None:
        before = os.umask(0o177)
        try:
            socketserver.TCPServer.server_bind(self)
        finally:
            os.umask(before)
        self.server_name, self.server_port = "localhost", 0
        self.setup_environ()

    def get_request(self) -> tuple[Any, Any]:
        request, _ = super().get_request()
        return request, ("local", 0)


class _SixServer(_Server):
    address_family = socket.AF_INET6


def make_server(listen: str, unix: str, app: Application) -> WSGIServer:
    """Bound and listening. Raises Failed, OSError."""
    if unix:
        if os.path.exists(unix):
            _free(unix)
        server: WSGIServer = _UnixServer(unix, _Quiet)              # type: ignore[arg-type]
    else:
        host, colon, port = listen.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not colon or not host or not port.isdecimal() or int(port) > 65535:
            raise Failed(f"-l {listen}: wanted ADDRESS:PORT, such as {ADDRESS}:{PORT}")
        server = (_SixServer if ":" in host else _Server)((host, int(port)), _Quiet)
    server.set_app(app)
    return server


def _free(path: str) -> None:
    """Take a socket away on which nobody listens. Raises Failed."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise Failed(f"{path}: another exporter listens there")


def run(chosen: dict[str, str], names: list[str]) -> int:
    if unknown := [name for name in names if name not in PARTS]:
        raise Failed(f"{unknown[0]}: not one of {', '.join(PARTS)}")
    parts = [part for part in PARTS if part in names] or list(PARTS)
    text = chosen.get("-t", str(ANSWER_LIMIT_S))
    if not text.replace(".", "", 1).isdecimal() or float(text) <= 0:
        raise Failed(f"-t {text}: wanted seconds")
    limit_s = float(text)
    if "-1" in chosen:
        sys.stdout.write(generate_latest(registry(parts, limit_s)).decode())
        return 0
    unix = chosen.get("-u", "")
    server = make_server(chosen.get("-l", f"{ADDRESS}:{PORT}"), unix, application(parts, limit_s))
    where = unix or f"{server.server_name}:{server.server_port}"
    print(f"cluster_exporter: metrics of {', '.join(parts)} at {where}, /metrics", file=sys.stderr, flush=True)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    try:
        server.serve_forever()
    finally:
        server.server_close()
        if unix:
            os.unlink(unix)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return plain.main("cluster_exporter", __doc__, "l:u:t:1", run, argv)


if __name__ == "__main__":
    sys.exit(main())
