"""Processes of an earlier life of this node's cman."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cman import leftovers
from cman.leftovers import Holder, Register, Unkillable, parse, start_ticks


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "1000"]) as made:
        yield made
        made.kill()


def test_who_is_left_is_killed_before_we_join(tmp_path: Path, process: subprocess.Popen[bytes]) -> None:
    Register(tmp_path / "users").note([(process.pid, "gfs2:a"), (process.pid, "dlm:a"), (os.getpid(), "x")])
    assert parse((tmp_path / "users").read_text()) == sorted(
        [Holder(process.pid, start_ticks(process.pid) or 0, "dlm:a,gfs2:a"),
         Holder(os.getpid(), start_ticks(os.getpid()) or 0, "x")], key=lambda h: h.pid)
    Register(tmp_path / "users").note([(process.pid, "gfs2:a")])
    Register(tmp_path / "users").end_leftovers()
    assert process.wait() == -9
    assert (tmp_path / "users").read_text() == ""


def test_a_pid_that_came_again_is_left_alone(tmp_path: Path, process: subprocess.Popen[bytes]) -> None:
    ticks = start_ticks(process.pid)
    assert ticks is not None
    (tmp_path / "users").write_text(f"{process.pid} {ticks - 1} gfs2:a\n1 1 init\nnonsense\n-5 3 x\n")
    Register(tmp_path / "users").end_leftovers()
    assert process.poll() is None


def test_one_that_does_not_end_is_named(tmp_path: Path, process: subprocess.Popen[bytes],
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    Register(tmp_path / "users").note([(process.pid, "gfs2:a")])
    monkeypatch.setattr(leftovers.os, "kill", lambda pid, number: None)
    with pytest.raises(Unkillable, match=rf"pid {process.pid} \(gfs2:a\) held state .* does not end"):
        Register(tmp_path / "users").end_leftovers(0.05)
    assert str(process.pid) in (tmp_path / "users").read_text(), "the next cman has to look, too"


def test_nothing_is_left_of_nobody(tmp_path: Path) -> None:
    Register(tmp_path / "users").end_leftovers()
    assert not (tmp_path / "users").exists()
