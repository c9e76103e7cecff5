"""The power-off campaign (tests/poweroffs): its plan draws what the votes allow, its judge finds what is lost, torn;
and a share of it with real nodes: the rest runs by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from poweroffs import campaign
from poweroffs.campaign import topology
from poweroffs.judge import bounds, version
from poweroffs.plan import KINDS, keeps_quorum, rounds
from poweroffs.things import Ledger, Wrong, block, content, pattern, size_of

SHARE = ("again", "blocked", "mounting", "daemon")


def test_the_plan_is_what_it_says() -> None:
    """The same seed gives the same rounds; nobody dies in a way that the votes do not allow."""
    votes = {n.name: n.votes for n in topology().nodes}
    first = [next(r) for r in [rounds(7, votes)] for _ in range(60)]
    assert first == [next(r) for r in [rounds(7, votes)] for _ in range(60)]
    assert {r.kind for r in first} == set(KINDS) - {"three"}
    for r in first:
        assert r.kind == "all" or keeps_quorum(votes, r.victims) == (r.kind != "blocked"), r
        assert len(set(r.victims)) == len(r.victims)
    room = topology(qdisk=True)
    votes, disk = {n.name: n.votes for n in room.nodes}, room.qdisk_votes
    once = list(rounds(7, votes, disk=disk, once=True))
    assert sorted(r.kind for r in once) == sorted(set(KINDS) - {"blocked"})
    assert all(r.kind == "all" or keeps_quorum(votes, r.victims, disk) for r in once)


def test_the_judge_finds_what_is_lost_and_torn() -> None:
    """For each kind: the versions that may be there pass, older, newer and damaged ones do not."""
    for kind, whole in (("blocks", lambda v: block("web1", "blocks", 0, v)),
                        ("register", lambda v: content("web1", "register", 0, v)),
                        ("files", lambda v: content("web1", "files", 0, v) if v % 2 else None),
                        ("moves", lambda v: (v % 2 == 0, v % 2 == 1)),
                        ("size", lambda v: (size_of("web1", v), -1, -1)),
                        ("attribute", lambda v: v), ("log", lambda v: v)):
        assert version(kind, "web1", 0, whole(5), 5, 5) == 5
        assert version(kind, "web1", 0, whole(6), 5, 6) == 6
        for found, low, high in ((4, 5, 5), (3, 4, 4), (6, 5, 5)):
            if whole(found) not in [whole(v) for v in range(low, high + 1)]:
                with pytest.raises(Wrong):
                    version(kind, "web1", 0, whole(found), low, high)
    torn = block("web1", "blocks", 0, 6)[:512] + block("web1", "blocks", 0, 5)[512:]
    with pytest.raises(Wrong):
        version("blocks", "web1", 0, torn, 5, 6)
    with pytest.raises(Wrong):
        version("register", "web1", 0, content("web1", "register", 0, 6)[:-1], 5, 6)
    assert pattern(3, 100) == pattern(0, 100)[3:]


def test_what_a_new_life_takes_back_may_have_been_there(tmp_path: Path) -> None:
    """A file that was being made, seen just before its owner's new life removed it: not one that should be gone."""
    Ledger.create(tmp_path / "notes")
    ledger = Ledger(tmp_path / "notes")
    ledger.begin("files", 3, 36)
    ledger.done("files", 3, 36)
    ledger.begin("files", 3, 37)
    before = {"web1": ledger.copy()}
    ledger.settle("files", 3, 36)
    after = {"web1": ledger.copy()}
    assert version("files", "web1", 3, b"", *bounds("files", "web1", 3, before, after)) == 37
    with pytest.raises(Wrong):
        version("files", "web1", 3, b"", *bounds("files", "web1", 3, after, after))


@pytest.mark.mount
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_power_offs(seed: int) -> None:
    """Two nodes die while the others are recovering the first, two and quorum with them, one in its own mount, one
    gfs2d alone: after each everybody works, everything that was synced is there, and both checkers are silent."""
    tally = campaign.run(seed, 100, print, kinds=SHARE, once=True)
    assert (tally.rounds, tally.power_offs, tally.daemons) == (4, 5, 1)
