"""Random operations on a volume against a model in Python, with both checkers at the end.

GFS2PY_SEED=N repeats a run; GFS2PY_MODEL_STEPS=N makes it longer.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from volume_adapter import TestVolume
from volume_model import Walk

if TYPE_CHECKING:
    from pathlib import Path

    from interop.commands import Commands

STEPS = int(os.environ.get("GFS2PY_MODEL_STEPS", "2500"))


def walk(vol: TestVolume, seed: str, bsize: int, steps: int, *, full: bool = False) -> Walk:
    """Walks; on any failure the volume is thrown away and the seed stands in the error."""
    done = Walk(vol, seed, bsize, full=full)
    try:
        done.run(steps)
    except BaseException as e:
        e.add_note(f"seed {seed!r}, bsize {bsize}")
        if vol.volume is not None:
            vol.volume.abandon()
        raise
    return done


@pytest.mark.interop
@pytest.mark.parametrize("bsize", [512, 1024, 2048, 4096])
def test_random_operations(bsize: int, seed: int, tmp_path: Path, commands: Commands) -> None:
    vol = TestVolume(bsize=bsize, mib=256)
    done = walk(vol, f"{seed}/{bsize}", bsize, STEPS)
    assert len(done.log) > STEPS // 2
    vol.check(commands, tmp_path / "image")


@pytest.mark.interop
@pytest.mark.parametrize("bsize", [512, 4096])
def test_random_operations_on_a_full_disk(bsize: int, seed: int, tmp_path: Path, commands: Commands) -> None:
    """So little space that it runs out again and again: an operation succeeds or changes nothing."""
    vol = TestVolume(bsize=bsize, mib=16, qc_mb=5)
    done = walk(vol, f"{seed}/full/{bsize}", bsize, STEPS, full=True)
    assert done.n_nospace > 0
    vol.check(commands, tmp_path / "image")
