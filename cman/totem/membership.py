"""How rings are made: GATHER, COMMIT and the two ends of RECOVERY.

Which joins are heard: in OPERATIONAL those of members that know of our ring at least (older ones were sent before
the ring was made), and those of others who do not take us for failed; in COMMIT and RECOVERY those of members of the
new ring that know of it; in GATHER all.
"""

from __future__ import annotations

from cman.totem import wire
from cman.totem.circulation import Circulation
from cman.totem.core import NEVER, State
from cman.totem.effects import ConfigChange, Kind, Multicast, NodeId, RingId, StoreRingSeq
from cman.totem.gather import Gather, Verdict
from cman.totem.recovery import Recovery
from cman.totem.ring import Ring

# A foreign ring's node that did not answer our joins is not sought again for so many merge intervals.
SHUN_MERGES = 8


class Membership(Circulation):
    """The membership half of the machine."""

    # GATHER

    def enter_gather(self, gather: Gather, reason: str, now_ns: int) -> None:
        """Seek members, with these sets to begin with."""
        old = self.state
        if old is State.OPERATIONAL:
            self.lost_ns, self.sought_ns = self.seen_ns, now_ns
        self.stop_timers()
        self.state = State.GATHER
        self.recovery, self.commit = None, None
        self.gather = gather
        self.trace("entering GATHER state", was=old.value, reason=reason, members=gather.active,
                   failed=tuple(sorted(gather.failed)))
        self.ask_again(now_ns)

    def ask_again(self, now_ns: int) -> None:
        """Our sets changed: tell everybody, and wait anew for their consent."""
        self.t_consensus = now_ns + self.config.consensus_ns
        self.send_join(now_ns)
        self.try_consensus(now_ns)

    def send_join(self, now_ns: int) -> None:
        self.t_join = now_ns + self.config.join_ns
        self.emit(Multicast(self.encoded_join(self.gather.failed)))

    def encoded_join(self, failed: frozenset[NodeId]) -> bytes:
        return wire.encode_join(wire.Join(self.me, self.ring.ring_id.seq, self.highest_seq,
                                          tuple(sorted(self.gather.proc | failed)), tuple(sorted(failed))))

    def try_consensus(self, now_ns: int) -> None:
        """With consensus the lowest makes the commit token. Alone we wait for others until the timeout."""
        members = self.gather.active
        if len(members) > 1 and members[0] == self.me and self.gather.consensus():
            self.create_commit(members, now_ns)

    def consensus_timeout(self, now_ns: int) -> None:
        """Those who did not agree are failed. All agreed but no commit token came: ask all again."""
        if self.gather.consensus() and len(self.gather.active) > 1:
            self.gather.restart()
        else:
            silent = self.gather.accuse()
            for node in silent:
                if node not in self.ring.members:
                    self.shunned[node] = now_ns + SHUN_MERGES * self.config.merge_ns
            if silent:
                self.trace("no consensus in time", failed=silent)
            if self.gather.active == (self.me,):
                self.create_commit((self.me,), now_ns)
                return
        self.ask_again(now_ns)

    def on_join(self, m: wire.Join, now_ns: int) -> None:
        """A node seeks members, or leaves."""
        if self.state is State.GATHER:
            self.highest_seq = max(self.highest_seq, m.highest_seq)
            verdict = self.gather.judge(m)
            if verdict is Verdict.CHANGED:
                self.ask_again(now_ns)
            elif verdict is Verdict.AGREES:
                self.try_consensus(now_ns)
            return
        if self.state is State.OPERATIONAL:
            ring, gather = self.ring, Gather(self.me, frozenset(self.ring.members))
            if m.sender not in ring.members and self.me in m.failed:
                return
        else:
            assert self.commit is not None
            ring, gather = None, Gather(self.me, self.gather.proc, self.gather.failed)
            if m.sender not in gather.active:
                return
        if m.sender in gather.active and m.highest_seq < (ring.ring_id if ring else self.commit or RingId(0, 0)).seq:
            return
        if gather.judge(m) is Verdict.IGNORED:
            return
        self.highest_seq = max(self.highest_seq, m.highest_seq)
        self.enter_gather(gather, f"leave of node {m.sender}" if m.sender in m.failed else f"join of node {m.sender}",
                          now_ns)

    def on_merge(self, m: wire.Merge, now_ns: int) -> None:
        """Another ring is within hearing: come together."""
        if self.shunned.get(m.sender, 0) > now_ns:
            return
        if self.state is State.GATHER:
            if self.gather.add(m.sender):
                self.ask_again(now_ns)
        elif self.state is State.OPERATIONAL and m.ring != self.ring.ring_id:
            # A member that is in another, older ring sent this before it was with us.
            if m.sender in self.ring.members and m.ring.seq < self.ring.ring_id.seq:
                return
            gather = Gather(self.me, frozenset(self.ring.members) | {m.sender})
            self.enter_gather(gather, f"ring {m.ring} of node {m.sender}", now_ns)

    # COMMIT

    def create_commit(self, members: tuple[NodeId, ...], now_ns: int) -> None:
        """We are the representative of the ring to be."""
        ring_id = RingId(self.highest_seq + 1, self.me)
        self.trace("Creating commit token because I am the rep", ring=ring_id, members=members)
        entries = tuple(wire.Entry(node, False, RingId(0, 0), 0, 0) for node in members)
        self.join_commit(wire.Commit(self.me, ring_id, 0, entries), now_ns)

    def join_commit(self, m: wire.Commit, now_ns: int) -> None:
        """Write our entry and pass the commit token on."""
        self.stop_timers()
        self.state = State.COMMIT
        self.commit, self.commit_seq = m.ring, m.ring.seq
        self.highest_seq = max(self.highest_seq, m.ring.seq)
        self.trace("entering COMMIT state", ring=m.ring)
        self.trace(f"Storing new sequence id for ring {self.highest_seq:x}")
        self.emit(StoreRingSeq(self.highest_seq))
        mine = wire.Entry(self.me, True, self.ring.ring_id, self.ring.aru, self.ring.high)
        entries = tuple(mine if e.node == self.me else e for e in m.entries)
        self.pass_commit(wire.Commit(self.me, m.ring, m.hop + 1, entries), now_ns)

    def pass_commit(self, m: wire.Commit, now_ns: int) -> None:
        self.commit_hop = m.hop
        self.t_token = now_ns + self.config.token_ns
        successor = self.next_of(m)
        if successor == self.me:
            self.enter_recovery(m, now_ns)
            self.start_token(now_ns)
        else:
            self.pass_on(successor, wire.encode_commit(m), now_ns)

    def next_of(self, m: wire.Commit) -> NodeId:
        nodes = [e.node for e in m.entries]
        return nodes[(nodes.index(self.me) + 1) % len(nodes)]

    def on_commit(self, m: wire.Commit, now_ns: int) -> None:
        """First round: write our entry. Second round: all is known, recover. Then it is the first token's turn."""
        members = tuple(e.node for e in m.entries)
        if self.me not in members or m.sender != members[members.index(self.me) - 1]:
            return
        if self.state is State.GATHER:
            fresh = m.ring.seq > max(self.commit_seq, self.ring.ring_id.seq)
            if fresh and members == self.gather.active and not m.entries[members.index(self.me)].known:
                self.join_commit(m, now_ns)
            return
        if m.ring != self.commit or m.hop <= self.commit_hop or not all(e.known for e in m.entries):
            return
        if problem := self.wrong_entries(m):
            self.drop(m.sender, problem)
            return
        if self.state is State.COMMIT:
            self.enter_recovery(m, now_ns)
            self.pass_commit(wire.Commit(self.me, m.ring, m.hop + 1, m.entries), now_ns)
        elif self.state is State.RECOVERY and members[0] == self.me:
            self.commit_hop = m.hop
            self.start_token(now_ns)

    def wrong_entries(self, m: wire.Commit) -> str:
        """What cannot be true in a complete commit token; empty when all can."""
        mates = [e for e in m.entries if e.old_ring == self.ring.ring_id]
        if self.me not in (e.node for e in mates):
            return "a commit token that says that we come from another ring"
        if any(e.node == self.me and e.aru > self.ring.aru for e in mates):
            return "a commit token that says that we have more than we have"
        if any(e.aru < self.ring.released for e in mates):
            return "a commit token in which a member lacks what it once had"
        return ""

    # RECOVERY

    def enter_recovery(self, m: wire.Commit, now_ns: int) -> None:
        """From here on what we have of the old ring grows by recovery only."""
        self.state = State.RECOVERY
        members = tuple(e.node for e in m.entries)
        self.recovery = Recovery(self.ring, Ring(m.ring, members, self.me, self.config), m.entries)
        self.trace("entering RECOVERY state", ring=m.ring, members=members, aru=self.ring.aru, high=self.ring.high,
                   transitional=self.recovery.transitional, to_send=len(self.recovery.queue))

    def start_token(self, now_ns: int) -> None:
        """The first token of the new ring."""
        assert self.recovery is not None
        ring = self.recovery.ring
        self.trace("Sending initial ORF token", ring=ring.ring_id)
        self.circulate(ring, wire.Token(self.me, ring.ring_id, 1, 0, 0, 0, 0, 0, 0, 0, ()), now_ns)

    def open_ring(self, now_ns: int) -> None:
        """Deliver the rest of the old ring, then the new configuration."""
        recovery = self.recovery
        assert recovery is not None
        old, new, mates = recovery.old, recovery.ring, recovery.transitional
        self.state = State.OPERATIONAL
        self.deliver(old)
        left = tuple(node for node in old.members if node not in mates)
        self.emit(ConfigChange(Kind.TRANSITIONAL, new.ring_id, mates, (), left))
        # Beyond a gap that nobody can fill only those who are still here are heard: what they sent does not depend on
        # what is lost, because they had not delivered it either.
        for seq in sorted(old.store):
            packet = old.store[seq]
            if seq > old.delivered and not packet.recovered and packet.origin in mates:
                self.hand_up(old, seq, packet)
        self.reassembly.forget()
        self.queue.rewind()
        self.ring, self.recovery, self.commit = new, None, None
        self.opened_ns = now_ns
        self.shunned = {}
        self.counters["rings"] += 1
        joined = tuple(node for node in new.members if node not in mates)
        self.trace("entering OPERATIONAL state", ring=new.ring_id)
        self.trace("new configuration", ring=new.ring_id, members=new.members, left=left, joined=joined)
        self.emit(ConfigChange(Kind.REGULAR, new.ring_id, new.members, joined, left))
        self.deliver(new)
        self.seek_others(now_ns)

    # Loss, merging

    def token_lost(self, now_ns: int) -> None:
        """Nobody has shown us a token for too long."""
        self.counters["token_losses"] += 1
        self.warn(f"The token was lost in the {self.state.value} state", ring=self.commit or self.ring.ring_id)
        self.gather_again(f"token lost in {self.state.value}", now_ns)

    def break_ring(self, reason: str, now_ns: int) -> None:
        self.warn("this ring cannot go on", ring=self.commit or self.ring.ring_id, reason=reason)
        self.gather_again(reason, now_ns)

    def gather_again(self, reason: str, now_ns: int) -> None:
        """Seek the members anew: of the ring, or of the one that was about to be."""
        if self.state is State.OPERATIONAL:
            gather = Gather(self.me, frozenset(self.ring.members))
        else:
            gather = Gather(self.me, self.gather.proc, self.gather.failed)
        self.enter_gather(gather, reason, now_ns)

    def fail_to_receive(self, now_ns: int) -> None:
        self.warn("this node does not receive what the others send", ring=self.ring.ring_id, aru=self.ring.aru)
        others = frozenset(self.ring.members) - {self.me}
        self.enter_gather(Gather(self.me, others, others), "failed to receive", now_ns)
        self.create_commit((self.me,), now_ns)

    def seek_others(self, now_ns: int) -> None:
        """The representative tells nodes that are not in the ring about it, again and again."""
        self.t_merge = NEVER
        if self.state is State.OPERATIONAL and self.ring.is_rep and not self.nodes <= set(self.ring.members):
            self.t_merge = now_ns + self.config.merge_ns
            self.emit(Multicast(wire.encode_merge(wire.Merge(self.me, self.ring.ring_id))))
