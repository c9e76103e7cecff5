"""Who fences whom, when, and what the others make of it: NodeMachines on a network, agents that the test plays."""

from __future__ import annotations

import random

import msgpack
import pytest
from node_net import MS, Net

from cman.fence.domain import FenceOver, FenceStart, FenceStop, Stage
from cman.node import CONTROL, Effect, Ended, NodeMachine
from cman.quorum import Standing

S = 1000            # Net.run counts in ms
STEP_MS = 10


class Room(Net):
    """`agents`: victim -> (takes ms, success); who is fenced is off at that moment."""

    def __init__(self, *nodeids: int) -> None:
        self.agents: dict[int, tuple[int, bool]] = {}
        self.runs: list[tuple[int, int, int]] = []          # ms, by, victim
        self.stopped: list[tuple[int, int]] = []
        self.results: list[tuple[int, int, int, bool]] = []
        self.cut: dict[int, int] = {}                       # victim -> ms
        super().__init__(*nodeids)

    def do(self, nodeid: int, node: NodeMachine, effect: Effect) -> None:
        if isinstance(effect, FenceStart):
            assert effect.methods, "nothing to run"
            self.runs.append((self.now // MS, nodeid, effect.nodeid))
            takes, success = self.agents.get(effect.nodeid, (50, True))
            self.results.append((self.now // MS + takes, nodeid, effect.nodeid, success))
        elif isinstance(effect, FenceStop):
            self.stopped.append((nodeid, effect.nodeid))
            self.results = [r for r in self.results if r[1:3] != (nodeid, effect.nodeid)]
        super().do(nodeid, node, effect)

    def run(self, ms: int) -> None:
        end = self.now // MS + ms
        while (left := end - self.now // MS) > 0:
            super().run(min(left, STEP_MS))
            for result in sorted(r for r in self.results if r[0] * MS <= self.now):
                if result in self.results:                  # not stopped meanwhile
                    self.results.remove(result)
                    self.end_of_agent(*result[1:])

    def end_of_agent(self, by: int, victim: int, success: bool) -> None:
        if success:
            self.nodes.pop(victim, None)
            self.cut[victim] = self.now // MS
        if by in self.nodes:
            self.nodes[by].fence_result(victim, success, "fence_wti" if success else "no answer", self.now)
            self.drain(by)

    def crash(self, *nodeids: int) -> int:
        for nodeid in nodeids:
            del self.nodes[nodeid]
        return self.now // MS

    def unconfirmed(self) -> set[tuple[int, ...]]:
        return {n.quorum.unconfirmed for n in self.nodes.values()}


@pytest.fixture
def room() -> Room:
    made = Room(1, 2, 3, 4)
    made.run(3 * S)
    assert made.unconfirmed() == {()}
    return made


def test_a_lost_node_is_fenced_once_by_the_lowest_member(room: Room) -> None:
    room.crash(1)
    room.run(3 * S)
    assert [(by, victim) for _, by, victim in room.runs] == [(2, 1)]
    assert room.unconfirmed() == {()}
    assert {n.quorum.standing[1] for n in room.nodes.values()} == {Standing.OUT}
    assert {n.quorum.quorum for n in room.nodes.values()} == {2}
    for line in ('web2 not a cluster member after 0 sec post_fail_delay', 'fencing node "web2"',
                 'fence "web2" success (fence_wti)'):
        assert line in room.logs(2)
    assert 'fencing node "web2" (by Mysql1)' in room.logs(3)
    assert not any(n.fence.victims for n in room.nodes.values())
    assert room.nodes[3].nodes({})[0].fenced_by == "fence_wti"


def test_nothing_counts_before_the_agent_is_through(room: Room) -> None:
    room.agents[4] = (5 * S, True)
    room.crash(4)
    room.run(4 * S)
    assert room.unconfirmed() == {(4,)}
    victim = room.nodes[3].fence.victims[4]
    assert (victim.stage, victim.claimed_by) == (Stage.RUNNING, 1)
    assert room.nodes[3].fence.waits_for(victim) == "the fence agent, run by web2"
    room.run(3 * S)
    assert room.unconfirmed() == {()}


def test_it_is_tried_for_ever_and_everybody_knows_why_it_fails(room: Room) -> None:
    room.agents[4] = (100, False)
    room.crash(4)
    room.run(60 * S)
    assert room.unconfirmed() == {(4,)}
    gaps = [b[0] - a[0] for a, b in zip(room.runs, room.runs[1:], strict=False)]
    assert len(gaps) >= 6
    assert gaps[0] >= 3 * S
    assert max(gaps) <= 11 * S
    for node in room.nodes.values():
        victim = node.fence.victims[4]
        assert victim.tries == len(room.runs) - (victim.stage is Stage.RUNNING)
        assert "no answer" in node.fence.waits_for(victim) or victim.stage is Stage.RUNNING
    room.agents[4] = (100, True)
    room.run(15 * S)
    assert room.unconfirmed() == {()}


def test_a_humans_word_ends_it(room: Room) -> None:
    room.agents[4] = (100, False)
    room.crash(4)
    room.run(5 * S)
    room.control(3, t="fenced", node=4, by="a human")
    assert room.unconfirmed() == {()}
    runs = len(room.runs)
    room.run(20 * S)
    assert len(room.runs) == runs


def test_who_fences_dies(room: Room) -> None:
    """The next one begins anew, and fences both."""
    room.agents[4] = (4 * S, True)
    room.crash(4)
    room.run(3 * S)
    assert [(by, v) for _, by, v in room.runs] == [(1, 4)]
    room.nodes[2].control(room.now, t="expected", votes=2)       # two of four shall do for this test
    room.drain(2)
    room.run(10)
    room.crash(1)
    room.run(6 * S)
    assert sorted((by, v) for _, by, v in room.runs[1:]) == [(2, 1), (2, 4)]
    assert room.unconfirmed() == {()}


def test_without_quorum_nobody_fences_and_who_loses_it_stops(room: Room) -> None:
    room.agents[4] = (10 * S, True)
    room.crash(4)
    room.run(2 * S)
    assert [(by, v) for _, by, v in room.runs] == [(1, 4)]
    room.apart = {1}
    room.run(5 * S)
    assert (1, 4) in room.stopped, "node 1 is alone now"
    assert not any(by == 1 for _, by, v in room.runs[1:])
    assert [(by, v) for _, by, v in room.runs[1:]] == [], "two of four are no quorum either"
    assert room.nodes[1].fence.waits_for(room.nodes[1].fence.victims[4]) == "quorum"
    assert {n.quorum.standing[4] for n in room.nodes.values()} == {Standing.LOST}


def test_who_comes_back_in_a_new_life_is_no_victim(room: Room) -> None:
    room.agents[4] = (4 * S, False)
    room.crash(4)
    room.run(2 * S)
    room.add(4, seq=room.stored[4])
    room.run(20 * S)
    assert room.unconfirmed() == {()}
    assert room.stopped == [(1, 4)]
    assert len(room.runs) == 1
    assert room.nodes[4].members == (1, 2, 3, 4)


def test_the_first_to_come_wait_then_fence_who_is_missing() -> None:
    made = Room(1, 2, 3)
    made.run(2500)
    assert {n.quorum.quorate for n in made.nodes.values()} == {True}
    assert made.runs == []
    assert made.unconfirmed() == {(4,)}
    made.run(3 * S)
    assert [(by, v) for _, by, v in made.runs] == [(1, 4)], "post_join_delay is 3 in the guide's file"
    assert made.unconfirmed() == {()}


def test_a_node_that_comes_late_does_not_fence_a_second_time(room: Room) -> None:
    """It has the lowest id, and hears from the one that is at it."""
    room.control(1, t="leave", remove=False)
    room.run(2 * S)
    room.agents[4] = (30 * S, True)
    room.crash(4)
    room.run(2 * S)
    assert [(by, v) for _, by, v in room.runs] == [(2, 4)]
    room.add(1, seq=room.stored[1])
    room.run(20 * S)
    assert room.nodes[1].members == (1, 2, 3)
    assert room.nodes[1].fence.victims[4].claimed_by == 2
    room.run(20 * S)
    assert [(by, v) for _, by, v in room.runs] == [(2, 4)]
    assert room.unconfirmed() == {()}


def test_a_member_is_fenced_when_somebody_asks(room: Room) -> None:
    room.nodes[3].ask_fence(1, room.now)
    room.drain(3)
    room.run(5 * S)
    assert [(by, v) for _, by, v in room.runs] == [(3, 1)], "by the node asked, and not again when it is missed"
    assert {n.quorum.standing[1] for n in room.nodes.values()} == {Standing.OUT}
    assert [e for e in room.told[3] if isinstance(e, FenceOver)] == [FenceOver(1, True, "fence_wti")]


def test_what_is_asked_and_fails_is_not_tried_again(room: Room) -> None:
    room.agents[1] = (100, False)
    room.nodes[3].ask_fence(1, room.now)
    room.drain(3)
    room.run(30 * S)
    assert len(room.runs) == 1
    assert [e for e in room.told[3] if isinstance(e, FenceOver)] == [FenceOver(1, False, "no answer")]
    assert room.nodes[3].members == (1, 2, 3, 4)
    assert not any(n.fence.victims for n in room.nodes.values())
    with pytest.raises(ValueError, match="no fence method for Node9"):
        room.nodes[3].ask_fence(9, room.now)


def test_a_word_about_another_life_does_not_count(room: Room) -> None:
    """It was said in the ring before; by the time it is heard the node has been here again and is lost anew."""
    room.agents[4] = (60 * S, True)
    room.crash(4)
    room.run(2 * S)
    node = room.nodes[1]
    view = node.cluster(1, [], "", {}).generation - 4
    stale = {"t": "fenced", "node": 4, "by": "fence_wti", "asked": False, "view": view}
    node._send(CONTROL + msgpack.packb(stale), room.now)
    room.drain(1)
    room.run(1 * S)
    assert room.unconfirmed() == {(4,)}


@pytest.mark.parametrize("_", range(30))
def test_random_histories(_: int, rng: random.Random) -> None:
    """Crashes, returns, agents that fail: who counts as out has been cut, and in the end all is confirmed."""
    made = Room(1, 2, 3, 4)
    made.run(4 * S)
    for _step in range(12):
        alive = sorted(made.nodes)
        for victim in (1, 2, 3, 4):
            made.agents[victim] = (rng.randrange(20, 3000), rng.random() < 0.6)
        if rng.random() < 0.5 and len(alive) > 3:
            gone = rng.choice(alive)
            made.crash(gone)
            made.cut.pop(gone, None)
            crashed = gone
            made.run(rng.randrange(4 * S))
            for node in made.nodes.values():
                if node.quorum.standing[crashed] is Standing.OUT:
                    assert crashed in made.cut, f"{crashed} is out on {node.me} and nobody has fenced it"
        else:
            for nodeid in (1, 2, 3, 4):
                if nodeid not in made.nodes and nodeid not in made.ended:
                    made.add(nodeid, seq=made.stored.get(nodeid, 0))
            made.run(rng.randrange(5 * S))
    for victim in (1, 2, 3, 4):
        made.agents[victim] = (50, True)
    made.run(40 * S)
    if any(n.quorum.quorate for n in made.nodes.values()):
        assert made.unconfirmed() == {()}
    assert not any(isinstance(e, Ended) for told in made.told.values() for e in told)
