"""What to do with each DLM_MSG. The packet has been parsed, so modes and lengths are in range."""
from libc.stdint cimport int32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy
from dlm.core._base cimport (E_AGAIN, E_BADR, E_BUSY, E_CANCEL, E_INPROGRESS, E_NOBUFS, E_NOENT, E_NOMEM, E_NOTBLK,
                             E_UNLOCK)
from dlm.core._dir cimport FIND_REMOTE, LOOKUP_NORMAL, find_rsb, master_lookup, receive_remove
from dlm.core._engine cimport (LKB_MSTCPY, LKB_OVERLAP_CANCEL, LKB_OVERLAP_UNLOCK, LKF_ALTCW, LKF_ALTPR, LKF_EXPEDITE,
                               LKF_VALBLK, MODE_CW, MODE_IV, MODE_NL, MODE_PR, REQUESTQUEUE_MAX, SBF_ALTMODE,
                               SBF_DEMOTED,
                               STS_CONVERT, STS_GRANTED, STS_WAITING, dlm_packet, dlm_rsb, down_conversion,
                               is_master, is_master_copy, is_overlap, is_process_copy)
from dlm.core._grant cimport grant_lock_pc, grant_pending_locks, queue_bast, queue_cast, remove_lock_pc, revert_lock
from dlm.core._lock cimport (confirm_master, do_cancel, do_convert, do_convert_effects, do_request,
                             do_request_effects, do_unlock, finish_convert, process_lookup_list, remove_from_waiters,
                             request_again, send_common)
from dlm.core._members cimport find_member
from dlm.core._send cimport packet_data, send_lookup_reply, send_refusal, send_reply
from dlm.core._table cimport add_lkb, alloc_lvb, create_lkb, find_lkb, ls_break, put_lkb, put_rsb
from dlm.core._wire cimport (FLAGS_SHARED, IFL_USER, MSG_BAST, MSG_CANCEL, MSG_CANCEL_REPLY, MSG_CONVERT,
                             MSG_CONVERT_REPLY, MSG_GRANT, MSG_LOOKUP, MSG_LOOKUP_REPLY, MSG_PURGE, MSG_REMOVE,
                             MSG_REQUEST, MSG_REQUEST_REPLY, MSG_UNLOCK, MSG_UNLOCK_REPLY, wire_parse_msg)


# ---- what is taken from a message

cdef void take_flags(dlm_lkb* lkb, const wmsg* m) noexcept nogil:
    lkb.exflags = m.exflags
    lkb.sbflags = m.sbflags
    lkb.flags = (lkb.flags & ~<uint32_t>FLAGS_SHARED) | (m.flags & FLAGS_SHARED)
    # Granted without a look at the queues, so only what is harmless may claim it.
    if m.type == MSG_CONVERT or m.rqmode != MODE_NL:
        lkb.exflags &= ~<uint32_t>LKF_EXPEDITE


cdef void take_reply_flags(dlm_lkb* lkb, const wmsg* m) noexcept nogil:
    lkb.sbflags = m.sbflags
    lkb.flags = (lkb.flags & ~<uint32_t>FLAGS_SHARED) | (m.flags & FLAGS_SHARED)


cdef int take_lvb(dlm_ls* ls, dlm_lkb* lkb, const wmsg* m) noexcept nogil:
    if lkb.exflags & LKF_VALBLK:
        if alloc_lvb(ls, &lkb.lvb):
            return -E_NOMEM
        memcpy(lkb.lvb, m.extra, m.extra_len if m.extra_len < ls.lvblen else ls.lvblen)
    return 0


cdef void munge_altmode(dlm_lkb* lkb) noexcept nogil:
    """The master granted another mode than asked for."""
    if lkb.sbflags & SBF_ALTMODE:
        if lkb.exflags & LKF_ALTPR:
            lkb.rqmode = MODE_PR
        elif lkb.exflags & LKF_ALTCW:
            lkb.rqmode = MODE_CW


cdef dlm_lkb* find_target(dlm_ls* ls, const wmsg* m) noexcept nogil:
    """The lock that the message is for, if it is one that this node may speak of in this way."""
    cdef dlm_lkb* lkb = find_lkb(ls, m.remid)
    cdef bint fine
    if lkb == NULL or lkb.res == NULL:
        return NULL
    if m.type in (MSG_CONVERT, MSG_UNLOCK, MSG_CANCEL):
        fine = is_master_copy(lkb) and lkb.nodeid == m.from_nodeid and lkb.remid == m.lkid
    elif m.type == MSG_REQUEST_REPLY:
        # The directory node may answer a question for the master as if it were a request.
        fine = is_process_copy(lkb) and lkb.nodeid in (-1, m.from_nodeid) and lkb.wait_nodeid == m.from_nodeid
    else:
        fine = is_process_copy(lkb) and lkb.nodeid == m.from_nodeid
    # Locks of programs and of a kernel do not mix.
    if m.flags & IFL_USER and not lkb.flags & IFL_USER:
        fine = False
    if not fine:
        ls.stats.refused += 1
    return lkb if fine else NULL


# ---- to the master

cdef void receive_request(dlm_ls* ls, const wmsg* m) noexcept nogil:
    cdef dlm_lkb* lkb = create_lkb(ls)
    cdef dlm_rsb* r
    cdef int error
    if lkb == NULL:
        send_refusal(ls, m, MSG_REQUEST_REPLY, -E_NOMEM)
        return
    take_flags(lkb, m)
    lkb.flags |= LKB_MSTCPY
    lkb.nodeid = m.from_nodeid
    lkb.ownpid = m.pid
    lkb.remid = m.lkid
    lkb.rqmode = <signed char>m.rqmode
    lkb.asts = m.asts
    error = alloc_lvb(ls, &lkb.lvb) if lkb.exflags & LKF_VALBLK else 0
    if error == 0:
        error = find_rsb(ls, m.extra, m.extra_len, m.from_nodeid, FIND_REMOTE, &r)
    if error:
        put_lkb(ls, lkb)
        send_refusal(ls, m, MSG_REQUEST_REPLY, error)
        return
    lkb.res = r
    if r.master_nodeid != ls.our_nodeid:
        if m.from_nodeid != r.dir_nodeid:
            put_lkb(ls, lkb)
            send_refusal(ls, m, MSG_REQUEST_REPLY, -E_NOTBLK)
            return
        # The directory node says that we are master, ahead of its answer to our own question.
        r.master_nodeid = ls.our_nodeid
        r.nodeid = 0
    error = do_request(ls, r, lkb)
    send_reply(ls, r, lkb, MSG_REQUEST_REPLY, error)
    do_request_effects(ls, r, lkb, error)
    if error == -E_AGAIN:
        put_lkb(ls, lkb)


cdef void receive_convert(dlm_ls* ls, dlm_lkb* lkb, const wmsg* m) noexcept nogil:
    cdef dlm_rsb* r = lkb.res
    cdef int error = 0
    cdef bint reply
    if lkb.status != STS_GRANTED:
        error = -E_BUSY
    else:
        take_flags(lkb, m)
        error = take_lvb(ls, lkb, m)
    if error:
        send_reply(ls, r, lkb, MSG_CONVERT_REPLY, error)
        return
    lkb.rqmode = <signed char>m.rqmode
    lkb.lvbseq = m.lvbseq
    reply = not down_conversion(lkb)
    error = do_convert(ls, r, lkb)
    if reply:
        send_reply(ls, r, lkb, MSG_CONVERT_REPLY, error)
    do_convert_effects(ls, r, lkb, error)


cdef void receive_unlock(dlm_ls* ls, dlm_lkb* lkb, const wmsg* m) noexcept nogil:
    cdef dlm_rsb* r = lkb.res
    take_flags(lkb, m)
    if take_lvb(ls, lkb, m):
        send_reply(ls, r, lkb, MSG_UNLOCK_REPLY, -E_NOMEM)
        return
    send_unlocked(ls, r, lkb, do_unlock(ls, r, lkb))


cdef void send_unlocked(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb, int error) noexcept nogil:
    send_reply(ls, r, lkb, MSG_UNLOCK_REPLY, error)
    grant_pending_locks(ls, r)


cdef void receive_cancel(dlm_ls* ls, dlm_lkb* lkb, const wmsg* m) noexcept nogil:
    cdef dlm_rsb* r = lkb.res
    cdef int error
    cdef uint32_t demoted = lkb.sbflags & SBF_DEMOTED if lkb.status == STS_CONVERT else 0
    take_flags(lkb, m)
    lkb.sbflags |= demoted
    error = do_cancel(ls, r, lkb)
    send_reply(ls, r, lkb, MSG_CANCEL_REPLY, error)
    if error:
        grant_pending_locks(ls, r)


# ---- from the master

cdef void receive_grant(dlm_ls* ls, dlm_lkb* lkb, const wmsg* m) noexcept nogil:
    # Only what waits can be granted: anything else would be a grant of no mode.
    if lkb.status not in (STS_WAITING, STS_CONVERT) or lkb.rqmode == MODE_IV:
        ls.stats.refused += 1
        return
    take_reply_flags(lkb, m)
    munge_altmode(lkb)
    grant_lock_pc(ls, lkb.res, lkb, m.extra, m.extra_len, m.lvbseq)
    queue_cast(ls, lkb, 0)


cdef void redo_or_drop(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb, int result) noexcept nogil:
    """Who we took for the master is not: ask the directory again, unless the request is given up meanwhile."""
    ls.stats.lookup_retries += 1
    if r.dir_nodeid != ls.our_nodeid and r.master_nodeid != ls.our_nodeid:
        r.master_nodeid = 0
        r.nodeid = -1
        lkb.nodeid = -1
    if is_overlap(lkb):
        queue_cast(ls, lkb, -E_UNLOCK if lkb.flags & LKB_OVERLAP_UNLOCK else -E_CANCEL)
        confirm_master(ls, r, result)
        put_lkb(ls, lkb)
        return
    request_again(ls, r, lkb)
    if r.master_nodeid == ls.our_nodeid:
        confirm_master(ls, r, 0)


cdef void receive_request_reply(dlm_ls* ls, dlm_lkb* lkb, const wmsg* m) noexcept nogil:
    cdef dlm_rsb* r = lkb.res
    cdef int asked = lkb.wait_type
    cdef uint32_t overlap
    if asked not in (MSG_REQUEST, MSG_LOOKUP):
        ls.stats.refused += 1
        return
    remove_from_waiters(ls, lkb, MSG_REQUEST_REPLY, False)
    if asked == MSG_LOOKUP:
        # The directory node is the master, and took the question for a request.
        r.master_nodeid = m.from_nodeid
        r.nodeid = m.from_nodeid
        lkb.nodeid = m.from_nodeid
    if m.result == 0 or m.result == -E_INPROGRESS:
        take_reply_flags(lkb, m)
        lkb.remid = m.lkid
        munge_altmode(lkb)
        if m.result:
            add_lkb(ls, r, lkb, STS_WAITING)
        else:
            grant_lock_pc(ls, r, lkb, m.extra, m.extra_len, m.lvbseq)
            queue_cast(ls, lkb, 0)
        confirm_master(ls, r, m.result)
    elif m.result == -E_BADR or m.result == -E_NOTBLK:
        redo_or_drop(ls, r, lkb, m.result)
    else:
        # NOQUEUE, or a master in trouble: the request has failed either way.
        queue_cast(ls, lkb, m.result if m.result < 0 else -E_AGAIN)
        confirm_master(ls, r, -E_AGAIN)
        put_lkb(ls, lkb)
    overlap = lkb.flags & (LKB_OVERLAP_UNLOCK | LKB_OVERLAP_CANCEL)
    lkb.flags &= ~<uint32_t>(LKB_OVERLAP_UNLOCK | LKB_OVERLAP_CANCEL)
    if overlap & LKB_OVERLAP_UNLOCK and m.result in (0, -E_INPROGRESS):
        send_common(ls, r, lkb, MSG_UNLOCK)
    elif overlap & LKB_OVERLAP_CANCEL and m.result == -E_INPROGRESS:
        send_common(ls, r, lkb, MSG_CANCEL)


cdef void receive_convert_reply(dlm_ls* ls, dlm_lkb* lkb, const wmsg* m) noexcept nogil:
    if lkb.wait_type != MSG_CONVERT or lkb.status != STS_GRANTED:
        ls.stats.refused += 1
        return
    if remove_from_waiters(ls, lkb, MSG_CONVERT_REPLY, m.result == 0) == 0:
        finish_convert(ls, lkb.res, lkb, m.result, m)


cdef void finish_unlock(dlm_ls* ls, dlm_lkb* lkb, int result, const wmsg* m) noexcept nogil:
    if remove_from_waiters(ls, lkb, MSG_UNLOCK_REPLY, False):
        return
    # A master that does not know the lock has none to hold against others.
    if result in (-E_UNLOCK, -E_NOENT) and lkb.status:
        if m != NULL and result == -E_UNLOCK:
            take_reply_flags(lkb, m)
        remove_lock_pc(ls, lkb)
        queue_cast(ls, lkb, -E_UNLOCK)


cdef void finish_cancel(dlm_ls* ls, dlm_lkb* lkb, int result, const wmsg* m) noexcept nogil:
    # To a cancel that came too late for an earlier conversion, whose grant was its answer. A master answers in order,
    # so a cancel of the conversion under way is answered after that.
    if m != NULL and lkb.wait_type == MSG_CONVERT:
        return
    if remove_from_waiters(ls, lkb, MSG_CANCEL_REPLY, False):
        return
    if result == -E_CANCEL and lkb.status:
        if m != NULL:
            take_reply_flags(lkb, m)
            # The master knows what is left: a queued conversion may have been demoted, or have started, in a recovery,
            # from a mode that only others' locks told.
            if lkb.status == STS_CONVERT and m.grmode != MODE_IV:
                lkb.grmode = <signed char>m.grmode
        # Granted before its master died: there was nothing left to cancel.
        if revert_lock(ls, lkb.res, lkb):
            queue_cast(ls, lkb, -E_CANCEL)


# ---- directory

cdef void receive_lookup(dlm_ls* ls, const wmsg* m) noexcept nogil:
    cdef int32_t master
    cdef int error = master_lookup(ls, m.from_nodeid, m.extra, m.extra_len, LOOKUP_NORMAL, &master)
    if error == 0 and master == ls.our_nodeid:
        # It would only come back with a request.
        receive_request(ls, m)
    else:
        send_lookup_reply(ls, m, master, error)


cdef void receive_lookup_reply(dlm_ls* ls, const wmsg* m) noexcept nogil:
    cdef dlm_lkb* lkb = find_lkb(ls, m.lkid)
    cdef dlm_rsb* r
    cdef bint ours = m.m_nodeid == ls.our_nodeid
    if lkb == NULL or lkb.res == NULL or lkb.wait_type != MSG_LOOKUP or lkb.wait_nodeid != m.from_nodeid:
        ls.stats.refused += 1
        return
    r = lkb.res
    # Somebody who is no member cannot be the master: as good as no answer.
    if not ours and m.m_nodeid != -1 and find_member(ls, m.m_nodeid) == NULL:
        ls.stats.refused += 1
        return
    lkb.refs += 1
    r.refs += 1
    remove_from_waiters(ls, lkb, MSG_LOOKUP, False)
    if ours:
        r.master_nodeid = m.m_nodeid
        r.nodeid = 0
        r.first_lkid = 0
    elif m.m_nodeid == -1:
        # That node does not think that it is the directory node: it is wrong, or we are, for a moment.
        r.master_nodeid = 0
        r.nodeid = -1
        lkb.nodeid = -1
    else:
        r.master_nodeid = m.m_nodeid
        r.nodeid = m.m_nodeid
    if is_overlap(lkb):
        queue_cast(ls, lkb, -E_UNLOCK if lkb.flags & LKB_OVERLAP_UNLOCK else -E_CANCEL)
        lkb.flags &= ~<uint32_t>(LKB_OVERLAP_UNLOCK | LKB_OVERLAP_CANCEL)
        if not ours:
            confirm_master(ls, r, -E_AGAIN)
        put_lkb(ls, lkb)
    else:
        request_again(ls, r, lkb)
    if is_master(r):
        r.first_lkid = 0
        process_lookup_list(ls, r)
    put_lkb(ls, lkb)
    put_rsb(ls, r)


# ---- all

cdef void refuse_unknown(dlm_ls* ls, const wmsg* m) noexcept nogil:
    """The sender awaits an answer, even if there is no such lock."""
    if m.type == MSG_CONVERT:
        send_refusal(ls, m, MSG_CONVERT_REPLY, -E_NOENT)
    elif m.type == MSG_UNLOCK:
        send_refusal(ls, m, MSG_UNLOCK_REPLY, -E_NOENT)
    elif m.type == MSG_CANCEL:
        send_refusal(ls, m, MSG_CANCEL_REPLY, -E_NOENT)


cdef void handle_lock_message(dlm_ls* ls, const wmsg* m) noexcept nogil:
    """Those about a lock that both sides know."""
    cdef dlm_lkb* lkb = find_target(ls, m)
    cdef dlm_rsb* r
    if lkb == NULL:
        refuse_unknown(ls, m)
        return
    r = lkb.res
    lkb.refs += 1
    r.refs += 1
    if m.type == MSG_CONVERT:
        receive_convert(ls, lkb, m)
    elif m.type == MSG_UNLOCK:
        receive_unlock(ls, lkb, m)
    elif m.type == MSG_CANCEL:
        receive_cancel(ls, lkb, m)
    elif m.type == MSG_REQUEST_REPLY:
        receive_request_reply(ls, lkb, m)
    elif m.type == MSG_CONVERT_REPLY:
        receive_convert_reply(ls, lkb, m)
    elif m.type == MSG_UNLOCK_REPLY:
        finish_unlock(ls, lkb, m.result, m)
    elif m.type == MSG_CANCEL_REPLY:
        finish_cancel(ls, lkb, m.result, m)
    elif m.type == MSG_GRANT:
        receive_grant(ls, lkb, m)
    elif m.type == MSG_BAST:
        queue_bast(ls, r, lkb, m.bastmode)
        lkb.highbast = <signed char>m.bastmode
    put_lkb(ls, lkb)
    put_rsb(ls, r)


cdef void handle_message(dlm_ls* ls, const wmsg* m) noexcept nogil:
    if find_member(ls, m.from_nodeid) == NULL or m.from_nodeid == ls.our_nodeid:
        ls.stats.refused += 1
    elif m.type == MSG_REQUEST:
        receive_request(ls, m)
    elif m.type == MSG_LOOKUP:
        receive_lookup(ls, m)
    elif m.type == MSG_LOOKUP_REPLY:
        receive_lookup_reply(ls, m)
    elif m.type == MSG_REMOVE:
        receive_remove(ls, m)
    elif m.type != MSG_PURGE:
        # PURGE is about locks that outlived their process; ours never do.
        handle_lock_message(ls, m)


cdef void add_requestqueue(dlm_ls* ls, const uint8_t* data, uint32_t size, int32_t nodeid) noexcept nogil:
    cdef dlm_packet* p
    if ls.rq_count >= REQUESTQUEUE_MAX:
        ls_break(ls, E_NOBUFS)
        return
    p = <dlm_packet*>malloc(sizeof(dlm_packet) + size)
    if p == NULL:
        ls_break(ls, E_NOMEM)
        return
    p.next = NULL
    p.size = size
    p.nodeid = nodeid
    p.seq = ls.recover_seq
    memcpy(packet_data(p), data, size)
    if ls.rq_head == NULL:
        ls.rq_head = p
    else:
        ls.rq_tail.next = p
    ls.rq_tail = p
    ls.rq_count += 1


cdef void receive_message(dlm_ls* ls, const wmsg* m, const uint8_t* data, uint32_t size) noexcept nogil:
    ls.stats.received += 1
    if ls.running:
        handle_message(ls, m)
    elif ls.generation:
        add_requestqueue(ls, data, size, m.from_nodeid)
    else:
        # For our former life in this lockspace.
        ls.stats.refused += 1


cdef bint is_void(dlm_ls* ls, const dlm_packet* p, const wmsg* m) noexcept nogil:
    """The directory has been built anew, its questions are asked again; and the dead do not speak."""
    cdef uint32_t i
    for i in range(ls.n_gone):
        if ls.gone[i].nodeid == p.nodeid and p.seq < ls.gone[i].gone_seq:
            return True
    return m.type in (MSG_REMOVE, MSG_LOOKUP, MSG_LOOKUP_REPLY)


cdef void purge_requestqueue(dlm_ls* ls) noexcept nogil:
    cdef dlm_packet* p = ls.rq_head
    cdef dlm_packet* next
    cdef wmsg m
    ls.rq_head = NULL
    ls.rq_tail = NULL
    ls.rq_count = 0
    while p != NULL:
        next = p.next
        p.next = NULL
        if wire_parse_msg(packet_data(p), p.size, &m) or is_void(ls, p, &m):
            free(p)
        else:
            if ls.rq_head == NULL:
                ls.rq_head = p
            else:
                ls.rq_tail.next = p
            ls.rq_tail = p
            ls.rq_count += 1
        p = next


cdef void process_requestqueue(dlm_ls* ls) noexcept nogil:
    cdef dlm_packet* p
    cdef wmsg m
    while ls.rq_head != NULL:
        p = ls.rq_head
        ls.rq_head = p.next
        ls.rq_count -= 1
        if wire_parse_msg(packet_data(p), p.size, &m) == 0:
            handle_message(ls, &m)
        free(p)
    ls.rq_tail = NULL
