"""fence_ack_manual: tell the cluster that a node is off, because you have seen it.

Usage: fence_ack_manual [-O] [-n] NODE
  -O   do not ask whether this is meant
The word ends all waiting for the fencing of this node at once. If the node still runs, it will destroy the file
systems that it has mounted. Refused for a member. Exit status: 0 done, 1 not done. -h help, -V version.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cman.ask import Asker
from rhcs_tools import plain

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


def run(options: dict[str, str], names: list[str]) -> int:
    return vouch(plain.one_node(names + [options[o] for o in ("-n",) if o in options]), "-O" not in options)


def main(argv: Sequence[str] | None = None) -> int:
    return plain.main("fence_ack_manual", __doc__, "On:", run, argv)


if __name__ == "__main__":
    sys.exit(main())
