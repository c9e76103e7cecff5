"""Whose a directory of control files is."""

from __future__ import annotations

import os
from pathlib import Path

from gfs2py.controlfs.place import choose, clear


def test_one_directory_each(tmp_path: Path) -> None:
    """The living keep theirs; who comes second has another, who comes later the first again."""
    top = tmp_path / "run"
    first = choose("c:fs", os.makedev(7, 1), top)
    second = choose("c:fs", os.makedev(7, 2), top)
    assert (first.path.name, second.path.name) == ("c:fs", "c:fs.7.2")
    assert not clear(first.path)
    assert first.path.is_dir()
    first.give_back()
    first.give_back()
    assert not first.path.exists()
    third = choose("c:fs", os.makedev(7, 3), top)
    assert third.path == first.path
    assert second.path.is_dir()
    for one in (second, third):
        one.give_back()
    assert list(top.iterdir()) == []


def test_what_the_dead_left(tmp_path: Path) -> None:
    """A lock file that nobody holds, and a directory."""
    top = tmp_path / "run"
    top.mkdir(0o700)
    (top / ".c:fs.lock").touch()
    (top / "c:fs").mkdir()
    assert clear(top / "c:fs")
    assert list(top.iterdir()) == []
