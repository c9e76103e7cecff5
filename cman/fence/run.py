"""Runs fence agents: one method after another until one succeeds, one agent at a time on each device.

An agent is a program of the `fence-agents` package or of the administrator's: arguments as key=value lines on its
standard input, exit status 0 for success. What it says is for the log; its arguments never are, passwords are among
them. An agent that hangs is killed with all it started.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import trio

from cman.fence.plan import Method, Step

AGENT_LIMIT_S = 60.0
AGENT_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
LAST_WORDS_S = 0.5
OUTPUT_BYTES_MAX = 16 << 10
SAYS_MAX = 200
DEVICES_MAX = 1000


@dataclass(frozen=True, slots=True)
class Outcome:
    """`says`: the agents that did it, or what each method died of."""

    success: bool
    says: str


class Runner:
    """Knows which devices are busy. path: where agents are looked for."""

    def __init__(self, path: str | None = None, limit_s: float = AGENT_LIMIT_S) -> None:
        self._path = path or os.environ.get("CMAN_FENCE_PATH") or AGENT_PATH
        self._limit_s = limit_s
        self._busy: dict[str, trio.Lock] = {}

    async def fence(self, methods: Sequence[Method]) -> Outcome:
        """Never raises but trio.Cancelled."""
        reasons = []
        for method in methods:
            outcome = await self.all_of(method.steps)
            if outcome.success:
                return outcome
            reasons.append(f"method {method.name}: {outcome.says}")
        return Outcome(False, "; ".join(reasons) or "no method is configured")

    async def all_of(self, steps: Sequence[Step]) -> Outcome:
        """Until the first that fails."""
        agents: dict[str, None] = {}
        for step in steps:
            lock = self._busy.setdefault(step.device, trio.Lock())
            async with lock:
                why = await run_agent(step, self._path, self._limit_s)
            if why:
                return Outcome(False, f"{step.agent} on {step.device}: {why}")
            agents[step.agent] = None
        return Outcome(True, ", ".join(agents))


async def run_agent(step: Step, path: str, limit_s: float) -> str:
    """Empty when it has succeeded, else why it has not."""
    program = shutil.which(step.agent, path=path)
    if program is None:
        return f"no such program in {path}"
    try:
        arguments = step.stdin()
        agent = await trio.lowlevel.open_process([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                                 stderr=subprocess.STDOUT, start_new_session=True,
                                                 env={**os.environ, "PATH": path, "LC_ALL": "C"})
    except ValueError as e:
        return str(e)
    except OSError as e:
        return f"cannot be run: {e.strerror}"
    said = bytearray()
    try:
        with trio.move_on_after(limit_s) as limit:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_feed, agent, arguments)
                end = trio.Event()
                nursery.start_soon(_read, agent, said, end)
                await agent.wait()
                with trio.move_on_after(LAST_WORDS_S):      # a child of the agent may hold its output open for ever
                    await end.wait()
                nursery.cancel_scope.cancel()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(agent.pid, signal.SIGKILL)
        with trio.CancelScope(shield=True):
            await agent.wait()
        assert agent.stdout is not None
        with trio.CancelScope(shield=True):
            await agent.stdout.aclose()
    if limit.cancelled_caught:
        return f"killed after {limit_s:.0f} s without an end{_last(said)}"
    if agent.returncode:
        how = f"signal {-agent.returncode}" if agent.returncode < 0 else f"exit status {agent.returncode}"
        return how + _last(said)
    return ""


async def _feed(agent: trio.Process, arguments: bytes) -> None:
    assert agent.stdin is not None
    with suppress(trio.BrokenResourceError):
        async with agent.stdin:
            await agent.stdin.send_all(arguments)


async def _read(agent: trio.Process, said: bytearray, end: trio.Event) -> None:
    """The last that it says."""
    assert agent.stdout is not None
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        async for data in agent.stdout:
            said += data
            del said[:-OUTPUT_BYTES_MAX]
    end.set()


def _last(said: bytearray) -> str:
    lines = [line.strip() for line in said.decode(errors="replace").splitlines() if line.strip()]
    printable = "".join(c if c.isprintable() else "?" for c in lines[-1][:SAYS_MAX]) if lines else ""
    return f" ({printable})" if printable else ""
