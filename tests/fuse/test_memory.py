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


# A large piece is freed, which teaches malloc to take such sizes from its heap; then pieces with something small
# between them are freed in the middle of it.
HOLES = """
import ctypes, sys
from gfs2py.fuse import _mount
if sys.argv[1] == "give back":
    _mount.give_back_large_blocks()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
libc.free(libc.malloc(30 << 20))
pieces = []
for _ in range(60):
    pieces.append(libc.malloc(1 << 20))
    ctypes.memset(pieces[-1], 1, 1 << 20)
    libc.malloc(100)
for piece in pieces:
    libc.free(piece)
status = open("/proc/self/status").read()
print(int(status.partition("VmRSS:")[2].split()[0]) // 1024)
"""


def test_large_blocks_leave_no_holes_in_the_heap() -> None:
    kept = [int(subprocess.run([sys.executable, "-c", HOLES, how], cwd=ROOT, capture_output=True, text=True, timeout=60,
                               check=True).stdout) for how in ("keep", "give back")]
    assert kept[1] < kept[0] - 40, f"resident {kept[1]} MiB, without it {kept[0]}"
