"""mkfs.gfs2: make a GFS2 file system.

Options, output and exit statuses follow mkfs.gfs2(8) of gfs2-utils 3.5: 0 done, 255 a request that cannot be,
1 anything that went wrong on the device.
"""

import argparse
import errno
import os
import sys
import time
import uuid
from collections.abc import Sequence
from typing import NoReturn

from gfs2py.block._device import BlockDevice
from gfs2py.mkfs import probe
from gfs2py.mkfs.make import Made, Plan, plan, write_plan
from gfs2py.mkfs.options import (
    DEFAULT_QCSIZE_MB,
    DEFAULT_RGSIZE_MB,
    MkfsError,
    MkfsOptions,
)
from gfs2py.sources import followed

EXTENDED_HELP = """Extended options:
           help  Display this help, then exit
       swidth=N  Specify the stripe width of the device, overriding probed values
        sunit=N  Specify the stripe unit of the device, overriding probed values
    align=[0|1]  Disable or enable alignment of resource groups
       format=N  Specify the format version number
root_inherit_jdata[=0|1]  Let everything below the root directory journal its data
test_topology=A:L:M:O:P  Pretend these alignment offset, logical sector, minimum and optimal I/O and physical
                 sector sizes"""
SUFFIXES = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50, "e": 1 << 60}


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message}\nPlease use '-h' for help.", file=sys.stderr)
        raise SystemExit(255)


def build_parser() -> argparse.ArgumentParser:
    p = Parser(prog="mkfs.gfs2", add_help=False, allow_abbrev=False,
               usage="mkfs.gfs2 [options] <device> [size]",
               description="Create a gfs2 file system on a device. If a size, in blocks, is not specified, "
                           "the whole device will be used.")
    p.add_argument("-b", metavar="<size>", type=int, help="File system block size, in bytes")
    p.add_argument("-c", metavar="<size>", type=int, default=DEFAULT_QCSIZE_MB,
                   help="Size of quota change file, in megabytes")
    p.add_argument("-D", action="store_true", help="Enable debugging code")
    p.add_argument("-h", action="help", help="Display this help, then exit")
    p.add_argument("-J", metavar="<size>", type=int, help="Size of journals, in megabytes")
    p.add_argument("-j", metavar="<number>", type=int, default=1, help="Number of journals")
    p.add_argument("-K", action="store_true", help="Don't try to discard unused blocks")
    p.add_argument("-O", action="store_true", help="Don't ask for confirmation")
    p.add_argument("-o", metavar="<key>[=<value>][,...]", action="append", default=[],
                   help="Specify extended options. See '-o help'.")
    p.add_argument("-p", metavar="<name>", default="lock_dlm", help="Name of the locking protocol")
    p.add_argument("-q", action="store_true", help="Don't print anything")
    p.add_argument("-r", metavar="<size>", type=int, default=DEFAULT_RGSIZE_MB,
                   help="Size of resource groups, in megabytes")
    p.add_argument("-t", metavar="<name>", help="Name of the lock table")
    p.add_argument("-U", metavar="<UUID>", help="The UUID of the file system")
    p.add_argument("-V", action="store_true", help="Display program version information, then exit")
    p.add_argument("device", nargs="?", help="block device or image file")
    p.add_argument("size", nargs="?", type=int, help="size of the file system, in blocks")
    return p


def number(key: str, text: str | None, bsize: int) -> int:
    """A number with an optional suffix: b blocks, s sectors, k m g t p e. Raises MkfsError."""
    if not text:
        raise MkfsError(f"Missing argument to '{key}'")
    factor = 1
    digits = text
    suffix = text[-1].lower()
    if suffix in "bs" and not text.lower().startswith("0x"):
        factor, digits = {"b": bsize, "s": 512}[suffix], text[:-1]
    elif suffix in SUFFIXES and not text.lower().startswith("0x"):
        factor, digits = SUFFIXES[suffix], text[:-1]
    try:
        value = int(digits, 0)
    except ValueError:
        value = -1
    if value < 0:
        raise MkfsError(f"Value of '{key}' is invalid")
    return value * factor


def parse_topology(text: str | None, bsize: int) -> probe.Topology:
    values = (text or "").split(":")
    if len(values) != 5:
        raise MkfsError(f"Too {'many' if len(values) > 5 else 'few'} topology values.")
    return probe.Topology(*(number("test_topology", v, bsize) for v in values))


def flag(key: str, text: str | None) -> bool:
    if text not in ("0", "1"):
        raise MkfsError(f"Option '{key}' must be either 1 or 0")
    return text == "1"


def parse_extended(given: list[str], options: MkfsOptions) -> probe.Topology | None:
    """Applies -o to the options; the topology to pretend, if any. Raises MkfsError."""
    topo = None
    bsize = options.bsize or 4096
    for item in ",".join(given).split(",") if given else []:
        key, has_value, text = item.partition("=")
        value = text if has_value else None
        match key:
            case "":
                raise MkfsError("Missing argument to '-o' option")
            case "sunit":
                options.sunit = number(key, value, bsize)
            case "swidth":
                options.swidth = number(key, value, bsize)
            case "align":
                options.align = flag(key, value)
            case "format":
                options.format = number(key, value, bsize)
            case "root_inherit_jdata":
                options.root_inherit_jdata = flag(key, value) if has_value else True
            case "test_topology":
                topo = parse_topology(value, bsize)
            case "help":
                print(EXTENDED_HELP)
                raise SystemExit(0)
            case _:
                raise MkfsError(f"Invalid extended option (specified with -o): '{key}'\n{EXTENDED_HELP}")
    return topo


def options_of(args: argparse.Namespace) -> tuple[MkfsOptions, probe.Topology | None]:
    """Raises MkfsError for what cannot be, before any device is looked at."""
    options = MkfsOptions(
        bsize=args.b, qcsize_mb=args.c, jsize_mb=args.J, journals=args.j, rgsize_mb=args.r, fssize=args.size,
        lockproto=args.p, locktable=args.t)
    if args.U is not None:
        try:
            options.uuid = uuid.UUID(args.U)
        except ValueError:
            raise MkfsError(f"Failed to parse UUID option: {args.U}") from None
    topo = parse_extended(args.o, options)
    if args.device is None:
        raise MkfsError("No device specified. Use -h for help")
    args.device = followed(args.device)
    options.check()
    return options, topo


def are_you_sure() -> bool:
    while True:
        print("Are you sure you want to proceed? [y/n] ", end="", flush=True)
        answer = sys.stdin.readline()
        if not answer:
            print()
            return False
        match answer.strip().lower():
            case "y" | "yes":
                return True
            case "n" | "no":
                return False


LABELS = {"journals": "Adding journals: ", "rgrps": "Building resource groups: ",
          "superblock": "Writing superblock and syncing: "}


class Narrator:
    """Says what is being made, once per step; on a terminal also how far it is."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.step = ""
        self.tty = sys.stdout.isatty()
        self.shown_at = 0.0

    def __call__(self, what: str, done: int, of: int) -> None:
        if self.quiet:
            return
        if what != self.step:
            self.close()
            self.step = what
            print(LABELS[what], end="", flush=True)
        now = time.monotonic()
        if self.tty and now - self.shown_at >= 1:
            self.shown_at = now
            text = f"[{done:>{len(str(of))}}/{of}]"
            print(text + "\b" * len(text), end="", flush=True)

    def close(self) -> None:
        if self.step and not self.quiet:
            print("\033[KDone" if self.tty else "Done")
        self.step = ""


def print_results(path: str, made: Made) -> None:
    def line(label: str, value: str) -> None:
        print(f"{label:<27}{value}")

    line("Device:", path)
    line("Block size:", str(made.bsize))
    line("Device size:", f"{made.device_bytes / 2**30:.2f} GB ({made.device_bytes // made.bsize} blocks)")
    line("Filesystem size:", f"{made.fs_blocks * made.bsize / 2**30:.2f} GB ({made.fs_blocks} blocks)")
    line("Journals:", str(made.journals))
    line("Journal size:", f"{made.jsize_mb}MB")
    line("Resource groups:", str(made.rgrps))
    line("Locking protocol:", f'"{made.lockproto}"')
    line("Lock table:", f'"{made.locktable}"')
    line("UUID:", str(made.uuid))


def print_plan(what: Plan) -> None:
    """-D: what was asked for and where the resource groups come."""
    o = what.options
    print("File system options:")
    for name, value in (
            ("bsize", what.geo.bsize), ("qcsize", o.qcsize_mb), ("jsize", what.jsize_mb),
            ("journals", o.journals), ("proto", o.lockproto), ("table", o.locktable or ""),
            ("rgsize", o.rgsize_mb), ("fssize", o.fssize or 0), ("sunit", o.sunit or 0),
            ("swidth", o.swidth or 0), ("format", o.format)):
        print(f"  {name} = {value}")
    a = what.align
    print("  rgrp align =", f"{a.base}+{a.offset} blocks" if a.base else "(disabled)")
    for rg in what.rgrps:
        print(f"  ri_addr: {rg.addr}  ri_length: {rg.length}  ri_data0: {rg.data0}  ri_data: {rg.data}  "
              f"ri_bitbytes: {rg.bitbytes}")


def run(args: argparse.Namespace) -> int:
    """The whole command. Raises MkfsError."""
    options, pretended = options_of(args)
    path = args.device
    with probe.open_device(path) as dev:
        is_block = getattr(dev, "is_block", True)
        topo = pretended or probe.topology(dev)
        found = None if args.O and args.q else probe_contents(path, args.O)
        options.bsize, warnings = probe.choose_bsize(options.bsize, topo)
        what = plan(dev.size_bytes, options, topo.alignment(options.bsize))
        for warning in warnings:
            print(warning, file=sys.stderr)
        if not (args.q and args.O):
            if found:
                print(found)
            if os.path.islink(path):
                print(f"{path} is a symbolic link to {os.path.realpath(path)}")
            print(f"This will destroy any data on {os.path.realpath(path) if os.path.islink(path) else path}")
        if args.D:
            print_plan(what)
        if not args.O and not are_you_sure():
            return 255
        if is_block and not args.K:
            discard(dev, args.q)
        narrate = Narrator(args.q)
        made = write_plan(dev, what, narrate)
        narrate.close()
    if not args.q:
        print_results(path, made)
    return 0


def probe_contents(path: str, override: bool) -> str | None:
    try:
        return probe.contents(path)
    except MkfsError:
        if override:
            return None
        raise


def discard(dev: BlockDevice, quiet: bool) -> None:
    """Tells the device that nothing on it is needed; one that cannot be told does not matter."""
    if not quiet:
        print("Discarding device contents (may take a while on large devices): ", end="", flush=True)
    try:
        dev.discard(0, dev.size_bytes)
    except OSError as e:
        if e.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY):
            raise
    if not quiet:
        print("Done")


def main(argv: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if argv is None else argv)
    args = build_parser().parse_args([a for a in given if a != "gfs2"])  # mkfs(8) may pass the type along
    if args.V:
        from importlib.metadata import version  # slow to load, and nobody else needs it
        print(f"mkfs.gfs2 {version('gfs2py')}")
        return 0
    try:
        return run(args)
    except MkfsError as e:
        print(e, file=sys.stderr)
        return e.status
    except OSError as e:
        print(f"{args.device}: {os.strerror(e.errno or errno.EIO)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted: there is no file system on the device now.", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
