"""Many tasks on all processors, until enough was counted: `python -m crash.campaign power --seed 1 --count 20000`.

The tasks of a seed are numbered; worker w of n takes the numbers w, w + n, ... Each worker is a process of its own, so
that a hang or a crash of the engine is seen for what it is: the task that was under way is named, with all stacks.
One task alone: `python -m crash.campaign power --task "settling combs 100003"`.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from watch import Watch

TESTS = Path(__file__).resolve().parents[1]
STILL_S, SPIN_S = 120.0, 120.0      # a task takes seconds
COUNTED = {"power": "cuts", "faults": "failed I/Os"}


@dataclass
class Outcome:
    """What a campaign came to."""

    kind: str
    seed: int
    seconds: float = 0.0
    tasks: int = 0
    marks: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        return self.marks[COUNTED[self.kind]]

    def text(self) -> str:
        first = f"{self.kind}: seed {self.seed}, {self.count} {COUNTED[self.kind]} in {self.tasks} tasks, " \
                f"{self.seconds:.0f} s"
        return first + "".join(f"\n  {n:>9} {what}" for what, n in sorted(self.marks.items()))


def find_task(kind: str) -> Callable[[int, int], tuple[str, Callable[[], Counter[str]]]]:
    if kind == "power":
        from crash.scenes import power_task
        return power_task
    from crash.hurt import fault_task
    return fault_task


def by_name(kind: str, name: str) -> Callable[[], Counter[str]]:
    """The task that a failure named."""
    scene, shape, its_seed = name.split()
    if kind == "power":
        from crash.scenes import SCENES
        from crash.shapes import SHAPES
        return lambda: SCENES[scene](SHAPES[shape], int(its_seed))
    from crash.hurt import FAULT_SHAPES, WAYS
    return lambda: WAYS[scene](FAULT_SHAPES[shape], int(its_seed))


def work(kind: str, seed: int, worker: int, workers: int) -> None:
    """A worker: one line of JSON at the beginning and at the end of each task, until it is killed or a task raises."""
    from crash.oracle import keep_memory
    keep_memory()
    task = find_task(kind)
    number = worker
    while True:
        name, call = task(seed, number)
        print(json.dumps({"begun": name}), flush=True)
        print(json.dumps({"marks": call()}), flush=True)
        number += workers


class Worker:
    """The parent's view of one."""

    def __init__(self, kind: str, seed: int, number: int, workers: int, more: dict[str, str]) -> None:
        env = {**os.environ, **more}
        env["PYTHONPATH"] = env.get("GFS2PY_CRASH_PATH", os.pathsep.join([str(TESTS), str(TESTS.parent)]))
        # Not a pipe: one that nobody empties would block it.
        self.errors = tempfile.TemporaryFile()      # noqa: SIM115 - closed by end()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "crash.campaign", kind, "--seed", str(seed), "--worker", f"{number}/{workers}"],
            stdout=subprocess.PIPE, stderr=self.errors, env=env, cwd=TESTS)
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)
        self.left = b""
        self.task = "starting"
        self.watch = Watch(self.process.pid, still_s=STILL_S, spin_s=SPIN_S)

    def lines(self) -> Iterator[dict[str, object]]:
        """What it has said since the last time."""
        assert self.process.stdout is not None
        while data := self.process.stdout.read(1 << 16):
            self.left += data
        *whole, self.left = self.left.split(b"\n")
        for line in whole:
            yield json.loads(line)

    def end(self, how: int = signal.SIGKILL) -> str:
        """Stop it; what it had to say at the end."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        if self.errors.closed:
            return ""
        with self.errors:
            self.errors.seek(0)
            return self.errors.read()[-8000:].decode(errors="replace")


def judge_worker(worker: Worker, outcome: Outcome) -> None:
    """Take in what the worker said; add a failure if it failed, died or hangs."""
    for said in worker.lines():
        worker.watch.sign()
        if "begun" in said:
            worker.task = str(said["begun"])
        else:
            outcome.tasks += 1
            outcome.marks.update(said["marks"])     # type: ignore[arg-type]
    if outcome.failures:
        return
    if worker.process.poll() is not None:
        outcome.failures.append(f"{outcome.kind} --task {worker.task!r}: ended with {worker.process.returncode}\n"
                                + worker.end())
    elif stuck := worker.watch.verdict():
        # SIGABRT: faulthandler says where all threads are.
        outcome.failures.append(f"{outcome.kind} --task {worker.task!r}: hangs, {stuck}\n"
                                + worker.end(signal.SIGABRT))


def campaign(kind: str, seed: int, *, count: int = 0, seconds: float, workers: int = 0,
             marks: frozenset[str] = frozenset(), env: dict[str, str] | None = None) -> Outcome:
    """Run tasks until `count` is reached and all `marks` were seen, or for `seconds`. Stops at the first failure."""
    outcome = Outcome(kind, seed)
    workers = workers or os.cpu_count() or 1
    start = time.monotonic()
    crew = [Worker(kind, seed, w, workers, env or {}) for w in range(workers)]
    try:
        with selectors.DefaultSelector() as selector:
            for worker in crew:
                assert worker.process.stdout is not None
                selector.register(worker.process.stdout, selectors.EVENT_READ)
            while not outcome.failures and time.monotonic() - start < seconds:
                selector.select(timeout=1.0)
                for worker in crew:
                    judge_worker(worker, outcome)
                if count and outcome.count >= count and all(outcome.marks[m] for m in marks):
                    break
    finally:
        for worker in crew:
            worker.end()
    outcome.seconds = time.monotonic() - start
    return outcome


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=list(COUNTED))
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(2), "big"))
    parser.add_argument("--count", type=int, default=0, help="stop when so many were counted")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--task", help="one task, by the name that a failure printed")
    args = parser.parse_args()
    faulthandler.enable()
    if args.worker:
        number, workers = map(int, args.worker.split("/"))
        work(args.kind, args.seed, number, workers)
        return 1
    if args.task:
        print(by_name(args.kind, args.task)())
        return 0
    outcome = campaign(args.kind, args.seed, count=args.count, seconds=args.seconds, workers=args.workers)
    print(outcome.text())
    for text in outcome.failures:
        print(text)
    return 1 if outcome.failures else 0


if __name__ == "__main__":
    sys.exit(main())
