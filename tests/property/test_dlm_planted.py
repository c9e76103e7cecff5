"""Every bug of dlm_planted.BUGS is found by the runs that find nothing in the engine as it is."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from dlm_planted import BUGS, BY_THE_BOOK, build, hunt

# Of processor time. The rarest one took up to 5 with ten seeds.
EACH_S = 60.0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_planted_bug_is_found(tmp_path: Path, seed: int) -> None:
    path = build(tmp_path)
    assert hunt(0, path, seed, 2.0) == "", "found without a bug"
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda at: hunt(at, path, seed, EACH_S, BUGS[at - 1].name in BY_THE_BOOK),
                              range(1, len(BUGS) + 1)))
    for bug, what in zip(BUGS, found, strict=True):
        print(f"{bug.name}: {what[:160] or 'NOT FOUND'}")
    assert [bug.name for bug, what in zip(BUGS, found, strict=True) if not what] == []
