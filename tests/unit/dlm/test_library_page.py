"""The examples of docs/dlm-library.md run as they stand there."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from dlm_nodes import LIMIT_S, cluster
from fake_cman import FakeCluster

PAGE = Path(__file__).parents[3] / "docs/dlm-library.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def examples() -> dict[str, Callable[..., Any]]:
    """All blocks in one namespace, in their order: later ones use the imports of earlier ones."""
    names: dict[str, Any] = {}
    for number, block in enumerate(BLOCKS):
        exec(compile(block, f"{PAGE.name} block {number + 1}", "exec"), names)
    return {n: f for n, f in names.items() if n.startswith("example_")}


def test_every_block_has_an_example() -> None:
    assert len(examples()) == len(BLOCKS) > 7


@pytest.mark.parametrize("name", sorted(examples()))
def test_example(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DLM_RUN", str(tmp_path / "run"))
    function = examples()[name]
    wanted = list(inspect.signature(function).parameters)

    async def main() -> None:
        with trio.fail_after(LIMIT_S):
            if wanted == ["one", "two"]:
                async with cluster(2) as (one, two):
                    await function(one.space, two.space)
            elif wanted == ["cman"]:
                await function(FakeCluster().process(1))
            else:
                assert wanted == []
                await function()
    trio.run(main)
