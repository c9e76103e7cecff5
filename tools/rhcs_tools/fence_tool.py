"""fence_tool: the fence domain as this node sees it.

Usage: fence_tool <ls|dump|join|leave> [options]
  ls               members, who fences, and the victims: since when, what was tried, what is waited for
  dump             what happened in the domain since this cman started
  join             wait until this node is in the domain, which every member of a cluster is; -t SECONDS at most
                   (default 300)
  leave            refused: a node leaves the domain with its cluster (cman_tool leave)
--json with ls. Exit status: 0 done, 1 failed, 2 time is up. -h help, -V version.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Sequence

from cman.ask import Asker
from cman.explain import duration
from cman.protocol import Unreachable
from cman.views import FenceDomainView, VictimView
from rhcs_tools import plain
from rhcs_tools.plain import Failed

JOIN_LIMIT_S = 300
TIMED_OUT = 2


def wait_state(domain: FenceDomainView) -> str:
    """The word of the original, so that scripts find it."""
    if not domain.victims:
        return "none"
    return "fencing" if domain.acting else "quorum"


def victim_line(victim: VictimView) -> str:
    what = "lost" if victim.lost else "never seen"
    return f"victim        {victim.name} (node {victim.nodeid}), {what} for {duration(victim.for_ms)}: waits for " \
           f"{victim.waits_for}"


def domain_lines(domain: FenceDomainView) -> list[str]:
    at = next((v.nodeid for v in domain.victims if v.by), 0)
    return ["fence domain", f"member count  {len(domain.members)}", f"victim count  {len(domain.victims)}",
            f"victim now    {at}", f"master nodeid {domain.master}", f"wait state    {wait_state(domain)}",
            f"members       {' '.join(str(m) for m in domain.members)}", *(victim_line(v) for v in domain.victims)]


def join(limit_s: float) -> int:
    with Asker() as cman:
        deadline = time.monotonic() + limit_s
        try:
            for cluster in cman.changes(deadline):
                if cluster.state == "Cluster-Member":
                    return 0
        except Unreachable:
            if time.monotonic() < deadline:
                raise
        print(f"fence_tool: this node is no member of the cluster after {limit_s:g} s", file=sys.stderr)
        return TIMED_OUT


def run(options: dict[str, str], names: list[str]) -> int:
    if len(names) != 1:
        raise Failed("one of ls, dump, join, leave is wanted (-h for help)")
    match names[0]:
        case "ls" | "dump":
            with Asker() as cman:
                domain = cman.fence_domain()
            if names[0] == "dump":
                print("\n".join(domain.history) or "nothing has happened")
            elif "--json" in options:
                print(json.dumps(dataclasses.asdict(domain), indent=2))
            else:
                print("\n".join(domain_lines(domain)))
            return 0
        case "join":
            text = options.get("-t", str(JOIN_LIMIT_S))
            if not text.isdecimal():
                raise Failed(f"-t {text}: wanted seconds")
            return join(float(text))
        case "leave":
            raise Failed("a node leaves the fence domain with its cluster: cman_tool leave")
    raise Failed(f"{names[0]}: not one of ls, dump, join, leave")


def main(argv: Sequence[str] | None = None) -> int:
    return plain.main("fence_tool", __doc__, "t:wj:m:n", run, argv)


if __name__ == "__main__":
    sys.exit(main())
