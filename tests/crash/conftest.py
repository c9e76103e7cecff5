"""What the crash tests share."""

import faulthandler
from collections.abc import Iterator

import pytest

from crash.oracle import keep_memory


@pytest.fixture(autouse=True, scope="session")
def _keep_memory() -> None:
    keep_memory()


@pytest.fixture(autouse=True)
def _watchdog(request: pytest.FixtureRequest) -> Iterator[None]:
    """A hang inside the engine holds no Python lock that a signal could break: dump all stacks and end the run."""
    faulthandler.dump_traceback_later(4000 if request.node.get_closest_marker("slow") else 240, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()
