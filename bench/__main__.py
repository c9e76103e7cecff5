"""Runs the rows on the peers, interleaved, and reports medians; see the package's docstring."""

from __future__ import annotations

import argparse
import struct
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from bench.peers import PEERS, Peer
from bench.report import OURS, Results, Samples, lines, save, table
from bench.rows import ROWS, Sizes

RESULTS = Path(__file__).parent / "results"
SMOKE_PEERS = (OURS, "ext4-loop")


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description="Compare gfs2py with other file systems.")
    parser.add_argument("--smoke", action="store_true", help="a minute of it: does every row still run?")
    parser.add_argument("--only", default=",".join(ROWS), help="rows, of: " + " ".join(ROWS))
    parser.add_argument("--peers", default="", help="file systems, of: " + " ".join(p.name for p in PEERS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--size", type=int, default=4096, help="MiB of each image")
    parser.add_argument("--files", type=int, help="how many files the metadata rows work on")
    parser.add_argument("--idle-poll", action="store_true",
                        help="keep idle processors from halting, for every file system alike (see performance.md)")
    parser.add_argument("--dir", type=Path, help="where the images live (default: a temporary directory)")
    args = parser.parse_args(argv)
    args.rows = args.only.split(",")
    if unknown := set(args.rows) - set(ROWS):
        parser.error(f"unknown rows: {' '.join(sorted(unknown))}")
    wanted = args.peers.split(",") if args.peers else [p.name for p in PEERS]
    if args.smoke:
        wanted, args.repeats, args.size = (wanted if args.peers else list(SMOKE_PEERS)), 1, 512
    if unknown := set(wanted) - {p.name for p in PEERS}:
        parser.error(f"unknown file systems: {' '.join(sorted(unknown))}")
    args.kinds = [p for p in PEERS if p.name in wanted]
    return args


def present(kinds: Sequence[type[Peer]]) -> list[type[Peer]]:
    """The peers whose programs are there; the others are named, not silently dropped."""
    out = []
    for kind in kinds:
        if missing := kind.missing():
            print(f"bench: without {kind.name}: {', '.join(missing)} not found", file=sys.stderr)
        else:
            out.append(kind)
    return out


def one_pass(kind: type[Peer], work: Path, args: argparse.Namespace, sizes: Sizes, results: Results) -> None:
    """All rows on one file system, made anew."""
    peer = kind(work, args.size)
    try:
        peer.make()
        peer.mount()
        for row in args.rows:
            if row in kind.without or (kind.rows is not None and row not in kind.rows):
                continue
            start = time.monotonic()
            for name, value in ROWS[row](peer, sizes).items():
                samples = results.setdefault(name, {}).setdefault(kind.name, Samples(value.unit))
                samples.values.append(value.value)
            print(f"bench: {kind.name} {row} {time.monotonic() - start:.1f} s", file=sys.stderr)
        peer.umount()
    finally:
        peer.remove()


@contextmanager
def idle_poll(wanted: bool) -> Iterator[None]:
    """Hold the kernel's strictest wake-up latency request, so that no figure depends on how idle processors sleep."""
    if not wanted:
        yield
        return
    with open("/dev/cpu_dma_latency", "wb", buffering=0) as request:    # it lasts until it is closed
        request.write(struct.pack("=i", 0))
        yield


def all_passes(kinds: Sequence[type[Peer]], work: Path, args: argparse.Namespace, sizes: Sizes,
               results: Results) -> bool:
    """Every repeat on every file system; returns whether something failed."""
    failed = False
    for repeat in range(args.repeats):
        # Interleaved, and each repeat starts with another one: a slow minute hits all alike.
        for kind in [*kinds[repeat % len(kinds):], *kinds[:repeat % len(kinds)]]:
            try:
                one_pass(kind, work, args, sizes, results)
            except (RuntimeError, OSError) as error:
                print(f"bench: {kind.name}: {error}", file=sys.stderr)
                # A peer may fail on a row of its own; ours may not.
                failed = failed or kind.name == OURS or args.smoke
    return failed


def main(argv: Sequence[str] | None = None) -> int:
    args = options(argv)
    kinds, results = present(args.kinds), Results()
    sizes = Sizes.smoke() if args.smoke else Sizes.full()
    if args.files:
        sizes = replace(sizes, files=args.files)
    failed = False
    with tempfile.TemporaryDirectory(prefix="gfs2py-bench-", dir=args.dir) as work, idle_poll(args.idle_poll):
        try:
            failed = all_passes(kinds, Path(work), args, sizes, results)
        except KeyboardInterrupt:
            failed = True
            print("bench: interrupted; what was measured until now:", file=sys.stderr)
    names = [k.name for k in kinds]
    print(table(results, names))
    if not args.smoke:
        print("\n".join(lines(results)))
        for path in save(results, names, RESULTS, time.strftime("%Y%m%d-%H%M%S")):
            print(f"bench: wrote {path}", file=sys.stderr)
    missing = [n for n, by in results.items() if OURS not in by] if OURS in names else []
    return 1 if failed or missing or not results else 0


if __name__ == "__main__":
    sys.exit(main())
