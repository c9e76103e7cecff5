"""The complete read-only check of a GFS2 file system: the passes in their order.

    open            superblock, resource group index
    bitmaps         headers, checksums and counts of every resource group
    pass1           every inode, its tree of blocks and its extended attributes
    pass2           directories
    pass3           connectivity
    pass4           link counts
    reconcile       blocks that the bitmap calls used and that nobody has
    pass1b          only if two owners claim one block: a second walk to name them
    system          journals, statfs, quota

Nothing is written. The order of findings is the order of the passes and, within one, of the blocks.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gfs2py.block._device import BlockDevice
from gfs2py.fsck._check import Checker
from gfs2py.fsck.crew import threads_for, walk_together
from gfs2py.fsck.kinds import KINDS
from gfs2py.fsck.report import Finding, Report, make_finding
from gfs2py.fsck.system import check_journals, check_system

Progress = Callable[[str, int, int], None]
OnFinding = Callable[[Finding], None]

RGRPS_PER_STEP = 16
WAVES_PER_STEP = 8
INODES_PER_STEP = 1 << 20


class _Run:
    """One check: the checker, its report and the caller's functions."""

    def __init__(self, device: BlockDevice, progress: Progress | None, on_finding: OnFinding | None) -> None:
        self.ck = Checker(device)
        self.report = Report(device.name)
        self.progress = progress
        self.on_finding = on_finding

    def collect(self) -> None:
        """Take over what the passes have found since the last time."""
        for raw in self.ck.findings(len(self.report.findings)):
            found = make_finding(raw)
            self.report.findings.append(found)
            if self.on_finding is not None:
                self.on_finding(found)

    def tell(self, name: str, done: int, of: int) -> None:
        if self.progress is not None:
            self.progress(name, done, of)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        self.tell(name, 0, 0)
        try:
            yield
        finally:
            self.report.seconds[name] = self.report.seconds.get(name, 0.0) + time.perf_counter() - start
        self.collect()

    def name_inodes(self) -> None:
        """Fill in the paths of the inodes that have findings."""
        paths: dict[int, str] = {}
        for i, f in enumerate(self.report.findings):
            if f.inode and f.inode not in paths:
                paths[f.inode] = self.ck.path(f.inode).decode("utf-8", "backslashreplace")
            if f.inode and paths[f.inode]:
                self.report.findings[i] = f._replace(path=paths[f.inode])

    def rgrps(self, name: str, step: Callable[[int, int], None]) -> None:
        """Call `step` for all resource groups, some at a time."""
        n = self.ck.n_rgrps
        for first in range(0, n, RGRPS_PER_STEP):
            step(first, RGRPS_PER_STEP)
            self.tell(name, min(first + RGRPS_PER_STEP, n), n)

    def walk(self, threads: int) -> None:
        """Pass 1 and pass 2."""
        ck = self.ck
        with self.timed("pass1"):
            if threads < 2 or not walk_together(ck, threads, lambda done, n: self.tell("pass1", done, n)):
                self.rgrps("pass1", ck.walk1)
        with self.timed("pass2"):
            n, done = ck.list_dirs(), 0
            while ck.walk2(WAVES_PER_STEP):
                done += WAVES_PER_STEP * 512
                self.tell("pass2", min(done, n), n)

    def find_owners(self) -> None:
        """The second walk, over a fresh map: who claims the blocks that have more than one owner."""
        with self.timed("pass1b"):
            self.ck.begin_second_walk()
            self.rgrps("pass1b", self.ck.load)
            self.ck.prepare()
            self.rgrps("pass1b", self.ck.walk1)
            self.ck.list_dirs()
            while self.ck.walk2(WAVES_PER_STEP):
                pass


def check_quick(device: BlockDevice) -> Report:
    """Only superblock, resource group index and journal heads: what a boot wants to know of a clean disk."""
    run = _Run(device, None, None)
    run.report.checked = run.ck.open()
    if run.report.checked:
        run.report.counts = run.ck.geometry()
        check_journals(run.ck, run.report, run.report.counts["master"], full=False)
    run.collect()
    run.report.totals = {KINDS[kind].code: n for kind, n in run.ck.totals().items()}
    return run.report


def check(device: BlockDevice, *, progress: Progress | None = None, on_finding: OnFinding | None = None,
          full_journals: bool = False, quota: bool = False, threads: int | None = None) -> Report:  # fmt: skip
    """Check the file system on a device and report what was found; nothing is written.

    `progress(pass, done, total)` is called at the start of every pass (0, 0) and now and then within it;
    `on_finding(finding)` at the end of the pass that found it.
    `full_journals` reads every block of every journal instead of searching for the head.
    `quota` compares the quota file with what users and groups really have; mounts without quotas do not keep
    it, so differences are only noted.
    `threads` share pass 1; by default as many as the machine and the number of inodes suggest. The report is the same.
    Raises OSError/ValueError for a closed device, MemoryError; damage never raises.
    """
    run = _Run(device, progress, on_finding)
    ck, report = run.ck, run.report
    with run.timed("open"):
        report.checked = ck.open()
    if report.checked:
        with run.timed("bitmaps"):
            run.rgrps("bitmaps", ck.load)
            ck.prepare()
        run.walk(threads or threads_for(ck.n_inodes))
        with run.timed("pass3"):
            ck.connect()
        with run.timed("pass4"):
            for first in range(0, ck.n_inodes, INODES_PER_STEP):
                ck.links(first, INODES_PER_STEP)
        with run.timed("reconcile"):
            run.rgrps("reconcile", ck.leaks)
        counts = ck.geometry()
        if ck.second_walk_needed():
            run.find_owners()
        ck.report_conflicts()
        with run.timed("system"):
            check_system(ck, report, counts, full_journals=full_journals, quota=quota)
        report.counts = counts
        run.collect()
        run.name_inodes()
    run.collect()
    report.totals = {KINDS[kind].code: n for kind, n in ck.totals().items()}
    return report
