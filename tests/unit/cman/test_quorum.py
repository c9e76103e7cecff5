"""Votes: the guide's chapters as cases, and that quorum falls by confirmation only."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cman.quorum import QuorumChange, QuorumConfig, QuorumMachine, QuorumState, Standing

FOUR = {1: 1, 2: 1, 3: 1, 4: 1}


def machine(votes: dict[int, int] | None = None, **settings: object) -> QuorumMachine:
    return QuorumMachine(1, QuorumConfig(votes or FOUR, **settings))  # type: ignore[arg-type]


def together(**settings: object) -> QuorumMachine:
    m = machine(**settings)
    m.membership((1, 2, 3, 4), ())
    return m


def test_a_majority_of_all_configured_nodes() -> None:
    m = machine()
    m.membership((1,), ())
    assert (m.quorate, m.quorum) == (False, 3)
    m.membership((1, 2), ())
    assert not m.quorate
    m.membership((1, 2, 3), ())
    assert m.quorate
    assert m.unconfirmed == (4,)


def test_loss_does_not_lower_quorum_but_its_fencing_does() -> None:
    m = together()
    m.membership((1, 2, 3), (4,))
    assert (m.quorum, m.quorate, m.unconfirmed) == (3, True, (4,))
    m.fenced(4)
    assert (m.quorum, m.unconfirmed) == (2, ())
    m.membership((1, 2), (3,))
    assert m.quorate
    m.fenced(3)
    m.membership((1,), (2,))
    assert (m.quorate, m.quorum) == (False, 2)
    m.fenced(2)
    assert (m.quorate, m.quorum) == (True, 1)


def test_three_of_four_crash_with_a_quorum_disk() -> None:
    """The guide's chapter: expected 6, then total votes 3 and quorum 2."""
    m = together(qdisk_votes=2)
    m.quorum_disk(True)
    assert (m.total_votes, m.expected_votes, m.quorum) == (6, 6, 4)
    for victim, rest in ((4, (1, 2, 3)), (3, (1, 2)), (2, (1,))):
        m.membership(rest, (victim,))
        assert m.quorate or victim == 2
        m.fenced(victim)
    assert (m.total_votes, m.quorum, m.quorate, m.expected_votes) == (3, 2, True, 6)


def test_a_lost_quorum_disk_still_counts_against_us() -> None:
    m = together(qdisk_votes=2)
    m.quorum_disk(True)
    m.quorum_disk(False)
    assert (m.total_votes, m.quorum, m.quorate) == (4, 4, True)
    m.membership((1, 2, 3), (4,))
    assert not m.quorate


def test_a_clean_leave_lowers_quorum() -> None:
    m = together()
    m.leaving(4, remove=False)
    assert m.quorum == 3
    m.membership((1, 2, 3), (4,))
    assert (m.quorum, m.unconfirmed, m.expected_votes) == (2, (), 4)


def test_leave_remove_lowers_expected_votes_too() -> None:
    m = together()
    m.leaving(4, remove=True)
    m.membership((1, 2, 3), (4,))
    assert (m.expected_votes, m.quorum) == (3, 2)
    m.leaving(3, remove=True)
    m.membership((1, 2), (3,))
    assert (m.expected_votes, m.quorum) == (2, 2)


def test_coming_back_raises_quorum_again() -> None:
    m = together()
    m.membership((1, 2, 3), (4,))
    m.fenced(4)
    m.membership((1, 2, 3, 4), ())
    assert (m.quorum, m.total_votes) == (3, 4)


def test_fencing_of_an_earlier_life_says_nothing_about_a_member() -> None:
    m = together()
    m.fenced(4)
    assert m.standing[4] is Standing.MEMBER
    assert m.quorum == 3


def test_who_comes_back_is_unconfirmed_until_it_is_known_to_have_nothing_of_before() -> None:
    m = together()
    m.membership((1, 2, 3), (4,))
    m.membership((1, 2, 3, 4), ())
    assert (m.standing[4], m.unconfirmed, m.total_votes) == (Standing.MEMBER, (4,), 4)
    m.clean(4)
    assert m.unconfirmed == ()
    m.stale(4)
    assert m.unconfirmed == (4,)
    m.clean(4)
    # A gap in one change is an absence, too; gone again, it is confirmed by fencing as ever.
    m.membership((1, 2, 3, 4), (4,))
    assert m.unconfirmed == (4,)
    m.membership((1, 2, 3), (4,))
    m.fenced(4)
    assert m.unconfirmed == ()


def test_two_nodes() -> None:
    m = machine({1: 1, 2: 1}, two_node=True)
    m.membership((1,), ())
    assert (m.quorate, m.quorum, m.unconfirmed) == (True, 1, (2,))
    m.membership((1, 2), ())
    m.membership((1,), (2,))
    assert m.quorate
    assert m.unconfirmed == (2,)


def test_the_operator_may_expect_less_but_fencing_remains() -> None:
    m = together()
    m.membership((1,), (2, 3, 4))
    assert not m.quorate
    m.set_expected(1)
    assert m.quorate
    assert m.unconfirmed == (2, 3, 4)
    for wrong in (0, 5):
        with pytest.raises(ValueError, match="expected votes"):
            m.set_expected(wrong)


def test_a_newcomer_learns_who_is_out() -> None:
    m = together()
    m.membership((1, 2), (3, 4))
    m.fenced(3)
    m.fenced(4)
    newcomer = QuorumMachine(2, QuorumConfig(FOUR))
    newcomer.membership((1, 2), ())
    assert not newcomer.quorate
    newcomer.adopt(m.state())
    assert newcomer.quorate
    assert newcomer.unconfirmed == ()
    # Who left us cleanly where the others could not see it counts as lost, as it does for them.
    newcomer.adopt(QuorumState((4,), None, ()))
    assert newcomer.unconfirmed == (3,)
    assert newcomer.standing[1] is Standing.MEMBER


def test_more_votes_for_some() -> None:
    m = machine({1: 3, 2: 1, 3: 0})
    m.membership((1, 3), ())
    assert (m.total_votes, m.quorum, m.quorate) == (3, 3, True)


def test_expected_votes_beyond_the_sum() -> None:
    m = machine(expected_votes=9)
    m.membership((1, 2, 3, 4), ())
    assert (m.quorum, m.quorate) == (5, False)


def test_changes_are_told_once() -> None:
    m = together()
    changes = [e for e in m.effects() if isinstance(e, QuorumChange)]
    assert changes == [QuorumChange(True, 4, 3, 4)]
    m.membership((1, 2, 3, 4), ())
    assert m.effects() == []


def test_new_configuration() -> None:
    m = together()
    m.reconfigure(QuorumConfig({1: 1, 2: 1, 3: 1, 5: 1}))
    assert m.standing[5] is Standing.UNKNOWN
    assert 4 not in m.standing
    assert m.quorum == 3


@pytest.mark.parametrize(("settings", "text"), [
    ({"votes": {1: -1}}, "node 1"), ({"votes": {1: 999}}, "node 1"), ({"votes": {1: 1}, "two_node": True}, "two_node"),
    ({"votes": {1: 1, 2: 2}, "two_node": True}, "two_node"), ({"votes": FOUR, "expected_votes": 0}, "expected"),
    ({"votes": {1: 1, 2: 1}, "two_node": True, "expected_votes": 2}, "expected"),
    ({"votes": {1: 1, 2: 1}, "two_node": True, "qdisk_votes": 1}, "exclude"),
    ({"votes": FOUR, "qdisk_votes": -1}, "disk")])
def test_settings_are_checked(settings: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        QuorumConfig(**settings)  # type: ignore[arg-type]


@given(st.lists(st.tuples(st.sampled_from(["go", "come", "fence"]), st.integers(2, 5)), max_size=30))
def test_quorum_falls_by_confirmation_only(steps: list[tuple[str, int]]) -> None:
    """Whatever happens, members going away never makes fewer votes enough; and without fencing two halves never both
    have quorum."""
    m = QuorumMachine(1, QuorumConfig(dict.fromkeys(range(1, 6), 1)))
    members, fenced = {1}, False
    m.membership(members, ())
    for what, node in steps:
        before = m.quorum
        if what == "go" and node in members:
            members.discard(node)
            m.membership(members, (node,))
            assert m.quorum == before
        elif what == "come":
            members.add(node)
            m.membership(members, ())
            assert m.quorum >= before
        elif what == "fence":
            fenced = fenced or node not in members
            m.fenced(node)
        if not fenced:
            assert m.quorate == (len(members) >= 3)
