"""The demo tells the truth: it passes on a real tree, and fails where the copy is not what it should be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from interop.commands import is_mounted
from rhcs_tools import demo

pytestmark = [pytest.mark.mount, pytest.mark.interop]


def small_tree(top: Path) -> Path:
    (top / "sub" / "empty").mkdir(parents=True)
    (top / "file").write_bytes(bytes(range(256)) * 300)
    (top / "sub" / "script").write_text("#!/bin/sh\n")
    (top / "sub" / "script").chmod(0o755)
    (top / "link").symlink_to("sub/script")
    return top


def test_demo_passes(tmp_path: Path) -> None:
    source = small_tree(tmp_path / "source")
    done = subprocess.run([sys.executable, "-m", "rhcs_tools.demo", "--size", "256", "--tree", source,
                           "--dir", tmp_path], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for words in ("mkfs.gfs2 ", "all equal", "MiB/s", "fsck.gfs2 -n"):
        assert words in done.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["source"], "the demo left something behind"


def test_demo_says_what_failed(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "rhcs_tools.demo", "--size", "1", "--dir", tmp_path],
                          capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "mkfs.gfs2 ended with exit status" in done.stderr
    assert not any(is_mounted(p / "mnt") for p in tmp_path.iterdir())


@pytest.mark.parametrize("change", ["content", "mode", "missing", "more", "target"])
def test_comparison_sees(tmp_path: Path, change: str) -> None:
    source, copy = small_tree(tmp_path / "source"), tmp_path / "copy"
    demo.copy(source, copy)
    demo.compare(source, copy)
    if change == "content":
        times = (copy / "file").stat()
        (copy / "file").write_bytes(bytes(256 * 300))
        os.utime(copy / "file", ns=(times.st_atime_ns, times.st_mtime_ns))
    elif change == "mode":
        (copy / "sub" / "script").chmod(0o700)
    elif change == "missing":
        (copy / "file").unlink()
    elif change == "more":
        (copy / "sub" / "new").touch()
    else:
        (copy / "link").unlink()
        (copy / "link").symlink_to("elsewhere")
    with pytest.raises(demo.DemoFailed):
        demo.compare(source, copy)
