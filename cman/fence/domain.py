"""The fence domain: who is to be fenced, by whom, since when, and what has been tried. A pure machine.

Every member of the cluster is in it. The quorum machine says who is unconfirmed: LOST (was a member, went without a
word) or UNKNOWN (never seen since this component has quorum). The member with the lowest id fences, one attempt per
victim at a time. So that all know, and nobody does the same twice, three messages go through the agreed order:

    fencing {node}          the sender runs the agents, from the moment it hears itself say so
    unfenced {node, says}   all methods have failed; anybody may try next
    fenced {node, by}       it is cut off: its votes count no more, recovery may go on (cman.quorum, cman.node)

 victim: WAITING --delay over, we have the lowest id--> CLAIMING --own message--> RUNNING --success--> gone
            ^                                                                        |
            '---------- retry delay ---------- failed on every method --------------'

A claim ends with its sender's membership, with the result, and with quorum: a component that loses quorum stops its
agents. Who comes back as a member (after a restart, without state of before) is no victim any more.

Delays: post_fail_delay after a loss; post_join_delay after quorum for those never seen, so that all of a cluster that
is switched on have time to appear; override_time, growing to RETRY_MAX_S, between attempts, for ever: a human's word
counts meanwhile.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from cman.fence.plan import Method
from cman.quorum import Standing

S = 1_000_000_000
RETRY_MAX_S = 10
SAYS_MAX = 255                  # characters of what an agent said that are told to others
HISTORY_MAX = 64


class Stage(enum.Enum):
    """Of a victim, as this node knows it."""

    WAITING = "waiting"         # for a delay, or for the node that fences to begin
    CLAIMING = "claiming"       # we have said that we do it, and not heard it yet
    RUNNING = "fencing"         # by `claimed_by`


@dataclass(frozen=True, slots=True)
class FenceConfig:
    """Delays in seconds, as in <fence_daemon>; methods per node id."""

    methods: Mapping[int, tuple[Method, ...]]
    names: Mapping[int, str]
    post_fail_delay: int = 0
    post_join_delay: int = 6
    override_time: int = 3
    clean_start: bool = False
    skip_undefined: bool = False


@dataclass(frozen=True, slots=True)
class Victim:
    """A node that must be fenced. `since_ns`: when this node began to count it."""

    nodeid: int
    lost: bool                  # else it was never seen
    since_ns: int
    due_ns: int
    stage: Stage = Stage.WAITING
    claimed_by: int = 0
    tries: int = 0              # that have failed
    says: str = ""              # why the last one did
    asked: bool = False         # by a person: it may be a member


@dataclass(frozen=True, slots=True)
class Say:
    """Effect: a control message to all members."""

    message: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class FenceStart:
    """Effect: run the methods until one succeeds, then call result()."""

    nodeid: int
    methods: tuple[Method, ...]


@dataclass(frozen=True, slots=True)
class FenceStop:
    """Effect: end these agents; no result is wanted any more."""

    nodeid: int


@dataclass(frozen=True, slots=True)
class FenceLog:
    text: str
    warning: bool = False


@dataclass(frozen=True, slots=True)
class FenceOver:
    """Effect: an attempt has ended, for whoever waits for it."""

    nodeid: int
    success: bool
    says: str


FenceEffect: TypeAlias = Say | FenceStart | FenceStop | FenceLog | FenceOver


class FenceDomain:
    """One member's view; every input but result(), ask() and timers comes in agreed order."""

    def __init__(self, me: int, config: FenceConfig) -> None:
        self.me = me
        self.config = config
        self.victims: dict[int, Victim] = {}
        self.history: list[str] = []
        self.counts = {"attempts": 0, "failures": 0, "successes": 0}
        self.members: tuple[int, ...] = ()
        self.acting = False             # quorate, and all members have said where they come from
        self._acting_since_ns = 0
        self._skipped: set[int] = set()
        # Claims of others, also those heard before this node was part of the component.
        self._heard: dict[int, int] = {}
        self._effects: list[FenceEffect] = []

    # Inputs

    def reconfigure(self, config: FenceConfig, now_ns: int) -> None:
        self.config = config
        self._go_on(now_ns)

    def left(self, nodes: Collection[int]) -> None:
        """They are not members any more, or in a new life: what somebody asked for was about the old one."""
        for nodeid in nodes:
            if (victim := self.victims.get(nodeid)) is not None and victim.asked:
                self._put(replace(victim, asked=False))     # look() decides: a victim like others, or none

    def look(self, members: tuple[int, ...], standing: Mapping[int, Standing], acting: bool, now_ns: int) -> None:
        """What membership and quorum are like now."""
        if acting and not self.acting:
            self._acting_since_ns = now_ns
            self._skipped.clear()
        if acting and any(n not in self.members for n in members):
            self._claim_again()
        self.members, self.acting = members, acting
        self._heard = {n: by for n, by in self._heard.items() if n not in members and by in members}
        wanted = {n: s is Standing.LOST for n, s in standing.items() if s in (Standing.LOST, Standing.UNKNOWN)}
        for victim in list(self.victims.values()):
            if victim.nodeid not in wanted and not victim.asked:
                self._drop(victim)
            elif victim.claimed_by and victim.claimed_by not in members:
                self._put(replace(victim, stage=Stage.WAITING, claimed_by=0))
            elif not acting and victim.stage is not Stage.WAITING:
                self._stop(victim)
        for nodeid, lost in wanted.items():
            if nodeid not in self.victims:
                self._appear(nodeid, lost, now_ns)
            elif lost and not self.victims[nodeid].lost:
                self._put(replace(self.victims[nodeid], lost=True, since_ns=now_ns,
                                  due_ns=now_ns + self.config.post_fail_delay * S))
        if self._ours():
            self._skip(standing)
        self._go_on(now_ns)

    def claimed(self, sender: int, nodeid: int, asked: bool, now_ns: int) -> None:
        """fencing {node} was delivered. `asked`: it is fenced because a person wants it, whatever it is."""
        victim = self.victims.get(nodeid)
        if sender != self.me:
            self._heard[nodeid] = sender
        if victim is None and asked:
            victim = Victim(nodeid, False, now_ns, now_ns, asked=True)
        if victim is None or victim.stage is Stage.RUNNING or sender not in self.members or not self.acting:
            if sender == self.me and victim is not None and victim.stage is Stage.CLAIMING:
                self._put(replace(victim, stage=Stage.WAITING))
            return
        self._put(replace(victim, stage=Stage.RUNNING, claimed_by=sender))
        self.counts["attempts"] += 1
        again = f", try {victim.tries + 1}" if victim.tries else ""
        whom = "" if sender == self.me else f" (by {self.name(sender)}{again})"
        self._log(f"fencing node \"{self.name(nodeid)}\"{whom or again}")
        if sender == self.me:
            self._effects.append(FenceStart(nodeid, self.methods(nodeid)))

    def failed(self, sender: int, nodeid: int, says: str, now_ns: int) -> None:
        """unfenced {node, says} was delivered."""
        victim = self.victims.get(nodeid)
        self._heard.pop(nodeid, None)
        if victim is None or victim.claimed_by != sender:
            return
        says = says[:SAYS_MAX]
        tries = victim.tries + 1
        self.counts["failures"] += 1
        wait_s = max(self.config.override_time, min(tries, RETRY_MAX_S))
        after = "given up" if victim.asked else f"again in {wait_s} s"
        self._log(f"fence \"{self.name(nodeid)}\" failed: {says}; {after}", warning=True)
        self._effects.append(FenceOver(nodeid, False, says))
        if victim.asked:
            del self.victims[nodeid]
        else:
            self._put(replace(victim, stage=Stage.WAITING, claimed_by=0, tries=tries, says=says,
                              due_ns=now_ns + wait_s * S))
            self._go_on(now_ns)

    def fenced(self, nodeid: int, by: str) -> None:
        """fenced {node, by} was delivered; the quorum machine knows it already."""
        self.counts["successes"] += 1
        self._log(f"fence \"{self.name(nodeid)}\" success" + (f" ({by})" if by else ""))
        self._effects.append(FenceOver(nodeid, True, by))
        self._heard.pop(nodeid, None)
        if (victim := self.victims.get(nodeid)) is not None:
            self._drop(victim)

    def result(self, nodeid: int, success: bool, says: str, now_ns: int) -> None:
        """The agents are through: by which one, or why none was any good."""
        victim = self.victims.get(nodeid)
        if victim is None or victim.claimed_by != self.me:
            return
        if success:
            self._effects.append(Say({"t": "fenced", "node": nodeid, "by": says[:SAYS_MAX], "asked": victim.asked}))
        else:
            self._effects.append(Say({"t": "unfenced", "node": nodeid, "says": says[:SAYS_MAX]}))

    def ask(self, nodeid: int) -> None:
        """A person wants the node fenced by this one, whatever it is now. Raises ValueError with what is in the way."""
        victim = self.victims.get(nodeid)
        if not self.acting:
            raise ValueError("this node is not in a quorate cluster: it must not fence")
        if victim is not None and victim.stage is not Stage.WAITING:
            by = self.name(victim.claimed_by or self.me)
            raise ValueError(f"{self.name(nodeid)} is being fenced by {by} already")
        if not self.methods(nodeid):
            raise ValueError(f"cluster.conf has no fence method for {self.name(nodeid)}")
        self._effects.append(Say({"t": "fencing", "node": nodeid, "asked": victim is None}))

    def next_timer(self) -> int | None:
        if not self._ours():
            return None
        return min((v.due_ns for v in self.victims.values() if self._may_start(v)), default=None)

    def handle_timer(self, now_ns: int) -> None:
        self._go_on(now_ns)

    def effects(self) -> list[FenceEffect]:
        done, self._effects = self._effects, []
        return done

    # What it is like

    def name(self, nodeid: int) -> str:
        return self.config.names.get(nodeid, f"Node{nodeid}")

    def methods(self, nodeid: int) -> tuple[Method, ...]:
        return self.config.methods.get(nodeid, ())

    @property
    def master(self) -> int:
        """Who fences; 0: nobody may."""
        return min(self.members, default=0) if self.acting else 0

    def waits_for(self, victim: Victim) -> str:
        """For people: why it is not over yet."""
        who = self.name(victim.claimed_by or self.master)
        if not self.acting:
            return "quorum"
        if not self.methods(victim.nodeid):
            return "a human: cluster.conf has no fence method for it (fence_ack_manual when it is off)"
        if victim.stage is Stage.RUNNING:
            return f"the fence agent, run by {who}" + (f", try {victim.tries + 1}" if victim.tries else "")
        if victim.tries:
            return f"the next try by {who} after {victim.tries} that failed: {victim.says}"
        delay = "post_fail_delay" if victim.lost else "post_join_delay"
        return f"{delay} of {who}"

    # Inside

    def _ours(self) -> bool:
        return self.acting and self.master == self.me

    def _may_start(self, victim: Victim) -> bool:
        return victim.stage is Stage.WAITING and bool(self.methods(victim.nodeid))

    def _put(self, victim: Victim) -> None:
        self.victims[victim.nodeid] = victim

    def _appear(self, nodeid: int, lost: bool, now_ns: int) -> None:
        if not lost and not self.acting:
            return                      # who is not there yet is not missed before there is quorum
        if not lost and self._taken_for_off(nodeid):
            return
        since_ns = now_ns if lost else self._acting_since_ns
        delay_s = self.config.post_fail_delay if lost else self.config.post_join_delay
        by = self._heard.get(nodeid, 0)
        self._put(Victim(nodeid, lost, since_ns, since_ns + delay_s * S, Stage.RUNNING if by else Stage.WAITING, by))
        if not self.methods(nodeid):
            self._log(f"{self.name(nodeid)} has no fence method in cluster.conf: a human must see that it is off, then "
                      "fence_ack_manual", warning=True)

    def _drop(self, victim: Victim) -> None:
        if victim.stage is Stage.RUNNING and victim.claimed_by == self.me:
            self._effects.append(FenceStop(victim.nodeid))
        del self.victims[victim.nodeid]

    def _stop(self, victim: Victim) -> None:
        if victim.stage is Stage.RUNNING and victim.claimed_by == self.me:
            self._effects.append(FenceStop(victim.nodeid))
            self._log(f"fencing of \"{self.name(victim.nodeid)}\" stopped: quorum is lost", warning=True)
        if victim.asked:
            self._effects.append(FenceOver(victim.nodeid, False, "quorum is lost"))
            del self.victims[victim.nodeid]
        else:
            self._put(replace(victim, stage=Stage.WAITING, claimed_by=0))

    def _go_on(self, now_ns: int) -> None:
        """Begin with whoever is due."""
        if not self._ours():
            return
        for victim in list(self.victims.values()):
            if self._may_start(victim) and victim.due_ns <= now_ns:
                if not victim.tries:
                    delay = f"{self.config.post_fail_delay} sec post_fail_delay" if victim.lost else \
                        f"{self.config.post_join_delay} sec post_join_delay"
                    self._log(f"{self.name(victim.nodeid)} not a cluster member after {delay}")
                self._put(replace(victim, stage=Stage.CLAIMING))
                self._effects.append(Say({"t": "fencing", "node": victim.nodeid, "asked": False}))

    def _claim_again(self) -> None:
        """Who has just come does not know what we are at."""
        for victim in self.victims.values():
            if victim.stage is Stage.RUNNING and victim.claimed_by == self.me:
                self._effects.append(Say({"t": "fencing", "node": victim.nodeid, "asked": victim.asked}))

    def _taken_for_off(self, nodeid: int) -> bool:
        """Never seen, and the file says that it need not be fenced then."""
        return self.config.clean_start or (self.config.skip_undefined and not self.methods(nodeid))

    def _skip(self, standing: Mapping[int, Standing]) -> None:
        for nodeid, at in standing.items():
            if at is Standing.UNKNOWN and nodeid not in self._skipped and self._taken_for_off(nodeid):
                self._skipped.add(nodeid)
                by = "clean_start" if self.config.clean_start else "skip_undefined"
                self._log(f"{self.name(nodeid)} was never seen and is taken for off: {by}", warning=True)
                self._effects.append(Say({"t": "fenced", "node": nodeid, "by": by}))

    def _log(self, text: str, warning: bool = False) -> None:
        self._effects.append(FenceLog(text, warning))
        self.history.append(text)
        del self.history[:-HISTORY_MAX]
