"""The network of the room: one bridge with a port for each machine, and what is wrong with it just now.

Pure: it writes the texts for `ip -batch` and the JSON for `nft -j`; room.py runs them in the room's namespace. Cuts
and losses are rules on the bridge's forwarding, out of reach of the nodes themselves.
Source: libnftables-json(5), ip(8).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from lab.errors import LabError
from lab.topology import NETWORK, SWITCH, SWITCH_ADDRESS, Node, Topology

BRIDGE = "lab0"
SWITCH_PORT = "p-switch"
SWITCH_DEVICE = "switch0"
SWITCH_MAC = "02:00:c0:a8:0c:fb"
LOSS_STEPS = 10_000             # a loss is counted in hundredths of a percent
DELAY_MS_MAX = 10_000.0

Pair = tuple[str, str]          # from, to: names of machines


@dataclass(frozen=True, slots=True)
class Faults:
    """What is wrong: pairs cut, loss in percent, delay in milliseconds. One direction each."""

    cuts: frozenset[Pair] = frozenset()
    losses: Mapping[Pair, float] = field(default_factory=dict)
    delays: Mapping[Pair, float] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.cuts or self.losses or self.delays)

    def cut(self, pairs: Iterable[Pair]) -> Faults:
        return dataclasses.replace(self, cuts=self.cuts | frozenset(pairs))

    def lose(self, pairs: Iterable[Pair], percent: float) -> Faults:
        """0 takes the loss away. Raises LabError."""
        if not 0 <= percent <= 100:
            raise LabError(f"a loss of {percent} %: from 0 to 100")
        return dataclasses.replace(self, losses=_changed(self.losses, pairs, percent))

    def delay(self, pairs: Iterable[Pair], milliseconds: float) -> Faults:
        """0 takes the delay away. Raises LabError."""
        if not 0 <= milliseconds <= DELAY_MS_MAX:
            raise LabError(f"a delay of {milliseconds} ms: from 0 to {DELAY_MS_MAX:.0f}")
        return dataclasses.replace(self, delays=_changed(self.delays, pairs, milliseconds))

    def heal(self, pairs: Iterable[Pair] | None = None) -> Faults:
        """Nothing is wrong any more, between these or at all."""
        if pairs is None:
            return Faults()
        whole = frozenset(pairs)
        return Faults(self.cuts - whole, {p: v for p, v in self.losses.items() if p not in whole},
                      {p: v for p, v in self.delays.items() if p not in whole})

    def as_json(self) -> dict[str, object]:
        return {"cut": sorted(map(list, self.cuts)),
                "loss_percent": [[*p, v] for p, v in sorted(self.losses.items())],
                "delay_ms": [[*p, v] for p, v in sorted(self.delays.items())]}


def _changed(old: Mapping[Pair, float], pairs: Iterable[Pair], value: float) -> dict[Pair, float]:
    new = dict(old)
    for pair in pairs:
        new.pop(pair, None)
        if value:
            new[pair] = value
    return new


def between(groups: Iterable[Iterable[str]], *, one_way: bool = False) -> list[Pair]:
    """The pairs from one group to another; one way: only from an earlier group to a later one.

    Raises LabError when a machine is in two groups.
    """
    listed = [list(g) for g in groups]
    names = [name for group in listed for name in group]
    for name in names:
        if names.count(name) > 1:
            raise LabError(f"{name} is in two groups")
    pairs = []
    for i, left in enumerate(listed):
        for right in listed[i + 1:]:
            for a in left:
                for b in right:
                    pairs.append((a, b))
                    if not one_way:
                        pairs.append((b, a))
    return pairs


def everyone(room: Topology) -> list[str]:
    """Names of all that have a port: the nodes, the storage host, the power switch."""
    return [*(n.name for n in room.machines), SWITCH]


def port(room: Topology, name: str) -> str:
    """The bridge's port of a machine. Raises LabError."""
    if name == SWITCH:
        return SWITCH_PORT
    return f"p{room.machine(name).plug}"


def bridge_batch() -> str:
    """For `ip -batch`: the bridge, and the power switch as one more machine on it."""
    return "\n".join([
        "link set lo up",
        f"link add {BRIDGE} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
        f"link set {BRIDGE} up",
        f"link add {SWITCH_PORT} type veth peer name {SWITCH_DEVICE} address {SWITCH_MAC}",
        f"link set {SWITCH_PORT} master {BRIDGE} up",
        f"addr add {SWITCH_ADDRESS}/{NETWORK.prefixlen} dev {SWITCH_DEVICE}",
        f"link set {SWITCH_DEVICE} up", ""])


def cable_batch(room: Topology, node: Node, pid: int) -> str:
    """For `ip -batch` in the room: a cable from the bridge into the node's namespace."""
    end = port(room, node.name)
    return (f"link add {end} type veth peer name eth0 address {node.mac} netns {pid}\n"
            f"link set {end} master {BRIDGE} up\n")


def unplug_batch(room: Topology, node: Node) -> str:
    return f"link del {port(room, node.name)}\n"


def node_batch(node: Node) -> str:
    """For `ip -batch` in the node. Multicast leaves by the one interface there is."""
    return "\n".join([
        "link set lo up", f"addr add {node.address}/{NETWORK.prefixlen} brd + dev eth0", "link set eth0 up",
        "route add 224.0.0.0/4 dev eth0", ""])


def _match(left: object, right: object, op: str = "==") -> dict[str, object]:
    return {"match": {"op": op, "left": left, "right": right}}


def _rule(room: Topology, pair: Pair, *more: dict[str, object]) -> dict[str, object]:
    source, target = (port(room, name) for name in pair)
    expression = [_match({"meta": {"key": "iifname"}}, source), _match({"meta": {"key": "oifname"}}, target), *more,
                  {"counter": None}, {"drop": None}]
    return {"add": {"rule": {"family": "bridge", "table": "lab", "chain": "forward", "expr": expression,
                             "comment": f"{pair[0]} to {pair[1]}"}}}


def nft_rules(room: Topology, faults: Faults) -> dict[str, object]:
    """For `nft -j -f -`: the whole table anew, in one transaction."""
    table = {"family": "bridge", "name": "lab"}
    chain = {"family": "bridge", "table": "lab", "name": "forward", "type": "filter", "hook": "forward", "prio": 0,
             "policy": "accept"}
    # The bridge is no machine: were the room's own stack to hear it there too, it would answer ARP for the power switch
    # with the bridge's address, which changes with the ports.
    deaf = {**chain, "name": "input", "hook": "input", "policy": "drop"}
    rules = [_rule(room, pair) for pair in sorted(faults.cuts)]
    for pair, percent in sorted(faults.losses.items()):
        if pair not in faults.cuts:
            steps = round(percent * LOSS_STEPS / 100)
            draw = {"numgen": {"mode": "random", "mod": LOSS_STEPS, "offset": 0}}
            # nft refuses a comparison that is always true.
            rules.append(_rule(room, pair, *([_match(draw, steps, "<")] if steps < LOSS_STEPS else [])))
    # Delayed packets take another way (delay.py): the bridge does not carry them.
    rules += [_rule(room, pair) for pair in sorted(faults.delays) if pair not in faults.cuts]
    return {"nftables": [{"add": {"table": table}}, {"delete": {"table": table}}, {"add": {"table": table}},
                         {"add": {"chain": chain}}, {"add": {"chain": deaf}}, *rules]}
