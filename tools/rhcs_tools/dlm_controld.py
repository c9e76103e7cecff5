"""dlm_controld: lets the kernel's GFS2 of this node mount file systems together with gfs2d on other nodes.

Usage: dlm_controld
Runs beside cman on a node that mounts with the kernel (modules gfs2 and dlm); not needed for gfs2d. Stays in the
foreground, says READY=1 to systemd's socket when mounts may come, ends on SIGTERM when no file system is mounted.
Exit status: 0 ended, 1 cannot run, or the cluster is lost: the node must be reset then if it has anything mounted.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from functools import partial

import trio

from cman.client import CmanError
from cman.notify import notify
from dlm.controld import serve
from dlm.core.errors import DlmError


def main(argv: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else list(argv)
    if words:
        asked = words in (["-h"], ["--help"])
        print(__doc__, file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 1
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    failed = False
    try:
        trio.run(serve, partial(notify, "READY=1"))
    except* (CmanError, DlmError, OSError) as found:
        failed = True
        why: BaseException = found
        while isinstance(why, BaseExceptionGroup):
            why = why.exceptions[0]
        print(f"dlm_controld: {why.strerror if isinstance(why, OSError) and why.strerror else why}", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
