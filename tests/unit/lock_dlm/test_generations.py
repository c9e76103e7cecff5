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


class Model:
    """Nodes that have mounted, one journal each; the value of the control lock; which journals are dirty."""

    def __init__(self, rng: random.Random, nodes: int) -> None:
        self.rng, self.generation = rng, 1
        self.nodes = {jid: Generations(started=1, mounted=1) for jid in range(nodes)}
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
        self.generation += 1
        self.running.clear()
        self.todo.clear()
        for node in self.nodes.values():
            node.stopped()
            for jid in gone:
                node.died(jid)
        self.behind = set(self.nodes)

    def step(self) -> None:
        jid = self.rng.choice(sorted(self.nodes))
        node = self.nodes[jid]
        if jid in self.behind:
            self.behind.discard(jid)
            node.recovered(self.generation)
        elif self.behind:
            pass        # the lockspace's locks are not to be had before all are through
        elif self.todo.get(jid):
            done, *rest = self.todo[jid]
            if self.rng.random() < 0.7:         # else another node was at it
                self.dirty.discard(done)
                node.replayed.add(done)
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
            if len(model.nodes) > 1 and rng.random() < 0.03:
                model.die()
            model.step()
        for _ in range(2000):
            if model.running == set(model.nodes):
                break
            model.step()
        assert model.running == set(model.nodes)
        assert model.value.pending == frozenset()
