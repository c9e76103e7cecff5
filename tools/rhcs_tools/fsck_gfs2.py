"""fsck.gfs2, also called gfs2_fsck: check a GFS2 file system without changing it.

Options, lines and exit statuses follow fsck.gfs2(8) of gfs2-utils 3.5; called as gfs2_fsck the passes are
announced as the RHEL 5 tool did. Repair (-y, -p, -a on a file system that needs it) is refused clearly.
Exit statuses: 0 clean, 4 errors left uncorrected, 8 operational error, 16 usage, 32 interrupted.
"""

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Sequence
from typing import Any, NoReturn

from gfs2py.block import BlockDevice
from gfs2py.block.opening import open_device
from gfs2py.fsck import Finding, Report, check, check_quick

FSCK_OK = 0
FSCK_UNCORRECTED = 4
FSCK_ERROR = 8
FSCK_USAGE = 16
FSCK_CANCELED = 32
SHOWN_IN_ORDER = ("pass1", "pass1b", "pass2", "pass3", "pass4")


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message}\nPlease use '-h' for help.", file=sys.stderr)
        raise SystemExit(FSCK_USAGE)


def build_parser(prog: str) -> argparse.ArgumentParser:
    p = Parser(prog=prog, add_help=False, allow_abbrev=False, usage=f"{prog} [-afhnpqvVy] <device>",
               description="Check a GFS2 file system that is not mounted. Nothing is changed.")
    p.add_argument("-a", "-p", dest="preen", action="store_true", help="preen: only look whether it is clean")
    p.add_argument("-f", dest="force", action="store_true", help="with -a: check even if it seems clean")
    p.add_argument("-h", action="help", help="display this help, then exit")
    p.add_argument("-n", dest="no", action="store_true", help="check, answer no to all questions of repair")
    p.add_argument("-q", dest="quiet", action="count", default=0, help="say less; twice: only the status")
    p.add_argument("-v", dest="verbose", action="count", default=0, help="say more: notes, journals, quotas")
    p.add_argument("-V", dest="version", action="store_true", help="display the version, then exit")
    p.add_argument("-y", dest="yes", action="store_true", help="repair (not there yet: refused if needed)")
    p.add_argument("--json", action="store_true", help="print the whole report as JSON, nothing else")
    p.add_argument("device", nargs="?", help="a block device or an image file")
    return p


class Narrator:
    """Prints the passes as they come, with a progress bar on a terminal, and the findings below them."""

    def __init__(self, prog: str, level: int) -> None:
        self.old = prog == "gfs2_fsck"
        self.prog = prog
        self.level = level
        self.current = ""
        self.bar: Any = None
        self.shown: dict[str, int] = {}

    def say(self, line: str, level: int = 0) -> None:
        if self.level >= level:
            self.close_bar()
            print(line, flush=True)

    def close_bar(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def start(self, name: str) -> None:
        if name == "open":
            self.say("Validating Resource Group index.")
            self.say("Level 1 RG check." if self.old else
                     "Level 1 resource group check: Checking if all rgrp and rindex values are good.")
        elif name == "reconcile":
            self.say("Starting pass5" if self.old else "Reconciling bitmaps.")
        elif name == "system":
            self.say("Starting check_statfs")
        elif name in SHOWN_IN_ORDER:
            self.say(f"Starting {name}")

    def finish(self, seconds: dict[str, float]) -> None:
        """The pass that was running is over."""
        self.close_bar()
        name = self.current
        took = seconds.get(name, 0.0)
        shown = {"reconcile": "pass5" if self.old else "reconcile_bitmaps",
                 "system": "check_statfs"}.get(name, name)  # fmt: skip
        if name in (*SHOWN_IN_ORDER, "reconcile", "system"):
            self.say(f"{shown.capitalize()} complete" if self.old else f"{shown} completed in {took:.3f}s")

    def levels_passed(self, damaged: bool) -> None:
        self.say("(level 1 failed: Some damage was found)" if damaged else "(level 1 passed)")

    def progress(self, name: str, done: int, total: int) -> None:
        if total == 0 or self.level < 0 or not sys.stderr.isatty():
            return
        if self.bar is None:
            # Imported only on a terminal: it costs more than the check of a small file system.
            from tqdm import tqdm  # type: ignore[import-untyped]

            self.bar = tqdm(total=total, desc=name, unit="", leave=False, file=sys.stderr)
        self.bar.update(done - self.bar.n)

    def finding(self, f: Finding) -> None:
        """Errors and warnings go to stderr; notes are for -v."""
        if self.level < -1 or (f.severity == "note" and self.level < 1):
            return
        self.close_bar()
        self.shown[f.code] = self.shown.get(f.code, 0) + 1
        if f.code == "journal_dirty":
            jid = f.name.removeprefix("journal")
            print(f'Journal #{int(jid) + 1} ("{f.name}") is dirty\nnot replaying due to the -n option.',
                  file=sys.stderr)
            return
        prefix = "" if f.severity == "error" else f"{f.severity}: "
        print(f"{prefix}{f.text}", file=sys.stderr)

    def paths(self, report: Report) -> None:
        """Which files and directories the findings are about."""
        known = {f.inode: f.path for f in report.findings if f.path and f.code in self.shown}
        for inode, path in known.items():
            print(f"inode {inode} ({inode:#x}) is {path}", file=sys.stderr)

    def left_out(self, report: Report) -> None:
        for code, n in report.totals.items():
            if self.shown.get(code) and n > self.shown[code]:
                print(f"... and {n - self.shown[code]} more of the kind {code}", file=sys.stderr)


def _full_check(device: BlockDevice, args: argparse.Namespace, prog: str) -> Report:
    """The check with its narration."""
    if args.json:
        return check(device, full_journals=True, quota=args.verbose > 0)
    level = args.verbose - args.quiet
    tell = Narrator(prog, level)
    seconds: dict[str, float] = {}
    early: list[Finding] = []

    def progress(name: str, done: int, total: int) -> None:
        if total == 0 and done == 0:
            if tell.current == "bitmaps":
                tell.levels_passed(any(f.severity == "error" for f in early))
            seconds.update(timer())
            tell.finish(seconds)
            tell.current = name
            tell.start(name)
        tell.progress(name, done, total)

    def on_finding(f: Finding) -> None:
        if tell.current in ("open", "bitmaps"):
            early.append(f)
        tell.finding(f)

    timer = _Timer(tell)
    report = check(device, progress=progress, on_finding=on_finding, full_journals=True,
                   quota=args.verbose > 0)  # fmt: skip
    if report.checked:
        tell.finish(report.seconds)
        tell.left_out(report)
        tell.paths(report)
        if args.verbose:
            _totals(report)
        tell.say(f"{prog} complete")
    return report


class _Timer:
    """How long the pass that is running has taken, for the line that ends it."""

    def __init__(self, tell: Narrator) -> None:
        self.clock = time.perf_counter
        self.tell = tell
        self.since = self.clock()

    def __call__(self) -> dict[str, float]:
        now = self.clock()
        took, self.since = now - self.since, now
        return {self.tell.current: took}


def _totals(report: Report) -> None:
    c = report.counts
    print(f"{c['rgrps']} resource groups, {c['total']} blocks of {c['bsize']} bytes, {c['free']} free, "
          f"{c['dinodes']} inodes, {c['unlinked']} unlinked")
    for j in report.journals:
        state = "clean" if j["found"] and j["flags"] & 1 else "dirty" if j["found"] else "corrupt"
        print(f"jid={j['jid']}: Journal is {state}: head at block {j['head']} of {j['n_blocks']}, "
              f"sequence {j['sequence']}")


def _verdict(report: Report, args: argparse.Namespace) -> int:
    """The exit status, with a last line where repair was asked for or nothing could be checked."""
    dirty, errors = len(report.dirty_journals), report.n_errors
    if not report.checked:
        why = "; ".join(f.text for f in report.findings) if args.json or args.quiet else "cannot be checked"
        print(f"{args.device}: {why}", file=sys.stderr)
        return FSCK_ERROR
    if args.no:
        return FSCK_UNCORRECTED if errors else FSCK_OK
    if not errors and not dirty:
        return FSCK_OK
    what = [f"{errors} errors"] if errors else []
    if dirty:
        what.append(f"{dirty} dirty journals (a mount replays them)")
    print(f"{args.device}: {' and '.join(what)}: repair is not there yet, nothing was changed.",
          file=sys.stderr)
    return FSCK_ERROR


def _preen(device: BlockDevice, args: argparse.Namespace) -> int | None:
    """-a or -p without -f: 0 if all journals are clean, None to go on with the whole check."""
    report = check_quick(device)
    if report.checked and not report.dirty_journals and not report.n_errors:
        if not args.quiet:
            print(f"{args.device}: clean.")
        return FSCK_OK
    return None


def _usage_error(args: argparse.Namespace) -> str:
    if sum((args.no, args.yes, args.preen)) > 1:
        return "Options -p/-a, -y and -n may not be used together"
    if args.device is None:
        return "No device specified (Please use '-h' for help)"
    if not (args.no or args.yes or args.preen):
        return "Only checking is there yet: please use -n"
    return ""


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Raises SystemExit for usage errors and -h only."""
    name = os.path.basename(sys.argv[0])
    prog = name if name in ("fsck.gfs2", "gfs2_fsck") else "fsck.gfs2"
    args = build_parser(prog).parse_args(argv)
    if args.version:
        from importlib.metadata import version

        print(f"{prog} of gfs2py {version('gfs2py')}")
        return FSCK_OK
    wrong = _usage_error(args)
    if wrong:
        print(wrong, file=sys.stderr)
        return FSCK_USAGE
    if not args.json and not args.quiet:
        print("Initializing fsck", flush=True)
    try:
        device = open_device(args.device, readonly=True, direct=False)
    except (OSError, ValueError) as e:
        reason = e.strerror if isinstance(e, OSError) and e.strerror else str(e)
        print(f"Unable to open device: {args.device}: {reason}", file=sys.stderr)
        return FSCK_USAGE
    try:
        if args.preen and not args.force:
            done = _preen(device, args)
            if done is not None:
                return done
        report = _full_check(device, args, prog)
        if args.json:
            import json

            json.dump(report.as_dict(), sys.stdout)
            print()
        return _verdict(report, args)
    except KeyboardInterrupt:
        print(f"{prog}: interrupted", file=sys.stderr)
        return FSCK_CANCELED
    except (OSError, MemoryError) as e:
        print(f"{prog}: {args.device}: {e}", file=sys.stderr)
        return FSCK_ERROR
    finally:
        with contextlib.suppress(OSError):
            device.close()


if __name__ == "__main__":
    sys.exit(main())
