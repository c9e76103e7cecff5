"""A storm of file locks: a table in memory that all processes share says who is where; the locks must agree with it.

fcntl and OFD locks are of one kind and exclude each other, flock is of another (flock(2), fcntl(2)). Only fcntl locks
are asked for while others are held: there a circle is answered by EDEADLK, in the others by waiting for ever. And where
the kernel keeps the locks it does not see a circle that closes while somebody waits behind a waiting OFD lock
(fs/locks.c asks no such waiter again when the lock before it changes hands): so nobody who holds one waits for ever.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import pickle
import random
import signal
import struct
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from torture.guard import Guard
from torture.place import Place, crowd

UNITS = 48                      # what can be locked, a byte each
FILES = 3                       # for flock
SHARED, EXCLUSIVE = 1, 2
OFD_SETLK, OFD_SETLKW = 37, 38
REFUSED = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)
FLOCK = struct.Struct("hhqqi")
HOLD_S = 0.001
WAIT_S = 0.005                  # what a wait may take when a signal is to end it
PATIENCE_S = 2.0                # what one may take who holds a lock already: long enough for EDEADLK to come first
LIMIT_S = 600.0


class Interrupted(Exception):
    """Raised by the signal handler: without it Python would go on waiting."""


class Table:
    """One row of bytes per process: what it holds of each unit. Rows are written by their owners only."""

    def __init__(self, rows: int, units: int) -> None:
        self.rows, self.units, self.memory = rows, units, mmap.mmap(-1, rows * units)

    def enter(self, row: int, start: int, end: int, mode: int) -> None:
        """Right after the lock was given. Raises AssertionError when somebody is there whom it excludes."""
        for unit in range(start, end):
            for other in range(self.rows):
                held = self.memory[other * self.units + unit]
                assert other == row or not held or held == mode == SHARED, \
                    f"process {row} was given unit {unit} in mode {mode}: process {other} holds it in mode {held}"
            self.memory[row * self.units + unit] = mode

    def leave(self, row: int, start: int, end: int) -> None:
        """Right before the lock is given back."""
        self.memory[row * self.units + start:row * self.units + end] = bytes(end - start)


class Locker:
    """One process."""

    def __init__(self, where: Place, number: int, rng: random.Random, ranges: Table, whole: Table) -> None:
        self.number, self.rng, self.ranges, self.whole = number, rng, ranges, whole
        self.path = where.root / "locks"
        self.fd = os.open(self.path, os.O_RDWR)
        self.flocks = [os.open(where.root / f"flock{n}", os.O_RDWR) for n in range(FILES)]
        self.done: Counter[str] = Counter()
        self.armed = False
        signal.signal(signal.SIGALRM, self.interrupt)

    def interrupt(self, number: int, frame: Any) -> None:
        if self.armed:
            raise Interrupted

    def attempt(self, limit_s: float, lock: Callable[[], object]) -> int:
        """0, an errno that says no, or EINTR when a signal came: then the lock may be there all the same.

        limit_s: when the signal comes, 0 for never.
        """
        try:
            try:
                self.armed = limit_s > 0
                signal.setitimer(signal.ITIMER_REAL, limit_s)
                lock()
                self.armed = False
                return 0
            except OSError as e:
                self.armed = False
                if e.errno not in REFUSED:
                    raise
                self.done[errno.errorcode[e.errno]] += 1
                return e.errno or 0
        except Interrupted:
            self.armed = False
            self.done["interrupted"] += 1
            return errno.EINTR

    def patience(self, impatient: bool, otherwise_s: float = 0.0) -> float:
        return WAIT_S * self.rng.random() + 1e-6 if impatient else otherwise_s

    def mode(self) -> tuple[int, int]:
        """Ours, and the system's."""
        return self.rng.choice(((SHARED, fcntl.LOCK_SH), (EXCLUSIVE, fcntl.LOCK_EX)))

    def span(self) -> tuple[int, int]:
        start = self.rng.randrange(UNITS)
        return start, min(UNITS, start + self.rng.choice((1, 2, 7, UNITS)))

    def hold(self) -> None:
        """While a lock is held, so that others come to wait for it."""
        if self.rng.random() < 0.3:
            time.sleep(HOLD_S)

    def give_back(self, spans: list[tuple[int, int]]) -> None:
        for start, end in spans:
            self.ranges.leave(self.number, start, end)
        for start, end in spans:
            fcntl.lockf(self.fd, fcntl.LOCK_UN, end - start, start)

    def posix(self) -> None:
        """One range, or several without order; waits may end by a signal or by EDEADLK."""
        held: list[tuple[int, int]] = []
        impatient = self.rng.random() < 0.3
        for _ in range(self.rng.choice((1, 1, 2, 3))):
            start, end = self.span()
            if any(start < e and s < end for s, e in held):
                continue
            ours, mode = self.mode()
            flags = mode | (fcntl.LOCK_NB if self.rng.random() < 0.2 else 0)
            no = self.attempt(self.patience(impatient, PATIENCE_S if held else 0.0),
                              partial(fcntl.lockf, self.fd, flags, end - start, start))
            assert no != errno.EDEADLK or held, "EDEADLK to one who holds nothing"
            if no == errno.EINTR:
                self.give_back([*held, (start, end)])
                return
            if no:
                break
            self.ranges.enter(self.number, start, end, ours)
            held.append((start, end))
            self.done["fcntl"] += 1
            self.hold()
        if held and self.rng.random() < 0.1:    # closing any descriptor of the file gives up all of them
            for start, end in held:
                self.ranges.leave(self.number, start, end)
            os.close(os.open(self.path, os.O_RDONLY))
        else:
            self.give_back(held)

    def ofd(self) -> None:
        """A lock of an open file: given back by hand, or by closing it."""
        fd = os.open(self.path, os.O_RDWR)
        (start, end), (ours, mode) = self.span(), self.mode()
        kind = fcntl.F_WRLCK if mode == fcntl.LOCK_EX else fcntl.F_RDLCK
        try:
            fcntl.fcntl(fd, OFD_SETLKW if self.rng.random() < 0.8 else OFD_SETLK,
                        FLOCK.pack(kind, os.SEEK_SET, start, end - start, 0))
        except OSError as e:
            if e.errno not in (errno.EAGAIN, errno.EACCES):
                raise
        else:
            self.ranges.enter(self.number, start, end, ours)
            self.hold()
            self.ranges.leave(self.number, start, end)
            self.done["ofd"] += 1
            if self.rng.random() < 0.5:
                fcntl.fcntl(fd, OFD_SETLK, FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, start, end - start, 0))
        os.close(fd)        # after which the fcntl locks of this process are gone too: it holds none

    def flock(self) -> None:
        at = self.rng.randrange(FILES)
        fd = self.flocks[at]
        for _ in range(self.rng.choice((1, 1, 2))):         # twice: a conversion
            ours, mode = self.mode()
            self.whole.leave(self.number, at, at + 1)
            flags = mode | (fcntl.LOCK_NB if self.rng.random() < 0.2 else 0)
            if self.attempt(self.patience(self.rng.random() < 0.3), partial(fcntl.flock, fd, flags)):
                break           # a conversion that is refused may have lost the lock, says flock(2)
            self.whole.enter(self.number, at, at + 1, ours)
            self.hold()
            self.done["flock"] += 1
        self.whole.leave(self.number, at, at + 1)
        fcntl.flock(fd, fcntl.LOCK_UN)

    def killed(self) -> None:
        """A child waits for a lock, has it, and is killed: others must get it."""
        start, end = self.span()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                fd = os.open(self.path, os.O_RDWR)
                fcntl.lockf(fd, fcntl.LOCK_EX, end - start, start)
                self.ranges.enter(self.number, start, end, EXCLUSIVE)
                self.ranges.leave(self.number, start, end)
                os.kill(os.getpid(), signal.SIGKILL)
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        assert status == signal.SIGKILL, f"the child ended with status {status}"
        self.done["killed"] += 1

    def step(self) -> None:
        kind = self.rng.random()
        if kind < 0.5:
            self.posix()
        elif kind < 0.7:
            self.ofd()
        elif kind < 0.98:
            self.flock()
        else:
            self.killed()


def locks(where: Place, guard: Guard, seed: int, ops: int, procs: int, bsize: int) -> str:
    (where.root / "locks").write_bytes(bytes(UNITS))
    for n in range(FILES):
        (where.root / f"flock{n}").touch()
    ranges, whole = Table(procs, UNITS), Table(procs, FILES)

    def process(number: int) -> None:
        one = Locker(where, number, random.Random(f"{seed}/locks/{number}"), ranges, whole)
        for _ in range(ops):
            one.step()
            guard.tick()
        (where.top / f"locks{number}").write_bytes(pickle.dumps(one.done))

    crowd(procs, process, LIMIT_S)()
    with (where.root / "locks").open("r+b") as f:           # nothing is left behind
        fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
    said = sum((pickle.loads((where.top / f"locks{n}").read_bytes()) for n in range(procs)), Counter[str]())
    return f"{ops * procs} operations: {' '.join(f'{k}={v}' for k, v in sorted(said.items()))}"
