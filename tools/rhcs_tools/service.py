"""service: start and stop the daemons of the suite, with the lines that RHEL's init scripts print.

Usage: service NAME start|stop|restart|status
For where no systemd runs (containers, the lab). What is not of the suite is handed to the system's own `service`.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cman.ask import Asker
from cman.ccs import store
from cman.ccs.problems import ConfigError
from cman.protocol import CmanError, Unreachable
from rhcs_tools.launch import NotStarted, log_path, start

# The result stands at the right edge as RHEL's scripts put it.
COLUMN = 60
QUORUM_LIMIT_S = 45.0           # environment CMAN_QUORUM_TIMEOUT; 0: do not wait
STOP_LIMIT_S = 60.0
DISK_LIMIT_S = 15.0
POLL_S = 0.1
NOT_RUNNING = 3                 # LSB: the status of a service that is stopped


class Step(Exception):
    """A step of a start or stop has failed; the text says why."""


def say(text: str, good: bool) -> None:
    print(f"{text:<{COLUMN}}{'[  OK  ]' if good else '[FAILED]'}", flush=True)


def run(title: str, steps: Sequence[tuple[str, Callable[[], None]]]) -> int:
    """Print each step with its result; the first that fails ends it."""
    print(f"{title}: ", flush=True)
    for text, step in steps:
        try:
            step()
        except Step as e:
            say(f"   {text}", False)
            for line in str(e).splitlines():
                print(f"   {line}", file=sys.stderr)
            return 1
        say(f"   {text}", True)
    return 0


def _alive() -> bool:
    try:
        Asker().close()
    except Unreachable:
        return False
    return True


def _check_configuration() -> None:
    try:
        store.load_file(store.PATH)
    except ConfigError as e:
        raise Step(str(e)) from None


def _start_cman() -> None:
    if _alive():
        return
    try:
        start("cman", ["--syslog"])
    except NotStarted as e:
        raise Step(f"{e}\n(see {log_path('cman')})") from None


def _wait(deadline: float, what: str, quorate: bool) -> None:
    try:
        with Asker() as cman:
            for state in cman.changes(deadline):
                if state.state == "Cluster-Member" and (state.quorate or not quorate):
                    return
    except Unreachable as e:
        raise Step(f"no {what} in time" if time.monotonic() >= deadline else str(e)) from None


def _join() -> None:
    _wait(time.monotonic() + QUORUM_LIMIT_S, "membership", False)


def _quorum() -> None:
    _wait(time.monotonic() + _quorum_limit_s(), "quorum", True)


def _quorum_limit_s() -> float:
    return float(os.environ.get("CMAN_QUORUM_TIMEOUT") or QUORUM_LIMIT_S)


def _leave() -> None:
    try:
        with Asker() as cman:
            cman.ask("leave-cluster", limit_s=STOP_LIMIT_S)
            cman.wait_closed(time.monotonic() + STOP_LIMIT_S)
    except Unreachable as e:
        if _alive():
            raise Step(str(e)) from None
    except CmanError as e:
        raise Step(str(e)) from None


def cman_start() -> int:
    steps = [("Checking configuration...", _check_configuration), ("Starting cman...", _start_cman),
             ("Joining cluster...", _join)]
    return run("Starting cluster", [*steps, ("Waiting for quorum...", _quorum)] if _quorum_limit_s() else steps)


def cman_stop() -> int:
    if not _alive():
        return run("Stopping cluster", [("Stopping cman...", lambda: None)])
    return run("Stopping cluster", [("Leaving cluster...", _leave), ("Stopping cman...", _gone)])


def _gone() -> None:
    if _alive():
        raise Step("cman still answers")


def cman_status() -> int:
    try:
        with Asker() as cman:
            cman.cluster()
    except Unreachable:
        print("cman is stopped")
        return NOT_RUNNING
    print("cman is running.")
    return 0


def _quorum_disk() -> None:
    """Until cman has found the disk."""
    deadline = time.monotonic() + DISK_LIMIT_S
    while True:
        try:
            with Asker() as cman:
                disk = cman.quorum_disk()
        except Unreachable:
            raise Step("cman is not running: the quorum disk is part of it") from None
        if not disk.configured:
            raise Step("cluster.conf has no <quorumd>")
        if disk.state != "none":
            return
        if time.monotonic() > deadline:
            raise Step(disk.trouble or "this node is no member of the cluster yet")
        time.sleep(POLL_S)


def qdiskd_start() -> int:
    """The quorum disk's daemon is a task of cman: this waits until it has begun."""
    title = "Starting the Quorum Disk Daemon:"
    try:
        _quorum_disk()
    except Step as e:
        say(title, False)
        print(e, file=sys.stderr)
        return 1
    say(title, True)
    return 0


def qdiskd_stop() -> int:
    if not _alive():
        say("Stopping the Quorum Disk Daemon:", True)
        return 0
    say("Stopping the Quorum Disk Daemon:", False)
    print("the quorum disk is part of cman and stops with it (service cman stop)", file=sys.stderr)
    return 1


def qdiskd_status() -> int:
    try:
        with Asker() as cman:
            disk = cman.quorum_disk()
    except Unreachable:
        print("qdiskd is stopped")
        return NOT_RUNNING
    if disk.state == "none":
        print(f"qdiskd is stopped{': ' if disk.trouble else ''}{disk.trouble}")
        return NOT_RUNNING
    print(f"qdiskd is running on {disk.device}: score {disk.score}/{disk.score_max}, "
          + (f"node {disk.master} is the master" if disk.master else "no node is master yet"))
    return 0


# service -> action -> what does it
SERVICES: dict[str, dict[str, Callable[[], int]]] = {
    "cman": {"start": cman_start, "stop": cman_stop, "status": cman_status},
    "qdiskd": {"start": qdiskd_start, "stop": qdiskd_stop, "status": qdiskd_status}}


def _others() -> Iterator[str]:
    """The system's own commands of this name, in the order of PATH."""
    own = Path(sys.argv[0]).resolve()
    for folder in [*os.environ.get("PATH", "").split(":"), "/usr/sbin"]:
        found = shutil.which("service", path=folder) if folder else None
        if found and Path(found).resolve() != own:
            yield found


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(__doc__.partition("\n\n")[2], end="")
        return 0 if words else 1
    name, action = words[0], words[1] if len(words) == 2 else ""
    if name not in SERVICES:
        script = Path("/etc/init.d") / name
        if "/" not in name and os.access(script, os.X_OK):
            os.execv(script, [os.fspath(script), *words[1:]])
        for other in _others():
            os.execv(other, [other, *words])
        print(f"{name}: unrecognized service", file=sys.stderr)
        return 1
    actions = SERVICES[name]
    if action == "restart":
        return actions["stop"]() or actions["start"]()
    if action not in actions:
        print(f"Usage: service {name} {{{'|'.join([*actions, 'restart'])}}}", file=sys.stderr)
        return 2
    return actions[action]()


if __name__ == "__main__":
    sys.exit(main())
