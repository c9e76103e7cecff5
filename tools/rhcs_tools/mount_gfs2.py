"""mount.gfs2: mount a GFS2 device or image. Called by mount(8), or by hand.

    mount.gfs2 DEVICE-or-IMAGE DIRECTORY [-fnsv] [-o OPTIONS] [-t TYPE]

Exit statuses as mount(8): 0 mounted, 1 usage or permissions, 2 system error, 4 internal bug, 8 interrupted,
32 failure.
"""

from __future__ import annotations

import os
import sys

from gfs2py import words
from gfs2py.daemon import EX_FAILURE, EX_INTERRUPTED, EX_USAGE, MountError, launch, make_request
from gfs2py.fuse import _mount, control
from gfs2py.options import MountOptions, OptionError, parse_options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class Arguments:
    """The command line, read."""

    def __init__(self, source: str, target: str, options: list[str], letters: set[str]) -> None:
        self.source, self.target, self.options = source, target, options
        self.fake, self.sloppy, self.verbose = "f" in letters, "s" in letters, "v" in letters


def read_arguments(argv: Sequence[str] | None) -> Arguments:
    """argparse only for what is not plain: loading it would take a good part of a mount. Raises SystemExit."""
    plain = words.split(list(sys.argv[1:] if argv is None else argv), "fnsv", "ot")
    if plain is not None and len(plain[1]) == 2:
        found, (source, target) = plain
        return Arguments(source, target, found.get("o", []), set(found))
    import argparse

    parser = argparse.ArgumentParser(prog="mount.gfs2", description="mount a GFS2 file system")
    parser.add_argument("source", metavar="DEVICE-or-IMAGE")
    parser.add_argument("target", metavar="DIRECTORY")
    parser.add_argument("-f", dest="fake", action="store_true", help="check everything, mount nothing")
    parser.add_argument("-n", dest="no_mtab", action="store_true", help="accepted; there is no mtab to write")
    parser.add_argument("-s", dest="sloppy", action="store_true", help="leave out options that are not known")
    parser.add_argument("-v", dest="verbose", action="store_true", help="tell each step")
    parser.add_argument("-o", dest="options", action="append", default=[], metavar="OPTIONS")
    parser.add_argument("-t", dest="type", metavar="TYPE", help="accepted: mount(8) passes it")
    args = parser.parse_args(argv)
    return Arguments(args.source, args.target, args.options, {
        letter for letter, on in (("f", args.fake), ("s", args.sloppy), ("v", args.verbose)) if on})


def read_options(texts: Sequence[str], sloppy: bool) -> MountOptions:
    """Parse -o; with -s without the items that are not known."""
    if not sloppy:
        return parse_options(*texts)
    kept = []
    for item in ",".join(texts).split(","):
        try:
            parse_options(item)
        except OptionError as e:
            if str(e).startswith("unknown option"):
                continue
        kept.append(item)
    return parse_options(*kept)


def remount(target: str, options: MountOptions) -> None:
    """Change the flags of a mount that is there. Raises MountError."""
    entry = control.find_mount(target)
    if entry is None or not entry.fs_type.endswith(".gfs2"):
        raise MountError(f"{target} is not a mounted GFS2")
    try:
        _mount.mount(os.fsencode(entry.source), os.fsencode(entry.mount_point), b"none", options.vfs_flags,
                     b"")
    except OSError as e:
        raise MountError(f"cannot remount {target}: {e.strerror}") from e


def run(args: Arguments) -> None:
    def narrate(text: str) -> None:
        print(f"mount.gfs2: {text}", flush=True)

    options = read_options(args.options, args.sloppy)
    if args.verbose:
        given = ",".join(options.given) or "none"
        narrate(f"device {args.source}, mount point {args.target}, options {given}")
    if options.remount:
        remount(args.target, options)
        return
    request = make_request(args.source, args.target, options)
    if args.fake:
        return
    launch(request, args.verbose, narrate)
    if args.verbose:
        narrate(f"mounted {request.source} on {request.target}")


def main(argv: Sequence[str] | None = None) -> int:
    try:
        args = read_arguments(argv)
    except SystemExit as e:
        return EX_USAGE if e.code else 0
    if os.geteuid() != 0:
        print("mount.gfs2: only root can mount", file=sys.stderr)
        return EX_USAGE
    try:
        run(args)
    except OptionError as e:
        print(f"mount.gfs2: {e}", file=sys.stderr)
        return EX_USAGE
    except MountError as e:
        print(f"mount.gfs2: {e}", file=sys.stderr)
        return e.status
    except KeyboardInterrupt:
        print("mount.gfs2: interrupted", file=sys.stderr)
        return EX_INTERRUPTED
    except OSError as e:
        print(f"mount.gfs2: {e}", file=sys.stderr)
        return EX_FAILURE
    return 0


if __name__ == "__main__":
    sys.exit(main())
