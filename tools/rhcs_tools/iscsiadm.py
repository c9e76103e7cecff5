"""iscsiadm: ask a portal which targets it has.

    iscsiadm -m discovery -t sendtargets -p PORTAL[:PORT] [-P 0|1]

Prints one line per address, PORTAL,GROUP TARGET, as open-iscsi does. There is nothing to log in to beforehand: mounts
and tools take iscsi://PORTAL/TARGET/LUN as their device. Exit statuses as open-iscsi: 0, 4 no connection, 7 usage,
21 nothing found, 24 login refused.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from gfs2py.block.iscsi_url import UrlError, parse_portal

EX_TRANSPORT, EX_USAGE, EX_NOTHING, EX_LOGIN = 4, 7, 21, 24


class Parser(argparse.ArgumentParser):
    """With open-iscsi's exit status for usage errors."""

    def error(self, message: str) -> None:  # type: ignore[override]
        self.print_usage(sys.stderr)
        print(f"{self.prog}: {message}", file=sys.stderr)
        raise SystemExit(EX_USAGE)


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="iscsiadm", description="iSCSI discovery")
    parser.add_argument("-m", "--mode", required=True, choices=("discovery", "discoverydb"))
    parser.add_argument("-t", "--type", default="sendtargets", choices=("st", "sendtargets"))
    parser.add_argument("-p", "--portal", required=True, metavar="HOST[:PORT]")
    parser.add_argument("-P", "--print", dest="level", type=int, default=0, choices=(0, 1), help="1: as a tree")
    parser.add_argument("-D", "--discover", action="store_true", help="accepted: discoverydb wants it")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        portal = parse_portal(args.portal)
    except UrlError as e:
        print(f"iscsiadm: {e.strerror}", file=sys.stderr)
        return EX_USAGE
    from gfs2py.block.iscsi import discover

    try:
        found = discover(portal)
    except OSError as e:
        print(f"iscsiadm: {e.filename or portal}: {e.strerror}", file=sys.stderr)
        return EX_LOGIN if (e.strerror or "").startswith("login refused") else EX_TRANSPORT
    if not found:
        print("iscsiadm: No portals found", file=sys.stderr)
        return EX_NOTHING
    target = None
    for one in found:
        if args.level == 0:
            print(f"{one.portal},{one.tag} {one.target}")
            continue
        if one.target != target:
            print(f"Target: {one.target}")
            target = one.target
        print(f"\tPortal: {one.portal},{one.tag}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
