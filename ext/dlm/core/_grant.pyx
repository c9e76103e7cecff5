"""The rules of granting."""
from libc.stdint cimport int8_t, uint32_t
from libc.string cimport memcpy
from dlm.core._base cimport E_CANCEL, E_DEADLK, dl_empty, dlink
from dlm.core._engine cimport (CB_BAST, CB_CAST, LKB_DEADLOCK_CANCEL, LKB_LVB_INVALID, LKF_ALTCW, LKF_ALTPR,
                               LKF_CONVDEADLK, LKF_EXPEDITE, LKF_IVVALBLK, LKF_NODLCKWT, LKF_NOORDER, LKF_NOQUEUE,
                               LKF_QUECVT, LKF_VALBLK, MODE_CW, MODE_EX, MODE_IV, MODE_NL, MODE_PR, MODE_PW,
                               RSB_RECOVER_GRANT, RSB_VALNOTVALID, SBF_ALTMODE, SBF_DEMOTED, SBF_VALNOTVALID,
                               STS_CONVERT, STS_GRANTED, STS_WAITING, is_master, is_master_copy, modes_compat)
from dlm.core._send cimport send_bast, send_grant
from dlm.core._table cimport add_callback, add_lkb, alloc_lvb, del_lkb, move_lkb, put_lkb
from dlm.core._wire cimport ASTS_BAST


# ---- calls to the owner

cdef void queue_cast(dlm_ls* ls, dlm_lkb* lkb, int status) noexcept nogil:
    """Completion for the owner, if it lives here; the master tells others by message."""
    if is_master_copy(lkb):
        return
    if status == -E_CANCEL and lkb.flags & LKB_DEADLOCK_CANCEL:
        lkb.flags &= ~<uint32_t>LKB_DEADLOCK_CANCEL
        status = -E_DEADLK
    add_callback(ls, lkb, CB_CAST, lkb.grmode, status, lkb.sbflags)


cdef void queue_bast(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb, int mode) noexcept nogil:
    if is_master_copy(lkb):
        send_bast(ls, r, lkb, mode)
    elif lkb.bast != NULL:
        add_callback(ls, lkb, CB_BAST, mode, 0, 0)


# ---- lock value blocks

cdef int lvb_operation(int grmode, int rqmode) noexcept nogil:
    """Going up from a mode that cannot write reads; leaving PW or EX downwards, or staying there, writes."""
    if rqmode == MODE_IV:
        return LVB_NOTHING
    if grmode == MODE_EX or (grmode == MODE_PW and rqmode != MODE_EX):
        return LVB_WRITE
    return LVB_READ if rqmode >= grmode else LVB_NOTHING


cdef bint write_lvb(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb) noexcept nogil:
    """From the lock into the resource, or the resource's becomes void (IVVALBLK); whether it was written."""
    if lkb.exflags & LKF_IVVALBLK:
        r.flags |= RSB_VALNOTVALID
        return False
    if lkb.lvb == NULL or not (lkb.exflags & LKF_VALBLK) or alloc_lvb(ls, &r.lvb):
        return False
    memcpy(r.lvb, lkb.lvb, ls.lvblen)
    r.lvbseq += 1
    lkb.lvbseq = r.lvbseq
    r.flags &= ~<uint32_t>RSB_VALNOTVALID
    return True


cdef void set_lvb_lock(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb) noexcept nogil:
    cdef int op = lvb_operation(lkb.grmode, lkb.rqmode)
    if op == LVB_WRITE:
        if not write_lvb(ls, r, lkb):
            return
    elif op == LVB_READ:
        if lkb.lvb == NULL or not (lkb.exflags & LKF_VALBLK):
            return
        if r.lvb != NULL:
            memcpy(lkb.lvb, r.lvb, ls.lvblen)
            lkb.lvbseq = r.lvbseq
    if r.flags & RSB_VALNOTVALID:
        lkb.sbflags |= SBF_VALNOTVALID


cdef void set_lvb_unlock(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb) noexcept nogil:
    if lkb.grmode >= MODE_PW:
        write_lvb(ls, r, lkb)


# ---- moving locks between the queues

cdef void do_grant(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb) noexcept nogil:
    if lkb.grmode != lkb.rqmode or lkb.status != STS_GRANTED:
        lkb.grmode = lkb.rqmode
        if lkb.status:
            move_lkb(ls, r, lkb, STS_GRANTED)
        else:
            add_lkb(ls, r, lkb, STS_GRANTED)
    lkb.rqmode = MODE_IV
    lkb.highbast = 0


cdef void note_validity(dlm_lkb* lkb, int op) noexcept nogil:
    """Of the value that the lock has now."""
    if lkb.sbflags & SBF_VALNOTVALID:
        lkb.flags |= LKB_LVB_INVALID
    elif lkb.exflags & LKF_VALBLK and op != LVB_NOTHING:
        lkb.flags &= ~<uint32_t>LKB_LVB_INVALID


cdef void grant_lock(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb) noexcept nogil:
    set_lvb_lock(ls, r, lkb)
    note_validity(lkb, lvb_operation(lkb.grmode, lkb.rqmode))
    do_grant(ls, r, lkb)


cdef void grant_lock_pc(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb, const uint8_t* lvb, uint32_t lvb_len,
                        uint32_t lvbseq) noexcept nogil:
    cdef int op = lvb_operation(lkb.grmode, lkb.rqmode)
    note_validity(lkb, op)
    if lkb.lvb != NULL and lkb.exflags & LKF_VALBLK and op == LVB_READ:
        memcpy(lkb.lvb, lvb, lvb_len if lvb_len < ls.lvblen else ls.lvblen)
        lkb.lvbseq = lvbseq
    do_grant(ls, r, lkb)


cdef void remove_lock_pc(dlm_ls* ls, dlm_lkb* lkb) noexcept nogil:
    del_lkb(ls, lkb)
    lkb.grmode = MODE_IV
    put_lkb(ls, lkb)


cdef void remove_lock(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb) noexcept nogil:
    set_lvb_unlock(ls, r, lkb)
    remove_lock_pc(ls, lkb)


cdef int revert_lock(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb) noexcept nogil:
    lkb.rqmode = MODE_IV
    if lkb.status == STS_CONVERT:
        move_lkb(ls, r, lkb, STS_GRANTED)
        return 1
    if lkb.status == STS_WAITING:
        remove_lock_pc(ls, lkb)
        return -1
    return 0


# ---- the rule

cdef bint conflicts(dlink* head, dlm_lkb* lkb) noexcept nogil:
    """Whether the granted mode of another lock in the queue is in the way."""
    cdef dlink* at = head.next
    while at != head:
        if <dlm_lkb*>at.owner != lkb and not modes_compat((<dlm_lkb*>at.owner).grmode, lkb.rqmode):
            return True
        at = at.next
    return False


cdef bint request_is_next(const dlm_rsb* r) noexcept nogil:
    """Whether the first new request comes before all that is on the convert queue.

    A conversion from NL holds nothing that others wait for, so it is served like a new request: as it came. By the book
    new requests wait until no conversion does, which is never where nodes take turns by converting from NL.
    """
    cdef dlink* at = r.convertq.next
    cdef dlm_lkb* other
    if dl_empty(&r.waitq):
        return False
    while at != &r.convertq:
        other = <dlm_lkb*>at.owner
        if other.grmode != MODE_NL or other.ticket < (<dlm_lkb*>r.waitq.next.owner).ticket:
            return False
        at = at.next
    return True


cdef inline bint waits_behind(const dlm_rsb* r, const dlm_lkb* lkb) noexcept nogil:
    """QUECVT, with nothing on the convert queue: behind new requests, too, where what it has is in nobody's way."""
    return lkb.grmode == MODE_NL and not (lkb.exflags & LKF_NOQUEUE) and not dl_empty(&r.waitq)


cdef bint gives_way(dlm_rsb* r, dlm_lkb* lkb) noexcept nogil:
    """Whether a queued conversion from NL lets an earlier new request go first, which it might be in the way of."""
    if not request_is_next(r):
        return False
    # Without QUECVT it may overtake one that others are in the way of, as when it came.
    return lkb.exflags & LKF_QUECVT != 0 or grantable(r, <dlm_lkb*>r.waitq.next.owner, False, False)


cdef bint grantable(dlm_rsb* r, dlm_lkb* lkb, bint now, bint recover) noexcept nogil:
    cdef bint conversion = lkb.grmode != MODE_IV
    # Only new NL requests may be expedited, and NL is in nobody's way.
    if lkb.exflags & LKF_EXPEDITE:
        return True
    if conflicts(&r.grantq, lkb) or conflicts(&r.convertq, lkb):
        return False
    if conversion:
        # The queue was rebuilt from all nodes' locks: its order means nothing and might hold a deadlock of its own.
        if recover:
            return True
        if now:
            # In place; QUECVT is there to wait for those that came earlier.
            return not (lkb.exflags & LKF_QUECVT) or (dl_empty(&r.convertq) and not waits_behind(r, lkb))
        return lkb.exflags & LKF_NOORDER != 0 or (r.convertq.next == &lkb.q and not gives_way(r, lkb))
    if lkb.exflags & LKF_NOORDER:
        return True
    # New requests: behind every earlier request, and every conversion but those from NL that came later.
    if now:
        return dl_empty(&r.convertq) and dl_empty(&r.waitq)
    return r.waitq.next == &lkb.q and request_is_next(r)


cdef bint conversion_deadlock(dlm_rsb* r, dlm_lkb* lkb) noexcept nogil:
    """Whether two conversions wait for each other's granted mode, or an earlier one for that of `lkb`."""
    cdef dlink* at = r.convertq.next
    cdef dlm_lkb* other
    cdef bint behind = False
    while at != &r.convertq:
        other = <dlm_lkb*>at.owner
        at = at.next
        if other == lkb:
            behind = True
        elif not modes_compat(lkb.grmode, other.rqmode):
            if not behind or not modes_compat(other.grmode, lkb.rqmode):
                return True
    return False


cdef bint can_be_granted(dlm_rsb* r, dlm_lkb* lkb, bint now, bint recover, bint* deadlk) noexcept nogil:
    cdef int asked = lkb.rqmode
    cdef int alternative = MODE_IV
    if deadlk != NULL:
        deadlk[0] = False
    if grantable(r, lkb, now, recover):
        return True
    # Recovery queues conversions with NOQUEUE too: what their master said is not known.
    if lkb.grmode != MODE_IV and (not (lkb.exflags & LKF_NOQUEUE) or lkb.status == STS_CONVERT) \
            and conversion_deadlock(r, lkb):
        if lkb.exflags & LKF_CONVDEADLK:
            lkb.grmode = MODE_NL
            lkb.sbflags |= SBF_DEMOTED
        elif deadlk != NULL:
            deadlk[0] = True
        return False
    if asked != MODE_PR and lkb.exflags & LKF_ALTPR:
        alternative = MODE_PR
    elif asked != MODE_CW and lkb.exflags & LKF_ALTCW:
        alternative = MODE_CW
    if alternative == MODE_IV:
        return False
    lkb.rqmode = <int8_t>alternative
    if grantable(r, lkb, now, False):
        lkb.sbflags |= SBF_ALTMODE
        return True
    lkb.rqmode = <int8_t>asked
    return False


# ---- what a change lets others have

cdef void grant_pending(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb) noexcept nogil:
    grant_lock(ls, r, lkb)
    if is_master_copy(lkb):
        send_grant(ls, r, lkb)
    else:
        queue_cast(ls, lkb, 0)


cdef int convert_round(dlm_ls* ls, dlm_rsb* r, bint* cw, bint* granted, bint* demoted) noexcept nogil:
    """One pass over the convert queue; the highest mode that is still asked for."""
    cdef dlink* at = r.convertq.next
    cdef dlm_lkb* lkb
    cdef int high = MODE_IV
    cdef bint was_demoted, deadlk
    while at != &r.convertq:
        lkb = <dlm_lkb*>at.owner
        at = at.next
        was_demoted = lkb.sbflags & SBF_DEMOTED
        if can_be_granted(r, lkb, False, r.flags & RSB_RECOVER_GRANT, &deadlk):
            grant_pending(ls, r, lkb)
            granted[0] = True
        elif not was_demoted and lkb.sbflags & SBF_DEMOTED:
            demoted[0] = True
        elif deadlk and grantable(r, lkb, False, True):
            # Recovery or HEADQUE has put it behind one that waits for it to go: out of turn, or both wait for ever.
            grant_pending(ls, r, lkb)
            granted[0] = True
        elif deadlk:
            # Found when it came, but for those who wanted no such check. They ask the others to yield.
            if lkb.exflags & LKF_NODLCKWT and lkb.highbast < lkb.rqmode:
                queue_bast(ls, r, lkb, lkb.rqmode)
                lkb.highbast = lkb.rqmode
        if lkb.status == STS_CONVERT and not (demoted[0] and lkb.sbflags & SBF_DEMOTED and not was_demoted):
            # Also one that deadlocks with others on the queue, and goes out of turn once these are out of its way.
            if lkb.rqmode > high:
                high = lkb.rqmode
            if cw != NULL and lkb.rqmode == MODE_CW:
                cw[0] = True
    return high


cdef int grant_pending_convert(dlm_ls* ls, dlm_rsb* r, int high, bint* cw) noexcept nogil:
    cdef int here
    cdef bint granted, demoted, demoted_before = False
    while True:
        granted = False
        demoted = False
        here = convert_round(ls, r, cw, &granted, &demoted)
        if granted:
            continue
        if demoted and not demoted_before:
            demoted_before = True
            continue
        return here if here > high else high


cdef int grant_pending_wait(dlm_ls* ls, dlm_rsb* r, int high, bint* cw, bint* granted) noexcept nogil:
    cdef dlink* at = r.waitq.next
    cdef dlm_lkb* lkb
    while at != &r.waitq:
        lkb = <dlm_lkb*>at.owner
        at = at.next
        if can_be_granted(r, lkb, False, False, NULL):
            grant_pending(ls, r, lkb)
            granted[0] = True
        else:
            if lkb.rqmode > high:
                high = lkb.rqmode
            if lkb.rqmode == MODE_CW:
                cw[0] = True
    return high


cdef inline bint blocks_waiters(const dlm_lkb* granted, int high, bint cw) noexcept nogil:
    # PR is not below CW, though its number is higher: a waiting CW has to be looked for by itself.
    if granted.grmode == MODE_PR and cw:
        return granted.highbast < MODE_EX
    return granted.highbast < high and not modes_compat(granted.grmode, high)


cdef void grant_pending_locks(dlm_ls* ls, dlm_rsb* r) noexcept nogil:
    """Grants what can be granted, and asks those in the way of the rest to yield."""
    cdef bint cw = False
    cdef bint granted
    cdef int high = MODE_IV
    cdef dlink* at
    cdef dlm_lkb* lkb
    if not is_master(r) or (dl_empty(&r.convertq) and dl_empty(&r.waitq)):
        return
    granted = True
    while granted:
        # A new request that comes before conversions may let these go, too.
        granted = False
        cw = False
        high = grant_pending_convert(ls, r, MODE_IV, &cw)
        high = grant_pending_wait(ls, r, high, &cw, &granted)
        granted = granted and not dl_empty(&r.convertq)
    if high == MODE_IV:
        return
    at = r.grantq.next
    while at != &r.grantq:
        lkb = <dlm_lkb*>at.owner
        at = at.next
        if lkb.asts & ASTS_BAST and blocks_waiters(lkb, high, cw):
            queue_bast(ls, r, lkb, MODE_CW if cw and high == MODE_PR and lkb.grmode == MODE_PR else high)
            lkb.highbast = <int8_t>high


cdef inline bint blocks_request(const dlm_lkb* granted, const dlm_lkb* lkb) noexcept nogil:
    if (granted.grmode == MODE_PR and lkb.rqmode == MODE_CW) or (granted.grmode == MODE_CW and lkb.rqmode == MODE_PR):
        return granted.highbast < MODE_EX
    return granted.highbast < lkb.rqmode and not modes_compat(granted.grmode, lkb.rqmode)


cdef void bast_queue(dlm_ls* ls, dlm_rsb* r, dlink* head, dlm_lkb* lkb) noexcept nogil:
    cdef dlink* at = head.next
    cdef dlm_lkb* other
    while at != head:
        other = <dlm_lkb*>at.owner
        at = at.next
        if other != lkb and other.asts & ASTS_BAST and blocks_request(other, lkb):
            queue_bast(ls, r, other, lkb.rqmode)
            other.highbast = lkb.rqmode


cdef void send_blocking_asts(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb) noexcept nogil:
    bast_queue(ls, r, &r.grantq, lkb)


cdef void send_blocking_asts_all(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb) noexcept nogil:
    bast_queue(ls, r, &r.grantq, lkb)
    bast_queue(ls, r, &r.convertq, lkb)


# ---- who waits for whom

cdef uint32_t add_conflicts(dlink* head, dlm_lkb* lkb, dlm_lkb** out, uint32_t n, uint32_t limit) noexcept nogil:
    cdef dlink* at = head.next
    cdef dlm_lkb* other
    while at != head and n < limit:
        other = <dlm_lkb*>at.owner
        at = at.next
        if other != lkb and not modes_compat(other.grmode, lkb.rqmode):
            out[n] = other
            n += 1
    return n


cdef uint32_t in_the_way(dlm_rsb* r, dlm_lkb* lkb, dlm_lkb** out, uint32_t limit) noexcept nogil:
    cdef uint32_t n
    cdef dlm_lkb* first = NULL
    n = add_conflicts(&r.grantq, lkb, out, 0, limit)
    n = add_conflicts(&r.convertq, lkb, out, n, limit)
    if lkb.status == STS_CONVERT:
        if r.convertq.next != &lkb.q:
            first = <dlm_lkb*>r.convertq.next.owner
        elif gives_way(r, lkb):
            first = <dlm_lkb*>r.waitq.next.owner
    elif r.waitq.next != &lkb.q:
        first = <dlm_lkb*>r.waitq.next.owner
    elif not request_is_next(r):
        first = <dlm_lkb*>r.convertq.next.owner
    # A conversion whose granted mode is in the way is among them already.
    if first != NULL and n < limit and modes_compat(first.grmode, lkb.rqmode):
        out[n] = first
        n += 1
    return n
