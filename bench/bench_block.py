"""Block device batches: one read after another against io_uring, on a file of this disk.

python bench/bench_block.py [PATH] [--mib N] [--smoke]: JSON lines, then a table of MB/s and IOPS with ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gfs2py.block import FileDevice

K4 = 4096
MIB = 1 << 20
THREADS = 4


def fill(path: Path, size: int) -> None:
    rng = random.Random(1)
    with open(path, "wb") as f:
        for _ in range(size // MIB):
            f.write(rng.randbytes(MIB))
        os.fsync(f.fileno())


def rate(work: Callable[[], int], seconds: float) -> tuple[float, float]:
    """(calls per second, bytes per second) of `work`, which returns the bytes it moved."""
    calls = moved = 0
    began = time.perf_counter()
    while (now := time.perf_counter()) - began < seconds:
        moved += work()
        calls += 1
    return calls / (now - began), moved / (now - began)


def cases(dev: FileDevice, pool: ThreadPoolExecutor, rng: random.Random) -> dict[str, Callable[[], int]]:
    blocks = dev.size_bytes // K4
    data = rng.randbytes(K4)

    def spread(n: int) -> list[int]:
        return [rng.randrange(blocks) * K4 for _ in range(n)]

    def read(n: int) -> int:
        dev.readv([(at, K4) for at in spread(n)])
        return n * K4

    def read_by_threads(n: int) -> int:
        pieces = [(at, K4) for at in spread(n)]
        list(pool.map(dev.readv, [pieces[i::THREADS] for i in range(THREADS)]))
        return n * K4

    def write(n: int) -> int:
        dev.writev([(at * K4, data) for at in rng.sample(range(blocks), n)])
        return n * K4

    def sequential(n: int) -> int:
        at = rng.randrange(dev.size_bytes // MIB - n) * MIB
        dev.readv([(at + i * MIB, MIB) for i in range(n)])
        return n * MIB

    return {
        "4K random read": lambda: read(1),
        "64 x 4K random read": lambda: read(64),
        "64 x 4K random read, 4 threads": lambda: read_by_threads(64),
        "64 x 4K random write": lambda: write(64),
        "1 MiB read": lambda: sequential(1),
        "16 x 1 MiB read": lambda: sequential(16),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", nargs="?", type=Path)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--smoke", action="store_true", help="small and short: only shows that it runs")
    args = parser.parse_args()
    if args.smoke:
        args.mib, args.seconds = 64, 0.05
    with tempfile.TemporaryDirectory() as tmp, ThreadPoolExecutor(THREADS) as pool:
        path = args.path or Path(tmp) / "image"
        if args.path is None:
            fill(path, args.mib * MIB)
        found: dict[str, dict[str, tuple[float, float]]] = {}
        for how in ("loop", "io_uring"):
            with FileDevice(path, rings=how == "io_uring") as dev:
                for name, work in cases(dev, pool, random.Random(2)).items():
                    found.setdefault(name, {})[how] = rate(work, args.seconds)
                    calls, speed = found[name][how]
                    row: dict[str, object] = {"bench": "block", "case": name, "how": how}
                    row |= {"direct": dev.direct, "calls_per_s": round(calls, 1)}
                    row |= {"mb_per_s": round(speed / 1e6, 1)}
                    print(json.dumps(row))
    print("\n| case | loop MB/s | io_uring MB/s | ratio |\n| --- | --- | --- | --- |")
    for name, by in found.items():
        loop, ring = by["loop"][1] / 1e6, by["io_uring"][1] / 1e6
        print(f"| {name} | {loop:.1f} | {ring:.1f} | {ring / loop:.2f} |")


if __name__ == "__main__":
    main()
