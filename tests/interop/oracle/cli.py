"""The oracle from a shell: prepare, run, crash, manifest, walk, cluster, shell."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import walk
from .cluster import run_cluster
from .errors import EX_USAGE, OracleError
from .guest import Job, Machine, Outcome, quote, run_guests
from .prepare import prepare

TEXT = """Check GFS2 images against the Linux kernel's own gfs2 driver.

SCRIPT is run by dash, or by what its #! line names. The guest has Debian's dash, bash, coreutils,
util-linux, python3, attr, acl, e2fsprogs, gfs2-utils and busybox for the rest, and
  $MNT   the mount point, /mnt/gfs2        $DEV  the block device of the image
  $IN    the files of --in                 $OUT  what is put here lands in --out
and its working directory is $MNT ($IN when --no-mount is given).

Exit status: that of SCRIPT, or, when the oracle has something to say itself:
  240 the mount failed          241 withdraw, oops or consistency error
  242 timed out                 243 the guest did not boot, or died
  244 the unmount failed        245 wrong usage, or not prepared
"""


def to_stdout(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def to_stderr(data: bytes) -> None:
    sys.stderr.buffer.write(data)


def read_script(path: str) -> bytes:
    return sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()


def machine(args: argparse.Namespace) -> Machine:
    return Machine(mem_mib=args.mem, smp=args.smp, cpu=args.cpu, machine=args.machine,
                   append=args.append, timeout_s=args.timeout, verbose=args.verbose)


def report(outcome: Outcome, args: argparse.Namespace, prefix: str = "") -> int:
    """The kernel's messages about GFS2, the times and the reason, on standard error."""
    if not args.quiet:
        for line in outcome.messages:
            print(prefix + line, file=sys.stderr)
    if args.times:
        print(prefix + outcome.seconds, file=sys.stderr)
    if outcome.reason:
        print(f"{prefix}kernel-gfs2: {outcome.reason}", file=sys.stderr)
    return outcome.status


def one(job: Job, args: argparse.Namespace) -> int:
    return report(run_guests([job], machine(args), args.console)[0], args)


def cmd_prepare(args: argparse.Namespace) -> int:
    prepare(args.force)
    return 0


def cmd_run(args: argparse.Namespace) -> int:
    return one(Job(args.image, read_script(args.script), crash=args.command == "crash",
                   mounts=not args.no_mount, mount_opts=args.mount_opts, readonly=args.ro,
                   readonly_device=args.ro_device, snapshot=args.snapshot, in_dir=args.in_dir,
                   out_dir=args.out_dir, sink=to_stdout), args)


def cmd_manifest(args: argparse.Namespace) -> int:
    """Without an own copy of the image: by default on a throw-away overlay."""
    script = f"python3 -S -E /ctl/walk.py --fields {quote(args.fields)} \"$MNT\"\n"
    spectator = "spectator" if args.replay == "none" else ""
    return one(Job(args.image, script.encode(), readonly=True,
                   mount_opts=",".join(filter(None, [args.mount_opts, spectator])),
                   readonly_device=args.replay == "none", snapshot=args.replay == "overlay",
                   sink=to_stdout), args)


def cmd_cluster(args: argparse.Namespace) -> int:
    outcomes = run_cluster(args.image, read_script(args.script), machine(args),
                           crash_nodes=args.crash_node, mount_opts=args.mount_opts,
                           in_dir=args.in_dir, out_dir=args.out_dir, sink=to_stdout)
    statuses = [report(o, args, f"node{n}: ") for n, o in enumerate(outcomes, 1)]
    return next((s for s in statuses if s), 0)


def cmd_shell(args: argparse.Namespace) -> int:
    return one(Job(args.image, mount_opts=args.mount_opts, interactive=True, sink=to_stdout), args)


def cmd_walk(args: argparse.Namespace) -> int:
    return walk.main(["--fields", args.fields, args.dir])


def image_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("image", metavar="IMAGE")
    sub.add_argument("--mount-opts", default="acl", help="for mount -o (default acl)")
    sub.add_argument("--timeout", type=float, default=300, help="seconds (default 300)")
    sub.add_argument("--mem", type=int, default=768, help="the guest's MiB (default 768)")
    sub.add_argument("--smp", type=int, default=1, help="the guest's CPUs (default 1)")
    sub.add_argument("--cpu", default="max")
    sub.add_argument("--machine", default="q35", help="QEMU's machine (default q35)")
    sub.add_argument("--append", default="", help="more for the kernel command line")
    sub.add_argument("--console", help="copy the guest's kernel log to this file")
    sub.add_argument("--times", action="store_true", help="say when each step was reached")
    sub.add_argument("--quiet", action="store_true", help="don't print kernel messages")
    sub.add_argument("--verbose", action="store_true", help="print the QEMU command")


def script_options(sub: argparse.ArgumentParser, text: str = "a file, or '-'") -> None:
    sub.add_argument("script", metavar="SCRIPT", help=text)
    sub.add_argument("--in", dest="in_dir", help="a folder for the guest, at $IN")
    sub.add_argument("--out", dest="out_dir", help="a folder for what is left in $OUT")


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="kernel-gfs2", description=TEXT,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = top.add_subparsers(dest="command", required=True)
    fields = " ".join(walk.FIELDS)

    sub = commands.add_parser("prepare", help="fetch packages, build kernel and initramfs")
    sub.add_argument("--force", action="store_true", help="build anew even if up to date")
    sub.set_defaults(function=cmd_prepare)
    for name, text in (("run", "mount, run a script, unmount"),
                       ("crash", "mount, run a script, die without unmount")):
        sub = commands.add_parser(name, help=text)
        image_options(sub)
        script_options(sub)
        sub.add_argument("--ro", action="store_true", help="mount read-only (a dirty journal is "
                         "still replayed: the device stays writable)")
        sub.add_argument("--ro-device", action="store_true", help="the device is read-only too")
        sub.add_argument("--snapshot", action="store_true", help="throw all writes away")
        sub.add_argument("--no-mount", action="store_true", help="leave mounting to the script")
        sub.set_defaults(function=cmd_run)
    sub = commands.add_parser("manifest", help="one line per path of the tree in an image")
    image_options(sub)
    sub.add_argument("--fields", default=fields, help=f"of: {' '.join(walk.ALL_FIELDS)}")
    sub.add_argument("--replay", choices=("overlay", "image", "none"), default="overlay",
                     help="where a dirty journal is replayed: in a throw-away overlay (default), in "
                          "the image, or not at all (a spectator mount of a read-only device)")
    sub.set_defaults(function=cmd_manifest)
    sub = commands.add_parser("cluster", help="two guests share the image by corosync and dlm")
    image_options(sub)
    script_options(sub, "a file, or '-'; runs on both nodes, with $NODE set to 1 or 2; `barrier NAME` "
                        "waits for the other node")
    sub.add_argument("--crash-node", type=int, action="append", default=[], choices=(1, 2),
                     help="this node dies without unmount after its script")
    sub.set_defaults(function=cmd_cluster)
    sub = commands.add_parser("shell", help="an interactive shell on the mount")
    image_options(sub)
    sub.set_defaults(function=cmd_shell, timeout=0)
    sub = commands.add_parser("walk", help="the same lines for a directory of this machine")
    sub.add_argument("dir", metavar="DIR")
    sub.add_argument("--fields", default=fields, help=f"of: {' '.join(walk.ALL_FIELDS)}")
    sub.set_defaults(function=cmd_walk)
    return top


def main() -> int:
    args = parser().parse_args()
    try:
        status: int = args.function(args)
    except OracleError as error:
        print(f"kernel-gfs2: {error}", file=sys.stderr)
        return EX_USAGE
    return status
