"""What the loss of a node costs, phase by phase, each against its budget. A pure machine.

    crash ... token lost | ring without it | fence confirmed | lockspaces run | journals replayed | grants go on
      DETECTION             EVICTION          FENCE             DLM              JOURNAL             RESUME

Detection is counted from the last token that this node has seen: the node may have died any time after that. The first
three are the cluster's and end at the same place of its order everywhere; the rest is what this node's own processes
have to do: the lockspaces ("dlm:...") of which the dead node was a member, and the file systems on them. Each of their
processes is a part; it reports when it is through with a phase, and a phase ends with its slowest part. Without any
part a loss is over when it is fenced. A report names the group's view: what was said before the loss does not count.

A phase that has taken longer than its budget is a warning with what it waits for, again whenever its age has doubled.
At the end one line sums it up. Nothing is decided here: all of it is for people.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

MS = 1_000_000
RECORDS_MAX = 64                # under way at once; NODES_MAX of a cluster
HISTORY_MAX = 32
PARTS_MAX = 256
DETAIL_MAX = 200                # characters of what a part says that it waits for


class Phase(enum.IntEnum):
    """In the order in which they follow; OVER is none any more."""

    DETECTION = 0
    EVICTION = 1
    FENCE = 2
    DLM = 3
    JOURNAL = 4
    RESUME = 5
    OVER = 6

    @property
    def word(self) -> str:
        return self.name.lower()


WORDS = {phase.word: phase for phase in Phase}


@dataclass(frozen=True, slots=True)
class Budgets:
    """Milliseconds that each phase may take before somebody is told. Defaults: the aim of less than 3 s in all."""

    detection: int = 850
    eviction: int = 700
    fence: int = 2000
    dlm: int = 500
    journal: int = 1000
    resume: int = 500

    def of(self, phase: Phase) -> int:
        return int(getattr(self, phase.word))


def budgets(token_ms: int, hold_ms: int, consensus_ms: int, fail_delay_s: int) -> Budgets:
    """What the configured timers make of the defaults: a phase gets what it must wait for, and its own part on top."""
    standard = Budgets()
    # The token may have rested on the node that holds it before it was missed.
    return Budgets(detection=token_ms + hold_ms + 150, eviction=consensus_ms + 200,
                   fence=standard.fence + fail_delay_s * 1000)


@dataclass(frozen=True, slots=True)
class RecoveryLog:
    """Effect: a line for the log."""

    text: str
    warning: bool = False


@dataclass(slots=True)
class _Part:
    """A local process with something to recover. `phase`: the one it is in."""

    phase: Phase = Phase.DLM
    detail: str = ""


@dataclass(slots=True)
class Recovery:
    """One loss. `generation`: of the ring that noticed it. ends: of the phases that are over, in order."""

    nodeid: int
    name: str
    generation: int
    began_ns: int
    wall_s: int
    phase: Phase
    ends_ns: list[int]
    warn_ns: int
    warned: bool = False
    parts: dict[tuple[int, str], _Part] = field(default_factory=dict)

    @property
    def since_ns(self) -> int:
        """When its phase began."""
        return self.ends_ns[-1] if self.ends_ns else self.began_ns

    def took_ns(self, phase: Phase) -> int:
        return self.ends_ns[phase] - (self.ends_ns[phase - 1] if phase else self.began_ns)

    @property
    def slowest(self) -> Phase:
        return min((part.phase for part in self.parts.values()), default=Phase.OVER)


@dataclass(frozen=True, slots=True)
class Done:
    """A loss that was recovered from. phases_ms: of each phase, in order."""

    nodeid: int
    name: str
    wall_s: int
    total_ms: int
    phases_ms: Mapping[str, int]

    @property
    def text(self) -> str:
        return recovered(self.name, self.total_ms, self.phases_ms)


def recovered(name: str, total_ms: int, phases_ms: Mapping[str, int]) -> str:
    """The summary of one loss for people."""
    each = " ".join(f"{phase} {ms / 1000:.1f}" for phase, ms in phases_ms.items())
    return f"recovered from the loss of \"{name}\" in {total_ms / 1000:.1f} s: {each}"


class Recoveries:
    """All losses that this node has seen. waits_for: what the fencing of a node waits for, in words."""

    def __init__(self, limits: Budgets, waits_for: Callable[[int], str]) -> None:
        self.limits = limits
        self.open: dict[int, Recovery] = {}
        self.history: list[Done] = []
        self.counts = {"losses": 0, "recovered": 0, "over_budget": 0}
        self.sums_ms = dict.fromkeys(Phase, 0)          # of all losses that were recovered from
        self._waits_for = waits_for
        self._effects: list[RecoveryLog] = []

    # Inputs

    def lost(self, nodeid: int, name: str, generation: int, seen_ns: int, gather_ns: int, now_ns: int,
             wall_s: int) -> None:
        """A member is not in the new ring. seen_ns: the last token; gather_ns: when members were sought anew."""
        began_ns = min(seen_ns, gather_ns, now_ns)
        record = Recovery(nodeid, name, generation, began_ns, wall_s, Phase.FENCE,
                          [max(began_ns, min(gather_ns, now_ns)), now_ns], 0)
        if (before := self.open.pop(nodeid, None)) is not None:
            record.parts = before.parts         # its old life is not recovered from yet, and now the next is lost
        while len(self.open) >= RECORDS_MAX:
            del self.open[next(iter(self.open))]
        self.open[nodeid] = record
        self.counts["losses"] += 1
        for phase in (Phase.DETECTION, Phase.EVICTION):
            took_ms = record.took_ns(phase) // MS
            if took_ms > self.limits.of(phase):
                self.counts["over_budget"] += 1
                self._log(f"{self._of(record)}: {phase.word} took {took_ms / 1000:.2f} s, budget "
                          f"{self.limits.of(phase) / 1000:.2f} s", warning=True)
        self._log(f"{self._of(record)}: detection {record.took_ns(Phase.DETECTION) / 1e9:.2f} s, eviction "
                  f"{record.took_ns(Phase.EVICTION) / 1e9:.2f} s; fence begins (budget {self._budget(record)})")
        record.warn_ns = now_ns + self.limits.of(Phase.FENCE) * MS

    def part(self, client: int, group: str, gone: Collection[int]) -> None:
        """A process of this node was in a group with members on these nodes, which are lost."""
        for nodeid in gone:
            record = self.open.get(nodeid)
            if record is not None and len(record.parts) < PARTS_MAX:
                record.parts[(client, group)] = _Part()

    def part_gone(self, client: int, group: str | None, now_ns: int) -> None:
        """A process has left the group, or (None) all it was in: nobody waits for it any more."""
        for record in list(self.open.values()):
            left = {key: part for key, part in record.parts.items()
                    if key[0] != client or (group is not None and key[1] != group)}
            if len(left) != len(record.parts):
                record.parts = left
                self._advance(record, now_ns)

    def look(self, unconfirmed: Collection[int], quorate: bool, now_ns: int) -> None:
        """Who may still be at work somewhere, and whether this node may decide anything."""
        for record in list(self.open.values()):
            if record.phase is Phase.FENCE and quorate and record.nodeid not in unconfirmed:
                self._end(record, now_ns)
                self._advance(record, now_ns)

    def report(self, client: int, group: str, generation: int, phase: Phase, done: bool, detail: str,
               now_ns: int) -> None:
        """A part is in this phase, or through with it. generation: of the ring of the last view that it knows of."""
        for record in list(self.open.values()):
            part = record.parts.get((client, group))
            if part is None or generation < record.generation or phase < part.phase:
                continue
            part.phase, part.detail = Phase(phase + 1) if done else phase, detail[:DETAIL_MAX]
            self._advance(record, now_ns)

    def next_timer(self) -> int | None:
        return min((record.warn_ns for record in self.open.values()), default=None)

    def handle_timer(self, now_ns: int) -> None:
        for record in self.open.values():
            if record.warn_ns > now_ns:
                continue
            age_ns = now_ns - record.since_ns
            self.counts["over_budget"] += not record.warned
            record.warned = True
            self._log(f"{self._of(record)}: {record.phase.word} takes longer than its budget of "
                      f"{self._budget(record)}, {age_ns / 1e9:.1f} s so far: waits for {self.waits_for(record)}",
                      warning=True)
            record.warn_ns = record.since_ns + 2 * max(age_ns, self.limits.of(record.phase) * MS, MS)

    def effects(self) -> list[RecoveryLog]:
        done, self._effects = self._effects, []
        return done

    # What it is like

    def waits_for(self, record: Recovery) -> str:
        """For people: what keeps the record in its phase."""
        if record.phase is Phase.FENCE:
            return self._waits_for(record.nodeid)
        slow = [(key[1], part.detail) for key, part in record.parts.items() if part.phase <= record.phase]
        return "; ".join(f"{group.partition(':')[2]}{': ' if detail else ''}{detail}" for group, detail in slow)

    # Inside

    def _of(self, record: Recovery) -> str:
        return f"recovery from the loss of \"{record.name}\""

    def _budget(self, record: Recovery) -> str:
        return f"{self.limits.of(record.phase) / 1000:.1f} s"

    def _advance(self, record: Recovery, now_ns: int) -> None:
        """As far as the slowest part is."""
        while Phase.FENCE < record.phase < Phase.OVER and record.slowest > record.phase:
            self._end(record, now_ns)
        if record.phase is Phase.OVER:
            self._finish(record)

    def _end(self, record: Recovery, now_ns: int) -> None:
        assert record.phase < Phase.OVER
        over, before_ns = record.phase, record.since_ns
        record.ends_ns.append(now_ns)
        record.phase = Phase(over + 1)
        if record.phase is Phase.OVER:
            return
        record.warn_ns, record.warned = now_ns + self.limits.of(record.phase) * MS, False
        if not record.parts:
            return                      # it is over at once: the sum says all
        self._log(f"{self._of(record)}: {over.word} ended after {(now_ns - before_ns) / 1e9:.2f} s; "
                  f"{record.phase.word} begins (budget {self._budget(record)})")

    def _finish(self, record: Recovery) -> None:
        del self.open[record.nodeid]
        phases = {phase.word: record.took_ns(phase) // MS for phase in Phase if phase is not Phase.OVER}
        done = Done(record.nodeid, record.name, record.wall_s, (record.ends_ns[-1] - record.began_ns) // MS, phases)
        self.history.append(done)
        del self.history[:-HISTORY_MAX]
        self.counts["recovered"] += 1
        for phase in Phase:
            self.sums_ms[phase] += phases.get(phase.word, 0)
        self._log(done.text)

    def _log(self, text: str, warning: bool = False) -> None:
        self._effects.append(RecoveryLog(text, warning))


def views(machine: Recoveries, now_ns: int) -> Sequence[Mapping[str, object]]:
    """The losses that are not recovered from yet, as plain values."""
    return [{"nodeid": r.nodeid, "name": r.name, "phase": r.phase.word,
             "phase_ms": max(0, now_ns - r.since_ns) // MS, "budget_ms": machine.limits.of(r.phase),
             "total_ms": max(0, now_ns - r.began_ns) // MS, "waits_for": machine.waits_for(r),
             "phases_ms": {p.word: r.took_ns(p) // MS for p in Phase if p < r.phase}}
            for r in machine.open.values()]
