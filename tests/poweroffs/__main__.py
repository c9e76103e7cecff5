"""Power-offs by hand; see the package."""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Sequence

from lab import LabError
from poweroffs import campaign
from poweroffs.plan import KINDS
from poweroffs.things import Wrong


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.poweroffs", description="Nodes die under write load.")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--count", type=int, default=20, help="nodes that lose their power (default 20)")
    parser.add_argument("--kinds", default=",".join(KINDS), help="of: " + " ".join(KINDS))
    parser.add_argument("--nodes", type=int, default=campaign.NODES)
    parser.add_argument("--qdisk", action="store_true", help="a quorum disk: the last one goes on (kind three)")
    parser.add_argument("--pause-ms", type=float, default=30.0, help="of each thread between two operations, about")
    args = parser.parse_args(argv)
    kinds = args.kinds.split(",")
    if unknown := set(kinds) - set(KINDS):
        parser.error(f"unknown: {' '.join(sorted(unknown))}")
    begun = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - begun:7.1f} {text}", flush=True)

    try:
        tally = campaign.run(args.seed, args.count, say, kinds=kinds, nodes=args.nodes, qdisk=args.qdisk,
                             pause_ms=args.pause_ms, keep=True)
    except (Wrong, LabError):
        return 1
    say(str(tally))
    return 0


if __name__ == "__main__":
    sys.exit(main())
