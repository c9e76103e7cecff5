"""fence_node: have this node fence another one now, whatever that is.

Usage: fence_node [-v] NODE
  -v   say which agents did it, or why they did not
The methods of cluster.conf are tried in order, once; the other members know about it, so a node that was fenced so is
not fenced again when it is missed. Exit status: 0 fenced, 1 not fenced, 2 no method is configured. -h help, -V version.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cman.ask import Asker
from cman.ccs.load import load
from cman.fence.plan import methods
from cman.protocol import CmanError
from rhcs_tools import plain

LIMIT_S = 600.0         # several methods, each with agents that may hang
NO_METHOD = 2


def fence(name: str, verbose: bool) -> int:
    with Asker() as cman:
        config = load(cman.configuration()[1])
        node = config.node(name)
        if node is None:
            raise plain.Failed(f"no node {name} in cluster {config.name}")
        if not methods(config, node.nodeid):
            print(f"fence_node: cluster.conf has no fence method for {name}", file=sys.stderr)
            return NO_METHOD
        try:
            told = cman.ask("fence", LIMIT_S, node=name)
        except CmanError as e:
            print(f"fence {name} failed" + (f": {e}" if verbose else ""))
            return 1
        print(f"fence {name} success" + (f": {told['by']}" if verbose else ""))
        return 0


def run(options: dict[str, str], names: list[str]) -> int:
    return fence(plain.one_node(names), "-v" in options)


def main(argv: Sequence[str] | None = None) -> int:
    return plain.main("fence_node", __doc__, "v", run, argv)


if __name__ == "__main__":
    sys.exit(main())
