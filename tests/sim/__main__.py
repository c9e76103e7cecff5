"""By hand, from tests/: python -m sim --seed 1 --hours 1000 --calm --stack cluster

Prints the options of a seed that breaks a rule; the same seed breaks it again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from sim.campaign import CALM_SEED_S, RUNS, SEED_S, campaign
from sim.checkers import Violation
from sim.kernel import S
from sim.options import draw


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sim", description="Simulate clusters from seeds.")
    parser.add_argument("--stack", choices=sorted(RUNS), default="lock")
    parser.add_argument("--seed", type=int, default=1, help="the first seed (default 1)")
    parser.add_argument("--hours", type=float, default=1.0, help="cluster-hours to run (default 1)")
    parser.add_argument("--calm", action="store_true", help="long timers, faults minutes apart: hours are cheap")
    parser.add_argument("--one", action="store_true", help="this seed only, with its options and outcome")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        if args.one:
            options = draw(args.seed, args.calm)
            print(options)
            print(RUNS[args.stack](args.seed, options).run((CALM_SEED_S if args.calm else SEED_S) * S))
        else:
            print(campaign(args.stack, args.seed, args.calm, hours=args.hours))
    except Violation as violation:
        print(f"VIOLATION {violation}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
