"""One node of the cluster as a pure machine: totem below, and on its order groups, quorum, configuration and control.

Every payload that totem carries begins with a byte that says whose it is:
  G  groups of clients (cman.cpg)       S  the spreading of cluster.conf (cman.ccs.spread)
  C  control: one msgpack map, done by all members at the same place of the order:
       {"t": "leave", "remove": bool}        the sender goes in peace
       {"t": "kill", "node": id}             that node ends at once, without a goodbye
       {"t": "votes", "node": id, "votes": n}    {"t": "expected", "votes": n}
       {"t": "qdisk", "view": n, "ms": n}        the sender is the quorum disk's master, which has its votes so long
       {"t": "fencing", "node": id, "asked": bool}   {"t": "unfenced", "node": id, "says": why}   (cman.fence.domain)
       {"t": "fenced", "node": id, "by": agent, "asked": bool, "view": n}    counts only in the ring it was said in
       {"t": "life", "view": n, "ring": [seq, rep], "quorate": bool, "dirty": bool, "out": [id], "uncounted": [id],
        "expected": n or None, "votes": {id: n}}      where the sender comes from, and how it counts votes
       {"t": "why", "number": n}     {"t": "facts", "to": id, "number": n, "facts": map}     what is blocked (cman.why)

Rings that meet. Whenever somebody joins, all say from which ring they come. One of these rings goes on: the one that
was quorate, of several the newest (the others did not notice that they were left behind). All others count votes as it
does from there on. And a node that was away and kept state (locks, a mounted file system) cannot simply go on: the
others may have recovered from its loss. So members of any other ring that are `dirty`, which is that a subsystem is
or was registered, end. The messages stand in the order before the lists by which groups are joined, so no group ever
sees such a node again.

 start -> JOINING -- all members of the ring agree on the configuration --> MEMBER -- leave() --> LEAVING -> ended

The owner calls one input at a time and then does all effects(). No clock, socket, file or generator in here.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgpack

from cman import cpg, totem
from cman.ccs import spread
from cman.ccs.load import Config
from cman.ccs.settings import NODES_MAX, VOTES_MAX
from cman.fence import domain as fence
from cman.fence.plan import methods
from cman.qdisk.votes import LEASE_MS_MAX, DiskVotes
from cman.quorum import QuorumChange, QuorumMachine, QuorumState
from cman.recovery import Phase, Recoveries, budgets
from cman.roster import Roster
from cman.views import Cluster, Node, NodeState

BACKLOG_MAX = 4096              # messages of our own that totem would not take yet
FACTS_BYTES_MAX = 128 << 10     # of what one node tells of itself
GROUPS, SPREAD, CONTROL = b"G", b"S", b"C"
LOCKSPACES = "dlm:"             # groups whose local members have something to recover when a member is lost


class State(enum.Enum):
    """The words of `cman_tool status`."""

    JOINING = "Joining"
    MEMBER = "Cluster-Member"
    LEAVING = "Leaving"


@dataclass(frozen=True, slots=True)
class _Life:
    """Where a member comes from."""

    ring: tuple[int, int]
    quorate: bool
    dirty: bool
    counts: QuorumState
    votes: dict[int, int]


@dataclass(frozen=True, slots=True)
class Changed:
    """Something that status or nodes show is different now."""


@dataclass(frozen=True, slots=True)
class Ended:
    """This node is no member any more and the daemon has to end; an empty `why` is a leave in order."""

    why: str


@dataclass(frozen=True, slots=True)
class Asked:
    """A member (perhaps this one) wants to know what is blocked here: answer with `say_facts`."""

    sender: int
    number: int


@dataclass(frozen=True, slots=True)
class Told:
    """The answer of a member to our question of that number."""

    sender: int
    number: int
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Log:
    """A line for the log, of a part of the daemon ("TOTEM", "CMAN", "CCS", "CPG", "FENCE", "RECOVERY")."""

    part: str
    text: str
    warning: bool = False


Effect: TypeAlias = (totem.Multicast | totem.SendTo | totem.StoreRingSeq | cpg.GroupMessage | cpg.GroupChange
                     | cpg.GroupWritable | spread.Store | spread.Adopt | spread.Finished | fence.FenceStart
                     | fence.FenceStop | fence.FenceOver | Changed | Ended | Asked | Told | Log)


class NodeMachine:
    """`me` is this node's id in `config`; times are monotonic nanoseconds.

    wall_s tells the seconds since the epoch; nothing but what is shown to people depends on it. fencing: whether this
    node fences at all; one without still hears what the others do. given: the digest of the configuration that the
    cluster gave this node last.
    """

    def __init__(self, me: int, config: Config, stored_ring_seq: int, wall_s: Callable[[], int], *,
                 fencing: bool = True, given: bytes = b"") -> None:
        self.me = me
        self._wall_s = wall_s
        self.state = State.JOINING
        self.spread = spread.Spread(me, config, given)
        self.totem = totem.TotemMachine(me, [n.nodeid for n in config.nodes], config.totem, stored_ring_seq)
        self.groups = cpg.CpgMachine(me, lambda payload, now_ns: self.totem.submit(GROUPS + payload, now_ns))
        self.roster = Roster()
        self.quorum = QuorumMachine(me, config.quorum())
        self.disk = DiskVotes(me)
        # The device that was found, for people; and since when it counts, in seconds since the epoch.
        self.disk_name = ""
        self._disk_since_s = 0
        self.fence = fence.FenceDomain(me, fence_config(config))
        self.recoveries = Recoveries(
            budgets(config.totem.token_ms, config.totem.hold_ms, config.totem.consensus_ms,
                    self.fence.config.post_fail_delay),
            self._fence_waits)
        # For the log: what the owner knows of where the nodes are.
        self.addresses: Mapping[int, str] = {}
        self.started_ns = self.quorum_since_ns = 0      # for people; the second of this state of quorum
        self._told_quorate = False
        self._fences = fencing
        self._fence_stale = False
        # What we have confirmed and not heard yet: the victim's lives when we knew.
        self._confirming: dict[int, int] = {}
        self._backlog: deque[bytes] = deque()
        self._members: tuple[int, ...] = ()
        self._generation = 0
        self._set_votes: dict[int, int] = {}
        self._was_quorate = self._came_quorate = False
        # A subsystem of this node has had state in the cluster.
        self.dirty = False
        self._ring = totem.RingId(0, me)
        self._lives: dict[int, _Life] = {}
        # While the members have not yet said where they come from: what changes votes waits, or those who learn
        # them from others would have it twice or not at all.
        self._lives_due = False
        self._deferred: list[tuple[int, bytes]] = []
        self._effects: list[Effect] = []

    # Inputs of the owner

    def start(self, now_ns: int) -> None:
        self.started_ns = self.quorum_since_ns = now_ns
        self.totem.start(now_ns)
        self._settle(now_ns)

    def receive(self, data: bytes, source: int, now_ns: int) -> None:
        """A packet of another node, as the transport authenticated it."""
        self.totem.receive(data, source, now_ns)
        self._settle(now_ns)

    def next_timer(self) -> int | None:
        due = (self.totem.next_timer(), self.disk.next_timer(), self.fence.next_timer() if self._fences else None,
               self.recoveries.next_timer())
        return min((t for t in due if t is not None), default=None)

    def handle_timer(self, now_ns: int) -> None:
        due = self.totem.next_timer()
        if due is not None and due <= now_ns:
            self.totem.handle_timer(now_ns)
        if self._fences:
            self.fence.handle_timer(now_ns)
        self.recoveries.handle_timer(now_ns)
        self._settle(now_ns)

    def effects(self) -> list[Effect]:
        done, self._effects = self._effects, []
        return done

    def join_group(self, group: str, pid: int, now_ns: int) -> None:
        """Raises cpg.CpgError."""
        self.groups.join(group, pid, now_ns)
        self._settle(now_ns)

    def leave_group(self, group: str, pid: int, now_ns: int) -> None:
        """Raises cpg.CpgError."""
        self.groups.leave(group, pid, now_ns)
        self._settle(now_ns)

    def mcast(self, group: str, pid: int, payload: bytes, now_ns: int) -> bool:
        """False when there is no room: GroupWritable tells when there is. Raises cpg.CpgError."""
        taken = self.groups.mcast(group, pid, payload, now_ns)
        self._settle(now_ns)
        return taken

    def process_gone(self, pid: int, now_ns: int) -> None:
        """A client's connection has ended: its groups see it leave with PROCDOWN."""
        self.recoveries.part_gone(pid, None, now_ns)
        if self.totem.state is not totem.State.LEFT:
            self.groups.process_gone(pid, now_ns)
            self._settle(now_ns)

    def control(self, now_ns: int, **message: object) -> None:
        """Have all members, this one included, do what a control message says."""
        if message.get("t") == "fenced":
            nodeid = message["node"]
            assert isinstance(nodeid, int)
            self._confirming[nodeid] = self.quorum.lives.get(nodeid, 0)
            message["view"] = self._generation
        self._send(CONTROL + msgpack.packb(message), now_ns)
        self._settle(now_ns)

    def propose(self, config: Config, now_ns: int) -> int:
        """Spread a configuration; spread.Finished bears the number. Raises ValueError."""
        number = self.spread.propose(config)
        self._settle(now_ns)
        return number

    def stored(self, update: tuple[int, int] | None, version: int, error: str, now_ns: int) -> None:
        """How a spread.Store went."""
        self.spread.stored(update, version, error)
        self._settle(now_ns)

    def report(self, pid: int, group: str, generation: int, phase: Phase, done: bool, detail: str,
               now_ns: int) -> None:
        """How far a local member of a lockspace's group is with recovering."""
        self.recoveries.report(pid, group, generation, phase, done, detail, now_ns)
        self._settle(now_ns)

    def say_facts(self, to: int, number: int, facts: Mapping[str, object], now_ns: int) -> None:
        """The answer to an Asked. Raises ValueError when it is too long."""
        payload = CONTROL + msgpack.packb({"t": "facts", "to": to, "number": number, "facts": facts})
        if len(payload) > FACTS_BYTES_MAX:
            raise ValueError(f"facts of {len(payload)} bytes, at most {FACTS_BYTES_MAX}")
        self._send(payload, now_ns)
        self._settle(now_ns)

    def ask_fence(self, nodeid: int, now_ns: int) -> None:
        """Fence a node whatever it is; FenceOver tells how it went. Raises ValueError."""
        self.fence.ask(nodeid)
        self._settle(now_ns)

    def fence_result(self, nodeid: int, success: bool, says: str, now_ns: int) -> None:
        """How a FenceStart went."""
        self.fence.result(nodeid, success, says, now_ns)
        self._settle(now_ns)

    def disk_word(self, until_ns: int, now_ns: int) -> None:
        """The quorum disk's votes are this node's, as its master, until then; 0: they are not."""
        ms = self.disk.promise(until_ns, now_ns)
        if ms is not None and self.totem.state is not totem.State.LEFT:
            self.control(now_ns, t="qdisk", view=self._generation, ms=ms)

    # What it is like now

    @property
    def config(self) -> Config:
        """What the cluster runs."""
        return self.spread.config

    @property
    def members(self) -> tuple[int, ...]:
        return self._members

    @property
    def ready(self) -> bool:
        """Whether clients may join groups: this node is a member and knows the cluster's configuration."""
        return self.state is State.MEMBER

    def cluster(self, subsystems: int, ports: list[int], multicast: str,
                addresses: Mapping[int, str]) -> Cluster:
        config, node = self.config, self.config.node_by_id(self.me)
        flags = ["2node"] * config.flag("cman", "two_node") + ["Dirty"] * self.dirty
        return Cluster(
            config.name, config.cluster_id, config.version, self._generation, self.state.value, list(self._members),
            self.quorum.expected_votes, self.quorum.config.qdisk_votes if self.quorum.qdisk_alive else 0,
            self.quorum.total_votes, self.quorum.config.votes.get(self.me, 0), self.quorum.quorum,
            self.quorum.quorate and self.ready, list(self.quorum.unconfirmed), subsystems, flags,
            ports, node.name if node is not None else f"Node{self.me}", self.me, multicast,
            [addresses[self.me]] if self.me in addresses else [])

    def nodes(self, addresses: Mapping[int, str]) -> list[Node]:
        """The quorum disk first, as node 0, if there is one."""
        rows, votes = self.roster.rows(self.config, self.quorum.config.votes, addresses), self.config.disk_votes
        if not votes:
            return rows
        name = self.config.text("quorumd", "cman_label") or self.disk_name or self.config.text("quorumd", "device") \
            or self.config.text("quorumd", "label") or "Quorum Disk"
        state = NodeState.MEMBER if self.disk.ours else NodeState.DEAD
        return [Node(0, name, state.value, 0, self._disk_since_s, votes, [], "", 0, 0, ""), *rows]

    def name_of(self, nodeid: int) -> str:
        node = self.config.node_by_id(nodeid)
        return node.name if node is not None else f"Node{nodeid}"

    # Inside

    def _log(self, part: str, text: str, warning: bool = False) -> None:
        self._effects.append(Log(part, text, warning))

    def _send(self, payload: bytes, now_ns: int) -> None:
        """Our own messages in order; what totem does not take now waits."""
        if len(self._backlog) >= BACKLOG_MAX:
            self._end(f"{BACKLOG_MAX} messages wait to be sent: the ring does not take them")
            return
        self._backlog.append(payload)
        self._flush(now_ns)

    def _flush(self, now_ns: int) -> None:
        while (self._backlog and self.totem.state is not totem.State.LEFT
               and self.totem.submit(self._backlog[0], now_ns)):
            self._backlog.popleft()

    def _end(self, why: str) -> None:
        self._effects.append(Ended(why))

    def _settle(self, now_ns: int) -> None:
        """Until no part has anything more to say to another."""
        if self.disk.late(now_ns):
            self._log("CMAN", "lost contact with quorum device: no word of its master in time", warning=True)
            self._disk_changed()
        if (ms := self.disk.ended(now_ns)) is not None:
            self._send(CONTROL + msgpack.packb({"t": "qdisk", "view": self._generation, "ms": ms}), now_ns)
        while True:
            lower = self.totem.effects()
            for effect in lower:
                self._from_totem(effect, now_ns)
            middle = self.spread.effects()
            for said in middle:
                self._from_spread(said, now_ns)
            upper = self.groups.effects()
            for told in upper:
                if isinstance(told, totem.Trace):
                    self._log("CPG", str(told), told.warning)
                else:
                    if isinstance(told, cpg.GroupChange):
                        self._note_parts(told, now_ns)
                    self._effects.append(told)
            numbers = self.quorum.effects()
            for said_of_votes in numbers:
                self._from_quorum(said_of_votes, now_ns)
            if self._fence_stale:
                self._look_at_victims(now_ns)
            cuts = self.fence.effects()
            for cut in cuts:
                self._from_fence(cut, now_ns)
            if not lower and not middle and not upper and not numbers and not cuts:
                break
        if self.recoveries.open:
            self.recoveries.look(self.quorum.unconfirmed, self.quorum.quorate and not self._lives_due, now_ns)
        for line in self.recoveries.effects():
            self._log("RECOVERY", line.text, line.warning)

    def _note_parts(self, change: cpg.GroupChange, now_ns: int) -> None:
        """Which of our processes have something to recover from the loss of others."""
        if not change.group.startswith(LOCKSPACES):
            return
        for member, _ in change.left:
            if member.node == self.me:
                self.recoveries.part_gone(member.pid, change.group, now_ns)
        gone = sorted({m.node for m, reason in change.left if reason is cpg.Reason.NODEDOWN})
        for member in change.members:
            if gone and member.node == self.me:
                self.recoveries.part(member.pid, change.group, gone)

    def _fence_waits(self, nodeid: int) -> str:
        """What the fencing of a node waits for, in words."""
        if not self.quorum.quorate:
            return "quorum"
        victim = self.fence.victims.get(nodeid)
        return self.fence.waits_for(victim) if victim is not None else "word of where the members come from"

    def _from_totem(self, effect: totem.Effect, now_ns: int) -> None:
        match effect:
            case totem.Deliver(sender, payload):
                self._deliver(sender, payload, effect, now_ns)
            case totem.ConfigChange():
                if effect.kind is totem.Kind.REGULAR:
                    self._say_life(effect, now_ns)
                self.groups.totem(effect, now_ns)
                if effect.kind is totem.Kind.REGULAR:
                    self._ring_changed(effect, now_ns)
            case totem.Writable():
                self._flush(now_ns)
                self.groups.totem(effect, now_ns)
            case totem.Trace():
                self._log("TOTEM", str(effect), effect.warning)
            case _:
                self._effects.append(effect)

    def _deliver(self, sender: int, payload: bytes, effect: totem.Deliver, now_ns: int) -> None:
        kind, rest = payload[:1], payload[1:]
        if kind == GROUPS:
            self.groups.totem(totem.Deliver(sender, rest, effect.ring_id, effect.seq), now_ns)
        elif kind == SPREAD:
            self.spread.deliver(sender, rest)
        elif kind == CONTROL:
            self._receive_control(sender, rest, now_ns)
        else:
            self._log("CMAN", f"{self.name_of(sender)} sent a payload of unknown kind {kind!r}", warning=True)

    def _say_life(self, change: totem.ConfigChange, now_ns: int) -> None:
        """Before anything else of the new ring, but after those who left have been counted out.

        As long as the members have not all said it, the ring that we come from stays the one before they met.
        """
        due = self._lives_due or bool(change.joined)
        if not self._lives_due:
            self._came_quorate = self._was_quorate
        self._undefer(now_ns)
        self.disk.ring(change.members, change.left)
        self._disk_changed()
        self.quorum.membership(change.members, change.left)
        self._lives, self._lives_due = {}, due
        if due:
            counts = self.quorum.state()
            self._send(CONTROL + msgpack.packb({
                "t": "life", "view": change.ring_id.seq, "ring": list(self._ring), "quorate": self._came_quorate,
                "dirty": self.dirty, "out": list(counts.out), "expected": counts.expected_votes,
                "uncounted": list(counts.uncounted), "votes": self._set_votes}), now_ns)
        else:
            self._ring = change.ring_id

    def _undefer(self, now_ns: int) -> None:
        self._lives_due = False
        waiting, self._deferred = self._deferred, []
        for sender, payload in waiting:
            self._receive_control(sender, payload, now_ns)

    def _receive_life(self, sender: int, message: dict[str, Any], now_ns: int) -> None:
        if message["view"] != self._generation or sender not in self._members or not self._lives_due:
            return
        self._lives[sender] = _life(message)
        if len(self._lives) < len(self._members):
            return
        goes_on = max((life.quorate, life.ring) for life in self._lives.values())[1]
        if self._lives[self.me].ring != goes_on:
            model = next(self._lives[n] for n in self._members if self._lives[n].ring == goes_on)
            self._set_votes = dict(model.votes)
            self._reconfigure()
            self.quorum.adopt(model.counts)
        stale = [n for n in self._members if self._lives[n].dirty and self._lives[n].ring != goes_on]
        for nodeid in stale:
            self._log("CMAN", f"node {self.name_of(nodeid)} was away and comes back with state: it has to start anew",
                      warning=True)
        for nodeid in self._members:
            (self.quorum.stale if nodeid in stale else self.quorum.clean)(nodeid)
        self._effects.append(Changed())
        if self.me in stale:
            self._end("was away from the cluster and has state of before (subsystems): start it anew")
        elif stale:
            self.groups.expel(stale)
        self._ring = self.totem.ring_id
        self._undefer(now_ns)
        self._fence_stale = True

    def _ring_changed(self, change: totem.ConfigChange, now_ns: int) -> None:
        """A new membership."""
        self._generation, self._members = change.ring_id.seq, change.members
        self._log_configuration(change)
        went = self.roster.changed(self._generation, change.members, change.joined, change.left, self._wall_s())
        for nodeid, reason in went.items():
            self._log("CMAN", f"node {self.name_of(nodeid)} {reason}", warning=reason == "lost")
            if reason == "lost":
                self.recoveries.lost(nodeid, self.name_of(nodeid), self._generation, self.totem.lost_ns,
                                     self.totem.sought_ns, now_ns, self._wall_s())
        for nodeid in change.joined:
            self._log("CMAN", f"node {self.name_of(nodeid)} joined")
        self.spread.view_changed(self._generation, change.members)
        self.fence.left(change.left)
        if (ms := self.disk.again(now_ns)) is not None:
            self._send(CONTROL + msgpack.packb({"t": "qdisk", "view": self._generation, "ms": ms}), now_ns)
        self._was_quorate = self.quorum.quorate
        self._fence_stale = True
        self._effects.append(Changed())

    def _disk_changed(self) -> None:
        """The disk's votes as they are now; nothing if that is no news."""
        if self.disk.ours == self.quorum.qdisk_alive:
            return
        self._disk_since_s = self._wall_s() if self.disk.ours else 0
        master = self.name_of(self.disk.holder)
        self._log("CMAN", f"quorum device registered, its master is {master}" if self.disk.ours else
                  "quorum device unregistered", warning=not self.disk.ours)
        self.quorum.quorum_disk(self.disk.ours)

    def _log_configuration(self, change: totem.ConfigChange) -> None:
        """As the guide's logs show a new membership."""
        def address(nodeid: int) -> str:
            return f"r(0) ip({self.addresses.get(nodeid) or self.name_of(nodeid)})"

        for line in ("CLM CONFIGURATION CHANGE", "New Configuration:", *map(address, change.members), "Members Left:",
                     *map(address, change.left), "Members Joined:", *map(address, change.joined)):
            self._log("CLM", line)
        if self.quorum.quorate:
            self._log("SYNC", "This node is within the primary component and will provide service.")

    def _look_at_victims(self, now_ns: int) -> None:
        """When all have said where they come from; that quorum is lost needs no more words."""
        if self._lives_due and self.quorum.quorate:
            return
        self._fence_stale = False
        self.fence.look(self._members, self.quorum.standing,
                        self._fences and self.quorum.quorate and self.ready, now_ns)

    def _from_fence(self, effect: fence.FenceEffect, now_ns: int) -> None:
        match effect:
            case fence.Say(message):
                self.control(now_ns, **message)
            case fence.FenceLog(text, warning):
                self._log("FENCE", text, warning)
            case _:
                self._effects.append(effect)

    def _from_quorum(self, effect: QuorumChange | totem.Trace, now_ns: int) -> None:
        if isinstance(effect, totem.Trace):
            self._log("QUORUM", str(effect), effect.warning)
            return
        if effect.quorate != self._told_quorate:
            self._told_quorate, self.quorum_since_ns = effect.quorate, now_ns
        self._was_quorate = effect.quorate
        self._fence_stale = True
        if effect.quorate:
            self.spread.quorate()
        self._effects.append(Changed())

    def _reconfigure(self) -> None:
        """Votes of the configuration, with those that were set by hand."""
        self.quorum.reconfigure(self.config.quorum(self._set_votes))
        self._fence_stale = True

    def _from_spread(self, effect: spread.Effect, now_ns: int) -> None:
        match effect:
            case spread.Mcast(payload):
                self._send(SPREAD + payload, now_ns)
            case spread.Log(text, warning):
                self._log("CCS", text, warning)
            case spread.Refused(why):
                self._end(why)
            case spread.Synced():
                if self.state is State.JOINING:
                    self.state = State.MEMBER
                    self._log("CMAN", f"member of cluster {self.config.name} with "
                                      f"{', '.join(self.name_of(n) for n in self._members)}")
                if self.quorum.quorate:
                    self.spread.quorate()
                self._fence_stale = True
                self._effects.append(Changed())
            case spread.Adopt(config):
                self.totem.set_nodes([n.nodeid for n in config.nodes], now_ns)
                self._reconfigure()
                self.fence.reconfigure(fence_config(config), now_ns)
                self._effects += [effect, Changed()]
            case _:
                self._effects.append(effect)

    def _receive_control(self, sender: int, payload: bytes, now_ns: int) -> None:
        try:
            message = msgpack.unpackb(payload, strict_map_key=False)
            if self._lives_due and message["t"] in ("votes", "expected", "qdisk", "fenced", "fencing",
                                                         "unfenced"):
                self._deferred = [*self._deferred, (sender, payload)][-BACKLOG_MAX:]
                return
            self._do_control(sender, message, now_ns)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError,
                msgpack.UnpackException) as e:
            self._log("CMAN", f"{self.name_of(sender)} sent a control message that cannot be read: "
                              f"{type(e).__name__}: {e}", warning=True)

    def _do_control(self, sender: int, message: dict[str, Any], now_ns: int) -> None:
        match message["t"]:
            case "leave":
                self._log("CMAN", f"Member {sender} shutting down")
                self.roster.leaving(sender, "removed" if message["remove"] else "left")
                self.quorum.leaving(sender, bool(message["remove"]))
                if sender == self.me:
                    self.state = State.LEAVING
                    self.totem.leave(now_ns)
                    self._end("")
            case "kill":
                victim = int(message["node"])
                self._log("CMAN", f"node {self.name_of(victim)} is killed on request of {self.name_of(sender)}",
                          warning=True)
                self.roster.leaving(victim, "killed")
                if victim == self.me:
                    self._end(f"killed on request of {self.name_of(sender)}")
            case "votes":
                nodeid, votes = int(message["node"]), _votes(message["votes"], VOTES_MAX)
                self._set_votes[nodeid] = votes
                self._reconfigure()
                self._log("CMAN", f"votes of {self.name_of(nodeid)} set to {votes} by {self.name_of(sender)}")
            case "expected":
                expected = _votes(message["votes"], VOTES_MAX * NODES_MAX)
                self.quorum.set_expected(expected)
                self._log("CMAN", f"expected votes set to {expected} by {self.name_of(sender)}")
            case "qdisk":
                # Said in another ring: who is master still says it again in this one.
                if int(message["view"]) == self._generation:
                    self.disk.heard(sender, _votes(message["ms"], LEASE_MS_MAX), now_ns)
                    self._disk_changed()
            case "life":
                self._receive_life(sender, message, now_ns)
            case "fenced":
                self._fenced(sender, int(message["node"]), str(message["by"])[:255], message, now_ns)
            case "fencing":
                self.fence.claimed(sender, int(message["node"]), bool(message["asked"]), now_ns)
            case "unfenced":
                self.fence.failed(sender, int(message["node"]), str(message["says"]), now_ns)
            case "why":
                self._effects.append(Asked(sender, int(message["number"])))
            case "facts":
                if int(message["to"]) == self.me and isinstance(message["facts"], dict):
                    self._effects.append(Told(sender, int(message["number"]), message["facts"]))
        self._effects.append(Changed())

    def _fenced(self, sender: int, nodeid: int, by: str, message: dict[str, Any], now_ns: int) -> None:
        """Said in another ring, it may be about another life of the node: who said it says it again if it is not."""
        lives = self._confirming.pop(nodeid, None) if sender == self.me else None
        if int(message["view"]) != self._generation:
            if lives is not None and lives == self.quorum.lives.get(nodeid, 0):
                self.control(now_ns, t="fenced", node=nodeid, by=by, asked=bool(message.get("asked")))
            return
        self.roster.fenced(nodeid, by, self._wall_s())
        self.quorum.fenced(nodeid, bool(message.get("asked")))
        self.fence.fenced(nodeid, by)
        self._fence_stale = True


def fence_config(config: Config) -> fence.FenceConfig:
    """What the file says about fencing."""
    def seconds(attribute: str) -> int:
        found = config.number("fence_daemon", attribute)
        assert found is not None, "the table has a default"
        return found

    return fence.FenceConfig({n.nodeid: methods(config, n.nodeid) for n in config.nodes},
                             {n.nodeid: n.name for n in config.nodes}, seconds("post_fail_delay"),
                             seconds("post_join_delay"), seconds("override_time"),
                             config.flag("fence_daemon", "clean_start"), config.flag("fence_daemon", "skip_undefined"))


def _votes(value: Any, limit: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= limit:
        raise ValueError(f"{value!r} votes: wanted 0 to {limit}")
    return value


def _life(message: dict[str, Any]) -> _Life:
    """Raises ValueError, TypeError, KeyError for what is none."""
    seq, rep = message["ring"]
    expected = message["expected"]
    counts = QuorumState(tuple(int(n) for n in message["out"]),
                         None if expected is None else _votes(expected, VOTES_MAX * NODES_MAX),
                         tuple(int(n) for n in message["uncounted"]))
    return _Life((int(seq), int(rep)), bool(message["quorate"]), bool(message["dirty"]), counts,
                 {int(n): _votes(v, VOTES_MAX) for n, v in sorted(message["votes"].items())})
