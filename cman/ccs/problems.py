"""What can be wrong with a configuration: a list of problems, each with its line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

PROBLEMS_MAX = 50               # of one file that are told


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong; line 0 means the file as a whole."""

    line: int
    text: str


class ConfigError(Exception):
    """A configuration that cannot be used: every problem found in it, in order of lines."""

    def __init__(self, name: str, problems: Sequence[Problem]) -> None:
        self.name = name
        self.problems = tuple(sorted(problems, key=lambda p: p.line)[:PROBLEMS_MAX])
        super().__init__("\n".join(f"{name}:{p.line}: {p.text}" if p.line else f"{name}: {p.text}"
                                   for p in self.problems))
