"""The torture programs, each for some seconds; by hand they run for as long as one likes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.mount, pytest.mark.interop]

TOP = Path(__file__).resolve().parents[2]
LIMIT_S = 240.0
# What a run of each program costs is about a millisecond per operation; GFS2PY_TORTURE multiplies it.
FACTOR = int(os.environ.get("GFS2PY_TORTURE", "1"))


def torture(name: str, seed: int, *more: str) -> None:
    """A program in a process of its own: it forks, and a hang must not take the tests with it."""
    argv = [sys.executable, "-m", f"tests.torture.{name}", "--seed", str(seed), *more]
    done = subprocess.run(argv, cwd=TOP, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, errors="replace", timeout=LIMIT_S * FACTOR, check=False)
    assert done.returncode == 0, f"{' '.join(argv[1:])}:\n{done.stdout[-8000:]}"


@pytest.mark.parametrize("more", [
    "--bsize 4096 --options writeback_cache,acl",
    "--bsize 512 --options writeback_cache",
    "--bsize 4096 --options nowriteback_cache",
    "--bsize 512 --options nowriteback_cache --jdata",
    "--bsize 4096 --options writeback_cache --jdata",
    "--bsize 1024 --options writeback_cache --size 9000",
    "--bsize 512 --options nowriteback_cache --base 3000000000",
    "--bsize 4096 --options writeback_cache,data=writeback --base 6000000000",
    "--bsize 4096 --options nowriteback_cache --base 1152921504606842880",
    "--bsize 512 --options nowriteback_cache --mib 32 --tight",
    "--bsize 4096 --options nowriteback_cache --mib 32 --tight",
])
def test_fsx(more: str, seed: int) -> None:
    torture("fsx", seed, "--ops", str(1500 * FACTOR), *more.split())


@pytest.mark.parametrize("more", [
    "--bsize 4096 --options writeback_cache,acl",
    "--bsize 512 --options nowriteback_cache --procs 6",
    "--bsize 1024 --options quota=on,noatime",
    "--bsize 4096 --tight --mib 32",
])
def test_stress(more: str, seed: int) -> None:
    torture("stress", seed, "--ops", str(2000 * FACTOR), *more.split())


@pytest.mark.parametrize("bsize", [512, 4096])
def test_kill_9(bsize: int, seed: int) -> None:
    torture("stress", seed, "--kill", str(2 * FACTOR), "--bsize", str(bsize))


@pytest.mark.parametrize("more", ["--bsize 512 --mib 64 --options nowriteback_cache", "--bsize 4096"])
def test_races(more: str, seed: int) -> None:
    torture("races", seed, "--ops", str(1000 * FACTOR), *more.split())


@pytest.mark.parametrize("more", ["--bsize 512 --options nowriteback_cache,nolocalflocks",
                                  "--bsize 4096 --options writeback_cache,quota=account"])
def test_storms(more: str, seed: int) -> None:
    torture("storms", seed, "--ops", str(300 * FACTOR), *more.split())


def test_soak(seed: int) -> None:
    torture("soak", seed, "--minutes", str(0.4 * FACTOR), "--ops", "100", "--every", "1", "--cache-mib", "8")
