"""dlm_lockspace: a process that is a member of one lockspace and does nothing else; `dlm_tool join` starts it.

Usage: dlm_lockspace NAME
Stays in the foreground, says READY=1 to systemd's socket when the lockspace runs, leaves on SIGTERM or when
`dlm_tool leave NAME` asks. Exit status: 0 left, 1 not joined or lost.
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Sequence

import trio

from cman.client import CmanError, open_cman
from cman.notify import notify
from dlm.control import join
from dlm.core.errors import DlmError


async def hold(name: str) -> None:
    """Be a member until asked to leave. Raises CmanError, DlmError."""
    end = trio.Event()
    async with open_cman() as cman, join(cman, name, on_leave=end.set) as space:
        notify("READY=1")
        async with trio.open_nursery() as nursery:

            async def signals() -> None:
                with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as received:
                    async for _ in received:
                        end.set()

            async def lost() -> None:
                await space.wait_closed()
                end.set()

            nursery.start_soon(signals)
            nursery.start_soon(lost)
            await end.wait()
            nursery.cancel_scope.cancel()
        space.check()


def main(argv: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else list(argv)
    if len(words) != 1 or words[0].startswith("-"):
        print(__doc__, file=sys.stdout if words in (["-h"], ["--help"]) else sys.stderr)
        return 0 if words in (["-h"], ["--help"]) else 1
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    try:
        trio.run(hold, words[0])
    except (CmanError, DlmError, OSError) as e:
        print(f"dlm_lockspace: {e.strerror if isinstance(e, OSError) and e.strerror else e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
