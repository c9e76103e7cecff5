"""clustat: who is in the cluster.

Usage: clustat [-l] [-i SECONDS] [-m MEMBER] [-s SERVICE] [-IQhv]
  -i SECONDS  again and again, until it is interrupted
  -m MEMBER   only this member
  -s SERVICE  only this service (there are none before rgmanager runs)
  -l          long form of the services
  -I          this node's id
  -Q          nothing is printed: exit status 0 when the cluster is quorate, 1 when it is not
Exit status: 0 done, 1 failed or not quorate. -v version, -h help.
"""

from __future__ import annotations

import getopt
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version as version_of

from cman.ask import Asker
from cman.protocol import CmanError, Unreachable
from cman.views import Cluster, Node

NAME_WIDTH = 40
QUORUM_DISK_ID = 0
CLEAR = "\033[H\033[2J"


class Failed(Exception):
    """What was asked cannot be told."""


def state_of(node: Node, cluster: Cluster) -> str:
    """The Status column. The order of the words is rgmanager's, which adds its own (RHEL 5's clustat)."""
    words = ["Online" if node.state == "M" else "Offline"]
    if node.nodeid == QUORUM_DISK_ID:
        words.append("Quorum Disk")
    elif node.nodeid == cluster.nodeid:
        words.append("Local")
    return ", ".join(words)


def member_lines(nodes: Sequence[Node], cluster: Cluster) -> list[str]:
    """The table of members: in the order of their ids, the quorum disk last."""
    lines = [f" {'Member Name':<{NAME_WIDTH}} ID   Status", f" {'------ ----':<{NAME_WIDTH}} ---- ------"]
    for node in sorted(nodes, key=lambda n: (n.nodeid == QUORUM_DISK_ID, n.nodeid)):
        lines.append(f" {node.name:<{NAME_WIDTH}} {node.nodeid:4} {state_of(node, cluster)}")
    return lines


def header_lines(cluster: Cluster, now_s: float) -> list[str]:
    return [f"Cluster Status for {cluster.name} @ {time.strftime('%a %b %e %H:%M:%S %Y', time.localtime(now_s))}",
            f"Member Status: {'Quorate' if cluster.quorate else 'Inquorate'}", ""]


def _show(member: str | None) -> None:
    with Asker() as cman:
        nodes, cluster = cman.nodes(), cman.cluster()
    if member is None:
        print("\n".join([*header_lines(cluster, time.time()), *member_lines(nodes, cluster), ""]), flush=True)
        return
    found = [n for n in nodes if n.name == member]
    if not found:
        raise Failed(f"{member} is no member of cluster {cluster.name}")
    print("\n".join(member_lines(found, cluster)), flush=True)


def _repeat(member: str | None, seconds: float) -> None:
    while True:
        if sys.stdout.isatty():
            print(CLEAR, end="")
        _show(member)
        time.sleep(seconds)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise Failed(f"{text!r} is no number of seconds")
    return seconds


def run(argv: Sequence[str]) -> int:
    """Raises Failed, CmanError, GetoptError."""
    found, operands = getopt.gnu_getopt(list(argv), "fhi:Ilm:Qs:v")
    options = dict(found)
    if operands:
        raise Failed(f"unknown argument {operands[0]}")
    if "-h" in options:
        print(__doc__.partition("\n\n")[2], end="")
    elif "-v" in options:
        print(f"clustat {version_of('gfs2py')}")
    elif "-s" in options:
        raise Failed(f"service {options['-s']} is not known: no rgmanager runs on this node")
    elif "-I" in options or "-Q" in options:
        with Asker() as cman:
            cluster = cman.cluster()
        if "-Q" in options:
            return 0 if cluster.quorate else 1
        print(cluster.nodeid)
    elif "-i" in options:
        _repeat(options.get("-m"), _seconds(options["-i"]))
    else:
        _show(options.get("-m"))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    try:
        return run(sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt:
        return 0
    except Unreachable as e:
        print(f"Could not connect to CMAN: {e}", file=sys.stderr)
    except getopt.GetoptError as e:
        print(f"clustat: {e} (clustat -h tells what can be asked)", file=sys.stderr)
    except (Failed, CmanError) as e:
        print(f"clustat: {e}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
