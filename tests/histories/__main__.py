"""Histories by hand; see the package."""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Sequence

from histories import campaign
from histories.faults import KINDS
from lab import LabError
from poweroffs.things import Wrong


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.histories",
                                     description="All nodes work while faults strike; one order must explain all.")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--minutes", type=float, default=10.0, help="of rounds (default 10)")
    parser.add_argument("--faults", default=",".join(KINDS), help="of: " + ", ".join(KINDS))
    parser.add_argument("--pause-ms", type=float, default=20.0, help="of each node between two operations, about")
    args = parser.parse_args(argv)
    kinds = args.faults.split(",")
    if unknown := set(kinds) - set(KINDS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    begun = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - begun:7.1f} {text}", flush=True)

    try:
        tally = campaign.run(args.seed, args.minutes * 60, say, kinds=kinds, pause_ms=args.pause_ms, keep=True)
    except (Wrong, LabError):
        return 1
    say(str(tally))
    return 0


if __name__ == "__main__":
    sys.exit(main())
