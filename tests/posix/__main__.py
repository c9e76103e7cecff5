"""pjdfstest on fresh mounts, as root.

    git clone https://github.com/pjd/pjdfstest; cd pjdfstest; autoreconf -ifs; ./configure; make pjdfstest
    python -m tests.posix PATH-TO-PJDFSTEST [--only NAME] [--bsize N] [--options MOUNT_OPTIONS] [--jobs N]

Without --bsize and --options: blocks of 4096 and 1024 bytes, with and without `acl`. Every program of the suite runs
in a directory of its own on the mount; then the image is unmounted and both checkers have to be silent. Exit status
0: what failed is what expected.py lists, and nothing that it lists has passed.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

_TESTS = str(Path(__file__).resolve().parent.parent)
if _TESTS not in sys.path:
    sys.path.append(_TESTS)

from interop.commands import Commands, Mounts  # noqa: E402

from .expected import EXPECTED  # noqa: E402
from .tap import Outcome, read_tap  # noqa: E402

LIMIT_S = 600.0
IMAGE_MIB = 512
SAID_MAX = 200           # of what a failed case says: some name whole paths
MATRIX = [(bsize, options) for bsize in (4096, 1024) for options in ("acl", "")]


@dataclass
class Program:
    """One program of the suite and what it said."""

    name: str
    outcome: Outcome
    text: str


def run_program(suite: Path, name: str, below: Path) -> Program:
    """In a directory that anybody may search: many cases run as other users."""
    folder = below / name.replace("/", "-")
    folder.mkdir(mode=0o755)
    done = subprocess.run(["/bin/sh", suite / "tests" / f"{name}.t"], cwd=folder, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                          timeout=LIMIT_S, check=False)
    return Program(name, read_tap(done.stdout), done.stdout)


def judge(programs: list[Program], verbose: bool) -> list[str]:
    """What differs from the list of expected failures."""
    wrong = []
    for program in programs:
        expected = EXPECTED.get(program.name, {})
        failed = program.outcome.failed
        wrong += [f"{program.name} case {n}: {failed[n][-SAID_MAX:]}" for n in sorted(failed.keys() - expected.keys())]
        if program.outcome.complete:
            wrong += [f"{program.name} case {n} passed, but is listed as one that cannot"
                      for n in sorted(expected.keys() - failed.keys())]
        else:
            wrong.append(f"{program.name}: {program.outcome.planned} cases planned, {program.outcome.passed} passed, "
                         f"{len(failed)} failed\n{program.text[-1500:] if verbose else ''}")
    return wrong


def run(suite: Path, names: list[str], bsize: int, options: str, jobs: int, verbose: bool) -> list[str]:
    """One image from mkfs to the checkers. Returns what is wrong."""
    commands = Commands(Path(sys.executable).parent)
    with tempfile.TemporaryDirectory(prefix="gfs2py-posix-") as work:
        top = Path(work)
        top.chmod(0o755)
        image = top / "image"
        image.touch()
        os.truncate(image, IMAGE_MIB << 20)
        commands.mkfs(image, "-b", str(bsize), "-J", "16")
        with Mounts(commands, top) as mounts:
            mounted = mounts.mount(image, options)
            with ThreadPoolExecutor(jobs) as pool:
                programs = list(pool.map(lambda name: run_program(suite, name, mounted.path), names))
            mounted.umount()
        commands.assert_clean(image)
    planned = sum(p.outcome.planned for p in programs)
    passed = sum(p.outcome.passed for p in programs)
    todo = sum(p.outcome.todo for p in programs)
    print(f"blocks of {bsize}, options {options or '(none)'}: {planned} cases in {len(programs)} programs, {passed} "
          f"passed ({todo} of them known to fail, says the suite), {planned - passed} failed; both checkers silent",
          flush=True)
    return judge(programs, verbose)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.posix", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("suite", type=Path, help="where pjdfstest was built")
    parser.add_argument("--only", default="", help="a pattern for the programs' names, rename/ for one")
    parser.add_argument("--bsize", type=int)
    parser.add_argument("--options", default=None, help="mount options")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("-v", "--verbose", action="store_true")
    args = parser.parse_args()
    suite = args.suite.resolve()
    if os.geteuid() or not os.access(suite / "pjdfstest", os.X_OK):
        parser.error("run it as root, and on a suite that is built" if os.geteuid() else f"{suite} is not built")
    tests = suite / "tests"
    names = sorted(os.fspath(p.relative_to(tests))[:-2] for p in tests.rglob("*.t"))
    names = [n for n in names if re.search(args.only, n)]
    wrong = []
    for bsize, options in MATRIX if args.bsize is None and args.options is None else [
            (args.bsize or 4096, "acl" if args.options is None else args.options)]:
        wrong += [f"blocks of {bsize}, options {options or '(none)'}: {line}"
                  for line in run(suite, names, bsize, options, args.jobs, args.verbose)]
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
