"""How one configuration reaches all members, in a group that delivers in one order: examples, and random histories."""

from __future__ import annotations

import functools
import random
from collections import deque

import msgpack
import pytest
from guide_conf import changed
from hypothesis import given, settings
from hypothesis import strategies as st

from cman.ccs.load import Config, load
from cman.ccs.spread import PART_BYTES, Effect, Finished, Log, Mcast, Refused, Spread, Store


@functools.cache
def config(version: int, extra: str = "") -> Config:
    return load(changed(('config_version="35"', f'config_version="{version}"'), ("</rm>", f"</rm>{extra}")))


class Group:
    """Four machines on one order. What they store is kept; those that are refused go."""

    def __init__(self, configs: dict[int, Config]) -> None:
        self.nodes = {n: Spread(n, c) for n, c in configs.items()}
        self.disks = {n: c.source for n, c in configs.items()}
        self.given: dict[int, bytes] = {}
        self.queue: deque[tuple[int, bytes]] = deque()
        self.finished: dict[int, list[Finished]] = {n: [] for n in configs}
        self.refused: dict[int, str] = {}
        self.warnings: list[str] = []
        self.broken_disks: set[int] = set()
        self.view = 0

    def restart(self, node: int) -> None:
        """It knows what is on its disk, and what it noted."""
        self.nodes[node] = Spread(node, load(self.disks[node]), self.given.get(node, b""))

    def members(self, *nodes: int) -> None:
        """A new view of those."""
        self.view += 1
        for node in nodes:
            self.nodes[node].view_changed(self.view, nodes)
        self.now = nodes
        self.collect()

    def collect(self) -> None:
        for node in self.now:
            for effect in self.nodes[node].effects():
                self.do(node, effect)

    def do(self, node: int, effect: Effect) -> None:
        match effect:
            case Mcast(payload):
                self.queue.append((node, payload))
            case Store(data, version, digest, update):
                self.given[node] = digest
                if node not in self.broken_disks:
                    self.disks[node] = data
                self.nodes[node].stored(update, version, "disk full" if node in self.broken_disks else "")
                self.collect()
            case Finished():
                self.finished[node].append(effect)
            case Refused(why):
                self.refused[node] = why
            case Log(text, True):
                self.warnings.append(text)

    def step(self) -> bool:
        """Deliver one message to all members."""
        if not self.queue:
            return False
        sender, payload = self.queue.popleft()
        for node in self.now:
            self.nodes[node].deliver(sender, payload)
        self.collect()
        return True

    def settle(self) -> None:
        while self.step():
            pass

    def versions(self) -> list[int]:
        return [self.nodes[n].config.version for n in self.now]


def test_the_newest_of_a_start_together_wins() -> None:
    group = Group({1: config(35), 2: config(36), 3: config(36), 4: config(34)})
    group.members(1, 2, 3, 4)
    group.settle()
    assert group.versions() == [36] * 4
    assert all(group.nodes[n].synced for n in group.now)
    assert set(group.disks.values()) == {config(36).source}


def test_what_a_quorate_cluster_runs_counts_more_than_a_newer_file() -> None:
    group = Group({1: config(35), 2: config(35), 3: config(40)})
    group.members(1, 2)
    group.settle()
    group.nodes[1].quorate()
    group.members(1, 2, 3)
    group.settle()
    assert group.versions() == [35] * 3
    assert group.disks[3] == config(40).source, "the operator's file stays for ccs_tool update"
    assert any("version 40, the cluster runs 35" in w for w in group.warnings)


def test_other_contents_of_one_version_are_refused() -> None:
    group = Group({1: config(35), 2: config(35), 3: config(35, "<dlm/>")})
    group.members(1, 2)
    group.settle()
    group.nodes[1].quorate()
    group.nodes[2].quorate()
    group.members(1, 2, 3)
    group.settle()
    assert list(group.refused) == [3]
    assert "differs from that of web2" in group.refused[3]
    group.members(1, 2)
    group.settle()
    assert group.nodes[1].synced


def halves_that_both_updated() -> Group:
    """Two nodes that lost each other; both were quorate (two_node) and got a version 36 of their own; 2 was fenced."""
    group = Group({1: config(35), 2: config(35)})
    group.members(1, 2)
    group.settle()
    for node in (1, 2):
        group.nodes[node].quorate()
    for node in (1, 2):
        group.members(node)
        group.settle()
        group.nodes[node].propose(config(36, f"<!-- {node} -->"))
        group.collect()
        group.settle()
    return group


def test_a_file_that_the_lost_half_agreed_on_is_replaced() -> None:
    """A node that is fenced and comes back must not be kept out for ever by an update that its half had accepted."""
    group = halves_that_both_updated()
    group.restart(2)
    group.members(1, 2)
    group.settle()
    assert not group.refused
    assert group.disks[2] == group.disks[1] == config(36, "<!-- 1 -->").source
    assert group.nodes[2].synced
    assert any("version 36 differs between web2 and Mysql1: web2's counts" in w for w in group.warnings)


def test_what_an_operator_wrote_since_is_not_replaced() -> None:
    group = halves_that_both_updated()
    group.disks[2] = config(36, "<!-- the operator's -->").source
    group.restart(2)
    group.members(1, 2)
    group.settle()
    assert list(group.refused) == [2]
    assert group.disks[2] == config(36, "<!-- the operator's -->").source


def test_a_node_of_another_cluster_is_refused() -> None:
    group = Group({1: config(35), 2: config(35), 3: load(changed(('name="mycluster">', 'name="other">')))})
    group.members(1, 2, 3)
    group.settle()
    assert list(group.refused) == [3]
    assert not group.nodes[1].synced, "nothing is agreed while it is there"


def test_an_update_is_stored_everywhere_and_told() -> None:
    group = Group({n: config(35) for n in (1, 2, 3, 4)})
    group.members(1, 2, 3, 4)
    group.settle()
    group.broken_disks = {3}
    long = config(36, f"<!-- {'x' * 3 * PART_BYTES} -->")
    number = group.nodes[2].propose(long)
    group.collect()
    group.settle()
    assert group.finished[2] == [Finished(number, 35, 36, {3: "disk full"}, "")]
    assert group.versions() == [36] * 4
    assert [group.disks[n] == long.source for n in (1, 2, 3, 4)] == [True, True, False, True]


def test_of_two_updates_at_once_one_wins_everywhere() -> None:
    group = Group({n: config(35) for n in (1, 2, 3)})
    group.members(1, 2, 3)
    group.settle()
    group.nodes[1].propose(config(36))
    group.nodes[3].propose(config(36, "<dlm/>"))
    group.collect()
    group.settle()
    assert group.finished[1][0].error == ""
    assert group.finished[3][0].not_newer
    assert {group.nodes[n].config.digest for n in group.now} == {config(36).digest}


def test_an_update_that_meets_a_new_view_is_told() -> None:
    group = Group({n: config(35) for n in (1, 2, 3)})
    group.members(1, 2, 3)
    group.settle()
    group.nodes[1].propose(config(36))
    group.collect()
    group.members(1, 2)
    group.settle()
    assert "try again" in group.finished[1][0].error
    assert group.versions() == [35, 35]


def test_who_has_gone_is_not_waited_for() -> None:
    group = Group({n: config(35) for n in (1, 2, 3)})
    group.members(1, 2, 3)
    group.settle()
    group.nodes[1].propose(config(36))
    group.collect()
    sender, payload = group.queue.popleft()
    for node in (1, 2):                 # node 3 dies before it has it
        group.nodes[node].deliver(sender, payload)
    group.now = (1, 2)
    group.collect()
    group.members(1, 2)
    group.settle()
    assert group.finished[1] == [Finished(1, 35, 36, {}, "")]


@pytest.mark.parametrize("change", [(('name="mycluster">', 'name="other">'),), (('name="web1" nodeid="4"',
                         'name="web9" nodeid="4"'), ('domainnode name="web1"', 'domainnode name="web9"'))])
def test_what_cannot_change_while_running(change: tuple[tuple[str, str], ...]) -> None:
    group = Group({n: config(35) for n in (1, 4)})
    group.members(1, 4)
    group.settle()
    group.nodes[1].propose(load(changed(('config_version="35"', 'config_version="36"'), *change)))
    group.collect()
    group.settle()
    assert group.finished[1][0].error
    assert group.versions() == [35, 35]


NAMES = st.sampled_from(["t", "view", "index", "count", "data", "number", "node"])
VALUES = st.sampled_from(["hello", "file", "ack"]) | st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=9)


@given(st.binary(max_size=60) | st.dictionaries(NAMES, VALUES, max_size=7).map(msgpack.packb))
def test_nonsense_changes_nothing(payload: bytes) -> None:
    group = Group({1: config(35), 2: config(35)})
    group.members(1, 2)
    group.settle()
    for node in (1, 2):
        group.nodes[node].deliver(2, payload)
    group.collect()
    group.settle()
    assert group.versions() == [35, 35]
    assert group.nodes[1].synced


@settings(max_examples=60)
@given(st.randoms(use_true_random=False))
def test_any_history_ends_in_one_configuration(rnd: random.Random) -> None:
    """Views, updates and deliveries in any order; then all meet, and all run the same."""
    configs = [config(v, e) for v in range(30, 40) for e in ("", "<dlm/>")]
    group = Group({n: config(30 + rnd.randrange(3)) for n in (1, 2, 3, 4)})
    group.members(1, 2, 3, 4)
    for _ in range(rnd.randrange(60)):
        what = rnd.random()
        if what < 0.08:
            # Old messages are delivered in the old view before the new one begins, to all of it.
            group.settle()
            group.members(*sorted(rnd.sample((1, 2, 3, 4), rnd.randrange(3, 5))))
        elif what < 0.2:
            node = group.nodes[rnd.choice(group.now)]
            if node.synced:
                node.quorate()
                node.propose(rnd.choice(configs))
            group.collect()
        else:
            group.step()
    group.settle()
    group.members(1, 2, 3, 4)
    group.settle()
    if not group.refused:
        assert len({n.config.digest for n in group.nodes.values()}) == 1
        assert all(n.synced for n in group.nodes.values())
    for node, done in group.finished.items():
        assert len({f.number for f in done}) == len(done), f"an update of node {node} ended twice"
