"""Planted bugs of the quorum disk that the simulation has to find."""

from __future__ import annotations

from collections.abc import Collection

from cman.qdisk.machine import QdiskMachine, _Seen
from cman.qdisk.votes import DiskVotes


class ElectsBeforeTheLeaseIsOver(QdiskMachine):
    """Takes a master for silent after two cycles."""

    def _silent(self, seen: _Seen) -> bool:
        return seen.misses >= 2


class GivesNoWay(QdiskMachine):
    """Held up for however long, and seeing another master: it stays one."""

    def _held_up(self) -> None:
        pass

    def _lower(self, state: int) -> None:   # type: ignore[override]
        if not (self.state == 6 and state == 5):
            super()._lower(state)           # type: ignore[arg-type]


class PromisesTooMuch(QdiskMachine):
    """Has the votes for thrice the lease."""

    def votes_until_ns(self) -> int:
        until_ns = super().votes_until_ns()
        return until_ns + 2 * self.config.lease_ns if until_ns else 0


class KeepsTheVotesWithoutTheMaster(DiskVotes):
    """A ring that has lost the disk's master still counts what it said."""

    def ring(self, members: Collection[int], left: Collection[int]) -> None:
        pass


MACHINE_MUTANTS = (ElectsBeforeTheLeaseIsOver, GivesNoWay, PromisesTooMuch)
VOTES_MUTANTS = (KeepsTheVotesWithoutTheMaster,)
