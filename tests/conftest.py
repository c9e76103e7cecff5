"""What all tests share: one seed, temporary images, the commands, mounts, and the kernel as judge.

The seed comes from GFS2PY_SEED (the Makefile sets and prints it) or is drawn; it is in the header of
every run. Fixtures that need root or a Debian package fail when it is missing: a test that could not
run must not look like one that passed.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

from interop.commands import Commands, Mounts
from interop.oracle.kernel import Kernel

SEED = int(os.environ.get("GFS2PY_SEED") or random.SystemRandom().randrange(1 << 32))

# Where the tests are that mount, make namespaces, or look at what is left on the machine.
MOUNTING = ("tests/cluster/", "tests/coherence/test_mounts", "tests/fuse/", "tests/hostile/test_withdraw",
            "tests/interop/test_demo", "tests/interop/test_dirty", "tests/interop/test_exchange",
            "tests/interop/test_kernel_node", "tests/iscsi/", "tests/posix/", "tests/torture/")

# Shared machines stall now and then: a slow example is no failure.
settings.register_profile("gfs2py", deadline=None, print_blob=True)
settings.load_profile("gfs2py")


def pytest_report_header() -> str:
    return f"seed: {SEED} (repeat with GFS2PY_SEED={SEED})"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("mount") and not item.nodeid.startswith(MOUNTING):
            raise pytest.UsageError(f"{item.nodeid} mounts: add its place to MOUNTING in tests/conftest.py")


class TwoProcesses(LoadScopeScheduling):
    """Of two processes that share a run (`make test`) one has all tests that mount or make namespaces: they look at
    what is left on the machine. The other one has the rest, file by file, which share nothing."""

    def _split_scope(self, nodeid: str) -> str:
        return "machine" if nodeid.startswith(MOUNTING) else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> TwoProcesses:
    return TwoProcesses(config, log)


@pytest.fixture
def seed() -> int:
    """The run's seed; print it in assertions that depend on it."""
    return SEED


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """A generator of the test's own: other tests' draws do not change its stream."""
    return random.Random(f"{SEED}/{request.node.nodeid}")


@pytest.fixture(scope="session")
def bin_dir() -> Path:
    """Where the project's commands are: beside the interpreter that runs the tests."""
    return Path(sys.executable).parent


@pytest.fixture(scope="session")
def commands(bin_dir: Path) -> Commands:
    """Runs the project's commands and Debian's; see interop/commands.py."""
    return Commands(bin_dir)


@pytest.fixture
def make_image(tmp_path: Path) -> Callable[..., Path]:
    """make_image(mib, name): a sparse file of that size."""
    def make(mib: int, name: str = "image") -> Path:
        path = tmp_path / name
        with path.open("wb") as f:
            f.truncate(mib << 20)
        return path
    return make


@pytest.fixture
def mounts(commands: Commands, tmp_path: Path) -> Iterator[Mounts]:
    """Mounts images with our daemon; whatever the test did, nothing stays mounted."""
    with Mounts(commands, tmp_path) as made:
        yield made


@pytest.fixture(scope="session")
def kernel() -> Kernel:
    """The kernel's own gfs2 in QEMU: kernel.run, .crash, .manifest."""
    return Kernel()
