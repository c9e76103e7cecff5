"""Operations on locks."""
from libc.stdint cimport uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from dlm.core._base cimport (E_AGAIN, E_BUSY, E_CANCEL, E_DEADLK, E_INPROGRESS, E_INVAL, E_NOBUFS, E_NOENT, E_NOMEM,
                             E_UNLOCK, dl_add_tail, dl_del, dl_empty, dl_init, dlink)
from dlm.core._dir cimport FIND_LOCAL, find_rsb
from dlm.core._engine cimport (CALLBACKS_BUSY, LKB_DEADLOCK_CANCEL, LKB_MSTCPY, LKB_OVERLAP_CANCEL,
                               LKB_OVERLAP_UNLOCK, LKB_RESEND, LKF_CANCEL, LKF_CONVDEADLK, LKF_CONVERT, LKF_EXPEDITE,
                               LKF_FORCEUNLOCK, LKF_HEADQUE, LKF_IVVALBLK, LKF_NODLCKWT, LKF_NOORDER, LKF_NOQUEUE,
                               LKF_NOQUEUEBAST, LKF_QUECVT, LKF_VALBLK, MODE_EX, MODE_IV, MODE_NL, PARKED_MAX,
                               PARK_CONVERT, PARK_REQUEST, PARK_UNLOCK, RSB_MASTER_UNCERTAIN, SBF_DEMOTED, STS_CONVERT,
                               STS_GRANTED, STS_WAITING, dlm_core_quecvt, dlm_parked,
                               down_conversion, is_overlap)
from dlm.core._grant cimport (can_be_granted, grant_lock, grant_lock_pc, grant_pending_convert, grant_pending_locks,
                              grantable, queue_cast, remove_lock, revert_lock, send_blocking_asts,
                              send_blocking_asts_all)
from dlm.core._send cimport output_full, send_request
from dlm.core._table cimport add_lkb, create_lkb, del_lkb, find_lkb, ls_enter, ls_leave, put_lkb
from dlm.core._wire cimport (ASTS_BAST, ASTS_CAST, FLAGS_SHARED, MSG_CANCEL, MSG_CANCEL_REPLY, MSG_CONVERT,
                             MSG_CONVERT_REPLY, MSG_LOOKUP, MSG_REQUEST, MSG_UNLOCK, MSG_UNLOCK_REPLY, RESNAME_MAX)


# ---- replies that are awaited

cdef int add_to_waiters(dlm_ls* ls, dlm_lkb* lkb, int type, int32_t to_nodeid) noexcept nogil:
    """A cancel or a forced unlock may overlap another operation; nothing else may."""
    if lkb.flags & LKB_OVERLAP_UNLOCK or (lkb.flags & LKB_OVERLAP_CANCEL and type == MSG_CANCEL):
        return -E_INVAL
    if lkb.wait_type or lkb.flags & LKB_OVERLAP_CANCEL:
        if type == MSG_UNLOCK:
            lkb.flags |= LKB_OVERLAP_UNLOCK
        elif type == MSG_CANCEL:
            lkb.flags |= LKB_OVERLAP_CANCEL
        else:
            return -E_BUSY
    else:
        lkb.wait_type = <signed char>type
        lkb.wait_nodeid = to_nodeid
        dl_add_tail(&ls.waiters, &lkb.wait)
    lkb.wait_count += 1
    lkb.refs += 1
    return 0


cdef void drop_wait(dlm_ls* ls, dlm_lkb* lkb) noexcept nogil:
    lkb.wait_count -= 1
    if lkb.wait_count == 0:
        dl_del(&lkb.wait)
    put_lkb(ls, lkb)


cdef int remove_from_waiters(dlm_ls* ls, dlm_lkb* lkb, int type, bint granted) noexcept nogil:
    cdef bint overlapping = False
    if lkb.flags & LKB_OVERLAP_UNLOCK and type == MSG_UNLOCK_REPLY:
        lkb.flags &= ~<uint32_t>LKB_OVERLAP_UNLOCK
        overlapping = True
    elif lkb.flags & LKB_OVERLAP_CANCEL and type == MSG_CANCEL_REPLY:
        lkb.flags &= ~<uint32_t>LKB_OVERLAP_CANCEL
        overlapping = True
    elif type == MSG_CANCEL_REPLY and lkb.wait_type != MSG_CANCEL:
        # The conversion was granted first, which settled the cancel.
        return -1
    elif (type == MSG_CONVERT_REPLY and lkb.wait_type == MSG_CONVERT and lkb.flags & LKB_OVERLAP_CANCEL
          and granted):
        # The owner may go on at once with another operation: it must not find this cancel under way.
        lkb.wait_type = 0
        lkb.flags &= ~<uint32_t>LKB_OVERLAP_CANCEL
        drop_wait(ls, lkb)
    elif lkb.wait_type:
        lkb.wait_type = 0
    else:
        return -1
    if overlapping and lkb.wait_type:
        # The unlock or cancel is through, and the reply to what it overlapped did not come.
        lkb.wait_type = 0
        drop_wait(ls, lkb)
    lkb.flags &= ~<uint32_t>LKB_RESEND
    drop_wait(ls, lkb)
    return 0


cdef void send_common(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb, int type) noexcept nogil:
    if add_to_waiters(ls, lkb, type, r.dir_nodeid if type == MSG_LOOKUP else r.nodeid) == 0:
        send_request(ls, r, lkb, type)


# ---- the master's part

cdef int do_request(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb) noexcept nogil:
    if can_be_granted(r, lkb, True, False, NULL):
        grant_lock(ls, r, lkb)
        queue_cast(ls, lkb, 0)
        return 0
    if not (lkb.exflags & LKF_NOQUEUE):
        add_lkb(ls, r, lkb, STS_WAITING)
        return -E_INPROGRESS
    queue_cast(ls, lkb, -E_AGAIN)
    return -E_AGAIN


cdef void do_request_effects(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb, int error) noexcept nogil:
    if error == -E_INPROGRESS:
        if r.waitq.next == &lkb.q and r.waitq.prev != &lkb.q:
            # HEADQUE: it need not wait for those behind it. Nor need conversions that made way for the first of them.
            grant_pending_locks(ls, r)
        send_blocking_asts(ls, r, lkb)
    elif error == -E_AGAIN and lkb.exflags & LKF_NOQUEUEBAST:
        send_blocking_asts_all(ls, r, lkb)
    elif error == 0 and lkb.exflags & LKF_NOORDER:
        # It overtook those who wait, and may be in their way.
        grant_pending_locks(ls, r)


cdef int do_convert(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb) noexcept nogil:
    cdef bint deadlk = False
    cdef bint granted = can_be_granted(r, lkb, True, False, &deadlk)
    if not granted and deadlk and not (lkb.exflags & LKF_NODLCKWT):
        revert_lock(ls, r, lkb)
        queue_cast(ls, lkb, -E_DEADLK)
        return -E_DEADLK
    if not granted and lkb.sbflags & SBF_DEMOTED:
        # Now NL, it may have made way for others, who come first.
        grant_pending_convert(ls, r, MODE_IV, NULL)
        granted = grantable(r, lkb, True, False)
    if granted:
        grant_lock(ls, r, lkb)
        queue_cast(ls, lkb, 0)
        return 0
    if not (lkb.exflags & LKF_NOQUEUE):
        lkb.refs += 1
        del_lkb(ls, lkb)
        add_lkb(ls, r, lkb, STS_CONVERT)
        put_lkb(ls, lkb)
        return -E_INPROGRESS
    queue_cast(ls, lkb, -E_AGAIN)
    return -E_AGAIN


cdef void do_convert_effects(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb, int error) noexcept nogil:
    if error == 0:
        grant_pending_locks(ls, r)
    elif error == -E_INPROGRESS:
        # What it held before may have been in the way of new requests. Or it comes before these by what it holds, and
        # so do the conversions from NL that made way for them: perhaps nobody else can go on. Or it comes before others
        # that are in its way (HEADQUE), and they may have to go down or out of turn.
        if lkb.sbflags & SBF_DEMOTED or (r.convertq.next.next != &r.convertq
                                         and (lkb.grmode != MODE_NL or lkb.exflags & LKF_HEADQUE)):
            grant_pending_locks(ls, r)
        send_blocking_asts(ls, r, lkb)
    elif error == -E_AGAIN:
        if lkb.exflags & LKF_NOQUEUEBAST:
            send_blocking_asts_all(ls, r, lkb)
        lkb.rqmode = MODE_IV


cdef int do_unlock(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb) noexcept nogil:
    """The caller has a reference to the lock, which loses that of its own life."""
    remove_lock(ls, r, lkb)
    queue_cast(ls, lkb, -E_UNLOCK)
    return -E_UNLOCK


cdef int do_cancel(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb) noexcept nogil:
    if revert_lock(ls, r, lkb) == 0:
        return 0
    queue_cast(ls, lkb, -E_CANCEL)
    return -E_CANCEL


# ---- here or there

cdef bint set_master(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb) noexcept nogil:
    """Whether the master is known, or good enough to try; otherwise the lock waits for the directory's answer.

    Only one lock at a time asks the directory or tries an old master (first_lkid); the others wait for it.
    """
    if r.flags & RSB_MASTER_UNCERTAIN:
        r.flags &= ~<uint32_t>RSB_MASTER_UNCERTAIN
        r.first_lkid = lkb.id
        lkb.nodeid = r.nodeid
        return True
    if r.first_lkid and r.first_lkid != lkb.id:
        dl_del(&lkb.lookup)
        dl_add_tail(&r.lookup, &lkb.lookup)
        return False
    if r.master_nodeid == ls.our_nodeid:
        lkb.nodeid = 0
        return True
    if r.master_nodeid:
        lkb.nodeid = r.master_nodeid
        return True
    if r.dir_nodeid == ls.our_nodeid:
        # We became the directory node while this lock was waiting.
        r.master_nodeid = ls.our_nodeid
        r.nodeid = 0
        lkb.nodeid = 0
        return True
    r.first_lkid = lkb.id
    ls.stats.lookups += 1
    send_common(ls, r, lkb, MSG_LOOKUP)
    return False


cdef int request_lock(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb) noexcept nogil:
    cdef int error
    if not set_master(ls, r, lkb):
        return 0
    if r.nodeid:
        send_common(ls, r, lkb, MSG_REQUEST)
        return 0
    error = do_request(ls, r, lkb)
    do_request_effects(ls, r, lkb, error)
    return error


cdef void request_again(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb) noexcept nogil:
    if request_lock(ls, r, lkb) == -E_AGAIN:
        put_lkb(ls, lkb)


cdef int convert_lock(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb) noexcept nogil:
    cdef int error
    if r.nodeid == 0:
        error = do_convert(ls, r, lkb)
        do_convert_effects(ls, r, lkb, error)
        return error
    error = add_to_waiters(ls, lkb, MSG_CONVERT, r.nodeid)
    if error:
        return error
    send_request(ls, r, lkb, MSG_CONVERT)
    if down_conversion(lkb):
        # Cannot fail, so the master does not answer.
        remove_from_waiters(ls, lkb, MSG_CONVERT_REPLY, True)
        finish_convert(ls, r, lkb, 0, NULL)
    return 0


cdef int unlock_lock(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb) noexcept nogil:
    cdef int error
    if r.nodeid:
        error = add_to_waiters(ls, lkb, MSG_UNLOCK, r.nodeid)
        if error == 0:
            send_request(ls, r, lkb, MSG_UNLOCK)
        return error
    error = do_unlock(ls, r, lkb)
    grant_pending_locks(ls, r)
    return error


cdef int cancel_lock(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb) noexcept nogil:
    cdef int error
    if r.nodeid:
        error = add_to_waiters(ls, lkb, MSG_CANCEL, r.nodeid)
        if error == 0:
            send_request(ls, r, lkb, MSG_CANCEL)
        return error
    error = do_cancel(ls, r, lkb)
    if error:
        grant_pending_locks(ls, r)
    return error


cdef void process_lookup_list(dlm_ls* ls, dlm_rsb* r) noexcept nogil:
    cdef dlink all
    cdef dlm_lkb* lkb
    dl_init(&all, NULL)
    # Some of them may have to wait again.
    while not dl_empty(&r.lookup):
        lkb = <dlm_lkb*>r.lookup.next.owner
        dl_del(&lkb.lookup)
        dl_add_tail(&all, &lkb.lookup)
    while not dl_empty(&all):
        lkb = <dlm_lkb*>all.next.owner
        dl_del(&lkb.lookup)
        request_again(ls, r, lkb)


cdef void confirm_master(dlm_ls* ls, dlm_rsb* r, int error) noexcept nogil:
    cdef dlm_lkb* lkb
    if r.first_lkid == 0:
        return
    r.first_lkid = 0
    if error == 0 or error == -E_INPROGRESS:
        process_lookup_list(ls, r)
    elif not dl_empty(&r.lookup):
        # The first one failed and will not try again: the next is now the first.
        lkb = <dlm_lkb*>r.lookup.next.owner
        dl_del(&lkb.lookup)
        r.first_lkid = lkb.id
        request_again(ls, r, lkb)
        if r.nodeid == 0:
            # It needed nobody's answer: neither do the rest.
            r.first_lkid = 0
            process_lookup_list(ls, r)


cdef void finish_convert(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb, int result, const wmsg* m) noexcept nogil:
    """`m` is NULL for an answer that we give ourselves."""
    if m != NULL and result in (0, -E_INPROGRESS, -E_DEADLK):
        lkb.sbflags = m.sbflags
        lkb.flags = (lkb.flags & ~<uint32_t>FLAGS_SHARED) | (m.flags & FLAGS_SHARED)
    if result in (0, -E_INPROGRESS) and lkb.sbflags & SBF_DEMOTED and lkb.rqmode != MODE_IV:
        lkb.grmode = MODE_NL
    if result == 0:
        grant_lock_pc(ls, r, lkb, m.extra if m != NULL else NULL, m.extra_len if m != NULL else 0,
                      m.lvbseq if m != NULL else lkb.lvbseq)
        queue_cast(ls, lkb, 0)
    elif result == -E_INPROGRESS:
        lkb.refs += 1
        del_lkb(ls, lkb)
        add_lkb(ls, r, lkb, STS_CONVERT)
        put_lkb(ls, lkb)
    elif result == -E_DEADLK:
        revert_lock(ls, r, lkb)
        queue_cast(ls, lkb, -E_DEADLK)
    else:
        # It would have to wait (NOQUEUE), or the master is in trouble: the lock stays as it is.
        lkb.rqmode = MODE_IV
        queue_cast(ls, lkb, result if result < 0 else -E_AGAIN)


# ---- stage one: arguments

cdef int check_lock_args(int mode, const dlm_lksb* lksb, uint32_t flags, uint32_t namelen,
                         dlm_ast_fn ast) noexcept nogil:
    if mode < MODE_NL or mode > MODE_EX or ast == NULL or lksb == NULL:
        return -E_INVAL
    if flags & LKF_CANCEL or (flags & LKF_VALBLK and lksb.sb_lvbptr == NULL):
        return -E_INVAL
    if flags & LKF_CONVERT:
        if lksb.sb_lkid == 0 or flags & LKF_EXPEDITE:
            return -E_INVAL
    elif namelen < 1 or namelen > RESNAME_MAX or flags & (LKF_QUECVT | LKF_CONVDEADLK):
        return -E_INVAL
    if flags & LKF_CONVDEADLK and flags & LKF_NOQUEUE:
        return -E_INVAL
    if flags & LKF_EXPEDITE and (flags & (LKF_QUECVT | LKF_NOQUEUE) or mode != MODE_NL):
        return -E_INVAL
    return 0


cdef inline int busy(const dlm_lkb* lkb) noexcept nogil:
    return lkb.wait_type != 0 or lkb.wait_count != 0 or is_overlap(lkb) or lkb.parked != NULL


cdef int check_convert(dlm_lkb* lkb, int mode, uint32_t flags) noexcept nogil:
    if lkb.flags & LKB_MSTCPY:
        return -E_INVAL
    if lkb.status != STS_GRANTED or busy(lkb):
        return -E_BUSY
    if flags & LKF_QUECVT and not (dlm_core_quecvt[lkb.grmode + 1] >> (mode + 1)) & 1:
        return -E_INVAL
    return 0


cdef void set_lkb_args(dlm_ls* ls, dlm_lkb* lkb, int mode, dlm_lksb* lksb, uint32_t flags, dlm_ast_fn ast,
                       void* astarg, dlm_bast_fn bast) noexcept nogil:
    lkb.exflags = flags
    lkb.sbflags = 0
    # Of an operation that was granted before it could be given up.
    lkb.flags &= ~<uint32_t>LKB_DEADLOCK_CANCEL
    lkb.ast = ast
    lkb.astarg = astarg
    lkb.bast = bast
    lkb.asts = ASTS_CAST | (ASTS_BAST if bast != NULL else 0)
    lkb.rqmode = <signed char>mode
    lkb.lksb = lksb
    lkb.lvb = <uint8_t*>lksb.sb_lvbptr
    lkb.ownpid = ls.pid


cdef int lock_now(dlm_ls* ls, dlm_lkb* lkb, int mode, dlm_lksb* lksb, uint32_t flags, const void* name,
                  uint32_t namelen, dlm_ast_fn ast, void* astarg, dlm_bast_fn bast) noexcept nogil:
    """A request or conversion that may go ahead. 0, or -errno when there will be no completion."""
    cdef dlm_rsb* r
    cdef int error
    if flags & LKF_CONVERT:
        error = check_convert(lkb, mode, flags)
        if error:
            return error
        set_lkb_args(ls, lkb, mode, lksb, flags, ast, astarg, bast)
        ls.stats.converts += 1
        # A master that only needs to be asked never refuses otherwise than by completion.
        convert_lock(ls, lkb.res, lkb)
        return 0
    set_lkb_args(ls, lkb, mode, lksb, flags, ast, astarg, bast)
    error = find_rsb(ls, name, namelen, 0, FIND_LOCAL, &r)
    if error:
        return error
    # The reference of find_rsb becomes that of the lock.
    lkb.res = r
    lksb.sb_lkid = lkb.id
    ls.stats.requests += 1
    request_again(ls, r, lkb)
    return 0


cdef int dlm_lock(dlm_ls* ls, int mode, dlm_lksb* lksb, uint32_t flags, const void* name, uint32_t namelen,
                  dlm_ast_fn ast, void* astarg, dlm_bast_fn bast) noexcept nogil:
    cdef dlm_lkb* lkb
    cdef int error = check_lock_args(mode, lksb, flags, namelen, ast)
    if error:
        return error
    ls_enter(ls)
    if ls.broken:
        error = -ls.broken
    elif output_full(ls):
        error = -E_NOBUFS
    elif flags & LKF_CONVERT:
        lkb = find_lkb(ls, lksb.sb_lkid)
        if lkb == NULL:
            error = -E_NOENT
        elif lkb.cb_count >= CALLBACKS_BUSY:
            # Its owner does not wait for completions, or they are held back.
            error = -E_BUSY
        elif not ls.running:
            error = check_convert(lkb, mode, flags)
            if error == 0:
                error = park(ls, lkb, PARK_CONVERT, mode, lksb, flags, name, namelen, ast, astarg, bast)
        else:
            error = lock_now(ls, lkb, mode, lksb, flags, name, namelen, ast, astarg, bast)
    else:
        lkb = create_lkb(ls)
        if lkb == NULL:
            error = -E_NOMEM
        elif not ls.running:
            lksb.sb_lkid = lkb.id
            error = park(ls, lkb, PARK_REQUEST, mode, lksb, flags, name, namelen, ast, astarg, bast)
        else:
            error = lock_now(ls, lkb, mode, lksb, flags, name, namelen, ast, astarg, bast)
        if error and lkb != NULL:
            put_lkb(ls, lkb)
    ls_leave(ls)
    return error


# ---- unlock and cancel

cdef int overlap_later(dlm_lkb* lkb, uint32_t flag) noexcept nogil:
    """Nothing can be sent now; the reply, or recovery, will find the flag."""
    lkb.flags |= flag
    return -E_BUSY


cdef int check_cancel(dlm_lkb* lkb) noexcept nogil:
    if lkb.exflags & LKF_CANCEL or is_overlap(lkb):
        return -E_BUSY
    if lkb.flags & LKB_RESEND or lkb.wait_type in (MSG_LOOKUP, MSG_REQUEST):
        return overlap_later(lkb, LKB_OVERLAP_CANCEL)
    if lkb.status == STS_GRANTED and not lkb.wait_type:
        return -E_BUSY
    return -E_BUSY if lkb.wait_type in (MSG_UNLOCK, MSG_CANCEL) else 0


cdef int check_force_unlock(dlm_lkb* lkb) noexcept nogil:
    if lkb.exflags & LKF_FORCEUNLOCK or lkb.flags & LKB_OVERLAP_UNLOCK:
        return -E_BUSY
    if lkb.flags & LKB_RESEND or lkb.wait_type in (MSG_LOOKUP, MSG_REQUEST):
        return overlap_later(lkb, LKB_OVERLAP_UNLOCK)
    return -E_BUSY if lkb.wait_type == MSG_UNLOCK else 0


cdef int check_unlock(dlm_ls* ls, dlm_lkb* lkb, uint32_t flags, void* astarg) noexcept nogil:
    """0: go on. -EBUSY for cancel and forced unlock: taken note of, done, or without object."""
    cdef int error = 0
    if not (flags & (LKF_CANCEL | LKF_FORCEUNLOCK)) and (lkb.wait_type or lkb.wait_count):
        return -E_BUSY
    if not dl_empty(&lkb.lookup):
        # Another lock has asked for the master, this one has done nothing yet.
        if flags & (LKF_CANCEL | LKF_FORCEUNLOCK):
            dl_del(&lkb.lookup)
            queue_cast(ls, lkb, -E_CANCEL if flags & LKF_CANCEL else -E_UNLOCK)
            put_lkb(ls, lkb)
        return -E_BUSY
    if lkb.flags & LKB_MSTCPY:
        return -E_INVAL
    if lkb.status == 0 and not lkb.wait_count:
        # Its end is known already, if not yet told.
        return -E_NOENT
    if flags & LKF_CANCEL:
        error = check_cancel(lkb)
    elif flags & LKF_FORCEUNLOCK:
        error = check_force_unlock(lkb)
    elif lkb.status != STS_GRANTED:
        return -E_BUSY
    if error:
        return error
    # What is under way keeps its flags.
    lkb.exflags |= flags
    lkb.sbflags = lkb.sbflags & SBF_DEMOTED if lkb.status == STS_CONVERT else 0
    lkb.astarg = astarg
    return 0


cdef int unlock_now(dlm_ls* ls, dlm_lkb* lkb, uint32_t flags, void* astarg) noexcept nogil:
    cdef int error
    lkb.refs += 1
    error = check_unlock(ls, lkb, flags, astarg)
    if error == 0:
        if flags & LKF_CANCEL:
            ls.stats.cancels += 1
            error = cancel_lock(ls, lkb.res, lkb)
        else:
            ls.stats.unlocks += 1
            error = unlock_lock(ls, lkb.res, lkb)
    put_lkb(ls, lkb)
    if error == -E_UNLOCK or error == -E_CANCEL:
        return 0
    return 0 if error == -E_BUSY and flags & (LKF_CANCEL | LKF_FORCEUNLOCK) else error


cdef int dlm_unlock(dlm_ls* ls, uint32_t lkid, uint32_t flags, dlm_lksb* lksb, void* astarg) noexcept nogil:
    cdef dlm_lkb* lkb
    cdef int error
    if flags & ~<uint32_t>(LKF_CANCEL | LKF_VALBLK | LKF_IVVALBLK | LKF_FORCEUNLOCK):
        return -E_INVAL
    if flags & LKF_CANCEL and flags & LKF_FORCEUNLOCK:
        return -E_INVAL
    ls_enter(ls)
    lkb = find_lkb(ls, lkid)
    if ls.broken:
        error = -ls.broken
    elif lkb == NULL:
        error = -E_NOENT
    elif output_full(ls):
        error = -E_NOBUFS
    elif not ls.running:
        error = park_unlock(ls, lkb, flags, astarg)
    else:
        error = unlock_now(ls, lkb, flags, astarg)
    ls_leave(ls)
    return error


# ---- operations that come while locking is stopped

cdef int park(dlm_ls* ls, dlm_lkb* lkb, int kind, int mode, dlm_lksb* lksb, uint32_t flags, const void* name,
              uint32_t namelen, dlm_ast_fn ast, void* astarg, dlm_bast_fn bast) noexcept nogil:
    cdef dlm_parked* op
    if ls.parked_count >= PARKED_MAX:
        return -E_NOBUFS
    op = <dlm_parked*>malloc(sizeof(dlm_parked))
    if op == NULL:
        return -E_NOMEM
    memset(op, 0, sizeof(dlm_parked))
    dl_init(&op.link, op)
    op.lkb = lkb
    op.kind = kind
    op.mode = mode
    op.lksb = lksb
    op.flags = flags
    op.ast = ast
    op.astarg = astarg
    op.bast = bast
    if kind == PARK_REQUEST:
        op.namelen = namelen
        memcpy(op.name, name, namelen)
        # Enough for a completion, should it be cancelled before it begins.
        set_lkb_args(ls, lkb, mode, lksb, flags, ast, astarg, bast)
    lkb.parked = op
    lkb.refs += 1
    dl_add_tail(&ls.parked, &op.link)
    ls.parked_count += 1
    ls.stats.parked += 1
    return 0


cdef void unpark(dlm_ls* ls, dlm_parked* op) noexcept nogil:
    """Forgets the operation; the lock may go with it."""
    dl_del(&op.link)
    ls.parked_count -= 1
    op.lkb.parked = NULL
    put_lkb(ls, op.lkb)
    free(op)


cdef int park_unlock(dlm_ls* ls, dlm_lkb* lkb, uint32_t flags, void* astarg) noexcept nogil:
    """An unlock or cancel during recovery; one that meets a parked operation settles it at once."""
    cdef dlm_parked* op = lkb.parked
    cdef int kind
    if lkb.flags & LKB_MSTCPY:
        return -E_INVAL
    if op == NULL:
        if not (flags & (LKF_CANCEL | LKF_FORCEUNLOCK)) and (lkb.status != STS_GRANTED or lkb.wait_count):
            return -E_BUSY
        if lkb.status == 0 and not lkb.wait_count and dl_empty(&lkb.lookup):
            return -E_NOENT
        return park(ls, lkb, PARK_UNLOCK, MODE_IV, NULL, flags, NULL, 0, NULL, astarg, NULL)
    if not (flags & (LKF_CANCEL | LKF_FORCEUNLOCK)):
        return -E_BUSY
    kind = op.kind
    if kind == PARK_UNLOCK:
        # A cancel gives way to an unlock; anything else is under way already.
        if flags & LKF_FORCEUNLOCK and op.flags & LKF_CANCEL:
            op.flags = flags
            op.astarg = astarg
        return 0
    lkb.refs += 1
    if kind == PARK_CONVERT:
        lkb.ast = op.ast
        lkb.astarg = op.astarg
        lkb.lksb = op.lksb
    unpark(ls, op)
    if kind == PARK_REQUEST:
        queue_cast(ls, lkb, -E_CANCEL if flags & LKF_CANCEL else -E_UNLOCK)
        put_lkb(ls, lkb)
    elif flags & LKF_CANCEL:
        queue_cast(ls, lkb, -E_CANCEL)
    else:
        park(ls, lkb, PARK_UNLOCK, MODE_IV, NULL, flags, NULL, 0, NULL, astarg, NULL)
    put_lkb(ls, lkb)
    return 0


cdef void replay_parked(dlm_ls* ls) noexcept nogil:
    cdef dlm_parked* op
    cdef dlm_parked copy
    cdef dlm_lkb* lkb
    cdef int error
    while not dl_empty(&ls.parked):
        op = <dlm_parked*>ls.parked.next.owner
        copy = op[0]
        lkb = op.lkb
        lkb.refs += 1
        unpark(ls, op)
        if copy.kind == PARK_UNLOCK:
            error = unlock_now(ls, lkb, copy.flags, copy.astarg)
        else:
            error = lock_now(ls, lkb, copy.mode, copy.lksb, copy.flags, copy.name, copy.namelen, copy.ast,
                             copy.astarg, copy.bast)
            if error:
                # It was accepted, so its owner must hear of it.
                set_lkb_args(ls, lkb, copy.mode, copy.lksb, copy.flags, copy.ast, copy.astarg, copy.bast)
                queue_cast(ls, lkb, error)
                if copy.kind == PARK_REQUEST:
                    put_lkb(ls, lkb)
        put_lkb(ls, lkb)
