"""Bugs planted into a copy of the engine, which the campaigns must find.

Each is a change of a line or two of the source, so that it is in the engine's own order of things and meets what the
workloads really do. The copy is built once, with all of them; a variable of the environment chooses one. Nothing of it
is in the engine that is used.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENGINE = Path("ext/gfs2py/engine")
WHICH = '''
cdef extern from *:
    """
    #include <stdlib.h>
    static int gfs2py_planted(int n) {
        static int which = -1;
        if (which < 0) { const char *e = getenv("GFS2PY_PLANTED"); which = e ? atoi(e) : 0; }
        return which == n;
    }
    """
    bint planted "gfs2py_planted" (int n) noexcept nogil

'''
BUILD = """
import sys
from setuptools import setup as build
import setup
setup.CFLAGS[:] = [f for f in setup.CFLAGS if f not in ("-O2", "-g1")] + ["-O0"]
sys.argv[1:] = ["-q", "build_ext", "--inplace", "-j", sys.argv[1]]
build(ext_modules=setup.translated())
"""


@dataclass(frozen=True, slots=True)
class Bug:
    """What is wrong, in which module, and how; `new` names its number as N. `kind`: the campaign that must find it."""

    name: str
    module: str
    old: str
    new: str
    kind: str = "power"
    also: tuple[tuple[str, str, str], ...] = ()     # module, old, new: what belongs to it elsewhere


BUGS = [
    Bug("no flush before the header", "_log",
        "    if err == 0 and not (sd.flags & SDF_NOBARRIER):\n        err = _flush_device(sd)",
        "    if err == 0 and not (sd.flags & SDF_NOBARRIER) and not planted(N):\n        err = _flush_device(sd)"),
    Bug("the header without FUA", "_log",
        "0 if sd.flags & SDF_NOBARRIER else DEV_FUA", "0 if sd.flags & SDF_NOBARRIER or planted(N) else DEV_FUA"),
    Bug("revokes dropped", "_log",
        "    cdef uint64_t* grown\n    if tr.nrevokes == tr.cap_revokes:",
        "    cdef uint64_t* grown\n    if planted(N):\n        return 0\n    if tr.nrevokes == tr.cap_revokes:"),
    Bug("the escape of jdata not noted", "_log", "            esc[0] = htobe64(1)",
        "            esc[0] = 0 if planted(N) else htobe64(1)"),
    Bug("data behind the commit", "_log",
        "    if sd.data_write_many != NULL and not (sd.flags & SDF_WRITEBACK):",
        "    if sd.data_write_many != NULL and not (sd.flags & SDF_WRITEBACK) and not planted(N):",
        also=(("_log", "    _drop_ordered(sd, tr, (sd.flags & SDF_WRITEBACK) != 0)",
               "    _drop_ordered(sd, tr, (sd.flags & SDF_WRITEBACK) != 0 or planted(N))"),)),
    Bug("the tail passes what is not in place", "_log",
        "            tail = (<logtxn*>log.ail_list.next.owner).first",
        "            tail = tr.first if planted(N) else (<logtxn*>log.ail_list.next.owner).first"),
    Bug("the header without the statfs changes", "_log", "htobe64(<uint64_t>sd.sl_free)",
        "htobe64(<uint64_t>0 if planted(N) else <uint64_t>sd.sl_free)"),
    Bug("a sync without a flush of its own", "_log", "    if err == 0 and (log.n_flushes == before or",
        "    if err == 0 and not planted(N) and (log.n_flushes == before or"),
    Bug("freed blocks given out at once", "_rgrp_free",
        "    cdef int err\n    cdef bint first\n    pthread_mutex_lock(&rgd.mx)\n",
        "    cdef int err\n    cdef bint first\n    if planted(N):\n"
        "        rg_set(cx, rgd, pos, n, GFS2_BLKST_FREE, 0)\n        rgd.free += n\n"
        "        rgd.free_clone += n\n        return 0\n    pthread_mutex_lock(&rgd.mx)\n"),
    Bug("replay keeps the oldest copy", "_recovery",
        "    e.lin = lin\n    e.kind = kind\n",
        "    if planted(N) and e.kind:\n        return 0\n    e.lin = lin\n    e.kind = kind\n"),
    Bug("replay ignores revokes", "_recovery", "            if revoke != NULL and e.lin < revoke.lin:",
        "            if revoke != NULL and e.lin < revoke.lin and not planted(N):"),
    Bug("replay revokes newer copies, too", "_recovery", "        e.lin = lin\n        r.d_count -= 1\n",
        "        e.lin = 0xFFFFFFFF if planted(N) else lin\n        r.d_count -= 1\n"),
    Bug("replay forgets the escape", "_recovery", "        if todo[i].kind & C_ESCAPED:",
        "        if todo[i].kind & C_ESCAPED and not planted(N):"),
    Bug("the clean header without a flush", "_recovery",
        "        if not err and not dry_run:\n            err = jd.dev.ops.flush(jd.dev)",
        "        if not err and not dry_run and not planted(N):\n            err = jd.dev.ops.flush(jd.dev)",
        also=(("_recovery", "    log_header_seal(lh, jd.bsize)\n    err = jd.dev.ops.flush(jd.dev)",
               "    log_header_seal(lh, jd.bsize)\n    err = 0 if planted(N) else jd.dev.ops.flush(jd.dev)"),)),
    Bug("fsync does not wait for the commit", "_file", "        e = log_sync(sd, max(seq, <uint64_t>1),",
        "        e = log_sync(sd, 1 if planted(N) else max(seq, <uint64_t>1),"),
    Bug("fsync does not write data", "_file", "    if not log_writes_data(sd, ip, seq):",
        "    if not log_writes_data(sd, ip, seq) and not planted(N):"),
    Bug("what lies behind the end becomes content", "_data",
        "    if ip.height == 0:\n        return 0\n    if off < end:",
        "    if ip.height == 0 or planted(N):\n        return 0\n    if off < end:"),
    Bug("a failed write of data is nobody's", "_data", "    ip.wb_err = err\n    ip.wb_seq += 1\n",
        "    if planted(N):\n        return\n    ip.wb_err = err\n    ip.wb_seq += 1\n", "faults"),
    Bug("a failed journal write is overlooked", "_log", "    if err:\n        _drop_ordered(sd, tr, True)\n",
        "    if err and not planted(N):\n        _drop_ordered(sd, tr, True)\n", "faults"),
    Bug("a failed write in place is overlooked", "_ail", "        err = sd.dev.ops.writev(sd.dev, segs, m)\n",
        "        err = sd.dev.ops.writev(sd.dev, segs, m)\n        if planted(N):\n            err = 0\n", "faults"),
    Bug("a commit shows blocks that could not be written", "_data",
        "            if segs[i].res and not (sd.flags & SDF_WRITEBACK):",
        "            if segs[i].res and not (sd.flags & SDF_WRITEBACK) and not planted(N):", "faults"),
]


def number_of(bug: Bug) -> int:
    return BUGS.index(bug) + 1


def edits(module: str) -> Iterator[tuple[Bug, str, str]]:
    """What to change in a module, and for which bug."""
    for bug in BUGS:
        for where, old, new in ((bug.module, bug.old, bug.new), *bug.also):
            if where == module:
                yield bug, old, new.replace("planted(N)", f"planted({number_of(bug)})")


def plant(source: str, module: str) -> str:
    """The module's source with its bugs, each behind its number. Raises LookupError where the source has changed."""
    for bug, old, new in edits(module):
        if source.count(old) != 1:
            raise LookupError(f"planted.py: {module}.pyx has not once, as it must: {bug.name}\n{old}")
        source = source.replace(old, new)
    first = re.search(r"^(cdef|def) ", source, re.M)
    assert first is not None
    return source[:first.start()] + WHICH + source[first.start():]


def build(into: Path) -> str:
    """A copy of the package with the bugs in it, in `into`; the PYTHONPATH that has it."""
    for what in ("ext", "gfs2py"):
        shutil.copytree(ROOT / what, into / what, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "setup.py", into)
    modules = sorted({bug.module for bug in BUGS})
    for module in modules:
        path = into / ENGINE / f"{module}.pyx"
        path.write_text(plant(path.read_text(), module))
        for old in (into / "gfs2py/engine").glob(f"{module}.*.so"):
            old.unlink()
    env = {**os.environ, "GFS2PY_EXT": " ".join(f"gfs2py/engine/{m}" for m in modules), "PYTHONPATH": str(into),
           "GFS2PY_JOBS": str(os.cpu_count() or 1)}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", BUILD, env["GFS2PY_JOBS"]], cwd=into, env=env,
                          capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stdout[-2000:] + done.stderr[-4000:])
    return os.pathsep.join([str(ROOT / "tests"), str(into)])
