"""mkqdisk: make, list and find quorum disks.

Usage: mkqdisk -c DEVICE -l LABEL | -L | -f LABEL [-d]
  -c DEVICE   make a quorum disk of the device; -l LABEL its label (asks first; -y does not)
  -L          list the quorum disks of this machine
  -f LABEL    find the one with this label
  -d          with -L and -f: the status blocks, too
--json with -L and -f. Exit status: 0 done, 1 not done or not found. -h help, -V version.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import socket
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version as version_of
from pathlib import Path

from cman.qdisk.disk import Disk, Found, scan
from cman.qdisk.ondisk import (
    BLOCK_BYTES_MIN,
    HEADER_MAGIC,
    SLOTS,
    VERSION_MAGIC,
    QdiskError,
    Status,
    blank_disk,
    unpack_status,
)
from rhcs_tools import plain
from rhcs_tools.plain import Failed


def make(device: str, label: str, ask: bool) -> int:
    """Raises Failed, OSError, QdiskError."""
    print(f"Writing new quorum disk label '{label}' to {device}.")
    with Disk(device) as disk:
        disk.check_size()
        try:
            blocks = blank_disk(label, socket.gethostname(), int(time.time()), disk.sector_bytes)
        except ValueError as e:
            raise Failed(str(e)) from None
        with contextlib.suppress(QdiskError):
            print(f"Warning: {device} is a quorum disk already: '{disk.header().label}'")
        if ask:
            print(f"WARNING: About to destroy all data on {device}; proceed [N/y] ? ", end="", flush=True)
            if sys.stdin.readline().strip().lower() not in ("y", "yes"):
                print("Aborted.")
                return 1
        for offset, data in blocks:
            if offset:
                print(f"Initializing status block for node {offset // max(BLOCK_BYTES_MIN, disk.sector_bytes)}...")
            disk.write_at(offset, data)
    return 0


def lines(found: Found) -> list[str]:
    """As the original has them."""
    header = found.header
    told = [*(f"{path}:" for path in found.paths), f"\tMagic:                {HEADER_MAGIC:08x}",
            f"\tLabel:                {header.label}", f"\tCreated:              {time.ctime(header.created_s)}",
            f"\tHost:                 {header.host}", f"\tKernel Sector Size:   {found.kernel_sector_bytes}"]
    if header.version == VERSION_MAGIC:
        told.append(f"\tRecorded Sector Size: {header.sector_bytes}")
    return told


def status_line(status: Status) -> str:
    return (f"\tnode {status.nodeid:2}: {status.state.name.lower():6} written by {status.written_by} at "
            f"{time.ctime(status.timestamp) if status.timestamp < 1 << 40 else status.timestamp}, "
            f"incarnation 0x{status.incarnation:016x}, {status.message.name} {status.number} {status.argument}, "
            f"sees {sorted(status.mask)}, counts {sorted(status.master_mask)}")


def blocks_of(found: Found) -> list[str]:
    told = []
    with Disk(found.paths[-1], write=False) as disk:
        for nodeid in range(1, SLOTS + 1):
            try:
                told.append(status_line(unpack_status(disk.read_block(nodeid), nodeid)))
            except (QdiskError, OSError) as e:
                told.append(f"\t{e}")
    return told


def show(label: str | None, blocks: bool, as_json: bool) -> int:
    disks = [f for f in scan() if label is None or f.header.label == label]
    if as_json:
        print(json.dumps([dataclasses.asdict(f) for f in disks], indent=2))
    else:
        for found in disks:
            print("\n".join(lines(found) + (blocks_of(found) if blocks else [])) + "\n")
    if label is not None and not disks:
        raise Failed(f"no quorum disk has the label '{label}'")
    return 0


def run(options: dict[str, str], names: list[str]) -> int:
    if names or sum(o in options for o in ("-c", "-L", "-f")) != 1:
        raise Failed("one of -c, -L, -f is wanted (-h for help)")
    if "--json" not in options:
        print(f"mkqdisk v{version_of('gfs2py')}\n")
    if "-c" in options:
        if not options.get("-l"):
            raise Failed("-c wants a label: -l LABEL")
        if not Path(options["-c"]).exists():
            raise Failed(f"{options['-c']}: no such device")
        return make(options["-c"], options["-l"], "-y" not in options)
    return show(options.get("-f"), "-d" in options, "--json" in options)


def main(argv: Sequence[str] | None = None) -> int:
    return plain.main("mkqdisk", __doc__, "c:l:Lf:dy", run, argv, QdiskError)


if __name__ == "__main__":
    sys.exit(main())
