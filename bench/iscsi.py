"""The iSCSI initiator beside direct access to the target's backing file, on one disk, in one run.

    python -m bench.iscsi [--smoke] [--mib N] [--dir DIR]

JSON lines, then a table: calls per second and ratio to the file (O_DIRECT, io_uring), medians of interleaved passes.
The target is Debian's tgtd on the loopback: every byte is copied twice by it and crosses TCP.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from bench.peers import write_zeros
from gfs2py.block import BlockDevice, FileDevice
from gfs2py.block.iscsi import IscsiDevice, IscsiOptions
from tests.iscsi.tgt import Tgt

K4, MIB = 4096, 1 << 20
DEPTH = 32


def cases(device: BlockDevice, rng: random.Random) -> dict[str, Callable[[], int]]:
    """What is measured; each call returns how many operations it was."""
    blocks, mibs = device.size_bytes // K4, device.size_bytes // MIB
    small, large = rng.randbytes(K4), rng.randbytes(MIB)

    def read_batch() -> int:
        device.readv([(rng.randrange(blocks) * K4, K4) for _ in range(DEPTH)])
        return DEPTH

    def write_batch() -> int:
        device.writev([(at * K4, small) for at in rng.sample(range(blocks), DEPTH)])
        return DEPTH

    def flushed_write() -> int:
        device.write(rng.randrange(blocks) * K4, small)
        device.flush()
        return 1

    return {
        "read 4K": lambda: len(device.read(rng.randrange(blocks) * K4, K4)) // K4,
        f"read 4K x {DEPTH}": read_batch,
        "read 1M": lambda: len(device.read(rng.randrange(mibs) * MIB, MIB)) // MIB,
        f"write 4K x {DEPTH}": write_batch,
        "write 1M": lambda: device.write(rng.randrange(mibs) * MIB, large) or 1,
        "write 4K + flush": flushed_write,
    }


def rate(work: Callable[[], int], seconds: float) -> float:
    done, began = 0, time.perf_counter()
    while (now := time.perf_counter()) - began < seconds:
        done += work()
    return done / (now - began)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.iscsi")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--dir", type=Path)
    args = parser.parse_args()
    seconds, passes, mib = (0.05, 1, 64) if args.smoke else (1.0, 5, args.mib)
    with tempfile.TemporaryDirectory(prefix="gfs2py-bench-", dir=args.dir) as name, ExitStack() as stack:
        work = Path(name)
        write_zeros(work / "image", mib)
        tgt = stack.enter_context(Tgt(work, work / "image", large=True))
        devices: dict[str, BlockDevice] = {
            "file": stack.enter_context(FileDevice(work / "image")),
            "iscsi": stack.enter_context(IscsiDevice(tgt.url())),
            "iscsi, through": stack.enter_context(IscsiDevice(tgt.url(), options=IscsiOptions(cache="through")))}
        found: dict[tuple[str, str], list[float]] = {}
        for _ in range(passes):
            for row in cases(devices["file"], random.Random(1)):
                for kind, device in devices.items():
                    found.setdefault((row, kind), []).append(rate(cases(device, random.Random(1))[row], seconds))
    medians = {key: statistics.median(values) for key, values in found.items()}
    for (row, kind), value in medians.items():
        print(json.dumps({"row": row, "device": kind, "per_s": round(value, 1), "n": passes}))
    print("\n| row | " + " | ".join(devices) + " |\n|---|" + "---|" * len(devices))
    for row in dict.fromkeys(row for row, _ in medians):
        base = medians[row, "file"]
        cells = [f"{medians[row, kind]:.0f} ({medians[row, kind] / base:.2f})" for kind in devices]
        print(f"| {row} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
