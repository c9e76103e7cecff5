"""fsck.gfs2 and gfs2_fsck as commands: lines, exit statuses, and that nothing is ever written."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from fsck.patient import Patient
from gfs2py.block import MemoryDevice, Snapshot
from interop.commands import Commands


def save(dev: MemoryDevice, path: Path) -> Path:
    dev.save(path)
    return path


@pytest.fixture
def clean(kernel_4096: Snapshot, tmp_path: Path) -> Path:
    return save(MemoryDevice.from_snapshot(kernel_4096), tmp_path / "clean")


@pytest.fixture
def damaged(kernel_4096: Snapshot, tmp_path: Path) -> Path:
    p = Patient(MemoryDevice.from_snapshot(kernel_4096))
    p.di("plain/file1", "di_nlink", 9)
    return save(p.dev, tmp_path / "damaged")


@pytest.fixture
def dirty(kernel_4096: Snapshot, tmp_path: Path) -> Path:
    p = Patient(MemoryDevice.from_snapshot(kernel_4096))
    p.put(max(p.log_headers())[1], "log_header", "lh_flags", 0, seal=True)
    return save(p.dev, tmp_path / "dirty")


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_clean(clean: Path, commands: Commands) -> None:
    done = commands.ours("fsck.gfs2", "-n", clean)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    for line in ("Initializing fsck", "Validating Resource Group index.", "(level 1 passed)",
                 "Starting pass1", "Starting pass2", "Starting pass4", "Reconciling bitmaps.",
                 "fsck.gfs2 complete",
                 "Level 1 resource group check: Checking if all rgrp and rindex values are good."):
        assert line in lines
    assert any(line.startswith("pass1 completed in") for line in lines)
    assert done.stderr == ""


def test_old_name_and_lines(clean: Path, commands: Commands) -> None:
    done = commands.ours("gfs2_fsck", "-y", clean)
    assert done.returncode == 0
    for line in ("Level 1 RG check.", "Starting pass1", "Pass1 complete", "Pass5 complete",
                 "gfs2_fsck complete"):
        assert line in done.stdout.splitlines()


def test_quiet_says_nothing(clean: Path, commands: Commands) -> None:
    done = commands.ours("fsck.gfs2", "-n", "-q", clean)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_damage(damaged: Path, commands: Commands) -> None:
    before = digest(damaged)
    done = commands.ours("fsck.gfs2", "-n", damaged)
    assert done.returncode == 4
    assert "Link count inconsistent for inode" in done.stderr
    for option in ("-y", "-p", "-a"):
        refused = commands.ours("fsck.gfs2", option, "-f", damaged)
        assert refused.returncode == 8
        assert "repair is not there yet, nothing was changed" in refused.stderr
    assert digest(damaged) == before


def test_dirty_journal(dirty: Path, commands: Commands) -> None:
    before = digest(dirty)
    done = commands.ours("fsck.gfs2", "-n", dirty)
    assert done.returncode == 0
    assert 'Journal #1 ("journal0") is dirty' in done.stderr
    assert "not replaying due to the -n option." in done.stderr
    for option in ("-y", "-p"):
        refused = commands.ours("fsck.gfs2", option, dirty)
        assert refused.returncode == 8
        assert "a mount replays them" in refused.stderr
    assert digest(dirty) == before


def test_preen_is_quick_when_clean(clean: Path, commands: Commands) -> None:
    done = commands.ours("fsck.gfs2", "-a", clean)
    assert done.returncode == 0
    assert f"{clean}: clean." in done.stdout
    assert "Starting pass1" not in done.stdout


def test_json(damaged: Path, commands: Commands) -> None:
    done = commands.ours("fsck.gfs2", "-n", "--json", damaged)
    assert done.returncode == 4
    report = json.loads(done.stdout)
    assert report["checked"]
    assert not report["clean"]
    assert [f["code"] for f in report["findings"]] == ["nlink"]
    assert report["findings"][0]["wanted"] == 1
    assert report["findings"][0]["found"] == 9


def test_usage(clean: Path, tmp_path: Path, commands: Commands) -> None:
    for args in (["-n", "-y", clean], ["-n"], [clean], ["-Z", clean], ["-n", tmp_path / "missing"],
                 ["-n", clean, clean]):
        done = commands.ours("fsck.gfs2", *args)
        assert done.returncode == 16, args
        assert done.stderr
    for option in ("-h", "-V"):
        assert commands.ours("fsck.gfs2", option).returncode == 0


def test_no_file_system(tmp_path: Path, commands: Commands) -> None:
    image = tmp_path / "zeros"
    image.write_bytes(bytes(1 << 20))
    done = commands.ours("fsck.gfs2", "-n", image)
    assert done.returncode == 8
    assert "this is no GFS2 file system" in done.stderr
