"""What the things in a history are: states, operations, and which result an operation may have in which state. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

NEVER = float("inf")
UNKNOWN = "unknown"             # the result of an operation of which nobody heard the end
TOLD = 3                        # values at the end of a list that a reader notes


@dataclass(frozen=True, slots=True)
class Op:
    """One operation on one thing. Times in ns of one clock; `ended`: when its effect can no longer come, if unknown."""

    who: str
    number: int
    what: str
    value: Any
    began: float
    ended: float
    result: Any

    def __str__(self) -> str:
        value = "" if self.value is None else f" {self.value}"
        return f"{self.who}#{self.number} {self.what}{value} -> {self.result}"


class Model(Protocol):
    """A thing that has one state at a time."""

    first: Hashable

    def step(self, state: Any, op: Op) -> tuple[Hashable, ...]:
        """The states in which `op` may leave it, with its result; none: it cannot have had this result here.

        An operation with an unknown result may also have done nothing: that is the checker's business.
        """
        ...


class Register:
    """write v -> ok; read -> v. Empty before the first write."""

    first: Hashable = ""

    def step(self, state: Any, op: Op) -> tuple[Hashable, ...]:
        if op.what == "write":
            return (op.value,)
        return (state,) if op.result == state else ()


class Counter:
    """add -> the new value, one more than before; read -> the value."""

    first: Hashable = 0

    def step(self, state: Any, op: Op) -> tuple[Hashable, ...]:
        if op.what == "add":
            return (state + 1,) if op.result in (state + 1, UNKNOWN) else ()
        return (state,) if op.result == state else ()


class Place:
    """The name of a file that is moved about: move a,b -> ok, missing (not at a) or exists (at b); look -> the name."""

    def __init__(self, first: str) -> None:
        self.first: Hashable = first

    def step(self, state: Any, op: Op) -> tuple[Hashable, ...]:
        if op.what == "look":
            return (state,) if op.result == state else ()
        source, target = op.value
        if op.result == "missing":
            return (state,) if state != source else ()
        if op.result == "exists":
            return (state,) if state == target else ()
        return (target,) if state == source else ()


def digest(values: Sequence[str]) -> str:
    """Of a list, for notes that would be too long."""
    return hashlib.sha256("\n".join([*values, ""]).encode()).hexdigest()[:16]


def prefixes(values: Sequence[str]) -> list[str]:
    """The digest of each prefix: of none, of the first, of the first two ..."""
    running = hashlib.sha256()
    out = [running.hexdigest()[:16]]
    for value in values:
        running.update(f"{value}\n".encode())
        out.append(running.hexdigest()[:16])
    return out
