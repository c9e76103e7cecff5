"""Agents as programs: what they get, what they say, how they end; and a human's word through the FIFO."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from cman.fence.override import listen, names
from cman.fence.plan import Method, Step
from cman.fence.run import Outcome, Runner
from dlm_nodes import until
from lab.remains import alive

LIMIT_S = 60.0
Agent = Callable[[str, str], str]


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    """agent(name, script): a program of that name; its name comes back."""
    def make(name: str, script: str) -> str:
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return name
    return make


def step(name: str, device: str = "d", **arguments: str) -> Step:
    return Step(device, name, tuple(arguments.items()))


def fence(tmp_path: Path, *methods: Method, limit_s: float = LIMIT_S) -> Outcome:
    async def main() -> Outcome:
        with trio.fail_after(LIMIT_S):
            return await Runner(f"{tmp_path / 'bin'}:{os.environ['PATH']}", limit_s).fence(methods)
    return trio.run(main)


def test_arguments_come_on_standard_input(agent: Agent, tmp_path: Path) -> None:
    agent("fence_a", f"cat > {tmp_path}/got; env > {tmp_path}/env")
    assert fence(tmp_path, Method("1", (step("fence_a", port="3", passwd="a b=c", nodename="web2"),))) \
        == Outcome(True, "fence_a")
    assert (tmp_path / "got").read_text() == "port=3\npasswd=a b=c\nnodename=web2\n"
    assert "passwd" not in (tmp_path / "env").read_text()


def test_methods_until_one_succeeds(agent: Agent, tmp_path: Path) -> None:
    agent("fence_bad", "echo first line; echo 'Connection timed out' >&2; echo; exit 1")
    agent("fence_good", f"echo $$ >> {tmp_path}/runs")
    outcome = fence(tmp_path, Method("power", (step("fence_good"), step("fence_bad"))),
                    Method("storage", (step("fence_good"), step("fence_good"))))
    assert outcome == Outcome(True, "fence_good")
    assert len((tmp_path / "runs").read_text().split()) == 3
    outcome = fence(tmp_path, Method("power", (step("fence_bad", "WTI"),)), Method("2", (step("fence_none"),)))
    assert not outcome.success
    assert outcome.says.startswith("method power: fence_bad on WTI: exit status 1 (Connection timed out); method 2: "
                                   "fence_none on d: no such program in ")


def test_no_method_is_no_success(tmp_path: Path) -> None:
    assert fence(tmp_path) == Outcome(False, "no method is configured")


def test_an_agent_that_hangs_is_killed_with_its_children(agent: Agent, tmp_path: Path) -> None:
    agent("fence_hangs", f"sleep 1000 & echo $! > {tmp_path}/child; echo waiting; wait")
    outcome = fence(tmp_path, Method("1", (step("fence_hangs"),)), limit_s=0.5)
    assert outcome.says == "method 1: fence_hangs on d: killed after 0 s without an end (waiting)"
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + LIMIT_S       # it has been signalled, and may still be on its way out
    while alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_agent_whose_child_keeps_its_output_is_not_waited_for(agent: Agent, tmp_path: Path) -> None:
    agent("fence_forks", "sleep 1000 & exit 0")
    assert fence(tmp_path, Method("1", (step("fence_forks"),))).success


def test_an_agent_that_talks_without_end(agent: Agent, tmp_path: Path) -> None:
    agent("fence_talks", "head -c 3000000 /dev/zero | tr '\\0' x; echo; printf 'last \\033[1m'; exit 3")
    assert fence(tmp_path, Method("1", (step("fence_talks"),))).says \
        == "method 1: fence_talks on d: exit status 3 (last ?[1m)"


def test_an_agent_that_reads_nothing(agent: Agent, tmp_path: Path) -> None:
    agent("fence_deaf", "exec <&-; exit 0")
    assert fence(tmp_path, Method("1", (step("fence_deaf", key="x" * 200_000),))).success


def test_one_at_a_time_on_a_device(agent: Agent, tmp_path: Path) -> None:
    agent("fence_slow", f"mkdir {tmp_path}/busy || exit 1; ls /proc >/dev/null; rmdir {tmp_path}/busy")
    results = []

    async def main() -> None:
        runner = Runner(f"{tmp_path / 'bin'}:{os.environ['PATH']}")

        async def one() -> None:
            results.append(await runner.fence([Method("1", (step("fence_slow", "WTI"),))]))
        with trio.fail_after(LIMIT_S):
            async with trio.open_nursery() as nursery:
                for _ in range(6):
                    nursery.start_soon(one)
    trio.run(main)
    assert [r.success for r in results] == [True] * 6


def test_cancelled_means_killed(agent: Agent, tmp_path: Path) -> None:
    agent("fence_hangs", f"echo $$ > {tmp_path}/pid; exec sleep 1000")

    async def main() -> None:
        runner = Runner(f"{tmp_path / 'bin'}:{os.environ['PATH']}")
        with trio.fail_after(LIMIT_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(runner.fence, [Method("1", (step("fence_hangs"),))])
                await until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
                nursery.cancel_scope.cancel()
    trio.run(main)
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


def test_names_in_the_fifo() -> None:
    assert names(b"web2\n") == ["web2"]
    assert names(b"web2=ok\nweb1\n\n=ok\nweb3=no\n") == ["web2", "web1"]


def test_the_fifo_is_there_while_a_word_is_wanted(tmp_path: Path) -> None:
    path = tmp_path / "cluster" / "fenced_override"
    told: list[str] = []

    async def main() -> None:
        with trio.fail_after(LIMIT_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(listen, path, told.append)
                await until(path.exists)
                assert stat.S_IMODE(path.stat().st_mode) == 0o600
                await trio.to_thread.run_sync(path.write_text, "web2\n")
                await until(lambda: told == ["web2"])
                await trio.to_thread.run_sync(path.write_text, "web1=ok\n")
                await until(lambda: told == ["web2", "web1"])
                nursery.cancel_scope.cancel()
    trio.run(main)
    assert told == ["web2", "web1"]
    assert not path.exists()
