"""Recovery of resources and locks.

The root list holds every resource that was in use when recovery began, with a reference; all steps walk it. A step that
asks other nodes does so for RECOVER_WINDOW resources or locks at a time: `cursor` is where it goes on, `rec_out` counts
answers that are due.
"""
from libc.stdint cimport int32_t, uint8_t, uint32_t
from libc.stdlib cimport realloc
from libc.string cimport memcpy, memset
from dlm.core._base cimport (E_AGAIN, E_BADR, E_CANCEL, E_EXIST, E_INPROGRESS, E_INVAL, E_NOENT, E_NOMEM, E_OPNOTSUPP,
                             E_PROTO, E_UNLOCK, be16toh, dl_add_tail, dl_del, dl_empty, dlink, htobe16)
from dlm.core._dir cimport (FIND_RECOVER, LOOKUP_RECOVER_DIR, LOOKUP_RECOVER_MASTER, find_rsb, hash_to_node,
                            master_lookup)
from dlm.core._engine cimport (LKB_LVB_INVALID, LKB_MODE_GUESSED, LKB_MSTCPY, LKB_OVERLAP_CANCEL, LKB_OVERLAP_UNLOCK,
                               LKB_RESEND, LKF_CANCEL, LKF_FORCEUNLOCK, LKF_VALBLK, MODE_CR, MODE_CW, MODE_IV,
                               MODE_NL, MODE_PR, MODE_PW, PH_LOCKS, PH_MASTERS, RECOVER_WINDOW, RSB_NEW_MASTER,
                               RSB_NEW_MASTER2, RSB_RECOVER_CONVERT, RSB_RECOVER_GRANT, RSB_RECOVER_LVB_INVAL,
                               RSB_VALNOTVALID, SBF_DEMOTED, STS_CONVERT, STS_GRANTED, STS_WAITING, dlm_lkb, dlm_rsb,
                               is_master, is_master_copy, is_process_copy, middle_conversion, modes_compat)
from dlm.core._grant cimport conversion_deadlock, grant_pending_locks, queue_cast
from dlm.core._lock cimport (confirm_master, convert_lock, finish_convert, remove_from_waiters, request_again,
                             unlock_lock)
from dlm.core._members cimport find_member, is_removed
from dlm.core._receive cimport finish_cancel, finish_unlock
from dlm.core._send cimport send_rcom
from dlm.core._table cimport (add_lkb, alloc_lvb, attach_lkb, create_lkb, del_lkb, find_lkb, ls_break, put_lkb,
                              put_rsb, search_rsb)
from dlm.core._wire cimport (FLAGS_SHARED, LOCK_SIZE, MSG_CANCEL, MSG_CONVERT, MSG_CONVERT_REPLY, MSG_LOOKUP,
                             MSG_REQUEST, MSG_UNLOCK, PACKET_MAX, RCOM_LOCK, RCOM_LOCK_REPLY, RCOM_LOOKUP,
                             RCOM_LOOKUP_REPLY, RCOM_NAMES_REPLY, RCOM_SIZE, RESNAME_MAX, RLF_LVB_INVALID, jhash,
                             wire_put_lock, wlock)


# ---- the root list

cdef void create_root_list(dlm_ls* ls) noexcept nogil:
    cdef uint32_t i
    cdef dlm_rsb* r
    for i in range(ls.bucket_mask + 1):
        r = ls.buckets[i]
        while r != NULL:
            if not r.tossed:
                r.refs += 1
                dl_add_tail(&ls.root, &r.root)
            r = r.hnext


cdef void release_root_list(dlm_ls* ls) noexcept nogil:
    cdef dlm_rsb* r
    ls.cursor = NULL
    while not dl_empty(&ls.root):
        r = <dlm_rsb*>ls.root.next.owner
        dl_del(&r.root)
        put_rsb(ls, r)


cdef void clear_recover_lists(dlm_ls* ls) noexcept nogil:
    cdef uint32_t i
    cdef dlm_rsb* r
    for i in range(ls.rec_count):
        r = ls.rec_rsbs[i]
        if r != NULL:
            r.recover_id = 0
            put_rsb(ls, r)
    ls.rec_count = 0
    while not dl_empty(&ls.recover_list):
        r = <dlm_rsb*>ls.recover_list.next.owner
        dl_del(&r.recover)
        r.recover_locks = 0
        put_rsb(ls, r)
    ls.rec_out = 0


cdef void recover_dir_nodeids(dlm_ls* ls) noexcept nogil:
    cdef dlink* at = ls.root.next
    while at != &ls.root:
        (<dlm_rsb*>at.owner).dir_nodeid = hash_to_node(ls, (<dlm_rsb*>at.owner).hash)
        at = at.next


# ---- the directory

cdef dlink* names_after(dlm_ls* ls, const wrcom* rc) noexcept nogil:
    """Where to go on in the root list; from the start if the name is none of it."""
    cdef dlm_rsb* r
    if rc.buf_len:
        r = search_rsb(ls, rc.buf, rc.buf_len, jhash(rc.buf, rc.buf_len))
        if r != NULL and not dl_empty(&r.root):
            return r.root.next
    return ls.root.next


cdef void put_u16(uint8_t* p, uint32_t value) noexcept nogil:
    cdef unsigned short x = htobe16(<unsigned short>value)
    memcpy(p, &x, 2)


cdef void send_names(dlm_ls* ls, const wrcom* rc) noexcept nogil:
    cdef uint8_t names[PACKET_MAX]
    cdef uint32_t size = 0
    cdef dlink* at = names_after(ls, rc)
    cdef dlm_rsb* r
    cdef wrcom out
    cdef uint8_t* body
    while at != &ls.root:
        r = <dlm_rsb*>at.owner
        if r.nodeid == 0 and r.dir_nodeid == rc.from_nodeid:
            # Two lengths: this one's, and the one that ends the block.
            if size + 4 + r.len > PACKET_MAX - RCOM_SIZE:
                break
            put_u16(names + size, r.len)
            memcpy(names + size + 2, r.name, r.len)
            size += 2 + r.len
        at = at.next
    put_u16(names + size, 0xffff if at == &ls.root else 0)
    size += 2
    memset(&out, 0, sizeof(wrcom))
    out.type = RCOM_NAMES_REPLY
    out.id = rc.id
    out.seq_reply = rc.seq
    out.buf_len = size
    body = send_rcom(ls, rc.from_nodeid, &out)
    if body != NULL:
        memcpy(body, names, size)


cdef int take_names(dlm_ls* ls, dlm_member* memb, const wrcom* rc) noexcept nogil:
    cdef const uint8_t* p = rc.buf
    cdef uint32_t left = rc.buf_len
    cdef uint32_t length
    cdef unsigned short raw
    cdef int error
    cdef int32_t master
    while True:
        if left < 2:
            return -E_PROTO
        memcpy(&raw, p, 2)
        length = be16toh(raw)
        p += 2
        left -= 2
        if length == 0xffff:
            return 1
        if length == 0:
            # A block without a name would have us ask the same thing for ever.
            return 0 if left + 2 < rc.buf_len else -E_PROTO
        if length > left or length > RESNAME_MAX:
            return -E_PROTO
        error = master_lookup(ls, memb.nodeid, p, length, LOOKUP_RECOVER_DIR, &master)
        if error:
            return error if error != -E_INVAL else -E_PROTO
        memcpy(memb.last_name, p, length)
        memb.last_len = length
        p += length
        left -= length


# ---- operations under way

cdef void convert_waiter(dlm_ls* ls, dlm_lkb* lkb) noexcept nogil:
    if middle_conversion(lkb):
        # It may have been granted or not; the new master finds out from what others hold.
        remove_from_waiters(ls, lkb, MSG_CONVERT_REPLY, False)
        finish_convert(ls, lkb.res, lkb, -E_INPROGRESS, NULL)
        lkb.grmode = MODE_IV
        lkb.res.flags |= RSB_RECOVER_CONVERT
    else:
        lkb.flags |= LKB_RESEND


cdef void finish_overlap(dlm_ls* ls, dlm_lkb* lkb) noexcept nogil:
    """The operation itself is settled; the unlock or cancel that overlapped it went to the dead master as well."""
    if lkb.flags & LKB_OVERLAP_CANCEL:
        # Too late: what failed has failed, and a conversion between PR and CW goes on with the new master.
        finish_cancel(ls, lkb, 0, NULL)
        lkb.exflags &= ~<uint32_t>LKF_CANCEL
    if lkb.flags & LKB_OVERLAP_UNLOCK:
        finish_unlock(ls, lkb, -E_UNLOCK if lkb.status else -E_NOENT, NULL)


cdef void waiter_pre(dlm_ls* ls, dlm_lkb* lkb) noexcept nogil:
    cdef int kind = lkb.wait_type
    # The directory is built anew: all its questions are asked again, wherever they went.
    if kind == MSG_LOOKUP:
        lkb.flags |= LKB_RESEND
        return
    if not is_removed(ls, lkb.wait_nodeid, 0):
        return
    if kind == MSG_REQUEST:
        lkb.flags |= LKB_RESEND
    elif kind == MSG_CONVERT:
        convert_waiter(ls, lkb)
    elif kind == MSG_UNLOCK:
        finish_unlock(ls, lkb, -E_UNLOCK, NULL)
    elif kind == MSG_CANCEL:
        finish_cancel(ls, lkb, -E_CANCEL, NULL)
    if lkb.wait_count and lkb.wait_type == 0:
        finish_overlap(ls, lkb)


cdef void recover_waiters_pre(dlm_ls* ls) noexcept nogil:
    cdef dlink* at = ls.waiters.next
    cdef dlm_lkb* lkb
    while at != &ls.waiters:
        lkb = <dlm_lkb*>at.owner
        at = at.next
        lkb.refs += 1
        waiter_pre(ls, lkb)
        put_lkb(ls, lkb)


cdef void waiter_post(dlm_ls* ls, dlm_lkb* lkb) noexcept nogil:
    """No reply to anything before recovery will come any more: once again, or not if it was given up meanwhile."""
    cdef dlm_rsb* r = lkb.res
    cdef int kind = lkb.wait_type
    cdef bint cancelled = lkb.flags & LKB_OVERLAP_CANCEL
    cdef bint unlocked = lkb.flags & LKB_OVERLAP_UNLOCK
    lkb.flags &= ~<uint32_t>(LKB_RESEND | LKB_OVERLAP_UNLOCK | LKB_OVERLAP_CANCEL)
    lkb.wait_type = 0
    while lkb.wait_count:
        lkb.wait_count -= 1
        put_lkb(ls, lkb)
    dl_del(&lkb.wait)
    if kind == MSG_CONVERT:
        if unlocked:
            lkb.exflags |= LKF_FORCEUNLOCK
            unlock_lock(ls, r, lkb)
        elif cancelled:
            lkb.rqmode = MODE_IV
            queue_cast(ls, lkb, -E_CANCEL)
        elif convert_lock(ls, r, lkb) == -E_INVAL:
            ls.stats.refused += 1
    elif cancelled or unlocked:
        queue_cast(ls, lkb, -E_UNLOCK if unlocked else -E_CANCEL)
        # It may have been the one to find the master.
        if r.first_lkid == lkb.id:
            confirm_master(ls, r, -E_AGAIN)
        put_lkb(ls, lkb)
    else:
        request_again(ls, r, lkb)
        if is_master(r):
            confirm_master(ls, r, 0)


cdef void recover_waiters_post(dlm_ls* ls) noexcept nogil:
    """What is sent again comes to the end of the list, unmarked; nothing here ends another lock's wait."""
    cdef dlink* at = ls.waiters.next
    cdef dlm_lkb* lkb
    cdef dlm_rsb* r
    while at != &ls.waiters:
        lkb = <dlm_lkb*>at.owner
        at = at.next
        if lkb.flags & LKB_RESEND:
            r = lkb.res
            lkb.refs += 1
            r.refs += 1
            waiter_post(ls, lkb)
            put_lkb(ls, lkb)
            put_rsb(ls, r)


# ---- the dead

cdef void purge_queue(dlm_ls* ls, dlm_rsb* r, dlink* head) noexcept nogil:
    cdef dlink* at = head.next
    cdef dlm_lkb* lkb
    while at != head:
        lkb = <dlm_lkb*>at.owner
        at = at.next
        # A node that is back may have sent locks of its new life already, for this recovery or one that was broken off.
        if not is_master_copy(lkb) or not is_removed(ls, lkb.nodeid, lkb.recover_seq):
            continue
        if lkb.exflags & LKF_VALBLK and lkb.grmode >= MODE_PW:
            r.flags |= RSB_RECOVER_LVB_INVAL
        del_lkb(ls, lkb)
        put_lkb(ls, lkb)
        r.flags |= RSB_RECOVER_GRANT


cdef void recover_purge(dlm_ls* ls) noexcept nogil:
    cdef dlink* at = ls.root.next
    cdef dlm_rsb* r
    while at != &ls.root:
        r = <dlm_rsb*>at.owner
        at = at.next
        if is_master(r):
            purge_queue(ls, r, &r.grantq)
            purge_queue(ls, r, &r.convertq)
            purge_queue(ls, r, &r.waitq)


# ---- masters

cdef void set_queue_master(dlm_rsb* r, dlink* head) noexcept nogil:
    """Our own locks follow the master. Copies of others' may be here already, if we are the new one."""
    cdef dlink* at = head.next
    while at != head:
        if not is_master_copy(<dlm_lkb*>at.owner):
            (<dlm_lkb*>at.owner).nodeid = r.nodeid
            (<dlm_lkb*>at.owner).remid = 0
        at = at.next


cdef void set_new_master(dlm_rsb* r) noexcept nogil:
    set_queue_master(r, &r.grantq)
    set_queue_master(r, &r.convertq)
    set_queue_master(r, &r.waitq)
    r.flags |= RSB_NEW_MASTER | RSB_NEW_MASTER2


cdef int remember_rsb(dlm_ls* ls, dlm_rsb* r) noexcept nogil:
    cdef void* p
    if r.recover_id:
        return 0
    if ls.rec_count == ls.rec_size:
        p = realloc(ls.rec_rsbs, (ls.rec_size * 2 + 1024) * sizeof(dlm_rsb*))
        if p == NULL:
            ls_break(ls, E_NOMEM)
            return -E_NOMEM
        ls.rec_rsbs = <dlm_rsb**>p
        ls.rec_size = ls.rec_size * 2 + 1024
    ls.rec_rsbs[ls.rec_count] = r
    ls.rec_count += 1
    r.recover_id = ls.rec_count
    r.refs += 1
    return 0


cdef void recover_master(dlm_ls* ls, dlm_rsb* r) noexcept nogil:
    cdef bint removed = is_removed(ls, r.nodeid, r.master_seq)
    cdef wrcom rc
    cdef uint8_t* body
    if is_master(r) or not (removed or r.flags & RSB_NEW_MASTER):
        return
    if r.dir_nodeid == ls.our_nodeid:
        if removed:
            r.master_nodeid = ls.our_nodeid
            r.nodeid = 0
        set_new_master(r)
        return
    if remember_rsb(ls, r):
        return
    memset(&rc, 0, sizeof(wrcom))
    rc.type = RCOM_LOOKUP
    rc.id = r.recover_id
    rc.buf_len = r.len
    body = send_rcom(ls, r.dir_nodeid, &rc)
    if body != NULL:
        memcpy(body, r.name, r.len)
        ls.rec_out += 1


cdef bint recover_masters(dlm_ls* ls) noexcept nogil:
    cdef dlm_rsb* r
    while ls.cursor != &ls.root and ls.rec_out < RECOVER_WINDOW:
        r = <dlm_rsb*>ls.cursor.owner
        ls.cursor = ls.cursor.next
        recover_master(ls, r)
    return ls.cursor == &ls.root and ls.rec_out == 0


cdef void receive_lookup(dlm_ls* ls, const wrcom* rc) noexcept nogil:
    cdef wrcom out
    cdef int32_t master
    cdef int error = master_lookup(ls, rc.from_nodeid, rc.buf, rc.buf_len, LOOKUP_RECOVER_MASTER, &master)
    memset(&out, 0, sizeof(wrcom))
    out.type = RCOM_LOOKUP_REPLY
    out.result = error if error else master
    out.id = rc.id
    out.seq_reply = rc.seq
    send_rcom(ls, rc.from_nodeid, &out)


cdef void receive_lookup_reply(dlm_ls* ls, const wrcom* rc) noexcept nogil:
    cdef dlm_rsb* r
    if ls.phase != PH_MASTERS or rc.id < 1 or rc.id > ls.rec_count:
        ls.stats.refused += 1
        return
    r = ls.rec_rsbs[rc.id - 1]
    # Only a member can be master; anything else will be seen by who looks at why recovery does not end.
    if r == NULL or rc.from_nodeid != r.dir_nodeid or find_member(ls, rc.result) == NULL:
        ls.stats.refused += 1
        return
    r.master_nodeid = rc.result
    r.nodeid = 0 if rc.result == ls.our_nodeid else rc.result
    r.master_seq = ls.recover_seq
    set_new_master(r)
    ls.rec_rsbs[rc.id - 1] = NULL
    r.recover_id = 0
    ls.rec_out -= 1
    put_rsb(ls, r)


# ---- locks

cdef void send_lock(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb) noexcept nogil:
    cdef wrcom rc
    cdef wlock l
    cdef uint8_t* body
    memset(&rc, 0, sizeof(wrcom))
    memset(&l, 0, sizeof(wlock))
    l.ownpid = lkb.ownpid
    l.lkid = lkb.id
    l.exflags = lkb.exflags
    l.flags = (lkb.flags & FLAGS_SHARED) | (RLF_LVB_INVALID if lkb.flags & LKB_LVB_INVALID else 0)
    l.lvbseq = lkb.lvbseq
    l.rqmode = lkb.rqmode
    l.grmode = lkb.grmode
    l.status = lkb.status
    l.wait_type = lkb.wait_type
    l.asts = lkb.asts
    l.name = <const uint8_t*>r.name
    l.name_len = r.len
    if lkb.lvb != NULL:
        l.lvb = lkb.lvb
        l.lvb_len = ls.lvblen
    rc.type = RCOM_LOCK
    rc.id = lkb.id
    rc.buf_len = LOCK_SIZE + l.lvb_len
    body = send_rcom(ls, r.nodeid, &rc)
    if body != NULL:
        wire_put_lock(body, &l)


cdef void send_queue_locks(dlm_ls* ls, dlm_rsb* r, dlink* head) noexcept nogil:
    cdef dlink* at = head.next
    while at != head:
        if not is_master_copy(<dlm_lkb*>at.owner):
            send_lock(ls, r, <dlm_lkb*>at.owner)
            r.recover_locks += 1
        at = at.next


cdef void recover_rsb_locks(dlm_ls* ls, dlm_rsb* r) noexcept nogil:
    if is_master(r):
        r.flags &= ~<uint32_t>RSB_NEW_MASTER
        return
    if not r.flags & RSB_NEW_MASTER:
        return
    r.recover_locks = 0
    send_queue_locks(ls, r, &r.grantq)
    send_queue_locks(ls, r, &r.convertq)
    send_queue_locks(ls, r, &r.waitq)
    if r.recover_locks == 0:
        r.flags &= ~<uint32_t>RSB_NEW_MASTER
        return
    ls.rec_out += r.recover_locks
    r.refs += 1
    dl_add_tail(&ls.recover_list, &r.recover)


cdef bint recover_locks(dlm_ls* ls) noexcept nogil:
    cdef dlm_rsb* r
    while ls.cursor != &ls.root and ls.rec_out < RECOVER_WINDOW:
        r = <dlm_rsb*>ls.cursor.owner
        ls.cursor = ls.cursor.next
        recover_rsb_locks(ls, r)
    return ls.cursor == &ls.root and ls.rec_out == 0


cdef dlm_lkb* search_remid(dlm_rsb* r, int32_t nodeid, uint32_t remid) noexcept nogil:
    cdef dlink* heads[3]
    cdef dlink* at
    cdef dlm_lkb* lkb
    cdef int i
    heads[0] = &r.grantq
    heads[1] = &r.convertq
    heads[2] = &r.waitq
    for i in range(3):
        at = heads[i].next
        while at != heads[i]:
            lkb = <dlm_lkb*>at.owner
            if is_master_copy(lkb) and lkb.nodeid == nodeid and lkb.remid == remid:
                return lkb
            at = at.next
    return NULL


cdef int take_lock(dlm_ls* ls, dlm_rsb* r, const wrcom* rc, dlm_lkb** out) noexcept nogil:
    """A copy of another node's lock."""
    cdef const wlock* l = &rc.lock
    cdef int status = l.status
    cdef dlm_lkb* lkb
    if status < STS_WAITING or (status != STS_GRANTED and l.rqmode == MODE_IV) or l.lvb_len > ls.lvblen:
        return -E_INVAL
    lkb = create_lkb(ls)
    if lkb == NULL:
        return -E_NOMEM
    lkb.flags = (l.flags & FLAGS_SHARED & ~<uint32_t>RLF_LVB_INVALID) | LKB_MSTCPY
    if l.flags & RLF_LVB_INVALID:
        lkb.flags |= LKB_LVB_INVALID
    lkb.nodeid = rc.from_nodeid
    lkb.ownpid = l.ownpid
    lkb.remid = l.lkid
    lkb.exflags = l.exflags
    lkb.lvbseq = l.lvbseq
    lkb.rqmode = <signed char>l.rqmode
    lkb.grmode = <signed char>l.grmode
    lkb.asts = l.asts
    if lkb.exflags & LKF_VALBLK:
        if alloc_lvb(ls, &lkb.lvb):
            put_lkb(ls, lkb)
            return -E_NOMEM
        memcpy(lkb.lvb, l.lvb, l.lvb_len)
    if l.wait_type == MSG_CONVERT and middle_conversion(lkb):
        # What is granted is known when all locks are here.
        status = STS_CONVERT
        lkb.grmode = MODE_IV
    if status == STS_GRANTED:
        # A conversion that is under way is sent again, with its mode.
        lkb.rqmode = MODE_IV
    if status == STS_CONVERT and lkb.grmode == MODE_IV:
        r.flags |= RSB_RECOVER_CONVERT
    attach_lkb(r, lkb)
    add_lkb(ls, r, lkb, status)
    ls.stats.recovered_locks += 1
    out[0] = lkb
    return 0


cdef int receive_master_copy(dlm_ls* ls, const wrcom* rc, uint32_t* remid) noexcept nogil:
    """We need not know yet that we are the master: steps of recovery on different nodes overlap."""
    cdef const wlock* l = &rc.lock
    cdef dlm_rsb* r
    cdef dlm_lkb* lkb
    cdef int error
    if l.parent_lkid:
        return -E_OPNOTSUPP
    error = find_rsb(ls, l.name, l.name_len, rc.from_nodeid, FIND_RECOVER, &r)
    if error:
        return error
    lkb = search_remid(r, rc.from_nodeid, l.lkid)
    if lkb != NULL:
        # Of a recovery that was broken off.
        error = -E_EXIST
    else:
        error = take_lock(ls, r, rc, &lkb)
        if error == 0 and not (dl_empty(&r.waitq) and dl_empty(&r.convertq)):
            r.flags |= RSB_RECOVER_GRANT
    if lkb != NULL:
        remid[0] = lkb.id
        lkb.recover_seq = ls.recover_seq
    put_rsb(ls, r)
    return error


cdef void receive_lock(dlm_ls* ls, const wrcom* rc) noexcept nogil:
    cdef wrcom out
    cdef wlock l = rc.lock
    cdef uint8_t* body
    l.remid = 0
    l.result = receive_master_copy(ls, rc, &l.remid)
    l.lvb_len = 0
    memset(&out, 0, sizeof(wrcom))
    out.type = RCOM_LOCK_REPLY
    out.id = rc.id
    out.seq_reply = rc.seq
    out.buf_len = LOCK_SIZE
    body = send_rcom(ls, rc.from_nodeid, &out)
    if body != NULL:
        wire_put_lock(body, &l)


cdef void receive_lock_reply(dlm_ls* ls, const wrcom* rc) noexcept nogil:
    cdef dlm_lkb* lkb = find_lkb(ls, rc.lock.lkid)
    cdef dlm_rsb* r
    if ls.phase != PH_LOCKS or lkb == NULL or lkb.res == NULL or not is_process_copy(lkb):
        ls.stats.refused += 1
        return
    r = lkb.res
    if r.nodeid != rc.from_nodeid or r.recover_locks == 0:
        ls.stats.refused += 1
        return
    if rc.lock.result == -E_BADR:
        # The new master does not know yet that it is.
        send_lock(ls, r, lkb)
        return
    if rc.lock.result == 0 or rc.lock.result == -E_EXIST:
        lkb.remid = rc.lock.remid
    else:
        ls.stats.refused += 1
    ls.rec_out -= 1
    r.recover_locks -= 1
    if r.recover_locks == 0:
        r.flags &= ~<uint32_t>RSB_NEW_MASTER
        dl_del(&r.recover)
        put_rsb(ls, r)


# ---- what the master makes of it

cdef void best_lvb(dlink* head, dlm_lkb** big, dlm_lkb** newest, bint* any) noexcept nogil:
    cdef dlink* at = head.next
    cdef dlm_lkb* lkb
    while at != head:
        lkb = <dlm_lkb*>at.owner
        at = at.next
        if not lkb.exflags & LKF_VALBLK or lkb.lvb == NULL:
            continue
        any[0] = True
        if lkb.grmode > MODE_CR and not lkb.flags & (LKB_LVB_INVALID | LKB_MODE_GUESSED):
            big[0] = lkb
            return
        if newest[0] == NULL or <int32_t>(lkb.lvbseq - newest[0].lvbseq) >= 0:
            newest[0] = lkb


cdef void recover_lvb(dlm_ls* ls, dlm_rsb* r) noexcept nogil:
    """A value is void when its writer died, or when nobody is left who must have the newest."""
    cdef dlm_lkb* big = NULL
    cdef dlm_lkb* newest = NULL
    cdef bint any = False
    if not r.flags & RSB_NEW_MASTER2:
        if r.flags & RSB_RECOVER_LVB_INVAL:
            r.flags |= RSB_VALNOTVALID
        return
    best_lvb(&r.grantq, &big, &newest, &any)
    if big == NULL:
        best_lvb(&r.convertq, &big, &newest, &any)
    if not any:
        return
    if big == NULL:
        r.flags |= RSB_VALNOTVALID
        big = newest
    if alloc_lvb(ls, &r.lvb) == 0:
        r.lvbseq = big.lvbseq
        memcpy(r.lvb, big.lvb, ls.lvblen)


cdef int known_mode(dlink* head) noexcept nogil:
    """PR or CW, if one of them is granted to a lock in the queue."""
    cdef dlink* at = head.next
    while at != head:
        if (<dlm_lkb*>at.owner).grmode == MODE_PR or (<dlm_lkb*>at.owner).grmode == MODE_CW:
            return (<dlm_lkb*>at.owner).grmode
        at = at.next
    return MODE_IV


cdef bint incompatible(dlink* head, const dlm_lkb* lkb, int mode) noexcept nogil:
    """Whether another lock in the queue holds what excludes `mode`."""
    cdef dlink* at = head.next
    while at != head:
        if at.owner != lkb and not modes_compat((<dlm_lkb*>at.owner).grmode, mode):
            return True
        at = at.next
    return False


cdef void recover_conversion(dlm_rsb* r) noexcept nogil:
    """Conversions between PR and CW whose granted mode only the dead master knew.

    The two exclude each other, so what others hold tells. If nobody holds either, any choice does that is the same for
    all of them: each has asked to leave its old mode. One that cannot hold its mode beside what others hold, or would
    wait for another that waits for it, is left with NL: its owner relies on neither mode while it converts. Nobody can
    be told EDEADLK: to its owner the conversion is on the queue. Later kernels (6.13, recover.c) take NL, too.
    """
    cdef dlink* at = r.convertq.next
    cdef dlm_lkb* lkb
    cdef int grmode = known_mode(&r.grantq)
    if grmode == MODE_IV:
        grmode = known_mode(&r.convertq)
    while at != &r.convertq:
        lkb = <dlm_lkb*>at.owner
        at = at.next
        if lkb.grmode == MODE_IV:
            lkb.grmode = <signed char>(grmode if grmode != MODE_IV else lkb.rqmode)
            lkb.flags |= LKB_MODE_GUESSED
    # With all modes known.
    at = r.convertq.next
    while at != &r.convertq:
        lkb = <dlm_lkb*>at.owner
        at = at.next
        if lkb.flags & LKB_MODE_GUESSED:
            if (incompatible(&r.grantq, lkb, lkb.grmode) or incompatible(&r.convertq, lkb, lkb.grmode)
                    or conversion_deadlock(r, lkb)):
                lkb.grmode = MODE_NL
                lkb.sbflags |= SBF_DEMOTED


cdef void forget_guesses(dlm_rsb* r) noexcept nogil:
    """A recovery that is broken off begins with what owners say; one that is not goes by these modes from now on."""
    cdef dlink* at = r.convertq.next
    while at != &r.convertq:
        (<dlm_lkb*>at.owner).flags &= ~<uint32_t>LKB_MODE_GUESSED
        at = at.next


cdef void recover_rsbs(dlm_ls* ls) noexcept nogil:
    cdef dlink* at = ls.root.next
    cdef dlm_rsb* r
    while at != &ls.root:
        r = <dlm_rsb*>at.owner
        at = at.next
        if is_master(r):
            # Of our own locks, when we become master, no flag of an earlier recovery tells.
            if r.flags & (RSB_RECOVER_CONVERT | RSB_NEW_MASTER2):
                recover_conversion(r)
            # Before anything is granted: the completion shows the value. What was guessed proves no value.
            recover_lvb(ls, r)
            forget_guesses(r)
            if r.flags & RSB_NEW_MASTER2 and not (dl_empty(&r.waitq) and dl_empty(&r.convertq)):
                r.flags |= RSB_RECOVER_GRANT
        else:
            r.flags &= ~<uint32_t>RSB_VALNOTVALID
        r.flags &= ~<uint32_t>(RSB_RECOVER_CONVERT | RSB_RECOVER_LVB_INVAL | RSB_NEW_MASTER2)


cdef void recover_grant(dlm_ls* ls) noexcept nogil:
    cdef uint32_t i
    cdef dlm_rsb* r
    cdef dlm_rsb* next
    for i in range(ls.bucket_mask + 1):
        r = ls.buckets[i]
        while r != NULL:
            next = r.hnext
            if r.flags & RSB_RECOVER_GRANT and not r.tossed:
                if is_master(r):
                    r.refs += 1
                    grant_pending_locks(ls, r)
                    r.flags &= ~<uint32_t>RSB_RECOVER_GRANT
                    confirm_master(ls, r, 0)
                    put_rsb(ls, r)
                else:
                    r.flags &= ~<uint32_t>RSB_RECOVER_GRANT
            r = next
