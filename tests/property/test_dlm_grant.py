"""The compiled rules of granting against the slow ones of dlm_model.py, on one resource of one node."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from dlm_model import ORDER, Resource, compat
from hypothesis import given, settings
from hypothesis import strategies as st

from dlm.core._lockspace import Lockspace
from dlm.core.errors import DlmError
from dlm.core.events import Bast, Cast, Event, Node
from dlm.core.packets import EUNLOCK, Flag, LockMode

NAME = b"resource"
QUECVT = {(a, b) for a in range(6) for b in range(6) if b > a} | {(3, 2)}
REQUEST_FLAGS = [0, 0, Flag.NOQUEUE, Flag.NOQUEUE | Flag.NOQUEUEBAST, Flag.HEADQUE, Flag.NOORDER, Flag.ALTPR,
                 Flag.ALTCW, Flag.EXPEDITE, Flag.NOORDER | Flag.ALTPR, Flag.HEADQUE | Flag.ALTCW]
CONVERT_FLAGS = [0, 0, 0, Flag.NOQUEUE, Flag.NOQUEUE | Flag.NOQUEUEBAST, Flag.CONVDEADLK, Flag.QUECVT, Flag.HEADQUE,
                 Flag.NOORDER, Flag.ALTPR, Flag.ALTCW, Flag.QUECVT | Flag.HEADQUE, Flag.QUECVT | Flag.NOQUEUE,
                 Flag.QUECVT | Flag.CONVDEADLK, Flag.NODLCKWT, Flag.QUECVT | Flag.NODLCKWT,
                 Flag.HEADQUE | Flag.NODLCKWT, Flag.HEADQUE | Flag.CONVDEADLK, Flag.QUECVT | Flag.ALTPR]
OPERATIONS = st.lists(st.one_of(
    st.tuples(st.just("request"), st.integers(0, 5), st.sampled_from(REQUEST_FLAGS)),
    st.tuples(st.just("convert"), st.integers(0, 5), st.sampled_from(CONVERT_FLAGS), st.integers(0, 9)),
    st.tuples(st.just("unlock"), st.integers(0, 9)),
    st.tuples(st.just("cancel"), st.integers(0, 9))), max_size=40)


def words(events: list[Event]) -> list[tuple[int, str]]:
    out = []
    for e in events:
        if isinstance(e, Bast):
            out.append((e.lkid, f"bast {ORDER[e.mode]}"))
        elif isinstance(e, Cast):
            what = {-11: "again", -35: "deadlock", -0x10001: "cancelled", -EUNLOCK: "unlocked"}
            out.append((e.lkid, what.get(e.status) or f"granted {ORDER[e.mode]}"))
    return out


class Both:
    """The engine and the book, operation by operation."""

    def __init__(self) -> None:
        self.ls = Lockspace("grant", 1, 1)
        self.ls.stop()
        self.ls.start([Node(1)], 0)
        self.ls.take_events()
        self.book = Resource()

    def compare(self) -> None:
        got, want = words(self.ls.take_events()), self.book.told
        self.book.told = []
        # A blocking call behind the completion that made it moot is not made.
        granted = {e.number: e.granted for e in [*self.book.grant, *self.book.convert]}
        for lkid in {n for n, _ in [*got, *want]}:
            mine = [w for n, w in got if n == lkid]
            theirs = [w for n, w in want if n == lkid]
            # The same call twice is made once.
            theirs = [w for at, w in enumerate(theirs) if at == 0 or w != theirs[at - 1] or not w.startswith("bast")]
            assert mine == [w for w in theirs if w in mine], (lkid, got, want)
            for w in theirs:
                if w not in mine:
                    assert w.startswith("bast"), (w, got, want)
                    merged = any(x.startswith("bast") for x in mine)
                    assert merged or compat(granted.get(lkid, -1), ORDER.index(w[5:])), (w, got, want)
        queues: dict[str, list[tuple[int, int, int]]] = {"granted": [], "convert": [], "waiting": []}
        for r in self.ls.dump():
            for lock in r.locks:
                queues[lock.queue].append((lock.lkid, lock.grmode, lock.rqmode))
        assert sorted(queues["granted"]) == sorted((e.number, e.granted, e.asked) for e in self.book.grant)
        assert queues["convert"] == [(e.number, e.granted, e.asked) for e in self.book.convert]
        assert queues["waiting"] == [(e.number, e.granted, e.asked) for e in self.book.wait]
        held = [*self.book.grant, *self.book.convert]
        assert all(compat(a.granted, b.granted) for a in held for b in held if a is not b and b.granted >= 0)
        self.nobody_is_forgotten()

    def nobody_is_forgotten(self) -> None:
        """Who waits may not have it: nothing else will wake them but a change."""
        if not self.book.convert and not self.book.wait:
            return
        grant, convert, wait = ([replace(e) for e in q] for q in (self.book.grant, self.book.convert, self.book.wait))
        later = Resource(grant, convert, wait, clock=self.book.clock)
        later.pending()
        assert [x for x in later.told if not x[1].startswith("bast")] == [], self.book
        assert [e.granted for e in later.convert] == [e.granted for e in self.book.convert], self.book

    def all_let_go(self) -> None:
        """Who is granted what he asked for gives it back; in the end all were. But for those who wanted no check."""
        while self.book.grant:
            self.run(("unlock", self.numbers().index(self.book.grant[0].number)))
        if self.book.convert and any(e.flags & Flag.NODLCKWT for e in self.book.convert):
            return
        assert not self.book.convert, self.book
        assert not self.book.wait, self.book

    def numbers(self) -> list[int]:
        return sorted(e.number for e in [*self.book.grant, *self.book.convert, *self.book.wait])

    def run(self, operation: tuple[object, ...]) -> None:
        what, *args = operation
        if what == "request":
            mode, flags = args
            assert isinstance(mode, int)
            assert isinstance(flags, int)
            if flags & Flag.EXPEDITE:
                mode = LockMode.NL
            lkid = self.ls.lock(NAME, mode, flags)
            self.book.request(lkid, mode, flags)
        else:
            at = args[-1]
            assert isinstance(at, int)
            numbers = self.numbers()
            if not numbers:
                return
            number = numbers[at % len(numbers)]
            entry = next((e for e in self.book.grant if e.number == number), None)
            if what == "cancel":
                self.ls.cancel(number)
                self.book.cancel(number)
            elif entry is None:
                return
            elif what == "unlock":
                self.ls.unlock(number)
                self.book.release(number)
            else:
                mode, flags = args[0], args[1]
                assert isinstance(mode, int)
                assert isinstance(flags, int)
                if flags & Flag.QUECVT and (entry.granted, mode) not in QUECVT:
                    with pytest.raises(DlmError, match="Invalid argument"):
                        self.ls.convert(number, mode, flags)
                    return
                self.ls.convert(number, mode, flags)
                self.book.change(number, mode, flags)
        self.compare()


@settings(max_examples=200)
@given(OPERATIONS)
def test_rules(operations: list[tuple[object, ...]]) -> None:
    both = Both()
    for operation in operations:
        both.run(operation)
    both.all_let_go()


def draw(rng: random.Random, modes: list[int]) -> tuple[object, ...]:
    dice = rng.random()
    if dice < 0.3:
        return "request", rng.choice(modes), rng.choice(REQUEST_FLAGS)
    if dice < 0.75:
        return "convert", rng.choice(modes), rng.choice(CONVERT_FLAGS), rng.randrange(10)
    return "unlock" if dice < 0.9 else "cancel", rng.randrange(10)


def test_rules_at_length(rng: random.Random) -> None:
    """Few modes at a time, so that queues get long and deadlocks common."""
    for _ in range(600):
        both = Both()
        modes = rng.choice([[0, 1, 2, 3, 4, 5], [2, 3], [0, 2, 3, 5], [1, 3, 5], [0, 3, 4, 5]])
        for _ in range(60):
            both.run(draw(rng, modes))
        both.all_let_go()


class Turns:
    """Users of one resource who ask for new locks or, with QUECVT, convert those they have at NL."""

    def __init__(self) -> None:
        self.ls = Lockspace("turns", 1, 1)
        self.ls.stop()
        self.ls.start([Node(1)], 0)
        self.ls.take_events()
        self.mode: dict[int, int] = {}
        self.waiting: list[int] = []

    def heard(self) -> list[int]:
        """Who has got what he asked for, in order."""
        got = []
        for e in self.ls.take_events():
            if isinstance(e, Cast):
                assert e.status in (0, -EUNLOCK)
                self.mode[e.lkid] = e.mode
                if e.lkid in self.waiting:
                    self.waiting.remove(e.lkid)
                    got.append(e.lkid)
        return got

    def ask(self, lkid: int | None, mode: int) -> int:
        before = list(self.waiting)
        if lkid is None:
            lkid = self.ls.lock(NAME, mode)
        else:
            self.ls.convert(lkid, mode, Flag.QUECVT)
        self.waiting.append(lkid)
        assert not self.heard() or not before
        return lkid

    def let_go(self, lkid: int, unlock: bool) -> list[int]:
        if unlock:
            self.ls.unlock(lkid)
        else:
            self.ls.convert(lkid, LockMode.NL)
        before = list(self.waiting)
        got = self.heard()
        assert sorted(got) == sorted(before[:len(got)]), "who came first is served first"
        if unlock:
            del self.mode[lkid]
        return got


@settings(max_examples=200)
@given(st.lists(st.tuples(st.sampled_from(["new", "convert", "null", "unlock"]), st.integers(0, 9),
                          st.sampled_from([LockMode.CR, LockMode.CW, LockMode.PR, LockMode.EX])), max_size=60))
def test_first_come_first_served(operations: list[tuple[str, int, LockMode]]) -> None:
    """Also among new requests and conversions from NL; by the book these would always come first."""
    turns = Turns()
    for what, at, mode in operations:
        idle = sorted(n for n, m in turns.mode.items() if m == LockMode.NL and n not in turns.waiting)
        held = sorted(n for n, m in turns.mode.items() if m > LockMode.NL)
        if what == "new":
            turns.ask(None, mode)
        elif what == "convert" and idle:
            turns.ask(idle[at % len(idle)], mode)
        elif what in ("null", "unlock") and held:
            turns.let_go(held[at % len(held)], what == "unlock")
    while held := sorted(n for n, m in turns.mode.items() if m > LockMode.NL):
        turns.let_go(held[0], False)
    assert not turns.waiting


def test_a_first_request_among_three_that_take_turns() -> None:
    turns = Turns()
    three = [turns.ask(None, LockMode.NL) for _ in range(3)]
    for lkid in three:
        turns.ask(lkid, LockMode.EX)
    new = turns.ask(None, LockMode.EX)
    served = []
    for _ in range(10):
        (holder,) = [n for n, m in turns.mode.items() if m == LockMode.EX]
        served += turns.let_go(holder, False)
        turns.ask(holder, LockMode.EX)
    # Each of those who came before it once, and it again and again from then on.
    assert served[:4] == [three[1], three[2], new, three[0]]
    assert served.count(new) == 2
