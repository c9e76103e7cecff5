"""The scripts of the house: installation overwrites nothing, the bootstrap is quiet when all is there."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tidy.files import TOP

HELPERS = ["mount.gfs2", "umount.gfs2"]


def install(into: Path, *helpers: str, force: bool = False) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "FORCE": "1" if force else ""}
    return subprocess.run(["ci/install.sh", into, *helpers], cwd=TOP, env=environment, capture_output=True,
                          text=True, check=False)


def test_install_links_and_links_again(tmp_path: Path, bin_dir: Path) -> None:
    for _ in range(2):
        assert install(tmp_path / "sbin", *HELPERS).returncode == 0
    for helper in HELPERS:
        assert (tmp_path / "sbin" / helper).resolve().name == helper
        assert os.access(tmp_path / "sbin" / helper, os.X_OK)


@pytest.mark.parametrize("kind", ["file", "link"])
def test_install_leaves_foreign_files_alone(tmp_path: Path, kind: str) -> None:
    foreign = tmp_path / HELPERS[1]
    if kind == "file":
        foreign.write_text("not ours")
    else:
        foreign.symlink_to("/somewhere/else")
    done = install(tmp_path, *HELPERS)
    assert done.returncode == 1
    assert HELPERS[1] in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == [HELPERS[1]], "something was installed"
    assert install(tmp_path, *HELPERS, force=True).returncode == 0


def test_install_refuses_what_was_not_built(tmp_path: Path) -> None:
    done = install(tmp_path / "sbin", "mount.nonsense")
    assert done.returncode == 1
    assert not (tmp_path / "sbin").exists()


def units(into: Path, *names: str, force: bool = False) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "FORCE": "1" if force else ""}
    return subprocess.run(["ci/install_units.sh", into, *names], cwd=TOP, env=environment, capture_output=True,
                          text=True, check=False)


def test_units_are_installed_with_our_commands(tmp_path: Path) -> None:
    for _ in range(2):
        assert units(tmp_path, "cman.service").returncode == 0
    text = (tmp_path / "cman.service").read_text()
    assert f"ExecStart={TOP}/.venv/bin/cman\n" in text
    assert "@BINDIR@" not in text
    (tmp_path / "cman.service").write_text("[Unit]\n")
    done = units(tmp_path, "cman.service")
    assert (done.returncode, "is not ours" in done.stderr) == (1, True)
    assert units(tmp_path, "cman.service", force=True).returncode == 0
    assert units(tmp_path, "nothing.service").returncode == 1


def test_bootstrap_has_nothing_to_do_twice() -> None:
    done = subprocess.run(["ci/bootstrap.sh", "debs", "gcc", "python3-venv"], cwd=TOP, capture_output=True,
                          text=True, check=True)
    assert done.stdout + done.stderr == ""
