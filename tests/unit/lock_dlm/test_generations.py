"""The agreement on journals to replay: its layout, and no node goes on while one is left, whatever the order."""

from __future__ import annotations

import random

import pytest

from gfs2py.lock_dlm.generations import JIDS_MAX, VALUE_BYTES, ControlValue, Generations


def test_layout() -> None:
    """As kernel nodes read it: le32, four unused bytes, bits from byte 8 on."""
    packed = ControlValue(0x01020304, frozenset({0, 9, JIDS_MAX - 1})).pack()
    assert packed == bytes([4, 3, 2, 1, 0, 0, 0, 0, 1, 2]) + bytes(VALUE_BYTES - 11) + b"\x80"
    assert ControlValue.unpack(packed) == ControlValue(0x01020304, frozenset({0, 9, JIDS_MAX - 1}))
    assert ControlValue.unpack(None) == ControlValue.unpack(bytes(32)) == ControlValue()
    with pytest.raises(ValueError, match="32 bytes"):
        ControlValue.unpack(b"short")
    with pytest.raises(ValueError, match="beyond"):
        Generations().died(JIDS_MAX)


def test_a_newcomer_waits_for_its_generation_and_for_replays() -> None:
    known = Generations()
    assert known.recovering
    known.recovered(7)
    assert "take note of this one" in (known.why_not_yet(ControlValue(6)) or "")
    assert "journal 2, 5" in (known.why_not_yet(ControlValue(7, frozenset({5, 2}))) or "")
    assert known.why_not_yet(ControlValue(7)) is None
    known.stopped()
    assert "recovery" in (known.why_not_yet(ControlValue(7)) or "")
    known.recovered(8)
    assert "change of members" in (known.why_not_yet(ControlValue(7)) or "")


def test_a_replay_says_nothing_of_later_deaths() -> None:
    """A node found journal 3 clean and had no chance to say so; another one did, a node mounted with it and died."""
    slow = Generations(started=4, mounted=1)
    slow.stopped()
    slow.died(3)
    slow.recovered(5)
    slow.is_replayed(3, slow.deaths.get(3))
    slow.stopped()
    slow.recovered(6)                       # that node comes
    begun = slow.deaths.get(3)              # a replay of the first death may even end only now
    slow.stopped()
    slow.died(3)
    slow.is_replayed(3, begun)
    slow.recovered(7)
    told = ControlValue(7, frozenset({3}))  # by who was the first to look
    assert slow.look(told).replay == (3,)
    slow.is_replayed(3, slow.deaths.get(3))
    assert slow.look(told).write == ControlValue(7)


class Model:
    """Nodes that have mounted, one journal each; the value of the control lock; which journals are dirty.

    Journals are taken again by nodes that come, which wait for their turn to mount. A replay that is through may be
    noted late, behind further deaths and mounts.
    """

    def __init__(self, rng: random.Random, nodes: int) -> None:
        self.rng, self.generation = rng, 1
        self.journals = nodes
        self.nodes = {jid: Generations(started=1, mounted=1) for jid in range(nodes)}
        self.coming: dict[int, Generations] = {}
        self.through: dict[int, tuple[int, int | None]] = {}     # by whom: a replay that is to be noted
        self.value = ControlValue(1)
        self.dirty: set[int] = set()
        self.running = set(self.nodes)          # those whose grants flow
        self.todo: dict[int, tuple[int, ...]] = {}
        self.behind: set[int] = set()           # the lockspace's recovery is not through there yet

    def die(self) -> None:
        gone = self.rng.sample(sorted(self.nodes), self.rng.randrange(1, len(self.nodes)))
        for jid in gone:
            del self.nodes[jid]
            self.dirty.add(jid)
            self.todo.pop(jid, None)
            self.through.pop(jid, None)
        for jid in (jid for jid in sorted(self.coming) if self.rng.random() < 0.2):
            del self.coming[jid]
            gone.append(jid)                    # with nothing in its journal yet, which nobody else knows
        self.recover(gone)

    def come(self) -> None:
        free = [jid for jid in range(self.journals) if jid not in self.nodes and jid not in self.coming]
        if free:
            self.coming[self.rng.choice(free)] = Generations()
            self.recover([])

    def recover(self, gone: list[int]) -> None:
        self.generation += 1
        self.running.clear()
        for node in (*self.nodes.values(), *self.coming.values()):
            node.stopped()
            for jid in gone:
                node.died(jid)
        self.behind = {*self.nodes, *self.coming}

    def step(self) -> None:
        jid = self.rng.choice(sorted({*self.nodes, *self.coming}))
        node = self.nodes.get(jid) or self.coming[jid]
        if jid in self.through and self.rng.random() < 0.3:
            node.is_replayed(*self.through.pop(jid))
        elif jid in self.behind:
            self.behind.discard(jid)
            node.recovered(self.generation)
        elif self.behind or jid in self.through:
            pass        # the lockspace's locks are not to be had before all are through
        elif jid in self.coming:
            if node.why_not_yet(self.value) is None:
                node.forget()
                self.nodes[jid] = self.coming.pop(jid)
                self.running.add(jid)
                assert not self.dirty, f"node {jid} mounts while {self.dirty} wait for their replay"
        elif self.todo.get(jid):
            done, *rest = self.todo[jid]
            if done not in self.nodes and self.rng.random() < 0.7:      # else another node has that journal
                self.dirty.discard(done)
                self.through[jid] = done, node.deaths.get(done)
            self.todo[jid] = tuple(rest)
        elif jid not in self.running:
            look = node.look(self.value)
            self.value = look.write or self.value
            self.todo[jid] = look.replay
            if not look.replay:
                self.running.add(jid)
                assert not self.dirty, f"node {jid} goes on while {self.dirty} wait for their replay"


@pytest.mark.parametrize("part", range(20))
def test_nobody_goes_on_too_early_and_all_do_in_the_end(seed: int, part: int) -> None:
    for n in range(50):
        rng = random.Random(f"{seed} {part} {n}")
        model = Model(rng, rng.randrange(2, 7))
        for _ in range(rng.randrange(1, 200)):
            if len(model.nodes) > 1 and rng.random() < 0.05:
                model.die()
            if rng.random() < 0.05:
                model.come()
            model.step()
        for _ in range(5000):
            if model.running == set(model.nodes) and not model.coming:
                break
            model.step()
        assert model.running == set(model.nodes)
        assert not model.coming
        assert model.value.pending == frozenset()
