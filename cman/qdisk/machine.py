"""One node at the quorum disk: who is alive there, who is master, whose votes count. A pure machine.

Once per interval the owner reads all blocks and calls cycle() with them; what comes back is written. A node's life is
seen by its block's timestamp changing. The rules are those of qdiskd, so that its nodes and ours could share a disk:

    INIT for some cycles, then RUN as long as the score suffices, else NONE.
    RUN, no master, lowest id, upgrade_wait over --> BID; the others ACK the lowest bidder below them
    ACK of every other running node, and master_wait cycles since the bid --> MASTER; a lower bidder: give way
    a master that sees another one abdicates (there, only the one with the higher id), so does one that was held up
    more than tko cycles without a change: dead. The master writes EVICT into the block and has cman kill the node.

The master's mask says who may count the disk's votes: nodes that it sees on the disk *and* in its ring. So of a
partition only the master's side has them. What is new here: `gone`, the nodes that cman knows to be fenced or to have
left in order, are dead at once, without tko cycles; so the disk has a new master, and keeps its votes, when the old
one was fenced a second ago. What a node saw of a dead one's life it does not believe again: an evicted node that
writes on with its old incarnation is evicted again.

And the lease: what a master says of votes holds for `lease_ns` from the beginning of the cycle that last wrote its
block, and a master that was held up for longer abdicates before it says anything. So for elections a node counts as
silent as soon as its block has stood still for certainly longer than that; to be evicted takes tko cycles as ever. With
a short lease (quorum_dev_poll) the votes of a dead master's disk come back soon, although tko is long.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from cman.qdisk.ondisk import SLOTS, Message, NodeState, Status

NUMBER_MASK = 0xFFFF
MS = 1_000_000


@dataclass(frozen=True, slots=True)
class QdiskConfig:
    """As in <quorumd>; 0 stands for the default. Cycles, but for what has a unit."""

    interval_ms: int = 1000
    tko: int = 10
    tko_up: int = 0
    upgrade_wait: int = 2
    master_wait: int = 0
    min_score: int = 0
    allow_kill: bool = True
    reboot: bool = True
    max_error_cycles: int = 0
    poll_ms: int = 10_000           # quorum_dev_poll

    def __post_init__(self) -> None:
        if self.tko < 2 or self.interval_ms < 1 or self.upgrade_wait < 1 or self.poll_ms < 1:
            raise ValueError(f"interval {self.interval_ms} ms, tko {self.tko}, upgrade_wait {self.upgrade_wait}, poll "
                             f"{self.poll_ms} ms: at least 1, 2, 1 and 1")

    @property
    def limit_ns(self) -> int:
        """How long a node may be without a sign until it is dead."""
        return self.tko * self.interval_ms * MS

    @property
    def lease_ns(self) -> int:
        return min(self.poll_ms * MS, self.limit_ns)

    @property
    def cycles_silent(self) -> int:
        """Cycles without a change that certainly took longer than the lease."""
        return -(-self.lease_ns // (self.interval_ms * MS)) + 2

    @property
    def cycles_init(self) -> int:
        """Until a new node knows who is there."""
        return min(self.tko, max(self.cycles_silent, self.cycles_up + 1))

    @property
    def cycles_up(self) -> int:
        return max(2, self.tko_up or self.tko // 3)

    @property
    def cycles_master(self) -> int:
        return max(self.cycles_up + 1, self.master_wait or self.tko // 2)


@dataclass(frozen=True, slots=True)
class Write:
    """Effect: put this into its node's block."""

    status: Status


@dataclass(frozen=True, slots=True)
class Votes:
    """Effect: the disk's votes are ours, or are not; told in every cycle in which that is certain."""

    ours: bool


@dataclass(frozen=True, slots=True)
class Kill:
    """Effect: have cman kill this node."""

    nodeid: int


@dataclass(frozen=True, slots=True)
class Reboot:
    """Effect: this node must not go on."""

    why: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Effect: this node has to leave the disk and the cluster, without a restart of the machine."""

    why: str


@dataclass(frozen=True, slots=True)
class QdiskLog:
    text: str
    warning: bool = False


Effect: TypeAlias = Write | Votes | Kill | Reboot | Stop | QdiskLog


@dataclass(slots=True)
class _Seen:
    """What this node thinks of another one."""

    state: NodeState = NodeState.NONE
    incarnation: int = 0            # of the life that was seen coming up, 0: none
    dead_incarnation: int = 0       # of the life that was evicted
    timestamp: int | None = None
    seen: int = 0
    misses: int = 0
    last: Status = field(default_factory=lambda: Status(0))

    @property
    def runs(self) -> bool:
        return self.state >= NodeState.INIT


class QdiskMachine:
    """`incarnation`: a number that no other life of this node has. Nodes above SLOTS have no place: ValueError."""

    def __init__(self, me: int, config: QdiskConfig, incarnation: int) -> None:
        if not 1 <= me <= SLOTS:
            raise ValueError(f"node {me} has no place on a quorum disk: ids are 1 to {SLOTS}")
        self.me, self.config, self.incarnation = me, config, incarnation
        self.state = NodeState.INIT
        self.master = 0
        self.nodes = {n: _Seen() for n in range(1, SLOTS + 1) if n != me}
        self._cycles = 0
        self._upgrade = 0
        self._bidding = 0               # cycles since the bid, 0: none
        self._message, self._number, self._argument = Message.NONE, 0, 0
        self._mask: frozenset[int] = frozenset()
        self._master_mask: frozenset[int] = frozenset()
        self._errors = 0
        self._evicted: set[int] = set()         # in this cycle
        self._certain = False           # the last cycle read all blocks
        self._wrote_ns: int | None = None
        self._score = (0, 0)
        self._effects: list[Effect] = []

    # Inputs

    def cycle(self, blocks: Mapping[int, Status | None], score: tuple[int, int], ring: Collection[int],
              gone: Collection[int], timestamp: int, now_ns: int) -> list[Effect]:
        """One interval. blocks: of each node, None where it cannot be read; score: ours and the greatest possible.

        ring: cman's members; gone: nodes that are known not to be at work. timestamp: differs from the last one.
        now_ns: monotonic, before the blocks were read.
        """
        self._score = score
        errors = any(blocks.get(n) is None for n in range(1, SLOTS + 1))
        mine = blocks.get(self.me)
        if mine is not None and self._struck(mine):
            return self._done()
        self._cycles += 1
        self._evicted.clear()
        for nodeid, seen in self.nodes.items():
            status = blocks.get(nodeid)
            if status is not None:
                self._look(nodeid, seen, status, nodeid in gone)
        self._mask = frozenset(n for n, s in self.nodes.items() if s.state >= NodeState.RUN)
        if self._wrote_ns is not None and now_ns - self._wrote_ns > self.config.lease_ns:
            self._held_up()
        self._rate(*score)
        self._elect(ring, errors)
        self._certain = not errors
        if errors:
            self._errors += 1
            self._too_many_errors()
        if self.state >= NodeState.RUN:
            self._mask |= {self.me}
        self._effects.append(Write(self._status(timestamp)))
        return self._done()

    def wrote(self, began_ns: int) -> None:
        """The block of the cycle that began then is on the disk."""
        if self._certain:
            self._wrote_ns, self._errors = began_ns, 0

    def failed(self) -> list[Effect]:
        """All could be read, but our block could not be written."""
        self._errors += 1
        self._too_many_errors()
        return self._done()

    def votes_until_ns(self) -> int:
        """When the votes are ours no longer unless another block is written; 0: they are not ours to give."""
        if self.state is not NodeState.MASTER or self._wrote_ns is None:
            return 0
        return self._wrote_ns + self.config.lease_ns

    @property
    def counted(self) -> frozenset[int]:
        """Nodes that the master sees on the disk and in its ring."""
        if self.state is NodeState.MASTER:
            return self._master_mask
        return self.nodes[self.master].last.master_mask if self.master in self.nodes else frozenset()

    def leave(self, timestamp: int) -> Status:
        """The last block of a node that goes in order."""
        self.state, self._message = NodeState.NONE, Message.NONE
        self._mask = self._master_mask = frozenset()
        return self._status(timestamp)

    # Inside

    def _done(self) -> list[Effect]:
        done, self._effects = self._effects, []
        return done

    def _log(self, text: str, warning: bool = False) -> None:
        self._effects.append(QdiskLog(text, warning))

    def _status(self, timestamp: int) -> Status:
        return Status(self.me, self.me, timestamp, self.state, self.incarnation, self._message, self._number,
                      self._argument, self._mask, self._master_mask, *self._score)

    def _too_many_errors(self) -> None:
        if self.config.max_error_cycles and self._errors >= self.config.max_error_cycles:
            self._effects.append(Stop(f"the quorum disk had errors in {self._errors} cycles running"))

    def _held_up(self) -> None:
        """What we were in an election, others may be by now."""
        if self.state is NodeState.MASTER:
            self._log("No longer master: the last block was written too long ago", warning=True)
        if self.state >= NodeState.RUN:
            self._lower(NodeState.RUN)
        self._wrote_ns = None

    def _silent(self, seen: _Seen) -> bool:
        """Too long without a sign to have a say."""
        return seen.misses >= self.config.cycles_silent

    def _struck(self, mine: Status) -> bool:
        """Somebody has evicted us while we were away."""
        if mine.written_by in (0, self.me) or mine.state is not NodeState.EVICT or self._cycles == 0:
            return False
        self._effects.append(Reboot(f"evicted by node {mine.written_by} through the quorum disk"))
        return True

    def _look(self, nodeid: int, seen: _Seen, status: Status, gone: bool) -> None:
        """Has this node changed what it is?"""
        if status.state >= NodeState.INIT:
            if seen.timestamp == status.timestamp:
                seen.misses += 1
            else:
                seen.misses, seen.seen = 0, seen.seen + (seen.timestamp is not None)
        struck = status.state is NodeState.EVICT and seen.last.state is not NodeState.EVICT
        seen.timestamp, seen.last = status.timestamp, status
        if struck and not seen.runs and status.incarnation and seen.dead_incarnation == status.incarnation:
            self._log(f"Node {nodeid} evicted")
        new_life = bool(seen.incarnation) and seen.incarnation != status.incarnation
        if seen.runs and (status.state <= NodeState.EVICT or new_life):
            self._log(f"Node {nodeid} {'evicted' if status.state is NodeState.EVICT else 'shutdown'}")
            if status.state is not NodeState.EVICT:
                seen.dead_incarnation = 0
            self._forget(seen)
        elif status.state >= NodeState.INIT and (seen.misses > self.config.tko or (gone and seen.runs)):
            self._bury(nodeid, seen, status)
        elif seen.dead_incarnation and seen.dead_incarnation == status.incarnation and not seen.misses \
                and status.state >= NodeState.INIT:
            self._log(f"Node {nodeid} is undead.", warning=True)
            self._evict(nodeid, status)
        elif not seen.runs and seen.seen >= self.config.cycles_up and status.state >= NodeState.INIT and not gone:
            seen.state, seen.incarnation = NodeState.RUN, status.incarnation
            self._log(f"Node {nodeid} is UP")
        elif seen.runs:
            if status.state is NodeState.MASTER and seen.state is not NodeState.MASTER:
                self._log(f"Node {nodeid} is the master")
            seen.state = status.state

    def _forget(self, seen: _Seen) -> None:
        seen.state, seen.incarnation, seen.seen, seen.misses = NodeState.NONE, 0, 0, 0

    def _bury(self, nodeid: int, seen: _Seen, status: Status) -> None:
        if not seen.runs and seen.dead_incarnation == status.incarnation:
            return
        self._log(f"Node {nodeid} DOWN")
        self._forget(seen)
        seen.dead_incarnation = status.incarnation
        if self.state is NodeState.MASTER:
            self._evict(nodeid, status)

    def _evict(self, nodeid: int, status: Status) -> None:
        self._evicted.add(nodeid)
        self._log(f"Writing eviction notice for node {nodeid}", warning=True)
        self._effects.append(Write(replace(status, written_by=self.me, state=NodeState.EVICT, message=Message.NONE,
                                           mask=frozenset(), master_mask=frozenset())))
        if self.config.allow_kill:
            self._effects.append(Kill(nodeid))

    def _say(self, message: Message, number: int | None = None, argument: int = 0) -> None:
        self._message, self._argument = message, argument
        self._number = (self._number + 1) & NUMBER_MASK if number is None else number

    def _rate(self, score: int, score_max: int) -> None:
        """Are we fit to run?"""
        self._upgrade = max(0, self._upgrade - 1)
        need = self.config.min_score or (score_max + 1) // 2
        if self.state is NodeState.INIT:
            if self._cycles <= self.config.cycles_init:
                return
            self._log(f"Initial score {score}/{score_max}")
            self.state = NodeState.NONE
        if score < need:
            if self.state is not NodeState.NONE:
                self._log(f"Score insufficient for master operation ({score}/{score_max}; required={need}); "
                          "downgrading", warning=True)
                self._lower(NodeState.NONE)
                self._effects.append(Votes(False))
                if self.config.reboot:
                    self._effects.append(Reboot(f"score {score} of {score_max}, {need} are required"))
        elif self.state is NodeState.NONE:
            self._log(f"Score sufficient for master operation ({score}/{score_max}; required={need}); upgrading")
            self._lower(NodeState.RUN)

    def _lower(self, state: NodeState) -> None:
        self.state, self._upgrade, self._bidding = state, self.config.upgrade_wait, 0
        self._master_mask = frozenset()
        self._say(Message.NONE)

    def _elect(self, ring: Collection[int], errors: bool) -> None:
        masters = sorted(n for n, s in self.nodes.items() if s.state is NodeState.MASTER and not self._silent(s))
        if masters and self.state is NodeState.MASTER:
            self._log("Master conflict: abdicating", warning=True)
            self._lower(NodeState.RUN)
        if self.state is NodeState.MASTER:
            masters.append(self.me)
        self.master = min(masters, default=0)
        if self.state is NodeState.MASTER:
            self._master_mask = frozenset(n for n in self._mask | {self.me} if n in ring)
            for nodeid, seen in self.nodes.items():
                # Found dead when there was no master, or its eviction did not reach the disk.
                if seen.last.state >= NodeState.INIT and nodeid not in self._evicted and seen.dead_incarnation \
                        and seen.dead_incarnation == seen.last.incarnation:
                    self._evict(nodeid, seen.last)
            if not errors:
                self._effects.append(Votes(True))
        elif self.master:
            self._bidding = 0
            if self._message is not Message.NONE:
                self._say(Message.NONE, self._number)
            if self.state is NodeState.RUN and not errors:
                self._effects.append(Votes(self.me in self.nodes[self.master].last.master_mask))
        elif self.state is NodeState.RUN and not errors:
            self._bid()

    def _bid(self) -> None:
        """There is no master."""
        running = {n: s for n, s in self.nodes.items() if s.state >= NodeState.RUN and not self._silent(s)}
        lower = sorted(n for n, s in running.items() if n < self.me and s.last.message is Message.BID)
        if lower:
            self._bidding = 0
            self._say(Message.ACK, running[lower[0]].last.number, lower[0])
        elif self._bidding:
            self._bidding += 1
            acks = [n for n, s in running.items() if s.last.message is Message.ACK and s.last.argument == self.me
                    and s.last.number == self._number]
            if len(acks) == len(running) and self._bidding >= self.config.cycles_master:
                self._log("Assuming master role")
                self.state, self.master, self._bidding = NodeState.MASTER, self.me, 0
                self._say(Message.NONE, self._number)
        elif not self._upgrade and all(n > self.me for n in running):
            self._log("Making bid for master")
            self._bidding = 1
            self._say(Message.BID)
        elif self._message is not Message.NONE:
            self._say(Message.NONE, self._number)
