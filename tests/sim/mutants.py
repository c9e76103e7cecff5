"""Machines with a planted bug each: the checkers must find all of them, or they check nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from cman.cpg import CpgMachine
from cman.quorum import QuorumMachine
from cman.totem import ConfigChange, Deliver, Effect, Kind, RingId, TotemConfig, TotemMachine, wire
from cman.totem.core import State
from cman.totem.ring import Ring


class DeliversOutOfOrder(TotemMachine):
    """Hands up what comes as it comes, without waiting for what is missing before it."""

    def deliver(self, ring: Ring) -> None:
        for seq in [s for s in sorted(ring.store) if s > ring.delivered]:
            ring.delivered = seq
            if not ring.store[seq].recovered:
                self.hand_up(ring, seq, ring.store[seq])


class SkipsRecovery(TotemMachine):
    """Opens the new ring without giving the others what they lack of the old one."""

    def enter_recovery(self, m: wire.Commit, now_ns: int) -> None:
        super().enter_recovery(m, now_ns)
        assert self.recovery is not None
        self.recovery.queue.clear()


class SkipsTheTail(TotemMachine):
    """Recovers up to the highest aru only, and delivers what it has beyond it."""

    def enter_recovery(self, m: wire.Commit, now_ns: int) -> None:
        super().enter_recovery(m, now_ns)
        assert self.recovery is not None
        top = max(e.aru for e in m.entries if e.old_ring == self.ring.ring_id)
        for seq in [s for s in self.recovery.queue if s > top]:
            self.recovery.queue.remove(seq)


class TakesStaleTokens(TotemMachine):
    """Takes any token of its ring, also one that it had before."""

    def on_token(self, m: wire.Token, now_ns: int) -> None:
        ring = self.current()
        if ring is not None and m.ring == ring.ring_id and m.sender == ring.predecessor:
            self.circulate(ring, m, now_ns)


class ForgetsAMember(TotemMachine):
    """Shows its own view without the last of the others."""

    def emit(self, effect: Effect) -> None:
        if isinstance(effect, ConfigChange) and effect.kind is Kind.REGULAR and len(effect.members) > 2 \
                and self.me == effect.members[0]:
            effect = dataclasses.replace(effect, members=effect.members[:-1])
        super().emit(effect)


class ReleasesEarly(TotemMachine):
    """Forgets what it has delivered itself, whoever else still lacks it."""

    def visit(self, ring: Ring, token: wire.Token, now_ns: int) -> None:
        super().visit(ring, token, now_ns)
        ring.release(ring.aru)


class KeepsHalfPayloads(TotemMachine):
    """Goes on in the new ring where it stopped in a payload in the old one."""

    def open_ring(self, now_ns: int) -> None:
        offset = self.queue._offset
        super().open_ring(now_ns)
        self.queue._offset = offset


class ForgetsItsRingNumber(TotemMachine):
    """Starts again at ring number one after each restart."""

    def __init__(self, me: int, nodes: Any, config: TotemConfig, stored_ring_seq: int) -> None:
        super().__init__(me, nodes, config, 0)


class TakesOldJoins(TotemMachine):
    """Believes that a ring it was never in is its own old one: goes with whoever comes."""

    def join_commit(self, m: wire.Commit, now_ns: int) -> None:
        rings = [e.old_ring for e in m.entries if e.known]
        if rings and self.state is State.GATHER:
            self.ring.ring_id = RingId(max(rings).seq, max(rings).rep)
        super().join_commit(m, now_ns)


class NeverMerges(TotemMachine):
    """Does not come together with another ring that it hears of."""

    def on_merge(self, m: wire.Merge, now_ns: int) -> None:
        pass


class HearsEverybody(CpgMachine):
    """Before the tables are one, takes what strangers say to groups of its own."""

    def _take(self, m: Deliver) -> None:
        peers, self._peers = self._peers, self._peers | {m.sender}
        synced = self._synced
        super()._take(m)
        if self._synced == synced:
            self._peers = peers


class TalksBeforeTheSync(CpgMachine):
    """Gives totem what clients say while the tables differ."""

    def _flush(self, now_ns: int) -> None:
        synced, self._synced = self._synced, True
        super()._flush(now_ns)
        self._synced = synced


class ForgetsTheDead(CpgMachine):
    """Leaves processes of failed nodes in their groups."""

    def _change(self, change: ConfigChange) -> None:
        super()._change(dataclasses.replace(change, left=()))


class ListsWhatItKnows(CpgMachine):
    """Its list has what was delivered, without the joins that are still under way."""

    def _encoded_list(self) -> bytes:
        given = self._given
        self._given = {(group, m.pid): None for group in self._groups for m in self._groups[group]
                       if m.node == self.me}
        data = super()._encoded_list()
        self._given = given
        return data


class ForgivesTheLost(QuorumMachine):
    """Lowers quorum as soon as a node is gone, before fencing has confirmed it."""

    def membership(self, members: Iterable[int], left: Iterable[int]) -> None:
        gone = list(left)
        super().membership(members, gone)
        for node in gone:
            self.fenced(node)


MUTANTS = (DeliversOutOfOrder, SkipsRecovery, SkipsTheTail, TakesStaleTokens, ForgetsAMember, ReleasesEarly,
           KeepsHalfPayloads, ForgetsItsRingNumber, TakesOldJoins, NeverMerges)
CPG_MUTANTS = (HearsEverybody, TalksBeforeTheSync, ForgetsTheDead, ListsWhatItKnows)
QUORUM_MUTANTS = (ForgivesTheLost,)
