"""Timers and limits of totem; one frozen object, checked when it is made.

The time until a dead node is out of the ring is token_ms (nobody has seen the token) plus consensus_ms (it does not
answer joins) plus some milliseconds for the new ring: about one second with the defaults. Losing the token alone
excludes nobody, so a node may stall for most of that time without harm.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

MS = 1_000_000

# What one node can be asked to keep: larger values in a configuration are mistakes.
NODES_MAX = 128
PAYLOAD_BYTES_MAX = 1 << 20
MTU_BYTES_MIN = 512
MTU_BYTES_MAX = 8900
TIME_MS_MAX = 300_000


@dataclass(frozen=True, slots=True)
class TotemConfig:
    """Times in milliseconds. Raises ValueError with the name of the setting that is wrong."""

    # Without a token for so long, the ring is broken.
    token_ms: int = 550
    # How often a node sends the token again within token_ms when it does not see it go on.
    token_retransmits_before_loss: int = 6
    # An idle ring's representative rests the token for so long; a submitted message wakes it.
    hold_ms: int = 150
    # Joins are repeated after so long while the members are sought.
    join_ms: int = 60
    # A node whose joins do not agree with ours for so long is taken for failed.
    consensus_ms: int = 500
    # The representative tells all configured nodes of its ring this often, so that rings find each other.
    merge_ms: int = 400
    # A timer that fires later than this was held up on our own machine: we ask again before we accuse others.
    pause_ms: int = 120
    # Packets of all members in one rotation, and of one member in one visit of the token.
    window_size: int = 64
    max_messages: int = 20
    # Packets that not everybody has; beyond it nobody sends anything new.
    unacknowledged_max: int = 512
    # Rotations in which the same node lacks the same packet before that node takes itself out.
    fail_to_recv_rotations: int = 2000
    # Bytes of one datagram before it is sealed.
    mtu_bytes: int = 1400
    # Payloads waiting to be sent; submit() refuses beyond it.
    queue_bytes_max: int = 8 << 20

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
                raise ValueError(f"totem {field.name} must be a positive number, not {value!r}")
            if field.name.endswith("_ms") and value > TIME_MS_MAX:
                raise ValueError(f"totem {field.name} is {value} ms, at most {TIME_MS_MAX}")
        if self.hold_ms * 2 > self.token_ms:
            raise ValueError(f"totem hold_ms ({self.hold_ms}) must be at most half of token_ms ({self.token_ms})")
        if self.join_ms * 3 > self.consensus_ms:
            raise ValueError(f"totem join_ms ({self.join_ms}) must fit three times into consensus_ms "
                             f"({self.consensus_ms})")
        if not MTU_BYTES_MIN <= self.mtu_bytes <= MTU_BYTES_MAX:
            raise ValueError(f"totem mtu_bytes is {self.mtu_bytes}, allowed are {MTU_BYTES_MIN} to {MTU_BYTES_MAX}")
        if self.max_messages > self.window_size or self.window_size > self.unacknowledged_max:
            raise ValueError("totem max_messages <= window_size <= unacknowledged_max does not hold: "
                             f"{self.max_messages}, {self.window_size}, {self.unacknowledged_max}")
        if self.queue_bytes_max < PAYLOAD_BYTES_MAX:
            raise ValueError(f"totem queue_bytes_max is {self.queue_bytes_max}, at least {PAYLOAD_BYTES_MAX}")

    @property
    def token_ns(self) -> int:
        return self.token_ms * MS

    @property
    def retransmit_ns(self) -> int:
        """Between two sendings of the same token: the last one still has time to be heard."""
        return self.token_ms * MS * 5 // (5 * self.token_retransmits_before_loss + 1)

    @property
    def hold_ns(self) -> int:
        return self.hold_ms * MS

    @property
    def join_ns(self) -> int:
        return self.join_ms * MS

    @property
    def consensus_ns(self) -> int:
        return self.consensus_ms * MS

    @property
    def merge_ns(self) -> int:
        return self.merge_ms * MS

    @property
    def pause_ns(self) -> int:
        return self.pause_ms * MS
