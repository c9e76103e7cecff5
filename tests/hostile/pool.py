"""Worker processes that run cases and may crash, hang or eat memory: the parent says which case it was.

A worker tells of each case that it begins, and of its end, by a line in a pipe. What it prints goes to a file of its
own, which is quoted when it dies. Time and memory have limits; a worker over one is killed and another goes on
behind its case.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import random
import resource
import selectors
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hostile.bank import Base
from hostile.exercise import Finding, run_case, sanitised
from hostile.footprint import Footprint, few_arenas, left_behind
from hostile.mutate import draw
from watch import Watch

SLOWER = 6 if sanitised() else 1
HANG_S = 60 * SLOWER
CPU_S = 10 * SLOWER
GROWTH_BYTES = (1024 if sanitised() else 256) << 20
QUOTE_BYTES = 6000
PROGRESS = 1000         # cases


@dataclass
class Result:
    """What a run found."""

    cases: int = 0
    findings: list[tuple[int, str]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    fields: set[tuple[str, str]] = field(default_factory=set)
    seconds: float = 0.0
    cpu_seconds: float = 0.0


def run_one(bases: Sequence[Base], seed: int, number: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """One case in this process."""
    damage = draw(bases, seed, number)
    try:
        return run_case(damage, random.Random(f"work/{seed}/{number}")), sorted(damage.fields)
    except Exception as e:
        e.add_note(f"{damage.base.name}: " + "; ".join(damage.text))
        raise


def forget_peak() -> None:
    """The peak starts again at what is resident now: an earlier case may have used and given back more."""
    with open("/proc/self/clear_refs", "w") as f:
        f.write("5")


def peak_bytes() -> int:
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) << 10 for line in f if line.startswith("VmHWM:"))


class Worker:
    """A child that runs every `step`th case from `first` to below `stop`."""

    def __init__(self, bases: Sequence[Base], seed: int, first: int, stop: int, step: int) -> None:
        self.step, self.stop = step, stop
        self.now = -1
        self.buffer = b""
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by reap)
        self.pipe, told = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                os.close(self.pipe)
                self.child(bases, seed, first, told)
                status = 0
            except BaseException:
                traceback.print_exc()
                raise
            finally:
                os._exit(status)
        os.close(told)
        self.watch = Watch(self.pid, still_s=HANG_S, spin_s=HANG_S)

    def child(self, bases: Sequence[Base], seed: int, first: int, told: int) -> None:
        os.dup2(self.log.fileno(), 1)
        os.dup2(self.log.fileno(), 2)
        sys.stdout = sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115 (for good)
        faulthandler.enable(all_threads=True)
        faulthandler.register(signal.SIGUSR1, all_threads=True)
        gc.freeze()
        few_arenas()
        if not sanitised():
            soft = 4 << 30
            resource.setrlimit(resource.RLIMIT_AS, (soft, soft))
        for number in range(first, self.stop, self.step):
            os.write(told, b"B %d\n" % number)
            forget_peak()
            before, cpu, began_with = peak_bytes(), time.process_time(), Footprint.now()
            try:
                seen, fields = run_one(bases, seed, number)
            except Finding as e:
                self.say(told, "F", number, "\n".join([str(e), *e.__notes__]))
                continue
            used = time.process_time() - cpu
            if used > CPU_S:
                self.say(told, "F", number, f"took {used:.1f} s of processor time")
            if peak_bytes() - before > GROWTH_BYTES:
                self.say(told, "F", number, f"memory grew by {(peak_bytes() - before) >> 20} MiB")
            elif kept := left_behind(began_with, lambda n=number: run_one(bases, seed, n)):
                self.say(told, "F", number, f"not given back: {kept}")
            self.say(told, "E", number, [seen, fields, used])

    def say(self, told: int, kind: str, number: int, what: object) -> None:
        os.write(told, f"{kind} {number} {json.dumps(what)}\n".encode())

    def lines(self) -> list[bytes]:
        """What it has said; an empty list at its end."""
        data = os.read(self.pipe, 1 << 16)
        if not data:
            return []
        *whole, self.buffer = (self.buffer + data).split(b"\n")
        self.watch.sign()
        return whole or [b""]

    def reap(self) -> tuple[int, str]:
        """How it ended, and of what it printed the part that says why."""
        os.close(self.pipe)
        _, status = os.waitpid(self.pid, 0)
        self.log.seek(0)
        said = self.log.read().decode(errors="replace")
        self.log.close()
        report = said.find("ERROR: AddressSanitizer")       # its head says more than its end
        return os.waitstatus_to_exitcode(status), said[report:][:QUOTE_BYTES] if report >= 0 else said[-QUOTE_BYTES:]

    def kill(self) -> None:
        """With the stacks of its threads in the log."""
        os.kill(self.pid, signal.SIGUSR1)
        time.sleep(0.1)
        os.kill(self.pid, signal.SIGKILL)


class Pool:
    """Runs cases [first, first + count) in several workers, or as many as fit into `seconds`."""

    def __init__(self, bases: Sequence[Base], seed: int, first: int, count: int, *, jobs: int = 2,
                 seconds: float = 0.0, tell: Callable[[str], None] | None = None) -> None:
        self.bases, self.seed, self.jobs, self.seconds = bases, seed, jobs, seconds
        self.first, self.stop = first, first + count
        self.result = Result()
        self.tell = tell or (lambda line: None)
        for base in bases:
            assert base.edges       # made here, once, and shared by all workers
            assert base.pieces

    def run(self) -> Result:
        began = time.monotonic()
        self.selector = selectors.DefaultSelector()
        for i in range(self.jobs):
            self.begin(self.first + i)
        out_of_time = False
        while self.selector.get_map():
            for key, _ in self.selector.select(1.0):
                self.hear(key.data)
            for key in list(self.selector.get_map().values()):
                if key.data.watch.verdict():
                    key.data.kill()
                    key.data.watch.sign()
            if self.seconds and time.monotonic() - began > self.seconds and not out_of_time:
                out_of_time = True
                for key in list(self.selector.get_map().values()):
                    self.finding_less_end(key.data)
        self.result.seconds = time.monotonic() - began
        return self.result

    def begin(self, first: int) -> None:
        if first < self.stop:
            w = Worker(self.bases, self.seed, first, self.stop, self.jobs)
            self.selector.register(w.pipe, selectors.EVENT_READ, w)

    def finding_less_end(self, w: Worker) -> None:
        self.selector.unregister(w.pipe)
        os.kill(w.pid, signal.SIGKILL)
        w.reap()

    def found(self, number: int, text: str) -> None:
        self.result.findings.append((number, text))
        self.tell(f"case {number}: {text}\n    repeat with: {command(self.seed, number)}")

    def hear(self, w: Worker) -> None:
        lines = w.lines()
        for line in lines:
            kind, _, rest = line.partition(b" ")
            if kind == b"B":
                w.now = int(rest)
            elif kind:
                number, _, told = rest.partition(b" ")
                what = json.loads(told)
                if kind == b"F":
                    self.found(int(number), what)
                else:
                    self.result.cases += 1
                    if self.result.cases % PROGRESS == 0:
                        self.tell(f"{self.result.cases} cases, {len(self.result.findings)} findings")
                    self.result.counts.update(what[0])
                    self.result.fields.update(map(tuple, what[1]))
                    self.result.cpu_seconds += what[2]
        if not lines:
            self.selector.unregister(w.pipe)
            status, said = w.reap()
            if status:
                how = f"signal {-status}" if status < 0 else f"exit status {status}"
                self.found(w.now, f"the process ended with {how}\n{said}")
                self.begin(w.now + self.jobs)


def command(seed: int, number: int) -> str:
    asan = "GFS2PY_ASAN=1 " if sanitised() else ""
    return f"{asan}PYTHONPATH=tests .venv/bin/python -m hostile --seed {seed} --case {number}"
