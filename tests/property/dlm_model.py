"""One resource and its queues by the book, slowly: what the compiled rules are compared with.

Written from the rules (VAXcluster Principles, chapter 6, the extensions of the kernel's DLM, and ours: conversions from
NL take their turn among new requests), not from the engine.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from dlm.core.packets import Flag, LockMode

ORDER = ["NL", "CR", "CW", "PR", "PW", "EX"]
#         NL CR CW PR PW EX
TABLE = ["++++++",   # NL
         "+++++-",   # CR
         "+++---",   # CW
         "++-+--",   # PR
         "++----",   # PW
         "+-----"]   # EX
IV, NL, PR, CW, EX = LockMode.IV, LockMode.NL, LockMode.PR, LockMode.CW, LockMode.EX


def compat(granted: int, asked: int) -> bool:
    return granted == IV or TABLE[granted][asked] == "+"


@dataclass
class Entry:
    number: int
    flags: int
    asked: int
    granted: int = IV
    highbast: int = 0
    came: int = 0


@dataclass
class Resource:
    grant: list[Entry] = field(default_factory=list)
    convert: list[Entry] = field(default_factory=list)
    wait: list[Entry] = field(default_factory=list)
    # (number, what): "granted MODE", "bast MODE", "again", "deadlock", "cancelled", "unlocked"
    told: list[tuple[int, str]] = field(default_factory=list)
    clock: int = 0

    def tell(self, e: Entry, what: str) -> None:
        self.told.append((e.number, what))

    # ---- the rule

    def free(self, e: Entry) -> bool:
        return all(o is e or compat(o.granted, e.asked) for o in [*self.grant, *self.convert])

    def request_first(self) -> bool:
        """All conversions are from NL and came after the first new request."""
        return bool(self.wait) and all(c.granted == NL and c.came > self.wait[0].came for c in self.convert)

    def may(self, e: Entry, now: bool) -> bool:
        if e.flags & Flag.EXPEDITE:
            return True
        if not self.free(e):
            return False
        if e.granted != IV:
            return self.may_convert(e, now)
        if e.flags & Flag.NOORDER:
            return True
        if now:
            return not self.convert and not self.wait
        return self.wait[0] is e and self.request_first()

    def may_convert(self, e: Entry, now: bool) -> bool:
        if now and e.flags & Flag.QUECVT:
            return not self.convert and (not self.wait or e.granted != NL or bool(e.flags & Flag.NOQUEUE))
        if now or e.flags & Flag.NOORDER:
            return True
        if self.convert[0] is not e:
            return False
        return not (self.request_first() and (e.flags & Flag.QUECVT or self.may(self.wait[0], False)))

    def deadlocks(self, e: Entry) -> bool:
        at = self.convert.index(e) if e in self.convert else len(self.convert)
        ahead = any(not compat(e.granted, o.asked) for o in self.convert[:at])
        behind = any(not compat(e.granted, o.asked) and not compat(o.granted, e.asked) for o in self.convert[at + 1:])
        return ahead or behind

    def try_grant(self, e: Entry, now: bool) -> str:
        """"yes", "no", "deadlock" or "demoted"; with ALTPR and ALTCW what is asked for may change."""
        if self.may(e, now):
            return "yes"
        if e.granted != IV and not e.flags & Flag.NOQUEUE and self.deadlocks(e):
            if e.flags & Flag.CONVDEADLK:
                e.granted = LockMode.NL
                return "demoted"
            return "deadlock"
        for flag, mode in ((Flag.ALTPR, PR), (Flag.ALTCW, CW)):
            if e.flags & flag and e.asked != mode:
                before, e.asked = e.asked, mode
                if self.may(e, now):
                    return "yes"
                e.asked = before
                break
        return "no"

    # ---- moving

    def give(self, e: Entry) -> None:
        for queue in (self.grant, self.convert, self.wait):
            if e in queue:
                queue.remove(e)
        e.granted, e.asked, e.highbast = e.asked, IV, 0
        self.grant.append(e)
        self.tell(e, f"granted {ORDER[e.granted]}")

    def enqueue(self, queue: list[Entry], e: Entry) -> None:
        self.clock += 1
        e.came = self.clock
        queue.insert(0 if e.flags & Flag.HEADQUE else len(queue), e)

    def pending(self) -> None:
        granted = True
        while granted:
            blocked = self.pending_conversions()
            granted = False
            for e in list(self.wait):
                if self.try_grant(e, False) == "yes":
                    self.give(e)
                    granted = True
                else:
                    blocked.append(e)
        if not blocked:
            return
        high, cw = max(e.asked for e in blocked), any(e.asked == CW for e in blocked)
        for e in self.grant:
            if e.granted == PR and cw:
                if e.highbast < EX:
                    self.tell(e, f"bast {ORDER[CW if high == PR else high]}")
                    e.highbast = high
            elif e.highbast < high and not compat(e.granted, high):
                self.tell(e, f"bast {ORDER[high]}")
                e.highbast = high

    def warn(self, e: Entry, queues: list[list[Entry]]) -> None:
        for o in [x for q in queues for x in q if x is not e]:
            middle = {o.granted, e.asked} == {PR, CW}
            if (middle and o.highbast < EX) or (not middle and o.highbast < e.asked
                                                and not compat(o.granted, e.asked)):
                self.tell(o, f"bast {ORDER[e.asked]}")
                o.highbast = e.asked

    # ---- operations

    def request(self, number: int, mode: int, flags: int) -> None:
        e = Entry(number, flags, mode)
        if self.try_grant(e, True) == "yes":
            self.give(e)
            if flags & Flag.NOORDER:
                self.pending()
        elif flags & Flag.NOQUEUE:
            self.tell(e, "again")
            if flags & Flag.NOQUEUEBAST:
                self.warn(e, [self.grant, self.convert])
        else:
            self.enqueue(self.wait, e)
            if self.wait[0] is e and len(self.wait) > 1:
                self.pending()          # it need not wait for the others; nor need conversions, for whom it was first
            self.warn(e, [self.grant])

    def change(self, number: int, mode: int, flags: int) -> None:
        e = next(x for x in self.grant if x.number == number)
        e.asked, e.flags = mode, flags
        got = self.try_grant(e, True)
        if got == "deadlock" and not flags & Flag.NODLCKWT:
            e.asked = IV
            self.tell(e, "deadlock")
            return
        demoted = got == "demoted"
        if demoted:
            self.pending_conversions()
            got = "yes" if self.may(e, True) else "no"
        if got == "yes":
            self.give(e)
            self.pending()
        elif flags & Flag.NOQUEUE:
            e.asked = IV
            self.tell(e, "again")
            if flags & Flag.NOQUEUEBAST:
                e.asked = mode
                self.warn(e, [self.grant, self.convert])
                e.asked = IV
        else:
            self.grant.remove(e)
            self.enqueue(self.convert, e)
            if demoted or (len(self.convert) > 1 and (e.granted != NL or e.flags & Flag.HEADQUE)):
                self.pending()          # conversions make no way for new requests any more, or now for this one
            self.warn(e, [self.grant])

    def pending_conversions(self) -> list[Entry]:
        """Those that are left waiting."""
        again, demoted_once = True, False
        blocked: list[Entry] = []
        while again:
            again = demoted = False
            blocked = []
            for e in list(self.convert):
                was_nl = e.granted == NL
                got = self.try_grant(e, False)
                if got == "yes" or (got == "deadlock" and (e.flags & Flag.EXPEDITE or self.free(e))):
                    self.give(e)
                    again = True
                elif got == "demoted" and not was_nl:
                    demoted = True
                else:
                    if got == "deadlock" and e.flags & Flag.NODLCKWT and e.highbast < e.asked:
                        self.tell(e, f"bast {ORDER[e.asked]}")
                        e.highbast = e.asked
                    blocked.append(e)
            if not again and demoted and not demoted_once:
                again = demoted_once = True
        return blocked

    def release(self, number: int) -> None:
        e = next(x for x in self.grant if x.number == number)
        self.grant.remove(e)
        self.tell(e, "unlocked")
        self.pending()

    def cancel(self, number: int) -> None:
        for queue in (self.convert, self.wait):
            for e in [x for x in queue if x.number == number]:
                queue.remove(e)
                e.asked = IV
                if queue is self.convert:
                    self.grant.append(e)
                self.tell(e, "cancelled")
                self.pending()
                return
