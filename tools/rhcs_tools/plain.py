"""What commands with a handful of options have in common: -h, -V, and an error as one line on stderr."""

from __future__ import annotations

import getopt
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version as version_of

from cman.protocol import CmanError

INTERRUPTED = 130


class Failed(Exception):
    """What was asked could not be done; the text is for the operator."""


Run = Callable[[dict[str, str], list[str]], int]


def main(name: str, usage: str | None, short: str, run: Run, argv: Sequence[str] | None,
         *errors: type[Exception]) -> int:
    """Read options and names and hand them to `run`, which gives the exit status; -h tells `usage`, -V the version.

    short: as for getopt, besides h and V; --json is known to all. Failed, CmanError, OSError and `errors` end with 1.
    """
    told: tuple[type[Exception], ...] = (Failed, CmanError, getopt.GetoptError, *errors)
    try:
        found, names = getopt.gnu_getopt(list(sys.argv[1:] if argv is None else argv), "hV" + short,
                                         ["help", "version", "json"])
        options = dict(found)
        if options.keys() & {"-h", "--help"}:
            print((usage or "").strip())
            return 0
        if options.keys() & {"-V", "--version"}:
            print(f"{name} {version_of('gfs2py')}")
            return 0
        return run(options, names)
    except OSError as e:
        print(f"{name}: {f'{e.filename}: ' if e.filename else ''}{e.strerror or e}", file=sys.stderr)
    except told as e:
        print(f"{name}: {e}", file=sys.stderr)
    except KeyboardInterrupt:
        return INTERRUPTED
    return 1


def one_node(names: list[str]) -> str:
    """The only operand. Raises Failed."""
    if len(names) != 1:
        raise Failed("the name of one node is wanted (-h for help)")
    return names[0]
