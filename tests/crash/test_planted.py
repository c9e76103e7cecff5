"""Every bug of planted.BUGS is found by the same campaigns that find nothing in the engine as it is."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from crash.campaign import Outcome, campaign
from crash.planted import BUGS, Bug, build, number_of

EACH_S = 120.0


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("planted")


def hunt(bug: Bug, path: str, seed: int) -> Outcome:
    env = {"GFS2PY_PLANTED": str(number_of(bug)), "GFS2PY_CRASH_PATH": path}
    return campaign(bug.kind, seed, seconds=EACH_S, workers=1, env=env)


def found(outcome: Outcome) -> bool:
    """A judgement, not a program that could not start: also a mount that withdrew over what the bug did to it."""
    return bool(outcome.failures) and any(word in outcome.failures[0] for word in
                                          ("crash.oracle.Lost", "AssertionError", "CorruptionError",
                                           "OSError: [Errno 5]"))


@pytest.mark.slow
@pytest.mark.timeout(4000)
def test_every_planted_bug_is_found(broken: Path, seed: int) -> None:
    path = build(broken)
    start = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(lambda bug: hunt(bug, path, seed), BUGS))
    for bug, outcome in zip(BUGS, outcomes, strict=True):
        what = outcome.failures[0].splitlines()[-1][:100] if outcome.failures else "NOT FOUND"
        print(f"{bug.name}: {outcome.seconds:.1f} s, {outcome.tasks} whole tasks, {outcome.count} before it: {what}")
    print(f"{len(BUGS)} bugs in {time.monotonic() - start:.0f} s")
    missed = [bug.name for bug, outcome in zip(BUGS, outcomes, strict=True) if not found(outcome)]
    assert not missed, missed
    clean = campaign("power", seed, seconds=3.0, workers=2, env={"GFS2PY_PLANTED": "0", "GFS2PY_CRASH_PATH": path})
    assert not clean.failures, "the copy without a bug: " + clean.failures[0]
