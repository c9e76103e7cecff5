"""Bugs planted into a copy of the lock engine, which the random runs of dlm_campaign.py must find.

Each is a change of a line of the source. The copy is built once with all of them; a variable of the environment chooses
one. Nothing of it is in the engine that is used. Run as a program it is the hunt: SECONDS SEED runs|book; the seconds
are of processor time, so a machine that is busy with other things makes it longer, not shorter.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from crash.planted import BUILD, WHICH

ROOT = Path(__file__).resolve().parents[2]
CORE = Path("ext/dlm/core")
SHAPES = [{"nodes": 3, "crashes": 6, "steps": 1500, "names": 2}, {"nodes": 2, "crashes": 0, "steps": 600},
          {"nodes": 2, "crashes": 5, "steps": 1000, "names": 1}, {"nodes": 4, "crashes": 12, "steps": 3000, "names": 3}]


@dataclass(frozen=True, slots=True)
class Bug:
    """What is wrong, in which module, and how: `new` has planted(N)."""

    name: str
    module: str
    old: str
    new: str


BUGS = [
    Bug("grant before recovery is done", "_recoverd", "    ls.running = False\n    ls.stopped = True\n",
        "    ls.running = was_running and planted(N)\n    ls.stopped = True\n"),
    Bug("calls before recovery is done", "_recoverd", "    ls.cb_delay = True\n", "    ls.cb_delay = not planted(N)\n"),
    Bug("lost bast", "_grant", "if lkb.asts & ASTS_BAST and blocks_waiters(lkb, high, cw):",
        "if lkb.asts & ASTS_BAST and blocks_waiters(lkb, high, cw) and not planted(N):"),
    Bug("a bast for the mode that is granted already", "_grant", "    lkb.rqmode = MODE_IV\n    lkb.highbast = 0\n",
        "    lkb.rqmode = MODE_IV\n    if not planted(N):\n        lkb.highbast = 0\n"),
    Bug("value of a dead writer still valid", "_recover", "            r.flags |= RSB_RECOVER_LVB_INVAL\n",
        "            r.flags |= 0 if planted(N) else RSB_RECOVER_LVB_INVAL\n"),
    Bug("old value on a new master still valid", "_recover",
        "    if big == NULL:\n        r.flags |= RSB_VALNOTVALID\n",
        "    if big == NULL:\n        r.flags |= 0 if planted(N) else RSB_VALNOTVALID\n"),
    Bug("two masters", "_dir", "    master[0] = r.master_nodeid\n",
        "    master[0] = from_nodeid if planted(N) else r.master_nodeid\n"),
    Bug("the directory forgets who is master", "_recover",
        "        error = master_lookup(ls, memb.nodeid, p, length, LOOKUP_RECOVER_DIR, &master)",
        "        error = 0 if planted(N) else master_lookup(ls, memb.nodeid, p, length, LOOKUP_RECOVER_DIR, &master)"),
    Bug("a request lost over recovery", "_recover", "    if kind == MSG_REQUEST:\n        lkb.flags |= LKB_RESEND\n",
        "    if kind == MSG_REQUEST:\n        lkb.flags |= 0 if planted(N) else LKB_RESEND\n"),
    Bug("a question lost over recovery", "_recover", "    if kind == MSG_LOOKUP:\n        lkb.flags |= LKB_RESEND\n",
        "    if kind == MSG_LOOKUP:\n        lkb.flags |= 0 if planted(N) else LKB_RESEND\n"),
    Bug("messages lost over recovery", "_receive", "is_void(ls, p, &m):", "is_void(ls, p, &m) or planted(N):"),
    Bug("locks of the dead stay", "_recover", "        if is_master(r):\n            purge_queue(ls, r, &r.grantq)\n",
        "        if is_master(r) and not planted(N):\n            purge_queue(ls, r, &r.grantq)\n"),
    Bug("the new master's ids not learnt", "_recover", "        lkb.remid = rc.lock.remid\n",
        "        lkb.remid = lkb.remid if planted(N) else rc.lock.remid\n"),
    Bug("nobody looks what can be granted after recovery", "_recoverd", "    recover_grant(ls)\n",
        "    if not planted(N):\n        recover_grant(ls)\n"),
    Bug("those who wait for the same answer forgotten", "_lock",
        "    if error == 0 or error == -E_INPROGRESS:\n",
        "    if planted(N):\n        pass\n    elif error == 0 or error == -E_INPROGRESS:\n"),
    Bug("a new request overtakes the queue", "_grant",
        "        return dl_empty(&r.convertq) and dl_empty(&r.waitq)\n",
        "        return dl_empty(&r.convertq) and (dl_empty(&r.waitq) or planted(N))\n"),
    Bug("conversions from NL overtake new requests for ever", "_grant",
        "        if other.grmode != MODE_NL or other.ticket",
        "        if planted(N) or other.grmode != MODE_NL or other.ticket"),
    Bug("who made way is forgotten", "_lock", "and (lkb.grmode != MODE_NL or lkb.exflags & LKF_HEADQUE)):",
        "and (lkb.grmode != MODE_NL or lkb.exflags & LKF_HEADQUE) and not planted(N)):"),
    Bug("a conversion in spite of a granted lock", "_grant",
        "    if conflicts(&r.grantq, lkb) or conflicts(&r.convertq, lkb):\n",
        "    if (conflicts(&r.grantq, lkb) and not planted(N)) or conflicts(&r.convertq, lkb):\n"),
    Bug("a value not written on the way down", "_grant", "    memcpy(r.lvb, lkb.lvb, ls.lvblen)\n    r.lvbseq += 1\n",
        "    if not planted(N):\n        memcpy(r.lvb, lkb.lvb, ls.lvblen)\n    r.lvbseq += 1\n"),
]
# Fairness breaks no promise that a client can see, and few runs end in a state that shows who was forgotten: the slow
# book of test_dlm_grant.py sees both.
BY_THE_BOOK = {"a new request overtakes the queue", "conversions from NL overtake new requests for ever",
               "who made way is forgotten"}


def plant(source: str, module: str) -> str:
    """The module with its bugs, each behind its number. Raises LookupError where the source has changed."""
    for number, bug in enumerate(BUGS, 1):
        if bug.module == module:
            if source.count(bug.old) != 1:
                raise LookupError(f"{module}.pyx has {source.count(bug.old)} times: {bug.name}\n{bug.old}")
            source = source.replace(bug.old, bug.new.replace("planted(N)", f"planted({number})"))
    first = re.search(r"^(cdef|def) ", source, re.MULTILINE)
    assert first is not None
    return source[:first.start()] + WHICH + source[first.start():]


def build(into: Path) -> str:
    """A copy of the engine with the bugs in it, in `into`; the PYTHONPATH that has it."""
    for what in ("ext/dlm", "dlm"):
        shutil.copytree(ROOT / what, into / what, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "setup.py", into)
    modules = sorted({bug.module for bug in BUGS})
    for module in modules:
        path = into / CORE / f"{module}.pyx"
        path.write_text(plant(path.read_text(), module))
        for old in (into / "dlm/core").glob(f"{module}.*.so"):
            old.unlink()
    env = {**os.environ, "GFS2PY_EXT": " ".join(f"dlm/core/{m}" for m in modules), "PYTHONPATH": str(into),
           "GFS2PY_JOBS": str(os.cpu_count() or 1)}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", BUILD, env["GFS2PY_JOBS"]], cwd=into, env=env,
                          capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stdout[-2000:] + done.stderr[-4000:])
    return os.pathsep.join([str(into), str(ROOT / "tests"), str(Path(__file__).parent)])


def hunt(number: int, path: str, seed: int, seconds: float, book: bool = False) -> str:
    """What the runs say to the bug; an empty string if they find nothing."""
    env = {**os.environ, "GFS2PY_PLANTED": str(number), "PYTHONPATH": path}
    done = subprocess.run([sys.executable, __file__, str(seconds), str(seed), "book" if book else "runs"], env=env,
                          capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise RuntimeError(done.stdout[-2000:] + done.stderr[-4000:])
    return done.stdout.strip()


def runs(until: float, seed: int) -> str:
    from dlm_campaign import campaign
    from dlm_net import Broken
    at = 0
    while time.process_time() < until:
        try:
            campaign(seed * 10000 + at, **SHAPES[at % len(SHAPES)])
        except (Broken, AssertionError, OSError, KeyError) as error:
            return f"run {at}: {type(error).__name__} {error}"
        at += 1
    return ""


def book(until: float, seed: int) -> str:
    from test_dlm_grant import Both, draw
    rng = random.Random(seed)
    while time.process_time() < until:
        both = Both()
        try:
            for _ in range(60):
                both.run(draw(rng, [0, 2, 3, 5]))
        except AssertionError as error:
            return f"by the book: {error}"
    return ""


if __name__ == "__main__":
    find = book if sys.argv[3] == "book" else runs
    what = find(time.process_time() + float(sys.argv[1]), int(sys.argv[2]))
    print(what)
    sys.exit(1 if what else 0)
