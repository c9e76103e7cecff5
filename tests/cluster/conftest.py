"""Real daemons on several nodes of one machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.netns import Rig


@pytest.fixture
def rig(tmp_path: Path, bin_dir: Path) -> Iterator[Rig]:
    """Three nodes with a configuration; no daemon runs yet."""
    with Rig(tmp_path, bin_dir, ["web1", "web2", "web3"]) as made:
        made.configure()
        yield made


@pytest.fixture
def ring(rig: Rig) -> Rig:
    """Three members."""
    for node in rig.nodes:
        node.start()
    rig.wait_members(rig.nodes)
    return rig
