"""A few NodeMachines on a small network: packets take 0.2 ms, one clock, nothing is lost unless asked for."""

from __future__ import annotations

import functools

from guide_conf import changed

from cman import totem
from cman.ccs import spread
from cman.ccs.load import Config, load
from cman.node import Effect, Ended, Log, NodeMachine

MS = 1_000_000
DELAY_NS = MS // 5
EVENTS_PER_MS_MAX = 20


@functools.cache
def config(version: int = 35) -> Config:
    return load(changed(('config_version="35"', f'config_version="{version}"'), ('expected_votes="6"', ""),
                        ('label="myqdisk" min_score="1" tko="10" votes="2"', 'label="myqdisk" tko="10" votes="0"')))


class Net:
    """Nodes, packets between them, one clock."""

    def __init__(self, *nodeids: int) -> None:
        self.now = 0
        self.nodes: dict[int, NodeMachine] = {}
        self.packets: list[tuple[int, int, int, int, bytes]] = []
        self.told: dict[int, list[Effect]] = {}
        self.ended: dict[int, str] = {}
        self.count = 0
        self.stored: dict[int, int] = {}
        self.apart: set[int] = set()        # nodes that hear only each other
        for nodeid in nodeids:
            self.add(nodeid)

    def add(self, nodeid: int, version: int = 35, seq: int = 0) -> NodeMachine:
        made = NodeMachine(nodeid, config(version), seq, lambda: self.now // 1_000_000_000 + 1_000_000)
        self.nodes[nodeid], self.told[nodeid] = made, []
        self.ended.pop(nodeid, None)
        made.start(self.now)
        self.drain(nodeid)
        return made

    def drain(self, nodeid: int) -> None:
        node = self.nodes.get(nodeid)
        while node is not None and (effects := node.effects()):
            for effect in effects:
                self.do(nodeid, node, effect)

    def do(self, nodeid: int, node: NodeMachine, effect: Effect) -> None:
        match effect:
            case totem.Multicast(data):
                for other in self.nodes:
                    self.send(nodeid, other, data)
            case totem.SendTo(other, data):
                self.send(nodeid, other, data)
            case totem.StoreRingSeq(seq):
                self.stored[nodeid] = seq
            case spread.Store(_, version, _, update):
                node.stored(update, version, "", self.now)
            case Ended(why):
                self.ended[nodeid] = why
                self.told[nodeid].append(effect)
            case _:
                self.told[nodeid].append(effect)

    def send(self, source: int, to: int, data: bytes) -> None:
        if source != to and (source in self.apart) == (to in self.apart):
            self.count += 1
            self.packets.append((self.now + DELAY_NS, self.count, source, to, data))

    def run(self, ms: int) -> None:
        end, events = self.now + ms * MS, 0
        while True:
            events += 1
            assert events < EVENTS_PER_MS_MAX * (ms + 1000), f"a storm: {[p[2:4] for p in self.packets[:9]]}"
            due = [t for n in self.nodes.values() if (t := n.next_timer()) is not None]
            at = min([p[0] for p in self.packets[:1]] + due, default=end)
            if at > end:
                self.now = end
                return
            self.now = max(self.now, at)
            if self.packets and self.packets[0][0] <= self.now:
                _, _, source, to, data = self.packets.pop(0)
                if to in self.nodes:
                    self.nodes[to].receive(data, source, self.now)
                    self.drain(to)
            else:
                for nodeid, node in list(self.nodes.items()):
                    at_ns = node.next_timer()
                    if at_ns is not None and at_ns <= self.now:
                        node.handle_timer(self.now)
                        self.drain(nodeid)
            for nodeid in [n for n in self.ended if n in self.nodes]:
                del self.nodes[nodeid]

    def control(self, nodeid: int, **message: object) -> None:
        self.nodes[nodeid].control(self.now, **message)
        self.drain(nodeid)
        self.run(500)

    def logs(self, nodeid: int) -> list[str]:
        return [e.text for e in self.told[nodeid] if isinstance(e, Log)]

    def numbers(self) -> set[tuple[int, int, int, bool]]:
        return {(n.quorum.total_votes, n.quorum.expected_votes, n.quorum.quorum, n.quorum.quorate)
                for n in self.nodes.values()}
