"""Which blocks may be written after a damage, and whether others were.

A volume may write: blocks that are free, by the bitmaps as they stand; the system files and all resource groups;
what belongs to the inodes of /w, in which the workload works; and, because damage decides what a block means,
everything that can be reached from a changed block, taking each number in it that could be a block's for one.
With a journal to replay also what its descriptors name. Where damage hits what gives all else its meaning
(superblock, rindex, a journal), only the superblock is left to be watched.
"""

from __future__ import annotations

from gfs2py.block import RecordingDevice
from hostile.mutate import Damage
from hostile.sites import Map, words


class Rule:
    """The blocks that may be written by a mount that works (`may`) and by one that only reads (`replay`)."""

    def __init__(self, damage: Damage) -> None:
        base = damage.base
        self.map = m = base.map
        self.before = base.after
        changed = damage.blocks()
        self.weak = bool(damage.size_bytes or changed & (m.rindex | m.journal | base.after.rindex))
        self.replay: set[int] = set()
        if base.dirty:
            self.replay = m.log_words | m.system | base.after.system
        self.may: set[int] = set()
        if self.weak:
            return
        roots = set(changed)
        states = bytearray(m.states)
        dev = damage.device()
        more: dict[int, set[int]] = {}
        for block in changed:
            raw = dev.read(block * m.bsize, m.bsize)
            more[block] = words(raw, m.blocks)
            if block in m.bitmaps:
                m.states_of(raw, block, states)
        if states != m.states:
            roots.update(b for b in range(m.blocks) if states[b] != m.states[b])
        self.states = states
        self.may = closure(roots, base.edges, more) | m.work | m.system | m.rgrp_blocks
        if base.dirty:
            self.may |= base.after.work | base.after.system | self.replay

    def free(self, block: int) -> bool:
        return not self.states[block] or (self.map is not self.before and not self.before.states[block])

    def broken(self, rec: RecordingDevice, *, reading: bool) -> str | None:
        """The first write that must not be, in words."""
        m = self.map
        for epoch in range(rec.epochs + 1):
            for w in rec.pending(epoch):
                what = "discards" if w.discard else "writes"
                if w.off < 65536 + m.bsize:
                    return f"{what} {w.length} bytes at {w.off}: the superblock or before it"
                if self.weak:
                    continue
                for block in range(w.off // m.bsize, (w.off + w.length - 1) // m.bsize + 1):
                    if reading and block not in self.replay:
                        return f"{what} block {block} ({self.owner(block)}) in a mount that only reads"
                    if not reading and block not in self.may and not self.free(block):
                        return f"{what} block {block} ({self.owner(block)})"
        return None

    def owner(self, block: int) -> str:
        for which in (self.map, self.before):
            for addr, blocks in which.owned.items():
                if block in blocks:
                    return f"of {which.names[addr] or 'the master directory'}"
        return "the journal's" if block in self.map.journal else "nobody's"


def closure(roots: set[int], edges: dict[int, list[int]], more: dict[int, set[int]]) -> set[int]:
    """All blocks that can be reached."""
    seen, todo = set(roots), list(roots)
    while todo:
        block = todo.pop()
        new = (more.get(block, set()) | set(edges.get(block, ()))) - seen
        seen |= new
        todo += new
    return seen


def world(m: Map) -> set[int]:
    """What no mount may touch without need: everything that is neither free nor the system's nor the workload's."""
    return {b for b in range(m.blocks) if m.states[b]} - m.work - m.system - m.rgrp_blocks
