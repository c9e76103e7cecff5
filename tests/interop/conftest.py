"""The trees that the exchange tests compare."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from interop import tree
from interop.oracle import walk
from interop.oracle.walk import FIELDS

TREE_SOURCE = Path(tree.__file__).read_bytes()
# What tmpfs lacks, or does in its own way.
NOT_ON_TMPFS = ("fallocate", "jdata", "flags")
REFERENCE = '''
mount -t tmpfs -o size=1g,nr_inodes=100k tmpfs "$1"
"$2" -S "$3" --without "$5" "$1"
exec "$2" -S "$4" --fields "$6" "$1"
'''


def make_tree_in(path: Path, *options: str) -> None:
    """As a process of its own: umask and a possible hang stay out of the test's."""
    subprocess.run([sys.executable, "-S", tree.__file__, *options, path], check=True, timeout=280)


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The manifest of the tree on tmpfs: what it is meant to be, whoever wrote it elsewhere."""
    # In a mount namespace of its own: nothing stays mounted, whoever is killed.
    done = subprocess.run(["unshare", "-m", "--propagation", "private", "sh", "-ec", REFERENCE, "sh",
                           tmp_path_factory.mktemp("reference"), sys.executable, tree.__file__, walk.__file__,
                           ",".join(NOT_ON_TMPFS), " ".join(FIELDS)],
                          check=True, timeout=280, stdout=subprocess.PIPE, text=True)
    return shared_part(done.stdout.splitlines())


def shared_part(lines: list[str]) -> list[str]:
    """The lines of a manifest whose paths the reference has as well; the root is not the tree's own."""
    return [x for x in lines if not x.startswith(("/ ", *(f"/{p}" for p in NOT_ON_TMPFS)))]
