"""How many packets a node may send while it has the token.

Three limits: what one visit may take, what is left of the ring's window for one rotation, and how far the ring may
run ahead of its slowest member. When more waits at all members than one window holds, the window is shared in
proportion to what waits (Totem thesis, section on flow control).
"""

from __future__ import annotations

from cman.totem.config import TotemConfig


class Flow:
    """One node's part in the flow control of one ring."""

    __slots__ = ("_config", "_last_backlog", "_last_sent")

    def __init__(self, config: TotemConfig) -> None:
        self._config = config
        self._last_sent = 0
        self._last_backlog = 0

    def allowed(self, sent: int, backlog: int, mine: int, ahead: int) -> int:
        """Packets for this visit. sent and backlog are the token's, mine waits here, ahead is token seq - aru."""
        config = self._config
        room = config.window_size - max(0, sent - self._last_sent)
        waiting = max(0, backlog - self._last_backlog) + mine
        if waiting > config.window_size:
            room = min(room, max(1, config.window_size * mine // waiting))
        return max(0, min(config.max_messages, room, config.unacknowledged_max - ahead))

    def account(self, sent: int, backlog: int, mine_sent: int, mine_left: int) -> tuple[int, int]:
        """The token's new (sent, backlog) after this visit."""
        new = (max(0, sent - self._last_sent) + mine_sent, max(0, backlog - self._last_backlog) + mine_left)
        self._last_sent, self._last_backlog = mine_sent, mine_left
        return new
