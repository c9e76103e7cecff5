"""Which journals wait for their replay, agreed on by all nodes that have the file system mounted. Pure.

Every change of the lockspace's members has a generation. The value of the control lock says which generation the
mounted nodes have dealt with, and which journals (jids) nobody has replayed yet:

    bytes 0-3   generation, little-endian
    bytes 4-7   unused
    bytes 8-31  one bit per jid

A node dies in generation g. Every survivor notes its jid (its slot - 1) when the lockspace recovers, and when that is
through takes the control lock: the first one finds a value older than the new generation and writes the jids into it;
all try to replay them, and whoever has done it, or found it done, clears the bit. No bit, and a value as new as the
lockspace: locking may go on. A value that is older than what a node has seen was written by nobody who knows of the
last death, so nothing can be concluded from it.

The layout and the rules are those of kernel nodes, which may be among us. Source for the behaviour: fs/gfs2/lock_dlm.c
(gfs2_control_func, control_mount, control_first_done, gdlm_recover_*), kernel 6.1.
"""

from __future__ import annotations

from dataclasses import dataclass, field

VALUE_BYTES = 32
_BITS_AT = 8
JIDS_MAX = (VALUE_BYTES - _BITS_AT) * 8
# A generation that no lockspace has: somebody wants no mounts.
DISABLED = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class ControlValue:
    """What the control lock's value says."""

    generation: int = 0
    pending: frozenset[int] = frozenset()

    @classmethod
    def unpack(cls, value: bytes | None) -> ControlValue:
        """None or an all-zero value: nobody has written one."""
        if value is None:
            return cls()
        if len(value) != VALUE_BYTES:
            raise ValueError(f"a control lock's value has {VALUE_BYTES} bytes, not {len(value)}")
        bits = int.from_bytes(value[_BITS_AT:], "little")
        return cls(int.from_bytes(value[:4], "little"),
                   frozenset(jid for jid in range(JIDS_MAX) if bits >> jid & 1))

    def pack(self) -> bytes:
        bits = sum(1 << jid for jid in self.pending)
        return (self.generation.to_bytes(4, "little") + bytes(_BITS_AT - 4)
                + bits.to_bytes(VALUE_BYTES - _BITS_AT, "little"))


@dataclass(frozen=True, slots=True)
class Step:
    """What comes of a look at the control lock's value, which is held EX.

    write: the value to leave behind, None for the one that is there. replay: these journals are to be tried now.
    """

    write: ControlValue | None
    replay: tuple[int, ...]


@dataclass(slots=True)
class Generations:
    """What this node knows of the lockspace's recoveries and of journals."""

    blocked_at: int = 0         # the generation in which the recovery under way (or the last one) began
    started: int = 0            # the generation of the last one that is through
    mounted: int = 0            # of the first one: before it this node was not there
    deaths: dict[int, int] = field(default_factory=dict)        # jid -> the generation in which its node died
    replayed: set[int] = field(default_factory=set)             # done, or found done, by this node

    @property
    def recovering(self) -> bool:
        """Between the stop of the lockspace and the end of its recovery; also before the first one."""
        return self.blocked_at == self.started

    def stopped(self) -> None:
        self.blocked_at = self.started

    def died(self, jid: int) -> None:
        """The node with this journal is gone. Raises ValueError for a jid that the value has no bit for."""
        if not 0 <= jid < JIDS_MAX:
            raise ValueError(f"journal {jid} is beyond the {JIDS_MAX} that can be told of")
        self.deaths[jid] = self.blocked_at
        self.replayed.discard(jid)      # that was for an earlier one, and somebody has mounted with this journal since

    def is_replayed(self, jid: int, death: int | None) -> None:
        """A replay is through. death: deaths.get(jid) when it began; what has died since then is not replayed by it."""
        if self.deaths.get(jid) == death:
            self.replayed.add(jid)

    def recovered(self, generation: int) -> None:
        self.started = generation
        if not self.mounted:
            self.mounted = generation

    def forget(self) -> None:
        """All journals are known to be clean."""
        self.deaths.clear()
        self.replayed.clear()

    def why_not_yet(self, value: ControlValue) -> str | None:
        """Why this node, which is not the first, may not use the file system yet; None: it may."""
        if value.pending:
            return f"waiting for the replay of journal {', '.join(map(str, sorted(value.pending)))}"
        if value.generation < self.mounted:
            return (f"waiting for the mounted nodes to take note of this one (generation {value.generation}, wanted "
                    f"{self.mounted})")
        if value.generation != self.started:
            return (f"waiting for the mounted nodes to take note of a change of members (generation "
                    f"{value.generation}, wanted {self.started})")
        if self.recovering:
            return "waiting for the recovery of the lockspace"
        return None

    def look(self, value: ControlValue) -> Step:
        """After a recovery, or after a replay: what to write and which journals to replay."""
        assert not self.recovering
        pending = set(value.pending)
        write = False
        if value.generation <= self.started:
            write = bool(pending & self.replayed)
            pending -= self.replayed
            self.replayed.clear()
        if value.generation == self.started:
            # Those who died earlier are in the value already, or were and are done with.
            self.deaths = {jid: g for jid, g in self.deaths.items() if g >= value.generation}
        elif value.generation < self.started:
            pending |= {jid for jid, g in self.deaths.items() if g < self.started}
            self.deaths = {jid: g for jid, g in self.deaths.items() if g >= self.started}
            write = True        # if only to say that this generation has been dealt with
        # A newer value: the end of that recovery is about to be told here as well.
        new = ControlValue(self.started, frozenset(pending)) if write else None
        return Step(new, tuple(sorted(pending)))
