"""dlm_tool: the lockspaces of this node.

Usage: dlm_tool <ls|lockdump|dump|status|join|leave> [options] [NAME]
  ls [NAME]            lockspaces and their members; -n with the slot of each node
  lockdump NAME        the locks of a lockspace; -w only those that wait
  dump [NAME]          what happened to lockspaces: members, starts, what is waited for
  status               the processes that hold lockspaces, and what they count
  join NAME            start a process that is a member of the lockspace (for tests and for looking)
  leave NAME           end that process
--json with ls, lockdump, status. Exit status: 0 done, 1 failed. -h help, -V version.
"""

from __future__ import annotations

import getopt
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version as version_of
from typing import Any

from cman.protocol import CmanError
from dlm.core.packets import LockMode
from dlm.inspect import Asker, askers
from rhcs_tools import launch

LEAVE_LIMIT_S = 30.0
POLL_S = 0.05


class Failed(Exception):
    """What was asked could not be done."""


@dataclass(slots=True)
class Words:
    """A command line taken apart."""

    command: str
    names: list[str]
    json: bool = False
    waiting: bool = False
    slots: bool = False

    def name(self) -> str:
        if len(self.names) != 1:
            raise Failed(f"{self.command} wants the name of one lockspace")
        return self.names[0]


def spaces(name: str | None = None) -> list[tuple[Asker, dict[str, Any]]]:
    """All lockspaces here, or the one of that name. Raises Failed when it is not here."""
    found = []
    for asker in askers():
        try:
            told = asker.ask("describe")
        except CmanError as e:
            print(f"dlm_tool: {e}", file=sys.stderr)
            continue
        if name is None or told["name"] == name:
            found.append((asker, told))
    if name is not None and not found:
        raise Failed(f"no process of this node holds lockspace {name}")
    return sorted(found, key=lambda x: (x[1]["name"], x[1]["pid"]))


def change(told: dict[str, Any]) -> str:
    """What is going on, in a few words."""
    if told["running"]:
        return "none"
    waits = "".join(f" waits for node {n}" for n in told["waits_for"])
    return f"{told['phase']}{waits or ' ' + told['last']}"


def cmd_ls(words: Words) -> None:
    found = [told for _, told in spaces(words.names[0] if words.names else None)]
    if words.json:
        print(json.dumps(found, indent=1))
        return
    print("dlm lockspaces")
    for told in found:
        members = " ".join(str(m) for m in told["members"])
        print(f"name          {told['name']}\nid            0x{told['id']:08x}\n"
              f"process       {told['command']} pid {told['pid']}\ngeneration    {told['generation']}\n"
              f"change        {change(told)}\nmembers       {members}")
        if words.slots:
            print("slots         " + " ".join(f"{node}:{slot}" for node, slot in told["slots"]))
        print()


def all_resources(asker: Asker) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while True:
        told = asker.ask("resources", after=found[-1]["name"] if found else b"")
        found += told["resources"]
        if not told["more"]:
            return found


def mode(number: int) -> str:
    return LockMode(number).name


def printable(name: bytes) -> str:
    return name.decode("ascii", errors="backslashreplace") if name.isascii() else name.hex()


def cmd_lockdump(words: Words) -> None:
    for asker, _ in spaces(words.name()):
        rows = [(r, lk) for r in all_resources(asker) for lk in r["locks"]
                if not words.waiting or lk["queue"] != "granted" or lk["wait_type"]]
        if words.json:
            print(json.dumps([{**lk, "name": printable(r["name"]), "master": r["master"]} for r, lk in rows], indent=1))
            continue
        for r, lk in rows:
            owner = f" owner {lk['nodeid']} {lk['remid']:08x}" if lk["kind"] == "master" else ""
            waits = f" {lk['queue']}" if lk["queue"] != "granted" else ""
            print(f"id {lk['lkid']:08x} gr {mode(lk['grmode'])} rq {mode(lk['rqmode'])} pid {lk['pid']} "
                  f"master {r['master']}{owner}{waits} \"{printable(r['name'])}\"")


def cmd_dump(words: Words) -> None:
    for asker, told in spaces(words.names[0] if words.names else None):
        for line in asker.ask("history")["lines"]:
            print(f"{told['name']} {line}")


def cmd_status(words: Words) -> None:
    found = [told for _, told in spaces()]
    if words.json:
        print(json.dumps(found, indent=1))
        return
    for told in found:
        print(f"{told['name']}: {told['command']} pid {told['pid']} node {told['nodeid']} {change(told)}")
        print("  " + " ".join(f"{k}={v}" for k, v in told["statistics"].items()))


def cmd_join(words: Words) -> None:
    name = words.name()
    if [told for _, told in spaces() if told["name"] == name]:
        raise Failed(f"a process of this node holds lockspace {name} already")
    try:
        launch.start("dlm_lockspace", [name])
    except launch.NotStarted as e:
        raise Failed(str(e)) from e


def cmd_leave(words: Words) -> None:
    name = words.name()
    for asker, _ in spaces(name):
        asker.ask("leave")
    deadline = time.monotonic() + LEAVE_LIMIT_S
    while any(told["name"] == name for _, told in spaces()):
        if time.monotonic() > deadline:
            raise Failed(f"lockspace {name} is still held after {LEAVE_LIMIT_S:g} s")
        time.sleep(POLL_S)


COMMANDS: dict[str, Callable[[Words], None]] = {
    "ls": cmd_ls, "lockdump": cmd_lockdump, "dump": cmd_dump, "status": cmd_status, "join": cmd_join,
    "leave": cmd_leave}


def parse(words: Sequence[str]) -> Words:
    """Raises Failed."""
    try:
        options, operands = getopt.gnu_getopt(list(words), "nw", ["json"])
    except getopt.GetoptError as e:
        raise Failed(str(e)) from e
    if not operands or operands[0] not in COMMANDS:
        raise Failed(f"a command is wanted: {', '.join(COMMANDS)}")
    names = [o for o, _ in options]
    return Words(operands[0], operands[1:], "--json" in names, "-w" in names, "-n" in names)


def main(argv: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else list(argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(__doc__)
        return 0 if words else 1
    if words[0] in ("-V", "--version"):
        print(f"dlm_tool {version_of('gfs2py')}")
        return 0
    try:
        taken = parse(words)
        COMMANDS[taken.command](taken)
    except (Failed, CmanError) as e:
        print(f"dlm_tool: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
