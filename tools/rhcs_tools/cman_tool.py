"""cman_tool: this node's membership.

Usage: cman_tool <join|leave|kill|expected|votes|version|wait|status|nodes|services|why|debug|keygen> [options]
  join             start cman: -w wait until a member, -q until quorate, -t SECONDS at most;
                   instead of what cluster.conf says: -n NODENAME -m MULTICAST -p PORT -v VOTES -e VOTES -k KEYFILE
  leave [remove|force]  remove: the others lower their quorum; force: even if subsystems are active; -w wait, -t SECONDS
  kill -n NODE     make a node leave (several -n)
  expected -e N    expected votes of the cluster
  votes -v N       votes of this node, or of -n NODE
  version [-r]     show the version; -r: give this node's cluster.conf to the cluster
  wait             until this node is a member; -q until quorate; -t SECONDS at most
  status           this node and the cluster
  nodes            the nodes; -a with addresses, -f with fencing, -n NODE only it, -F id,name,type,addr,votes,exp,state
  services         groups and registered subsystems
  why              what is blocked in the cluster, on which node, by what, since when, and what can be done; -l on
                   this node only, -t SECONDS for an answer (default 8). Exit status 0: nothing is, 3: something is
  debug            -d LEVEL: how much cman logs (0 normal, 1 debug)
  keygen [FILE]    make the cluster's key (default /etc/cluster/cluster.key): copy it to every node
Exit status: 0 done, 1 failed, 2 time is up. --json with status, nodes, services, version, why. -h help, -V version.
"""

from __future__ import annotations

import dataclasses
import getopt
import json
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from cman.ask import Asker, TimedOut
from cman.explain import Finding, Silent, explain, findings_of, lines, short
from cman.protocol import CmanError, Unreachable
from cman.views import Cluster, Node

KEY_FILE = Path("/etc/cluster/cluster.key")
KEY_BYTES = 128
FOREVER_S = 10**9
UPDATE_LIMIT_S = 60.0
TIMED_OUT = 2
BLOCKED = 3                     # exit status of why
WHY_LIMIT_S = 8                 # more than cman itself waits for the others
SHORT_LIMIT_S = 3.0             # for what status says of it


class UsageError(Exception):
    """The command line cannot be understood."""


class Done(Exception):
    """All was said; only the exit status is not 0."""

    def __init__(self, status: int) -> None:
        super().__init__()
        self.status = status


class Failed(Exception):
    """What was asked could not be done."""

    def __init__(self, text: str, status: int = 1) -> None:
        super().__init__(text)
        self.status = status


@dataclass(slots=True)
class Words:
    """A command line taken apart."""

    options: list[tuple[str, str]] = field(default_factory=list)
    operands: list[str] = field(default_factory=list)

    def has(self, option: str) -> bool:
        return any(name == option for name, _ in self.options)

    def values(self, option: str) -> list[str]:
        return [value for name, value in self.options if name == option]

    def value(self, option: str) -> str | None:
        return next(iter(reversed(self.values(option))), None)

    def number(self, option: str) -> int | None:
        text = self.value(option)
        if text is not None and not (text.isascii() and text.isdigit() and len(text) < 10):
            raise UsageError(f"argument to {option[1]} ({text}) is not a number")
        return None if text is None else int(text)

    def needed(self, option: str, what: str) -> int:
        number = self.number(option)
        if number is None:
            raise UsageError(f"needs {option} {what}")
        return number

    @property
    def deadline(self) -> float:
        """Of waiting, as time.monotonic()."""
        limit = self.number("-t")
        return time.monotonic() + (FOREVER_S if limit is None else limit)


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2))


def _await(cman: Asker, deadline: float, wanted: Callable[[Cluster], bool]) -> None:
    try:
        for state in cman.changes(deadline):
            if wanted(state):
                return
    except Unreachable:
        if time.monotonic() < deadline:
            raise
        raise Failed("Timed-out waiting for cluster", TIMED_OUT) from None


def _member(state: Cluster) -> bool:
    return state.state == "Cluster-Member"


def _quorate(state: Cluster) -> bool:
    return _member(state) and state.quorate


def join(words: Words) -> None:
    from rhcs_tools.launch import NotStarted, start  # loads what no other operation needs

    deadline, arguments = words.deadline, ["--syslog"]
    for option, long in (("-n", "--node-name"), ("-o", "--node-name"), ("-m", "--multicast"), ("-p", "--port"),
                         ("-v", "--votes"), ("-e", "--expected"), ("-k", "--key"), ("-C", "--config")):
        if (value := words.value(option)) is not None:
            arguments += [long, value]
    if words.has("-t") and not words.has("-w") and not words.has("-q"):
        raise UsageError("timeout is only appropriate with wait")
    try:
        Asker().close()
        raise Failed("Node is already active")
    except Unreachable:
        pass
    try:
        start("cman", arguments)
    except NotStarted as e:
        raise Failed(f"cman did not start:\n{e}") from None
    if words.has("-w") or words.has("-q"):
        with Asker() as cman:
            _await(cman, deadline, _quorate if words.has("-q") else _member)


def leave(words: Words) -> None:
    if set(words.operands) - {"remove", "force"}:
        raise UsageError(f"unknown option {words.operands[0]}")
    deadline = words.deadline
    with Asker() as cman:
        try:
            cman.ask("leave-cluster", limit_s=max(1.0, min(deadline - time.monotonic(), 120.0)),
                     remove="remove" in words.operands, force="force" in words.operands)
        except CmanError as e:
            if isinstance(e, Unreachable):
                raise
            raise Failed(f"Error leaving cluster: {e}") from None
        if words.has("-w"):
            try:
                cman.wait_closed(deadline)
            except Unreachable:
                raise Failed("Timed-out waiting for cluster", TIMED_OUT) from None


def kill(words: Words) -> None:
    names = words.values("-n")
    if not names:
        raise UsageError("No node name specified")
    refused = []
    with Asker() as cman:
        for name in names:
            try:
                cman.ask("kill", node=name)
            except CmanError as e:
                refused.append(f"Can't kill node {name} : {e}")
    if refused:
        raise Failed("\n".join(refused))


def expected(words: Words) -> None:
    votes = words.needed("-e", "VOTES")
    with Asker() as cman:
        cman.ask("expected", votes=votes)


def votes(words: Words) -> None:
    number, node = words.needed("-v", "VOTES"), words.value("-n")
    with Asker() as cman:
        if node is None:
            cman.ask("votes", votes=number)
        else:
            cman.ask("votes", votes=number, node=node)


def version(words: Words) -> None:
    with Asker() as cman:
        if words.has("-r"):
            told = cman.ask("config-reload", limit_s=UPDATE_LIMIT_S)
            if told["failed"]:
                raise Failed("\n".join(f"{name}: runs it but cannot store it: {why}" for name, why in told["failed"]))
            return
        told = cman.ask("version")
    if words.has("--json"):
        _print_json(told)
    else:
        print(f"{told['version']} config {told['config_version']}")


def wait(words: Words) -> None:
    deadline = words.deadline
    with Asker() as cman:
        _await(cman, deadline, _quorate if words.has("-q") else _member)


def status_lines(version: str, c: Cluster) -> list[str]:
    """`cman_tool status`: the fields of RHEL 5 in their order (--json has the node's own votes as well)."""
    lines = [f"Version: {version}", f"Config Version: {c.config_version}", f"Cluster Name: {c.name}",
             f"Cluster Id: {c.cluster_id}", "Cluster Member: Yes", f"Cluster Generation: {c.generation}",
             f"Membership state: {c.state}", f"Nodes: {len(c.members)}", f"Expected votes: {c.expected_votes}"]
    if c.disk_votes:
        lines.append(f"Quorum device votes: {c.disk_votes}")
    return [*lines, f"Total votes: {c.total_votes}",
            f"Quorum: {c.quorum} {'' if c.quorate else 'Activity blocked'}".rstrip(),
            f"Active subsystems: {c.subsystems}", f"Flags: {' '.join(c.flags)}".rstrip(),
            f"Ports Bound: {' '.join(map(str, c.ports))}".rstrip(), f"Node name: {c.node_name}",
            f"Node ID: {c.nodeid}", f"Multicast addresses: {c.multicast}".rstrip(),
            f"Node addresses: {' '.join(c.addresses)}"]


def blocked_lines(findings: Sequence[Finding], history: Sequence[Mapping[str, Any]]) -> list[str]:
    """What `status` says beyond the fields of RHEL 5, if there is something to say."""
    found = [f"Blocked: {line}" for line in short(findings)]
    return found + [f"Last recovery: {one['text']}" for one in history[-1:]]


def status(words: Words) -> None:
    with Asker() as cman:
        found, told = cman.cluster(), cman.ask("version")
        why = cman.ask("why", limit_s=SHORT_LIMIT_S)
    findings, history = findings_of(why), why["nodes"][0]["history"]
    if words.has("--json"):
        _print_json({"version": told["version"], **dataclasses.asdict(found),
                     "blocked": [one.plain() for one in findings], "history": history})
    else:
        print("\n".join(status_lines(str(told["version"]), found) + blocked_lines(findings, history)))


def why(words: Words) -> None:
    """Everything is asked with a limit: what hangs is named."""
    limit_s = words.number("-t") or WHY_LIMIT_S
    facts: Sequence[Mapping[str, Any]] = ()
    silent: list[Silent] = []
    try:
        with Asker(limit_s=limit_s) as cman:
            told = cman.ask("why", cluster=not words.has("-l"))
        facts, findings = told["nodes"], findings_of(told)
    except TimedOut as e:
        silent = [Silent(socket.gethostname(), "cman", e.pid, limit_s * 1000)]
        findings = explain((), silent)
    history = [{"on": one["name"], **past} for one in facts for past in one.get("history", ())]
    if words.has("--json"):
        _print_json({"blocked": [one.plain() for one in findings], "history": history, "nodes": facts})
    else:
        print("\n".join(lines(findings)))
    if findings:
        raise Done(BLOCKED)


def _time(seconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def node_lines(node: Node, addresses: bool, fencing: bool) -> list[str]:
    """One node's lines of `cman_tool nodes`."""
    joined = _time(node.joined_s) if node.joined_s and node.state == "M" else " " * 19
    lines = [f"{node.nodeid:4}   {node.state}  {node.incarnation:5}   {joined}  {node.name}"]
    if fencing and node.state == "X":
        if node.fenced_s:
            lines.append(f"       Last fenced:   {_time(node.fenced_s)} by {node.fenced_by}")
        elif node.left_reason == "lost":
            lines.append("       Node has not been fenced since it went down")
    if addresses and node.addresses:
        lines.append(f"       Addresses: {' '.join(node.addresses)} ")
    return lines


def _formatted(node: Node, expected_votes: int, columns: Sequence[str]) -> str:
    known = {"id": str(node.nodeid), "name": node.name, "type": node.state, "addr": ",".join(node.addresses),
             "votes": str(node.votes), "exp": str(expected_votes), "state": "Member" if node.state == "M" else "Dead"}
    if unknown := [c for c in columns if c not in known]:
        raise UsageError(f"format {unknown[0]!r}: wanted some of {','.join(known)}")
    return " ".join(known[c] for c in columns)


def nodes(words: Words) -> None:
    with Asker() as cman:
        found, cluster = cman.nodes(), cman.cluster()
    wanted = words.values("-n")
    if unknown := [name for name in wanted if name not in [n.name for n in found]]:
        raise Failed(f"no node {unknown[0]}")
    found = [n for n in found if not wanted or n.name in wanted]
    if words.has("--json"):
        _print_json([dataclasses.asdict(n) for n in found])
    elif (columns := words.value("-F")) is not None:
        for node in found:
            print(_formatted(node, cluster.expected_votes, columns.split(",")))
    else:
        print("Node  Sts   Inc   Joined               Name")
        for node in found:
            print("\n".join(node_lines(node, words.has("-a"), words.has("-f"))))


def services(words: Words) -> None:
    with Asker() as cman:
        told = cman.ask("services")
    if words.has("--json"):
        _print_json(told)
        return
    for group in told["groups"]:
        print(f"group {group['name']}\n"
              f"  members {' '.join(f'{m[0]}/{m[1]}' for m in group['members'])}")
    for one in told["subsystems"]:
        print(f"subsystem {one['name']} (pid {one['pid']})")


def debug(words: Words) -> None:
    level = words.number("-d")
    with Asker() as cman:
        cman.ask("debug", level=1 if level is None else level)


def keygen(words: Words) -> None:
    path = Path(words.operands[0]) if words.operands else KEY_FILE
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise Failed(f"{path} exists already: every node has to have the same key, so it is not replaced") from None
    with open(fd, "wb") as f:
        f.write(secrets.token_bytes(KEY_BYTES))
        f.flush()
        os.fsync(f.fileno())
    print(f"{path}: copy it to every node of the cluster (owner root, mode 0600)")


def show_help(_: Words) -> None:
    print(__doc__.partition("\n\n")[2], end="")


OPERATIONS: dict[str, Callable[[Words], None]] = {
    "join": join, "leave": leave, "kill": kill, "expected": expected, "votes": votes, "version": version,
    "wait": wait, "status": status, "nodes": nodes, "services": services, "why": why, "debug": debug,
    "keygen": keygen}


def parse(argv: Sequence[str]) -> tuple[Callable[[Words], None], Words]:
    """Raises UsageError."""
    try:
        options, operands = getopt.gnu_getopt(list(argv), "m:n:v:e:p:t:o:k:F:C:d:rVwqfahl", ["json", "help"])
    except getopt.GetoptError as e:
        raise UsageError(str(e)) from None
    words = Words(options, operands)
    if words.has("-h") or words.has("--help"):
        return show_help, words
    if words.has("-V"):
        print(f"cman_tool {version_of('gfs2py')}")
        return (lambda _: None), words
    if not operands:
        raise UsageError("no operation specified")
    name = operands.pop(0)
    if name not in OPERATIONS:
        raise UsageError(f"unknown operation {name}")
    if operands and name not in ("leave", "keygen"):
        raise UsageError(f"unknown option {operands[0]}")
    return OPERATIONS[name], words


def main(argv: Sequence[str] | None = None) -> int:
    try:
        operation, words = parse(sys.argv[1:] if argv is None else argv)
        operation(words)
    except KeyboardInterrupt:
        return 130
    except UsageError as e:
        print(f"cman_tool: {e} (cman_tool -h tells what can be asked)", file=sys.stderr)
        return 1
    except Done as e:
        return e.status
    except Failed as e:
        print(f"cman_tool: {e}", file=sys.stderr)
        return e.status
    except CmanError as e:
        print(f"cman_tool: {e}", file=sys.stderr)
        return 1
    except OSError as e:
        print(f"cman_tool: {e.filename or ''}{': ' if e.filename else ''}{e.strerror or e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
