"""fcntl locks of one file system: one member of the ordered group that carries them. Pure.

    requests of this node ---> out ---> group ---> delivered ---> PlockTable (all alike) ---> answers
                                        configuration: who is there

**A member that is gone without leaving** may still be at work somewhere, so nothing of it is given to anybody before
the file system is through with it: lockspace recovered (quorum, fencing) and journal replayed. From the view in which
it is missing on, all that is delivered is held back. Each member says READY for that view when its mount is through
with all who are missing; when the last of the READYs is delivered, which is one place in the order for all, the locks
of the dead are dropped and what was held back is done. What a node grants in files that it owns goes on: nobody else
can.

**A message that comes late**, between the loss of a member and the view that tells of it, may depend on what only the
lost one has seen (its own last request, granted to itself alone). It is held back like those after that view, but has
its place before the dead's locks are dropped.

**Who joins** knows nothing. The lowest of those who know says BEGIN; where that is delivered it notes its tables and
sends them in CHUNKs, the newcomer keeps what is delivered after BEGIN, and with the last CHUNK it knows as much as
everybody. A new view in between starts this again. Who has been in the group longer than all others, when none of those
who knew is left, starts with empty tables: then nobody has a lock.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgpack

from gfs2py.lock_dlm.plock_table import Local, PlockTable
from gfs2py.lock_dlm.plock_wire import (
    CHUNK_BYTES,
    Begin,
    Chunk,
    Item,
    PlockError,
    Ready,
    Release,
    Request,
    State,
    View,
    decode,
    encode,
    fill,
    unpack,
)
from gfs2py.lock_dlm.ranges import Member

HELD_MAX = 1 << 20              # items held back; each node's requests under way are limited
CHUNKS_MAX = 4096

Ordered = Request | State | Release


class Plocks:
    """One member. `local`: this node's side (gfs2py.engine._plock.FileLocks); me: as the group names it."""

    def __init__(self, me: Member, local: Local) -> None:
        self.me = me
        self.table = PlockTable(me, local)
        self.members: tuple[Member, ...] = ()
        self.view: View = (0, 0, 0)
        self.departed: tuple[Member, ...] = ()      # gone without leaving, and not dealt with
        self._elders: set[Member] | None = None     # who was here before us; None: we are not in yet
        self._knowing: set[Member] = set()          # those that are known to know everything
        self._knows = False
        self._ready: set[Member] = set()
        self._said_ready = self._said_begin = False
        # In order: items; None: this member's locks are to be dropped at this place.
        self._held: list[tuple[Member, Ordered | None]] = []
        self._late = False                          # what is held has come late, the view is about to change
        self._begun: Member | None = None           # whose CHUNKs come
        self._after: list[tuple[Member, Ordered]] = []      # delivered since BEGIN, for one who knows nothing
        self._chunks: list[bytes] = []
        self._out: list[bytes] = []
        self._requests: list[Request] = []          # of before we knew

    # -- what this node wants

    @property
    def knows(self) -> bool:
        """Whether this member takes part in decisions."""
        return self._knows

    @property
    def frozen(self) -> bool:
        return bool(self.departed)

    def request(self, r: Request) -> None:
        """A request for a file whose table this node does not have (or had not when it came)."""
        if self._knows:
            self._say(r)
        else:
            self._requests.append(r)

    def release(self, inodes: Iterable[int]) -> None:
        """Owned files that the local table has forgotten."""
        self.table.release(inodes)
        self._flush()

    def recovered(self) -> None:
        """The mount is through with all who are in `departed`."""
        if self.departed and self._knows and not self._said_ready:
            self._said_ready = True
            self._say(Ready(self.view))

    def message(self) -> bytes | None:
        """The next message for the group."""
        return fill(self._out) if self._out else None

    def _say(self, item: Item) -> None:
        self._out.append(encode(item))

    def _flush(self) -> None:
        said, self.table.out = self.table.out, []
        for item in said:
            self._say(item)

    # -- what the group says

    def configuration(self, view: View, members: Iterable[Member], joined: Iterable[Member],
                      left: Iterable[tuple[Member, bool]]) -> None:
        """Who is there from here on; `left`: with whether it left by itself."""
        self.members, self.view = tuple(sorted(members)), view
        came = set(joined)
        if self._elders is None:
            self._elders = {m for m in self.members if m != self.me and (m not in came or m < self.me)}
        self._ready.clear()
        self._said_ready = self._said_begin = False
        self._begun = None
        self._after.clear()
        self._chunks.clear()
        gone = []
        for member, in_order in left:
            self._gone(member, in_order)
            gone.append(member)
        self._knowing &= set(self.members)
        self._elders &= set(self.members)
        if not self._knows and not self._elders:
            self._learned({self.me})
            # Those who knew may have waited for somebody to be dealt with of whom we have never heard: our mount has.
            self.departed = tuple(dict.fromkeys((*self.departed, *gone)))
        self._late = False
        self._invite()

    def _gone(self, member: Member, in_order: bool) -> None:
        if not in_order:
            self.departed = (*self.departed, member)
        if self.departed or self._late:
            self._held.append((member, None))
        elif self._knows:
            self.table.drop((member,))
            self._flush()

    def _learned(self, knowing: set[Member]) -> None:
        self._knows, self._knowing = True, knowing
        waiting, self._requests = self._requests, []
        for r in waiting:
            self._say(r)

    def delivered(self, sender: Member, data: bytes, *, late: bool = False) -> None:
        """A message, of ours too. Raises PlockError when it makes no sense; what came before in it is done."""
        for item in decode(data, sender):
            self._item(sender, item, late)
        self._flush()

    def _item(self, sender: Member, item: Item, late: bool) -> None:
        match item:
            case Ready():
                if item.view == self.view and self._knows:
                    self._ready.add(sender)
                    self._thaw()
            case Begin():
                if item.view == self.view:
                    self._begin(sender)
            case Chunk():
                if item.view == self.view and sender == self._begun:
                    self._chunk(sender, item)
            case _:
                self._ordered(sender, item, late)

    def _ordered(self, sender: Member, item: Ordered, late: bool) -> None:
        if not self._knows:
            if self._begun is not None:
                self._after.append((sender, item))
            return
        if late or self.departed:
            if len(self._held) >= HELD_MAX:
                raise PlockError(f"more than {HELD_MAX} requests during a recovery")
            self._late |= not self.departed
            self._held.append((sender, item))
            return
        if self._held:
            self._release_held()        # late, and yet the view did not change
        self.table.apply(sender, item)

    def _thaw(self) -> None:
        """The dead are dropped, and what was held back is done, when all who know are ready."""
        if not self.departed or not self._knowing <= self._ready:
            return
        self.departed = ()
        self._release_held()
        self._invite()

    def _release_held(self) -> None:
        held, self._held, self._late = self._held, [], False
        problem: PlockError | None = None
        for member, item in held:
            try:
                if item is None:
                    self.table.drop((member,))
                else:
                    self.table.apply(member, item)
            except PlockError as e:
                problem = e             # and the rest is done all the same: it is, elsewhere
        self._flush()
        if problem is not None:
            raise problem

    # -- newcomers

    def _invite(self) -> None:
        if (self._knows and not self.departed and not self._said_begin and self._knowing < set(self.members)
                and self.me == min(self._knowing)):
            self._said_begin = True
            self._say(Begin(self.view))

    def _begin(self, sender: Member) -> None:
        self._begun = sender
        self._after.clear()
        self._chunks.clear()
        if sender != self.me:
            return
        self._flush()
        data = bytes(msgpack.packb(self.table.snapshot()))
        parts = [data[at:at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES)]
        for at, part in enumerate(parts, 1):
            self._say(Chunk(self.view, at == len(parts), part))

    def _chunk(self, sender: Member, item: Chunk) -> None:
        if not self._knows:
            if len(self._chunks) >= CHUNKS_MAX:
                raise PlockError(f"a state of more than {CHUNKS_MAX} parts")
            self._chunks.append(item.data)
        if not item.last:
            return
        self._begun = None
        if self._knows:
            self._knowing = set(self.members)
            return
        self.table.install(unpack(b"".join(self._chunks)))
        self._chunks.clear()
        self.departed, self._held = (), []
        after, self._after = self._after, []
        self._learned(set(self.members))
        for who, what in after:
            self.table.apply(who, what)

    # -- for people

    def waits_for(self) -> list[int]:
        """Nodes whose mount is not through with those who are gone."""
        return sorted({node for node, _ in self._knowing - self._ready}) if self.departed else []

    def counts(self) -> dict[str, int]:
        """What it is like now."""
        return {**self.table.counts(), "frozen": int(self.frozen), "held_back": len(self._held),
                "knows": int(self._knows)}

