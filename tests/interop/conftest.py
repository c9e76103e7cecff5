"""The trees that the exchange tests compare."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from interop import tree
from interop.oracle.walk import FIELDS, walk

TREE_SOURCE = Path(tree.__file__).read_bytes()
# What tmpfs lacks, or does in its own way.
NOT_ON_TMPFS = ("fallocate", "jdata", "flags")


def make_tree_in(path: Path, *options: str) -> None:
    """As a process of its own: umask and a possible hang stay out of the test's."""
    subprocess.run([sys.executable, "-S", tree.__file__, *options, path], check=True, timeout=280)


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The manifest of the tree on tmpfs: what it is meant to be, whoever wrote it elsewhere."""
    where = tmp_path_factory.mktemp("reference")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1g,nr_inodes=100k", "tmpfs", where], check=True)
    try:
        make_tree_in(where, "--without", ",".join(NOT_ON_TMPFS))
        yield shared_part(list(walk(str(where), FIELDS)))
    finally:
        subprocess.run(["umount", where], check=True)


def shared_part(lines: list[str]) -> list[str]:
    """The lines of a manifest whose paths the reference has as well; the root is not the tree's own."""
    return [x for x in lines if not x.startswith(("/ ", *(f"/{p}" for p in NOT_ON_TMPFS)))]
