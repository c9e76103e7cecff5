"""Damages images and says what came of it: python -m hostile --cases 50000, or one case again with --case."""

from __future__ import annotations

import argparse
import faulthandler
import os
import random
import sys
import time

from hostile.bank import bases
from hostile.mutate import FIELDS, draw
from hostile.pool import Pool, run_one


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--seconds", type=float, default=0.0, help="end after this time")
    parser.add_argument("--case", type=int, help="only this one, in this process")
    parser.add_argument("--show", action="store_true", help="say what the damage is, do nothing with it")
    args = parser.parse_args()
    found = list(bases())
    if args.case is not None:
        faulthandler.enable()
        damage = draw(found, args.seed, args.case)
        print(f"{damage.base.name}: " + "\n    ".join(damage.text), flush=True)
        if not args.show:
            began = time.process_time()
            print(run_one(found, args.seed, args.case)[0], f"{time.process_time() - began:.2f} s")
        return 0
    print(f"seed: {args.seed}", flush=True)
    pool = Pool(found, args.seed, args.first, args.cases, jobs=args.jobs, seconds=args.seconds,
                tell=lambda line: print(line, flush=True))
    result = pool.run()
    print(f"{result.cases} cases, {len(result.findings)} findings, {result.seconds:.0f} s, "
          f"{result.cases / max(result.cpu_seconds, 0.001):.0f} cases per second of processor time; "
          f"{len(result.fields)} of {len(FIELDS)} fields; mounts: {dict(result.counts)}")
    return bool(result.findings)


if __name__ == "__main__":
    sys.exit(main())
