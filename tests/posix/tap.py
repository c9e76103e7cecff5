"""The Test Anything Protocol, as much as pjdfstest speaks."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_PLAN = re.compile(r"1\.\.(\d+)")
_RESULT = re.compile(r"(not )?ok (\d+)(.*)")
_DIRECTIVE = re.compile(r"#\s*(todo|skip)\b", re.IGNORECASE)


@dataclass
class Outcome:
    """What one test program said. A failure that its author marks as known counts as passed."""

    planned: int = 0
    passed: int = 0
    todo: int = 0
    failed: dict[int, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return self.planned > 0 and self.passed + len(self.failed) == self.planned


def read_tap(text: str) -> Outcome:
    """Raises nothing: what is no TAP is left out, and then the outcome is not complete."""
    out = Outcome()
    seen: set[int] = set()
    for line in text.splitlines():
        if plan := _PLAN.fullmatch(line.strip()):
            out.planned = int(plan[1])
        elif (result := _RESULT.match(line)) and int(result[2]) not in seen:
            number = int(result[2])
            seen.add(number)
            directive = _DIRECTIVE.search(result[3])
            if result[1] and directive is None:
                out.failed[number] = result[3].strip(" -")
            else:
                out.passed += 1
                out.todo += bool(result[1])
    return out
