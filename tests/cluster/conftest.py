"""Real daemons on several nodes of one machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.netns import Rig
from cluster.rooms import assert_gone, pids_of
from lab import Lab, guide_topology

SMALL = "64M"


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


@pytest.fixture(scope="module")
def room() -> Iterator[Lab]:
    """Two nodes and the storage host, shared by a module: each test leaves it whole."""
    with Lab(guide_topology(2, size=SMALL)) as made:
        yield made
        pids = pids_of(made.place)
    assert_gone(made.place, pids)


@pytest.fixture
def whole(room: Lab) -> Iterator[Lab]:
    """The module's room; afterwards the network is mended and every machine up."""
    yield room
    print((room.place.path / "room.log").read_text())       # shown when the test has failed
    room.heal()
    for machine in room.status()["machines"]:
        if machine["state"] == "frozen":
            room.thaw(machine["name"])
        elif machine["state"] != "up":
            room.power("cycle", machine["name"])
