"""Histories under faults (tests/histories): the checker, and a short run of the whole in the lab."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from histories import campaign
from histories.faults import DECK, KINDS, rounds
from histories.linear import appended, closed, linearizable
from histories.models import NEVER, UNKNOWN, Counter, Op, Place, Register, digest
from histories.work import Torn, record, value_of
from poweroffs.things import Wrong

_numbers = count()
SHORT_S = 12.0


def op(what: str, began: float, ended: float, result: Any = "ok", value: Any = None, who: str = "n") -> Op:
    return Op(who, next(_numbers), what, value, began, ended, result)


def test_registers() -> None:
    first = op("write", 0, 1, value="a")
    overlapping = [first, op("write", 2, 6, value="b"), op("read", 3, 4, "b"), op("read", 5, 7, "b")]
    assert linearizable(overlapping, Register()) == ""
    assert linearizable([*overlapping[:2], op("read", 3, 4, "a"), op("read", 4.5, 5, "b")], Register()) == ""
    stale = [first, op("write", 2, 3, value="b"), op("read", 4, 5, "a")]
    assert "read -> a cannot be: the state was b" in linearizable(stale, Register())
    back = [first, op("write", 2, 9, value="b"), op("read", 3, 4, "b"), op("read", 5, 6, "a")]
    assert "read -> a cannot be" in linearizable(back, Register())
    assert "never" in linearizable([first, op("read", 2, 3, "never")], Register())
    # Nobody heard the end: it may be there or not, but not now one and then the other.
    lost = op("write", 2, NEVER, UNKNOWN, "b")
    assert linearizable([first, lost, op("read", 3, 4, "a"), op("read", 8, 9, "b")], Register()) == ""
    assert linearizable([first, lost, op("read", 3, 4, "b"), op("read", 8, 9, "a")], Register())


def test_counters_and_places() -> None:
    assert linearizable([op("add", 0, 2, 2), op("add", 0, 2, 1), op("read", 3, 4, 2)], Counter()) == ""
    assert linearizable([op("add", 0, 2, 1), op("add", 0, 2, 1)], Counter()), "a lost update"
    assert linearizable([op("add", 0, 5, UNKNOWN), op("add", 1, 2, 2)], Counter()) == ""
    assert linearizable([op("add", 0, 5, UNKNOWN), op("add", 6, 7, 1)], Counter()) == ""
    assert linearizable([op("add", 0, 5, UNKNOWN), op("add", 6, 7, 3)], Counter())

    def move(began: float, ended: float, source: str, target: str, result: str = "ok") -> Op:
        return op("move", began, ended, result, (source, target))

    assert linearizable([move(0, 1, "a", "b"), move(2, 3, "a", "c", "missing"), op("look", 4, 5, "b")],
                        Place("a")) == ""
    assert linearizable([move(0, 1, "a", "b"), op("look", 2, 3, "a")], Place("a"))
    assert linearizable([move(0, 1, "a", "b"), move(0, 1, "a", "c")], Place("a")), "moved away twice"
    assert linearizable([move(2, 3, "a", "c", "missing")], Place("a")), "it was there"
    assert linearizable([move(0, 9, "a", "b"), move(1, 8, "a", "b", "exists")], Place("a")) == ""
    assert linearizable([move(2, 3, "a", "c", "exists")], Place("a")), "nothing was there"


def test_lists() -> None:
    def append(value: str, began: float, ended: float, result: str = "ok") -> Op:
        return op("append", began, ended, result, value)

    def read(began: float, ended: float, *values: str) -> Op:
        return op("read", began, ended, [len(values), digest(values), list(values)])

    a, b = append("a", 0, 1), append("b", 2, 5)
    assert appended([a, b, read(3, 4, "a"), read(3, 4, "a", "b"), read(6, 7, "a", "b")], ["a", "b"]) == ""
    assert "is lost" in appended([a, b], ["a"])
    assert "more than once" in appended([a, b], ["a", "b", "a"])
    assert "comes after it" in appended([a, b], ["b", "a"])
    assert "comes after it" in appended([a, b, read(6, 7, "a")], ["a", "b"]), "a stale read"
    assert "comes after it" in appended([a, b, read(3, 4, "a", "b"), read(4.1, 4.2, "a")], ["a", "b"])
    assert "read 1 values that end with b" in appended([a, b, read(3, 4, "b")], ["a", "b"])
    assert appended([a, append("b", 2, NEVER, UNKNOWN)], ["a"]) == ""
    # What a dead node had begun is there before the node is back, or never.
    late = closed([append("b", 2, NEVER, UNKNOWN)], {"web1": [("n", 0.0), ("n-1", 5.0)]})
    assert "comes after it" in appended([a, *late, append("c", 6, 7)], ["a", "c", "b"])


def test_records_and_faults() -> None:
    assert value_of(record("web1-0.7")) == "web1-0.7"
    for torn in (b"", record("web1-0.7")[:-1], b"\0" * 32, record("x")[:16] + record("web1-0.7")[:16]):
        with pytest.raises(Torn):
            value_of(torn)
    nodes = ("a", "b", "c", "d")
    drawn = [next(r) for r in [rounds(3, nodes)] for _ in range(80)]
    assert drawn == [next(r) for r in [rounds(3, nodes)] for _ in range(80)]
    assert {f.kind for faults in drawn for f in faults} == set(KINDS)
    for fault in (f for faults in drawn for f in faults):
        assert fault.lasts_s <= DECK[fault.kind][1]
        assert len(set(fault.nodes)) == len(fault.nodes)
        if fault.kind in ("partition", "one-way"):
            assert set(fault.nodes) == set(nodes)
            assert all(fault.groups)


@pytest.mark.mount
@pytest.mark.slow
def test_one_order_explains_everything(seed: int) -> None:
    """Faults of a seed for some seconds; `make torture` does it for long."""
    told: list[str] = []
    try:
        tally = campaign.run(seed, SHORT_S, told.append, pause_ms=30.0)
    finally:
        print(*told, sep="\n")
    assert tally.rounds
    assert min(tally.operations[what] for what in ("read", "write", "append", "move", "look", "add")) > 0


@pytest.mark.mount
@pytest.mark.slow
def test_locks_that_do_not_exclude_are_found(seed: int) -> None:
    """Mounted with localflocks, where each node has locks of its own: updates under a lock are lost, and no order has
    them."""
    with pytest.raises(Wrong, match=r"^(fcntl|flock): .* cannot be: the state was "):
        campaign.run(seed, SHORT_S, print, kinds=("delay",), pause_ms=5.0, options="localflocks")
