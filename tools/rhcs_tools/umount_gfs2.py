"""umount.gfs2: unmount a GFS2 mount and wait until its daemon has let go of the device.

    umount.gfs2 DIRECTORY-or-DEVICE [-flnrv]

umount(2) of a fuseblk mount waits for the daemon itself; this waits on for its end, for plain fuse too. Where a copy of
the mount in another mount namespace keeps the daemon alive, it says whose that is.
Exit statuses as umount(8): 0 unmounted, 1 usage, 2 system error, 32 failure.
"""

from __future__ import annotations

import os
import select
import sys

from gfs2py import words
from gfs2py.fuse import _mount, control
from gfs2py.sources import canonical, same

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

EX_USAGE, EX_FAILURE = 1, 32
MNT_FORCE, MNT_DETACH = 1, 2
DAEMON_WAIT_S = 120.0
SAY_AFTER_S = 2.0        # so long a daemon may take before it is asked who keeps it


class Arguments:
    """The command line, read."""

    def __init__(self, target: str, letters: set[str]) -> None:
        self.target = target
        self.force, self.lazy, self.verbose = "f" in letters, "l" in letters, "v" in letters


def read_arguments(argv: Sequence[str] | None) -> Arguments:
    """argparse only for what is not plain: loading it takes longer than unmounting. Raises SystemExit."""
    plain = words.split(list(sys.argv[1:] if argv is None else argv), "flnrvi", "t")
    if plain is not None and len(plain[1]) == 1:
        return Arguments(plain[1][0], set(plain[0]))
    import argparse

    parser = argparse.ArgumentParser(prog="umount.gfs2", description="unmount a GFS2 file system")
    parser.add_argument("target", metavar="DIRECTORY-or-DEVICE")
    parser.add_argument("-f", dest="force", action="store_true", help="abort what is under way")
    parser.add_argument("-l", dest="lazy", action="store_true", help="detach now, end when nobody uses it")
    parser.add_argument("-n", dest="no_mtab", action="store_true", help="accepted; there is no mtab to write")
    parser.add_argument("-r", dest="read_only", action="store_true", help="accepted; nothing is remounted")
    parser.add_argument("-v", dest="verbose", action="store_true", help="tell each step")
    parser.add_argument("-t", dest="type", metavar="TYPE", help="accepted: umount(8) passes it")
    parser.add_argument("-i", dest="internal", action="store_true", help="accepted")
    args = parser.parse_args(argv)
    return Arguments(args.target, {
        letter for letter, on in (("f", args.force), ("l", args.lazy), ("v", args.verbose)) if on})


def find(target: str) -> control.MountEntry | None:
    """The GFS2 mount on a directory, or else the last one of a device."""
    entry = control.find_mount(target)
    if entry is not None:
        return entry
    source = canonical(target)
    entries = [m for m in control.mounts() if m.fs_type.endswith(".gfs2") and same(m.source, source)]
    return entries[-1] if entries else None


def daemon_of(entry: control.MountEntry) -> int | None:
    """A pidfd of the gfs2d that serves a mount, by its command line; that may be cut short, where room was short."""
    title = b"\0".join((b"gfs2d", os.fsencode(entry.source), os.fsencode(entry.mount_point)))
    cut: list[str] = []
    exact: list[str] = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/cmdline", "rb") as f:
                found = f.read().rstrip(b"\0")
        except OSError:
            continue
        if found == title:
            exact.append(name)
        elif found.startswith(b"gfs2d\0") and title.startswith(found):
            cut.append(name)
    for name in exact or (cut if len(cut) == 1 else []):
        try:
            return os.pidfd_open(int(name))
        except OSError:
            continue
    return None


def unmount(args: Arguments) -> int:
    entry = find(args.target)
    if entry is None or not entry.fs_type.endswith(".gfs2"):
        print(f"umount.gfs2: {args.target} is not a mounted GFS2", file=sys.stderr)
        return EX_FAILURE
    daemon = daemon_of(entry)
    flags = (MNT_FORCE if args.force else 0) | (MNT_DETACH if args.lazy else 0)
    if args.verbose:
        print(f"umount.gfs2: unmounting {entry.mount_point} ({entry.source})", flush=True)
    try:
        _mount.umount(os.fsencode(entry.mount_point), flags)
    except OSError as e:
        print(f"umount.gfs2: {entry.mount_point}: {os.strerror(e.errno or 0)}", file=sys.stderr)
        return EX_FAILURE
    if daemon is None:
        from gfs2py.controlfs.place import sweep  # it may have left its control files, if its watchdog is dead, too

        sweep()
    if daemon is None or args.lazy:
        return 0
    if args.verbose:
        print("umount.gfs2: waiting for gfs2d to end", flush=True)
    if select.select([daemon], [], [], SAY_AFTER_S)[0]:
        return 0
    say_who(entry)
    if not select.select([daemon], [], [], DAEMON_WAIT_S - SAY_AFTER_S)[0]:
        print(f"umount.gfs2: gfs2d of {entry.source} still runs after {DAEMON_WAIT_S:.0f} s", file=sys.stderr)
        return EX_FAILURE
    return 0


def say_who(entry: control.MountEntry) -> None:
    """Name the mount namespaces that still have the file system."""
    from gfs2py.fuse.namespaces import holders  # seldom needed

    for found in holders(entry.device):
        print(f"umount.gfs2: {entry.source} stays in use, waiting: namespace {found}", file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    try:
        args = read_arguments(argv)
    except SystemExit as e:
        return EX_USAGE if e.code else 0
    return unmount(args)


if __name__ == "__main__":
    sys.exit(main())
