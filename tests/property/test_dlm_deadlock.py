"""Deadlocks of transactions over several resources, masters and nodes: all are found, and nothing else is."""

from __future__ import annotations

import pytest
from dlm_circles import Untrue, Watched, campaign

from dlm.deadlock import Break, Hop, Message

SHAPES = {
    "one node": {"nodes": 1, "names": 3, "steps": 600, "transactions": 4},
    "three nodes, four names": {"nodes": 3, "names": 4, "steps": 1200, "transactions": 6},
    "four nodes, crowded": {"nodes": 4, "names": 3, "steps": 1500, "transactions": 10},
    "three nodes that recover": {"nodes": 3, "names": 4, "steps": 1200, "transactions": 6, "restarts": 0.004},
}
RUNS = 20


@pytest.mark.parametrize("name", SHAPES)
def test_campaign(name: str, seed: int) -> None:
    counts: dict[str, int] = {}
    for at in range(RUNS):
        for what, n in campaign(seed * 1000 + at, **SHAPES[name]).counts.items():        # type: ignore[arg-type]
            counts[what] = counts.get(what, 0) + n
    for what in ("deadlock", "verdict", "given up"):
        assert counts.get(what, 0) > RUNS / 2, (what, counts)


class OneLook(Watched):
    """What is seen once is believed."""

    def _circle(self, number: int, path: tuple[Hop, ...]) -> None:
        wait = self._begun.get(number)
        if wait is not None:
            self.seen[wait.serial], wait.suspect = self.edges(), path
        super()._circle(number, path)


class AnyLook(Watched):
    """A look that began before the first one ended counts as the second."""

    def _circle(self, number: int, path: tuple[Hop, ...]) -> None:
        wait = self._begun.get(number)
        if wait is not None:
            wait.chase = number
        super()._circle(number, path)


class AnyVictim(Watched):
    """Whoever finds a circle gives way."""

    def _send(self, message: Message) -> None:
        if isinstance(message, Break):
            waiting = next(w for w in self._waits.values())
            message = Break(waiting.party, waiting.lkid, waiting.serial, message.nodes)
        super()._send(message)


class NeverAgain(Watched):
    """Each wait is looked at once."""

    def handle_timer(self, now_ns: int) -> None:
        super().handle_timer(now_ns)
        for wait in self._waits.values():
            if wait.delay_ns > self.after_ns:
                wait.due_ns = 1 << 62


class OwnLocksOnly(Watched):
    """Chases end at the border of the node."""

    def _send(self, message: Message) -> None:
        if isinstance(message, Break) or getattr(message, "master", self.me) == self.me:
            super()._send(message)


@pytest.mark.parametrize("planted", [OneLook, AnyLook, AnyVictim, NeverAgain, OwnLocksOnly])
def test_planted(planted: type[Watched], seed: int) -> None:
    for at in range(300):
        try:
            campaign(seed * 1000 + at, **SHAPES["four nodes, crowded"], detector=planted)       # type: ignore[arg-type]
        except Untrue:
            return
    pytest.fail("not found")
