"""Torture: seeded, replayable programs that try to break a mount.

    python -m tests.torture.fsx --seed N --ops N      one file against a model
    python -m tests.torture.stress --seed N           many processes in one tree; --kill: kill -9 in the middle
    python -m tests.torture.races --seed N            readdir, renames, appends, shared mappings, a full disk
    python -m tests.torture.storms --seed N           many processes at names, attributes, locks, seekdir, cut mappings
    python -m tests.torture.soak --minutes N          all of them below one mount, whose daemon must not grow

Every program makes its own image, mounts it with the project's commands, prints its seed first, and ends
with an unmount and both checkers. Exit status 0: nothing found.
"""

import sys
from pathlib import Path

_TESTS = str(Path(__file__).resolve().parent.parent)
if _TESTS not in sys.path:          # run as tests.torture.NAME: the other test packages are beside this one
    sys.path.append(_TESTS)
