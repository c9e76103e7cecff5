"""The files of the project: what git tracks or would track."""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
NOT_OURS = {".git", ".venv", "build", "__pycache__", "results"}


@functools.cache
def project_files() -> tuple[str, ...]:
    """Paths relative to the top, sorted; untracked files count unless they are ignored.

    In a copy without a .git of its own (the sanitised build) the tree is walked instead.
    """
    if (TOP / ".git").exists():
        out = subprocess.run(["git", "-c", f"safe.directory={TOP}", "ls-files", "-z", "--cached", "--others",
                              "--exclude-standard"], cwd=TOP, capture_output=True, check=True).stdout
        names = [os.fsdecode(x) for x in out.split(b"\0") if x]
    else:
        names = []
        for folder, dirs, files in os.walk(TOP):
            dirs[:] = [d for d in dirs if d not in NOT_OURS and not d.endswith(".egg-info")]
            names += [os.path.relpath(os.path.join(folder, f), TOP) for f in files if not f.endswith(".so")]
    return tuple(sorted(n for n in set(names) if (TOP / n).is_file()))


def files(*suffixes: str, under: tuple[str, ...] = ()) -> list[str]:
    """Those with one of the suffixes (all when none is given), below one of the folders."""
    return [n for n in project_files() if (not suffixes or n.endswith(suffixes))
            and (not under or n.startswith(tuple(u + "/" for u in under)))]


@functools.cache
def text(name: str) -> str:
    return (TOP / name).read_text(encoding="utf-8")
