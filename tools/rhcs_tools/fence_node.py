"""fence_node: have this node fence another one now, whatever that is.

Usage: fence_node [-v] NODE
  -v   say which agents did it, or why they did not
The methods of cluster.conf are tried in order, once; the other members know about it, so a node that was fenced so is
not fenced again when it is missed. Exit status: 0 fenced, 1 not fenced, 2 no method is configured. -h help, -V version.
"""

from __future__ import annotations

import getopt
import sys
from collections.abc import Sequence
from importlib.metadata import version as version_of

from cman.ask import Asker
from cman.ccs.load import load
from cman.fence.plan import methods
from cman.protocol import CmanError

LIMIT_S = 600.0         # several methods, each with agents that may hang
NO_METHOD = 2


def fence(name: str, verbose: bool) -> int:
    with Asker() as cman:
        config = load(cman.configuration()[1])
        node = config.node(name)
        if node is None:
            print(f"fence_node: no node {name} in cluster {config.name}", file=sys.stderr)
            return 1
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


def main(argv: Sequence[str] | None = None) -> int:
    try:
        options, names = getopt.gnu_getopt(list(sys.argv[1:] if argv is None else argv), "hVv", ["help", "version"])
        chosen = {o for o, _ in options}
        if chosen & {"-h", "--help"}:
            print((__doc__ or "").strip())
            return 0
        if chosen & {"-V", "--version"}:
            print(f"fence_node {version_of('gfs2py')}")
            return 0
        if len(names) != 1:
            print("fence_node: the name of one node is wanted (-h for help)", file=sys.stderr)
            return 1
        return fence(names[0], "-v" in chosen)
    except (CmanError, getopt.GetoptError) as e:
        print(f"fence_node: {e}", file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    return 1


if __name__ == "__main__":
    sys.exit(main())
