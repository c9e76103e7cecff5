"""fence_ack_manual: tell the cluster that a node is off, because you have seen it.

Usage: fence_ack_manual [-O] [-n] NODE
  -O   do not ask whether this is meant
The word ends all waiting for the fencing of this node at once. If the node still runs, it will destroy the file
systems that it has mounted. Refused for a member. Exit status: 0 done, 1 not done. -h help, -V version.
"""

from __future__ import annotations

import getopt
import sys
from collections.abc import Sequence
from importlib.metadata import version as version_of

from cman.ask import Asker
from cman.protocol import CmanError

WORD = "absolutely"


def vouch(name: str, asked: bool) -> int:
    if asked:
        print(f"About to override fencing for {name}.\n"
              "Improper use of this command can cause severe file system damage.\n")
        try:
            answer = input(f"Continue [NO/{WORD}]? ")
        except EOFError:
            answer = ""
        if answer.strip() != WORD:
            print("Aborted.")
            return 1
    with Asker() as cman:
        cman.ask("fenced", node=name, by="a human")
    print("Done")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    try:
        options, names = getopt.gnu_getopt(list(sys.argv[1:] if argv is None else argv), "hVOn:", ["help", "version"])
        chosen = dict(options)
        if "-h" in chosen or "--help" in chosen:
            print((__doc__ or "").strip())
            return 0
        if "-V" in chosen or "--version" in chosen:
            print(f"fence_ack_manual {version_of('gfs2py')}")
            return 0
        names += [chosen["-n"]] if "-n" in chosen else []
        if len(names) != 1:
            print("fence_ack_manual: the name of one node is wanted (-h for help)", file=sys.stderr)
            return 1
        return vouch(names[0], "-O" not in chosen)
    except (CmanError, getopt.GetoptError) as e:
        print(f"fence_ack_manual: {e}", file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    return 1


if __name__ == "__main__":
    sys.exit(main())
