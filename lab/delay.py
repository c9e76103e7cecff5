"""Packets that take longer: for kernels without netem.

The bridge drops what goes between a delayed pair (network.py); this carries it instead. A packet socket on a
machine's port sees each frame that the machine sends, before the bridge does; a copy is kept for as long as the delay
and then put out at the port of its receiver. Frames come with the kernel's offload header (PACKET_VNET_HDR), so that
large segments and unfinished checksums pass as they are.

Line is pure: it decides who gets which frame when. Source: packet(7), include/uapi/linux/if_packet.h.
"""

from __future__ import annotations

import heapq
import random
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field

import trio

from lab.network import SWITCH_MAC, Faults, Pair, everyone, port
from lab.topology import SWITCH, Topology

SOL_PACKET, PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING = 263, 15, 23
ETH_P_ALL = 3
VNET_HEADER_BYTES = 10
FRAME_BYTES_MAX = (64 << 10) + 64
# What is on its way at once; more is lost, as in a switch whose buffer is full.
FRAMES_MAX = 20_000
BURST = 64


@dataclass(order=True, slots=True)
class _Held:
    due_ns: int
    number: int
    target: str = field(compare=False)
    frame: bytes = field(compare=False)


class Line:
    """Frames on their way."""

    def __init__(self, macs: Mapping[str, bytes], faults: Faults, rng: random.Random) -> None:
        self._names = {mac: name for name, mac in macs.items()}
        self._delays_ns = {pair: round(ms * 1e6) for pair, ms in sorted(faults.delays.items())
                           if pair not in faults.cuts}
        self._losses = dict(faults.losses)
        self._rng = rng
        self._held: list[_Held] = []
        self._number = 0

    def sources(self) -> list[str]:
        """Whose frames have to be listened to."""
        return sorted({source for source, _ in self._delays_ns})

    def push(self, source: str, frame: bytes, now_ns: int) -> None:
        """A frame, offload header first, that `source` has sent."""
        receiver = frame[VNET_HEADER_BYTES:VNET_HEADER_BYTES + 6]
        if len(receiver) < 6:
            return
        group = bool(receiver[0] & 1)
        for pair, delay_ns in self._delays_ns.items():
            if pair[0] != source or not (group or self._names.get(receiver) == pair[1]) or self._lost(pair):
                continue
            if len(self._held) >= FRAMES_MAX:
                return
            self._number += 1
            heapq.heappush(self._held, _Held(now_ns + delay_ns, self._number, pair[1], frame))

    def _lost(self, pair: Pair) -> bool:
        percent = self._losses.get(pair, 0)
        return bool(percent) and self._rng.random() * 100 < percent

    def due(self, now_ns: int) -> list[tuple[str, bytes]]:
        """Receiver and frame of those whose time has come, in order."""
        out = []
        while self._held and self._held[0].due_ns <= now_ns:
            held = heapq.heappop(self._held)
            out.append((held.target, held.frame))
        return out

    def next_ns(self) -> int | None:
        return self._held[0].due_ns if self._held else None


def _macs(room: Topology) -> dict[str, bytes]:
    return {**{n.name: bytes.fromhex(n.mac.replace(":", "")) for n in room.machines},
            SWITCH: bytes.fromhex(SWITCH_MAC.replace(":", ""))}


def _now_ns() -> int:
    return round(trio.current_time() * 1e9)


class Relay:
    """Carries the frames of delayed pairs until it is cancelled; those on their way are lost then."""

    def __init__(self, room: Topology, faults: Faults, rng: random.Random) -> None:
        self._room = room
        self._line = Line(_macs(room), faults, rng)
        self._sockets: dict[str, socket.socket] = {}
        self._pushed = trio.Event()

    async def run(self) -> None:
        try:
            self._open()
            async with trio.open_nursery() as nursery:
                for source in self._line.sources():
                    if source in self._sockets:
                        nursery.start_soon(self._listen, source)
                nursery.start_soon(self._deliver)
        finally:
            for opened in self._sockets.values():
                opened.close()

    def _open(self) -> None:
        """On the port of everybody who has one just now: a machine without power has none."""
        present = [name for _, name in socket.if_nameindex()]
        for name in everyone(self._room):
            if (at := port(self._room, name)) not in present:
                continue
            opened = self._sockets[name] = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            opened.setblocking(False)
            opened.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
            opened.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
            # Without a protocol it only sends.
            opened.bind((at, ETH_P_ALL if name in self._line.sources() else 0))

    async def _listen(self, source: str) -> None:
        opened = self._sockets[source]
        while True:
            await trio.lowlevel.wait_readable(opened)
            for _ in range(BURST):
                try:
                    frame = opened.recv(FRAME_BYTES_MAX)
                except BlockingIOError:
                    break
                except OSError:
                    return              # the port is gone; the next boot starts another relay
                self._line.push(source, frame, _now_ns())
            self._pushed.set()

    async def _deliver(self) -> None:
        while True:
            for target, frame in self._line.due(_now_ns()):
                try:
                    if target in self._sockets:
                        self._sockets[target].send(frame)
                except OSError:
                    continue            # no such port any more, or its queue is full: lost
            following = self._line.next_ns()
            if following is None:
                await self._pushed.wait()
            else:
                with trio.move_on_at(following / 1e9):
                    await self._pushed.wait()
            self._pushed = trio.Event()
