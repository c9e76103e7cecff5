"""The daemon's memory stays below what docs/design/engine.md says, whatever is made, walked and removed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.mount
def test_memory_is_bounded_while_many_files_come_and_go() -> None:
    """A small cache, so that what is held outside of it would show: buffers of freed blocks once did."""
    done = subprocess.run([sys.executable, "-m", "bench.million", "--files", "40000", "--cache-mib", "8"], cwd=ROOT,
                          capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "remove" in done.stdout
