"""Phases of a recovery against their budgets: the machine alone, and in NodeMachines on a small network."""

from __future__ import annotations

import pytest
from node_net import MS, Net

from cman.facts import node_facts, statistics
from cman.node import Asked, Log, Told
from cman.recovery import RECORDS_MAX, WORDS, Budgets, Phase, Recoveries, budgets, views

S = 1000 * MS


class Play:
    """One loss of web2 (node 1) in ring 20; times in ms."""

    def __init__(self, *parts: tuple[int, str]) -> None:
        self.made = Recoveries(Budgets(), lambda nodeid: f"the agent of {nodeid}")
        self.now = 0
        self.made.lost(1, "web2", 20, 9_000 * MS, 9_550 * MS, 10_000 * MS, 77)
        for client, group in parts:
            self.made.part(client, group, [1])
        self.at(10_000)

    def at(self, ms: int) -> None:
        self.now = ms * MS
        self.made.handle_timer(self.now)

    def confirm(self, quorate: bool = True, unconfirmed: tuple[int, ...] = ()) -> None:
        self.made.look(unconfirmed, quorate, self.now)

    def report(self, client: int, group: str, phase: Phase, done: bool = True, generation: int = 20,
               detail: str = "") -> None:
        self.made.report(client, group, generation, phase, done, detail, self.now)

    def lines(self) -> list[str]:
        return [line.text for line in self.made.effects()]

    def warnings(self) -> list[str]:
        return [line.text for line in self.made.effects() if line.warning]


def test_one_line_at_the_end_says_what_each_phase_took() -> None:
    play = Play((7, "dlm:my-gfs2"))
    assert play.lines() == ["recovery from the loss of \"web2\": detection 0.55 s, eviction 0.45 s; fence begins "
                            "(budget 2.0 s)"]
    play.at(10_400)
    play.confirm()
    for ms, phase in ((10_600, Phase.DLM), (10_900, Phase.JOURNAL), (10_950, Phase.RESUME)):
        play.at(ms)
        play.report(7, "dlm:my-gfs2", phase)
    assert play.lines() == [
        "recovery from the loss of \"web2\": fence ended after 0.40 s; dlm begins (budget 0.5 s)",
        "recovery from the loss of \"web2\": dlm ended after 0.20 s; journal begins (budget 1.0 s)",
        "recovery from the loss of \"web2\": journal ended after 0.30 s; resume begins (budget 0.5 s)",
        "recovered from the loss of \"web2\" in 1.9 s: detection 0.6 eviction 0.5 fence 0.4 dlm 0.2 journal 0.3 "
        "resume 0.1"]
    (done,) = play.made.history
    assert (done.nodeid, done.wall_s, done.total_ms) == (1, 77, 1950)
    assert list(done.phases_ms.values()) == [550, 450, 400, 200, 300, 50]
    assert play.made.counts == {"losses": 1, "recovered": 1, "over_budget": 0}
    assert (play.made.open, play.made.next_timer()) == ({}, None)


def test_a_phase_ends_with_its_slowest_part() -> None:
    play = Play((7, "dlm:a"), (8, "dlm:b"))
    play.confirm()
    play.report(7, "dlm:a", Phase.RESUME)           # nothing stands on this lockspace
    assert play.made.open[1].phase is Phase.DLM
    play.report(8, "dlm:b", Phase.DLM)
    assert play.made.open[1].phase is Phase.JOURNAL
    play.report(8, "dlm:b", Phase.DLM)              # again, or late: nothing goes back
    assert play.made.open[1].phase is Phase.JOURNAL
    play.made.part_gone(8, None, play.now)          # its process has ended
    assert not play.made.open


def test_nobody_here_has_anything_to_recover() -> None:
    play = Play()
    play.at(10_400)
    play.confirm()
    assert play.lines()[-1].endswith("fence 0.4 dlm 0.0 journal 0.0 resume 0.0")


def test_a_loss_is_not_over_without_quorum_or_fencing() -> None:
    play = Play()
    play.confirm(quorate=False)
    play.confirm(unconfirmed=(1,))
    assert play.made.open[1].phase is Phase.FENCE


def test_what_was_said_before_the_loss_does_not_count() -> None:
    play = Play((7, "dlm:a"))
    play.confirm()
    play.report(7, "dlm:a", Phase.RESUME, generation=19)
    play.report(8, "dlm:a", Phase.RESUME)           # not one of the parts
    assert play.made.open[1].phase is Phase.DLM
    play.report(7, "dlm:a", Phase.RESUME, generation=21)
    assert not play.made.open


def test_over_budget_is_told_with_what_it_waits_for_and_again_when_twice_as_old() -> None:
    play = Play((7, "dlm:a"))
    play.lines()
    play.at(11_999)
    assert not play.lines()
    play.at(12_000)
    assert play.warnings() == ["recovery from the loss of \"web2\": fence takes longer than its budget of 2.0 s, 2.0 s "
                               "so far: waits for the agent of 1"]
    play.at(13_999)
    assert not play.lines()
    play.at(14_500)
    assert len(play.warnings()) == 1
    assert play.made.next_timer() == 19_000 * MS    # begun at 10 s, 4.5 s old
    play.confirm()
    play.report(7, "dlm:a", Phase.JOURNAL, done=False, detail="journal 3 on another node")
    play.lines()
    play.at(15_600)
    assert play.warnings() == ["recovery from the loss of \"web2\": journal takes longer than its budget of 1.0 s, 1.1 "
                               "s so far: waits for a: journal 3 on another node"]
    assert play.made.counts["over_budget"] == 2


def test_slow_detection_is_told_afterwards() -> None:
    made = Recoveries(Budgets(detection=100, eviction=1000), lambda nodeid: "")
    made.lost(1, "web2", 20, 0, 150 * MS, 200 * MS, 0)
    assert [x.text for x in made.effects() if x.warning] == [
        "recovery from the loss of \"web2\": detection took 0.15 s, budget 0.10 s"]


def test_a_node_that_is_lost_again_keeps_who_has_to_recover() -> None:
    play = Play((7, "dlm:a"))
    play.made.lost(1, "web2", 30, 12_000 * MS, 12_500 * MS, 13_000 * MS, 80)
    assert (list(play.made.open), play.made.open[1].generation) == ([1], 30)
    assert list(play.made.open[1].parts) == [(7, "dlm:a")]
    (view,) = views(play.made, 13_700 * MS)
    assert (view["phase"], view["phase_ms"], view["total_ms"], view["budget_ms"]) == ("fence", 700, 1700, 2000)


def test_limits() -> None:
    made = Recoveries(Budgets(), lambda nodeid: "")
    for nodeid in range(RECORDS_MAX + 5):
        made.lost(nodeid, f"n{nodeid}", 1, 0, 0, 0, 0)
    assert len(made.open) == RECORDS_MAX
    assert budgets(550, 150, 500, 3) == Budgets(detection=850, eviction=700, fence=5000)
    assert WORDS["journal"] is Phase.JOURNAL


@pytest.fixture
def net() -> Net:
    made = Net(1, 2, 3)
    made.run(3000)
    return made


def recovery_lines(net: Net, nodeid: int) -> list[str]:
    return [e.text for e in net.told[nodeid] if isinstance(e, Log) and e.part == "RECOVERY"]


def test_nodes_time_the_loss_of_a_member(net: Net) -> None:
    for nodeid in (1, 2, 3):
        net.nodes[nodeid].join_group("dlm:my-gfs2", 100 + nodeid, net.now)
        net.drain(nodeid)
    net.nodes[2].join_group("gfs2:locks:my-gfs2", 102, net.now)     # no lockspace: nothing to recover there
    net.run(1000)
    del net.nodes[3]
    net.run(3000)
    (record,) = net.nodes[1].recoveries.open.values()
    assert (record.phase, list(record.parts)) == (Phase.FENCE, [(101, "dlm:my-gfs2")])
    timers, limits = net.nodes[1].config.totem, net.nodes[1].recoveries.limits
    assert timers.token_ms <= record.took_ns(Phase.DETECTION) / MS <= limits.detection
    assert timers.consensus_ms - 100 <= record.took_ns(Phase.EVICTION) / MS <= limits.eviction
    facts = node_facts(net.nodes[1], net.now)
    assert [r["phase"] for r in facts["recoveries"]] == ["fence"]
    assert ("Mysql2", True, ["WTI-Fence"]) in [(v["name"], v["lost"], v["devices"]) for v in facts["victims"]]
    net.control(2, t="fenced", node=3, by="fence_wti")
    for nodeid, node in net.nodes.items():
        assert node.recoveries.open[3].phase is Phase.DLM
        generation = node.recoveries.open[3].generation
        node.report(100 + nodeid, "dlm:my-gfs2", generation - 1, Phase.RESUME, True, "", net.now)
        assert node.recoveries.open
        node.report(100 + nodeid, "dlm:my-gfs2", generation, Phase.RESUME, True, "", net.now)
        net.drain(nodeid)
        assert recovery_lines(net, nodeid)[-1].startswith("recovered from the loss of \"Mysql2\" in ")
        assert statistics(node, net.now)["recovery"]["recovered"] == 1
    assert node_facts(net.nodes[1], net.now)["history"][0]["name"] == "Mysql2"


def test_a_clean_leave_is_none(net: Net) -> None:
    net.control(3, t="leave", remove=False)
    net.run(2000)
    assert not net.nodes[1].recoveries.open
    assert not recovery_lines(net, 1)


def test_who_leaves_the_lockspace_meanwhile_is_not_waited_for(net: Net) -> None:
    net.nodes[1].join_group("dlm:a", 7, net.now)
    net.nodes[3].join_group("dlm:a", 9, net.now)
    net.run(500)
    assert net.nodes[1].groups.groups()["dlm:a"][1].node == 3
    del net.nodes[3]
    net.run(3000)
    assert list(net.nodes[1].recoveries.open[3].parts) == [(7, "dlm:a")]
    net.nodes[1].leave_group("dlm:a", 7, net.now)
    net.run(500)
    assert not net.nodes[1].recoveries.open[3].parts


def test_a_question_to_the_members_and_their_answers(net: Net) -> None:
    net.control(1, t="why", number=5)
    for nodeid in (1, 2, 3):
        assert [e for e in net.told[nodeid] if isinstance(e, Asked)] == [Asked(1, 5)]
    net.nodes[2].say_facts(1, 5, {"nodeid": 2, "waits": ["x"]}, net.now)
    net.drain(2)
    net.run(500)
    assert [e for e in net.told[1] if isinstance(e, Told)] == [Told(2, 5, {"nodeid": 2, "waits": ["x"]})]
    assert not [e for e in net.told[3] if isinstance(e, Told)]
    with pytest.raises(ValueError, match="at most"):
        net.nodes[2].say_facts(1, 5, {"long": "x" * (1 << 20)}, net.now)
    net.nodes[2].control(net.now, t="facts", to=1, number="x", facts=7)         # nonsense: nobody is told anything
    net.drain(2)
    net.run(500)
    assert len([e for e in net.told[1] if isinstance(e, Told)]) == 1
