"""The smallest stack: totem alone, its deliveries and configurations shown to the checkers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cman.totem import (
    ConfigChange,
    Deliver,
    Multicast,
    SendTo,
    StoreRingSeq,
    TotemConfig,
    TotemMachine,
    Trace,
    Writable,
)
from sim.kernel import Datagram, Observe, SimNode, Store

PORT = "totem"
STORED_SEQ = "ring_seq"


class TotemProcess:
    """A totem machine as a Process; `machine` is public for workloads and checkers."""

    def __init__(self, machine: TotemMachine) -> None:
        self.machine = machine

    def start(self, now_ns: int) -> None:
        self.machine.start(now_ns)

    def receive(self, port: str, source: int, data: bytes, now_ns: int) -> None:
        assert port == PORT
        self.machine.receive(data, source, now_ns)

    def stream_broken(self, port: str, peer: int, now_ns: int) -> None:
        raise AssertionError("totem has no streams")

    def handle_timer(self, now_ns: int) -> None:
        self.machine.handle_timer(now_ns)

    def next_timer(self) -> int | None:
        return self.machine.next_timer()

    def submit(self, payload: bytes, now_ns: int) -> bool:
        return self.machine.submit(payload, now_ns)

    def effects(self) -> list[Any]:
        done: list[Any] = []
        for effect in self.machine.effects():
            if isinstance(effect, SendTo):
                done.append(Datagram(PORT, effect.node, effect.data))
            elif isinstance(effect, Multicast):
                done.append(Datagram(PORT, None, effect.data))
            elif isinstance(effect, StoreRingSeq):
                done.append(Store(STORED_SEQ, effect.seq))
            else:
                assert isinstance(effect, Deliver | ConfigChange | Trace | Writable)
                done.append(Observe(effect))
        return done


def build_totem(nodes: list[int], config: TotemConfig,
                machine: Callable[..., TotemMachine] = TotemMachine) -> Callable[[SimNode], TotemProcess]:
    """For Kernel(build=...); another machine class is how planted bugs come in."""
    def build(node: SimNode) -> TotemProcess:
        return TotemProcess(machine(node.node_id, nodes, config, node.stored.get(STORED_SEQ, 0)))
    return build
