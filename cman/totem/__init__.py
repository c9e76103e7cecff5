"""The Totem single-ring protocol: who is a member, and messages in one order for all of them.

`TotemMachine` decides and does nothing: bytes, times and payloads go in, effects come out. Its phases are modules:
`gather` (who takes part), `recovery` (the end of the old ring), `ring` (the messages of one ring), `flow` (how much
may be sent), `pack` (payloads into packets and back), `wire` (bytes). `crypto` seals datagrams, `transport` carries
them with trio. docs/design/totem.md has the theory.
"""

from cman.totem.config import TotemConfig
from cman.totem.effects import (
                                ConfigChange,
                                Deliver,
                                Effect,
                                Kind,
                                Multicast,
                                RingId,
                                SendTo,
                                StoreRingSeq,
                                Trace,
                                Writable,
)
from cman.totem.machine import State, TotemMachine

__all__ = ["ConfigChange", "Deliver", "Effect", "Kind", "Multicast", "RingId", "SendTo", "State", "StoreRingSeq",
           "TotemConfig", "TotemMachine", "Trace", "Writable"]
