"""mkqdisk on images, and a disk as a file."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from cman.qdisk.disk import Disk, Found
from cman.qdisk.ondisk import NodeState, QdiskError, Status, disk_bytes, pack_status, unpack_status
from rhcs_tools import mkqdisk


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "qdisk"
    path.write_bytes(b"\xff" * disk_bytes(512))
    return path


def test_made_as_in_the_guide(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mkqdisk.main(["-c", str(image), "-l", "myqdisk", "-y"]) == 0
    said = capsys.readouterr().out
    assert f"Writing new quorum disk label 'myqdisk' to {image}.\n" in said
    assert said.endswith("Initializing status block for node 15...\nInitializing status block for node 16...\n")
    with Disk(image) as disk:
        assert disk.header().label == "myqdisk"
        assert all(unpack_status(disk.read_block(n), n).state is NodeState.NONE for n in range(1, 17))
        disk.write_block(3, pack_status(Status(3, 3, 5, NodeState.RUN)))
        assert unpack_status(disk.read_block(3), 3).state is NodeState.RUN
        told = mkqdisk.lines(Found((str(image),), disk.header(), 512))
    assert [line.split(":")[0].strip() for line in told[1:]] == [
        "Magic", "Label", "Created", "Host", "Kernel Sector Size", "Recorded Sector Size"]
    assert told[1:3] == ["\tMagic:                eb7a62c2", "\tLabel:                myqdisk"]


def test_it_asks_first(image: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    assert mkqdisk.main(["-c", str(image), "-l", "myqdisk"]) == 1
    assert f"WARNING: About to destroy all data on {image}; proceed [N/y] ? Aborted.\n" in capsys.readouterr().out
    assert image.read_bytes() == b"\xff" * disk_bytes(512)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert mkqdisk.main(["-c", str(image), "-l", "myqdisk"]) == 0
    assert mkqdisk.main(["-c", str(image), "-l", "other", "-y"]) == 0
    assert "is a quorum disk already: 'myqdisk'" in capsys.readouterr().out


@pytest.mark.parametrize(("words", "why"), [
    (["-c", "{}"], "wants a label"), (["-c", "{}", "-l", "x" * 120, "-y"], "1 to 119 bytes"),
    (["-c", "{}.none", "-l", "x"], "no such device"), ([], "one of -c, -L, -f"),
    (["-L", "-f", "x"], "one of -c, -L, -f"),
    (["-f", "nobody has this label"], "no quorum disk has the label"), (["-z"], "-z")])
def test_refusals(words: list[str], why: str, image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mkqdisk.main([w.format(image) for w in words]) == 1
    assert why in capsys.readouterr().err


def test_a_small_device_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = tmp_path / "small"
    small.write_bytes(bytes(disk_bytes(512) - 1))
    assert mkqdisk.main(["-c", str(small), "-l", "x", "-y"]) == 1
    assert f"{small} has 73727 bytes: a quorum disk needs 73728" in capsys.readouterr().err
    with Disk(small) as disk, pytest.raises(QdiskError, match="the header: magic"):
        disk.header()
