"""Lock managers and users of locks with a planted bug each: the checkers must find all of them."""

from __future__ import annotations

import dataclasses

from dlm.core import _wire
from dlm.core._lockspace import Lockspace
from dlm.core.events import Bast, Cast, Event
from dlm.core.packets import LockMode, Message, MsgType, StatusFlag
from dlm.membership import Effect, Member, Membership
from sim.glock_user import Glock, Glocks
from sim.lock_stack import LockProcess
from sim.run_lock import Machines


class RecoversBeforeFencing(LockProcess):
    """Grants what the lost held as soon as there is quorum, whether they are dead or not."""

    def may_recover(self) -> bool:
        return self.node.quorum.quorate


class StartsAlone(Membership):
    """Starts when it is ready itself: others may still be granting by the old members."""

    def delivered(self, sender: Member, data: bytes) -> list[Effect]:
        if self.phase == "running":
            return []
        effects = super().delivered(sender, data)
        if not effects and sender == self.me and self.phase == "ready":
            return [self._start()]
        return effects


class LosesBasts(Lockspace):
    """Does not tell every holder that it is in the way."""

    basts = 0

    def take_events(self) -> list[Event]:
        events = super().take_events()
        kept = []
        for event in events:
            if isinstance(event, Bast):
                self.basts += 1
                if self.basts % 4 == 0:
                    continue
            kept.append(event)
        return kept


class TrustsVoidValues(Lockspace):
    """Does not say that a value went with the node that last wrote it."""

    def take_events(self) -> list[Event]:
        return [dataclasses.replace(e, flags=e.flags & ~StatusFlag.VALNOTVALID) if isinstance(e, Cast) else e
                for e in super().take_events()]


class MastersWhatItAsksFor(Lockspace):
    """Hears that it is the master, whoever the directory names."""

    def receive(self, nodeid: int, packet: bytes, now_ns: int) -> None:
        # The type of a lock message stands behind its header.
        if packet[14] == 1 and packet[16] == MsgType.LOOKUP_REPLY:
            got = _wire.unpack(packet)
            assert isinstance(got, Message)
            packet = _wire.pack(dataclasses.replace(got, m_nodeid=self.our_nodeid))
        super().receive(nodeid, packet, now_ns)


class KeepsItsCache(Glocks):
    """Lets the lock go, not what it read under it."""

    def _granted(self, gl: Glock, cast: Cast) -> None:
        kept = gl.cached
        super()._granted(gl, cast)
        gl.cached = kept

    def _settle(self, gl: Glock, mode: int) -> None:
        kept = gl.cached
        super()._settle(gl, mode)
        gl.cached = kept


class FlushesTooLate(Glocks):
    """Lets the lock go before what it wrote is on the disk."""

    def _settle(self, gl: Glock, mode: int) -> None:
        dirty, gl.dirty = gl.dirty, False
        version = gl.cached
        super()._settle(gl, mode)
        if dirty and version is not None:
            self.world.flush(self.me, gl.name, version)


class ForgetsWhatWasLost(LockProcess):
    """After a broken connection it goes on with what is new."""

    def stream_broken(self, port: str, peer: int, now_ns: int) -> None:
        super().stream_broken(port, peer, now_ns)
        self.links[peer].retry_ns = None


class HonoursNobody(Glocks):
    """Keeps what it has, whoever asks."""

    def _bast(self, gl: Glock, wanted: int, now_ns: int) -> None:
        if wanted == LockMode.EX and gl.mode == LockMode.EX:
            return
        super()._bast(gl, wanted, now_ns)


MUTANTS = {
    "recovers before fencing": Machines(process=RecoversBeforeFencing),
    "starts alone": Machines(membership=StartsAlone),
    "loses basts": Machines(space=LosesBasts),
    "trusts void values": Machines(space=TrustsVoidValues),
    "two masters": Machines(space=MastersWhatItAsksFor),
    "keeps its cache": Machines(glocks=KeepsItsCache),
    "flushes too late": Machines(glocks=FlushesTooLate),
    "forgets what was lost": Machines(process=ForgetsWhatWasLost),
    "honours nobody": Machines(glocks=HonoursNobody),
}
