"""Whether one order explains a history: every operation at one moment between its beginning and its end. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from histories.models import NEVER, UNKNOWN, Model, Op, prefixes

SHOWN = 12                      # operations before a finding that are told
CONFIGS_MAX = 200_000           # more than that nobody's handful of nodes gives


def linearizable(ops: Sequence[Op], model: Model) -> str:
    """Empty, or what cannot be, in words. Events are taken in the order of time. A configuration is a state together
    with those of the operations under way that have had their effect; when one ends, those configurations go on in
    which it has had it (or, with an unknown result, may have).

    Raises OverflowError when too much is under way at once."""
    open_ops: dict[int, Op] = {}
    configs: set[tuple[Hashable, frozenset[int]]] = {(model.first, frozenset())}
    done: list[Op] = []
    for _, is_end, at in _events(ops):
        op = ops[at]
        if not is_end:
            open_ops[at] = op
            continue
        found = _effects(configs, open_ops, model, at)
        if op.result == UNKNOWN:
            found |= {c for c in configs if at not in c[1]}
        if not found:
            return _told(op, configs, done, open_ops)
        del open_ops[at]
        done.append(op)
        configs = {(state, had - {at}) for state, had in found}
        if len(configs) > CONFIGS_MAX:
            raise OverflowError(f"{len(configs)} configurations at {op}")
    return ""


def _events(ops: Sequence[Op]) -> list[tuple[float, bool, int]]:
    """(moment, is an end, which). At one moment beginnings come first: then the two were under way together."""
    out = []
    for at, op in enumerate(ops):
        assert op.began <= op.ended
        out += [(op.began, False, at), (op.ended, True, at)]
    return sorted(out)


def _effects(configs: set[tuple[Hashable, frozenset[int]]], open_ops: dict[int, Op], model: Model,
             last: int) -> set[tuple[Hashable, frozenset[int]]]:
    """All configurations in which `last` has had its effect, by any order of those under way."""
    found: set[tuple[Hashable, frozenset[int]]] = set()
    seen = set(configs)
    todo = list(configs)
    while todo:
        state, had = todo.pop()
        if last in had:
            found.add((state, had))
            continue
        for at, op in open_ops.items():
            if at in had:
                continue
            for after in model.step(state, op):
                config = (after, had | {at})
                if config not in seen:
                    seen.add(config)
                    todo.append(config)
    return found


def _told(op: Op, configs: set[tuple[Hashable, frozenset[int]]], done: list[Op], open_ops: dict[int, Op]) -> str:
    states = sorted({str(state) for state, _ in configs})
    under_way = "; ".join(str(o) for o in open_ops.values() if o is not op)
    before = "; ".join(map(str, done[-SHOWN:]))
    return f"{op} cannot be: the state was {' or '.join(states)}. Under way: {under_way or 'nothing'}. Before: {before}"


def appended(ops: Sequence[Op], final: Sequence[str]) -> str:
    """The same for a list to which `append v` adds at the end and of which `read` returns all: its order is known.

    `final`: what it has when everything has ended. Empty, or what cannot be."""
    position = {value: at for at, value in enumerate(final)}
    if len(position) != len(final):
        return f"{next(v for v in final if final.count(v) > 1)} is there more than once"
    digests = prefixes(final)
    # (place in the order, began, ended): the n-th append comes before the reads that have n + 1 values.
    placed: list[tuple[float, Op]] = []
    for op in ops:
        if op.what == "append":
            if op.value in position:
                placed.append((position[op.value], op))
            elif op.result != UNKNOWN:
                return f"{op} is lost"
        elif op.result != UNKNOWN:
            count, found, last = op.result
            if count >= len(digests) or digests[count] != found:
                return f"{op.who}#{op.number} read {count} values that end with {' '.join(last)}; " \
                       f"there are {len(final)}, with {' '.join(final[max(0, count - len(last)):count])} at that place"
            placed.append((count - 0.5, op))
    placed.sort(key=lambda item: item[0])
    latest: Op | None = None            # of those before in the order the one that began last
    waiting: list[Op] = []
    place: Any = None
    for where, op in placed:
        if where != place:
            for one in waiting:
                if latest is None or one.began > latest.began:
                    latest = one
            waiting, place = [], where
        waiting.append(op)
        if latest is not None and op.ended < latest.began:
            return f"{_short(op)} had ended before {_short(latest)} began, and comes after it"
    return ""


def _short(op: Op) -> str:
    value = op.value if op.what == "append" else f"of {op.result[0]} values"
    return f"{op.who}#{op.number} {op.what} {value}"


def closed(ops: Sequence[Op], lives: dict[str, list[tuple[str, float]]]) -> list[Op]:
    """Unknown operations end when the next life of their node begins: what was under way there is over by then.

    `lives`: node -> its processes in order, with the time of each one's beginning. Reads that nobody heard the end of
    say nothing.
    """
    until: dict[str, float] = {}
    for found in lives.values():
        for (who, _), (_, began) in zip(found, [*found[1:], ("", NEVER)], strict=True):
            until[who] = began
    out = []
    for op in ops:
        if op.result != UNKNOWN:
            out.append(op)
        elif op.what not in ("read", "look"):
            out.append(Op(op.who, op.number, op.what, op.value, op.began, until[op.who], op.result))
    return out
