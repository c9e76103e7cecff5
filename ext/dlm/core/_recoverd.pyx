"""The recovery machine. It runs wherever a packet, a timer or start() moves it on; nothing ever waits."""
from libc.stdint cimport uint8_t
from libc.string cimport memcpy, memset
from dlm.core._base cimport E_INVAL, E_PROTO, E_SRCH
from dlm.core._dir cimport clear_tossed
from dlm.core._engine cimport (EV_RECOVER_DONE, EV_RECOVER_FAILED, EV_RECOVER_PREP, PH_DIR, PH_DONE_WAIT, PH_FAILED,
                               PH_LOCKS, PH_LOCKS_WAIT, PH_MASTERS, PH_NAMES, PH_NODES, PH_PING, PH_RUNNING,
                               PH_STOPPED, dlm_event, dlm_member, dlm_slot)
from dlm.core._lock cimport replay_parked
from dlm.core._members cimport assign_slots, change_members, check_nodes, copy_slots, find_member
from dlm.core._receive cimport process_requestqueue, purge_requestqueue
from dlm.core._recover cimport (clear_recover_lists, create_root_list, receive_lock, receive_lock_reply,
                                receive_lookup, receive_lookup_reply, recover_dir_nodeids, recover_grant,
                                recover_locks, recover_masters, recover_purge, recover_rsbs, recover_waiters_post,
                                recover_waiters_pre, release_root_list, send_names, take_names)
from dlm.core._send cimport send_rcom
from dlm.core._table cimport add_event, resume_callbacks
from dlm.core._wire cimport (CONFIG_SIZE, RCOM_LOCK, RCOM_LOCK_REPLY, RCOM_LOOKUP, RCOM_LOOKUP_REPLY, RCOM_NAMES,
                             RCOM_NAMES_REPLY, RCOM_STATUS, RCOM_STATUS_REPLY, RSF_NEED_SLOTS, RS_DIR, RS_DONE,
                             RS_LOCKS, RS_NODES, RS_NODES_ALL, SLOT_SIZE, STATUS_SIZE, wconfig, wire_put_config,
                             wire_put_slot)

cdef enum:
    # How soon a node that is not as far yet is asked again: from, and at most. The kernel waits 20 ms to 1 s.
    POLL_FIRST_NS = 1000000
    POLL_LAST_NS = 50000000
    # How soon a question without an answer goes again; each time twice as late, up to rcom_timeout_ns. The kernel
    # always waits that long. STATUS travels without a number, so one is lost whenever a peer that has just joined
    # refuses the connection because it has not been told yet who we are.
    REPEAT_FIRST_NS = 100000000
    REPEAT_SHIFT_MAX = 16


cdef inline bint we_are_low(const dlm_ls* ls) noexcept nogil:
    return ls.low_nodeid == ls.our_nodeid


cdef void fail(dlm_ls* ls, int error, int32_t nodeid) noexcept nogil:
    """Recovery cannot go on until the control stops and starts it again."""
    cdef dlm_event* ev = add_event(ls, EV_RECOVER_FAILED, 0)
    if ev != NULL:
        ev.status = error
        ev.nodeid = nodeid
    clear_recover_lists(ls)
    release_root_list(ls)
    ls.phase = PH_FAILED
    ls.stopped = True


# ---- asking

cdef void ask(dlm_ls* ls, dlm_member* memb) noexcept nogil:
    cdef wrcom rc
    cdef uint8_t* body
    memset(&rc, 0, sizeof(wrcom))
    ls.rcom_seq += 1
    rc.id = ls.rcom_seq
    memb.rc_id = rc.id
    memb.sent_ns = ls.now_ns
    if ls.phase == PH_NAMES:
        rc.type = RCOM_NAMES
        rc.buf_len = memb.last_len
        body = send_rcom(ls, memb.nodeid, &rc)
        if body != NULL:
            memcpy(body, memb.last_name, memb.last_len)
        return
    rc.type = RCOM_STATUS
    rc.buf_len = STATUS_SIZE
    body = send_rcom(ls, memb.nodeid, &rc)
    if body != NULL:
        memset(body, 0, STATUS_SIZE)
        if ls.phase == PH_NODES and not we_are_low(ls):
            body[0] = RSF_NEED_SLOTS


cdef int64_t repeat_at(const dlm_ls* ls, const dlm_member* memb) noexcept nogil:
    """When a question that has no answer yet goes again."""
    cdef int64_t wait = <int64_t>REPEAT_FIRST_NS << memb.repeats
    return memb.sent_ns + (wait if wait < ls.rcom_timeout_ns else ls.rcom_timeout_ns)


cdef void begin(dlm_ls* ls, int phase, bint everybody) noexcept nogil:
    """Enters a phase in which the other members, or just the low one, have to answer."""
    cdef uint32_t i
    cdef dlm_member* memb
    ls.phase = phase
    for i in range(ls.n_members):
        memb = &ls.members[i]
        memb.rc_id = 0
        memb.due_ns = 0
        memb.delay_ns = 0
        memb.repeats = 0
        memb.last_len = 0
        memb.done = False
        memb.asked = memb.nodeid != ls.our_nodeid and (everybody or memb.nodeid == ls.low_nodeid)
        if memb.asked:
            ask(ls, memb)


cdef bint all_answered(const dlm_ls* ls) noexcept nogil:
    cdef uint32_t i
    for i in range(ls.n_members):
        if ls.members[i].asked and not ls.members[i].done:
            return False
    return True


cdef void ask_later(dlm_ls* ls, dlm_member* memb) noexcept nogil:
    memb.delay_ns = memb.delay_ns * 2 if memb.delay_ns else POLL_FIRST_NS
    if memb.delay_ns > POLL_LAST_NS:
        memb.delay_ns = POLL_LAST_NS
    memb.due_ns = ls.now_ns + memb.delay_ns


cdef void recovery_tick(dlm_ls* ls) noexcept nogil:
    cdef uint32_t i
    cdef dlm_member* memb
    if ls.phase == PH_RUNNING or ls.phase == PH_STOPPED or ls.phase == PH_FAILED:
        return
    for i in range(ls.n_members):
        memb = &ls.members[i]
        if not memb.asked or memb.done:
            continue
        if memb.rc_id:
            if ls.now_ns < repeat_at(ls, memb):
                continue
            if memb.repeats < REPEAT_SHIFT_MAX:
                memb.repeats += 1
        elif ls.now_ns < memb.due_ns:
            continue
        ask(ls, memb)


cdef int64_t recovery_timer(const dlm_ls* ls) noexcept nogil:
    cdef uint32_t i
    cdef int64_t at, first = 0
    if ls.phase == PH_RUNNING or ls.phase == PH_STOPPED or ls.phase == PH_FAILED:
        return 0
    for i in range(ls.n_members):
        if ls.members[i].asked and not ls.members[i].done:
            at = repeat_at(ls, &ls.members[i]) if ls.members[i].rc_id else ls.members[i].due_ns
            if first == 0 or at < first:
                first = at
    return first


# ---- the phases

cdef uint32_t barrier_status(int phase) noexcept nogil:
    """The bit that members set in the phase; the low node sets the next higher one when all have."""
    if phase == PH_DIR:
        return RS_DIR
    if phase == PH_LOCKS_WAIT:
        return RS_LOCKS
    return RS_DONE


cdef void begin_barrier(dlm_ls* ls, int phase) noexcept nogil:
    ls.status |= barrier_status(phase)
    begin(ls, phase, we_are_low(ls))


cdef void after_names(dlm_ls* ls) noexcept nogil:
    recover_waiters_pre(ls)
    if ls.neg:
        recover_purge(ls)
        ls.cursor = ls.root.next
        ls.phase = PH_MASTERS
    else:
        begin_barrier(ls, PH_LOCKS_WAIT)


cdef void finish(dlm_ls* ls) noexcept nogil:
    """All members have recovered: locks may be granted again, in the order in which they were asked for."""
    cdef dlm_event* ev
    cdef dlm_slot* slots
    cdef uint32_t i
    ls.n_gone = 0
    ls.phase = PH_RUNNING
    ls.running = True
    ls.stats.recoveries += 1
    resume_callbacks(ls)
    process_requestqueue(ls)
    recover_waiters_post(ls)
    recover_grant(ls)
    replay_parked(ls)
    ev = add_event(ls, EV_RECOVER_DONE, ls.n_members * sizeof(dlm_slot))
    if ev == NULL:
        return
    ev.slot = ls.our_slot
    ev.generation = ls.generation
    ev.count = ls.n_members
    slots = <dlm_slot*>(ev + 1)
    for i in range(ls.n_members):
        slots[i].nodeid = ls.members[i].nodeid
        slots[i].slot = ls.members[i].slot


cdef bint next_phase(dlm_ls* ls) noexcept nogil:
    """Moves on if this phase is over; whether it was."""
    cdef int phase = ls.phase
    if phase == PH_MASTERS:
        if not recover_masters(ls):
            return False
        ls.cursor = ls.root.next
        ls.phase = PH_LOCKS
        return True
    if phase == PH_LOCKS:
        if not recover_locks(ls):
            return False
        begin_barrier(ls, PH_LOCKS_WAIT)
        return True
    if phase == PH_RUNNING or phase == PH_STOPPED or phase == PH_FAILED or not all_answered(ls):
        return False
    if phase == PH_PING:
        ls.status |= RS_NODES
        begin(ls, PH_NODES, we_are_low(ls))
    elif phase == PH_NODES:
        if we_are_low(ls):
            # Without slots for all there are none: members of protocol 3.0.
            assign_slots(ls)
            ls.status |= RS_NODES_ALL
        begin(ls, PH_NAMES, True)
    elif phase == PH_NAMES:
        begin_barrier(ls, PH_DIR)
    else:
        if we_are_low(ls):
            ls.status |= barrier_status(phase) << 1
        if phase == PH_DIR:
            after_names(ls)
        elif phase == PH_LOCKS_WAIT:
            if ls.neg:
                recover_rsbs(ls)
            release_root_list(ls)
            purge_requestqueue(ls)
            begin_barrier(ls, PH_DONE_WAIT)
        else:
            finish(ls)
    return True


cdef void move_on(dlm_ls* ls) noexcept nogil:
    while next_phase(ls):
        pass


# ---- stop and start

cdef void recovery_stop(dlm_ls* ls) noexcept nogil:
    cdef bint was_running = ls.running
    ls.running = False
    ls.stopped = True
    ls.recover_seq += 1
    ls.phase = PH_STOPPED
    clear_recover_lists(ls)
    release_root_list(ls)
    ls.num_slots = 0
    ls.slots_size = 0
    ls.status = 0
    ls.cb_delay = True
    if was_running:
        add_event(ls, EV_RECOVER_PREP, 0)


cdef int recovery_start(dlm_ls* ls, const dlm_node* nodes, uint32_t n, const int32_t* left,
                        uint32_t n_left) noexcept nogil:
    cdef uint32_t i
    cdef int error = check_nodes(ls, nodes, n)
    if error:
        return error
    if ls.phase != PH_STOPPED:
        return -E_INVAL
    ls.recover_seq += 1
    ls.stopped = False
    clear_tossed(ls)
    create_root_list(ls)
    ls.neg = change_members(ls, nodes, n, left, n_left) != 0
    recover_dir_nodeids(ls)
    for i in range(ls.n_members):
        ls.members[i].slot = -1
        ls.members[i].generation = 0
    begin(ls, PH_PING, True)
    move_on(ls)
    return 0


# ---- what comes in

cdef void send_status(dlm_ls* ls, const wrcom* rc) noexcept nogil:
    cdef wrcom out
    cdef wconfig config
    cdef uint8_t* body
    cdef uint32_t i
    memset(&out, 0, sizeof(wrcom))
    config.lvblen = ls.lvblen
    config.lsflags = ls.lsflags
    config.our_slot = <unsigned short>ls.our_slot
    config.num_slots = <unsigned short>(ls.num_slots if rc.status_flags & RSF_NEED_SLOTS else 0)
    config.generation = ls.generation
    out.type = RCOM_STATUS_REPLY
    out.result = <int32_t>ls.status
    out.id = rc.id
    out.seq_reply = rc.seq
    out.buf_len = CONFIG_SIZE + config.num_slots * SLOT_SIZE
    body = send_rcom(ls, rc.from_nodeid, &out)
    if body == NULL:
        return
    wire_put_config(body, &config)
    if config.num_slots:
        body += CONFIG_SIZE
        for i in range(ls.slots_size):
            if ls.slots[i].nodeid:
                wire_put_slot(body, <uint32_t>ls.slots[i].nodeid, <unsigned short>ls.slots[i].slot)
                body += SLOT_SIZE


cdef dlm_member* awaited(dlm_ls* ls, const wrcom* rc) noexcept nogil:
    """The member whose answer this is; NULL for what is late or was never asked."""
    cdef dlm_member* memb = find_member(ls, rc.from_nodeid)
    if memb == NULL or not memb.asked or memb.done or memb.rc_id == 0 or memb.rc_id != rc.id:
        ls.stats.refused += 1
        return NULL
    return memb


cdef bint is_far_enough(dlm_ls* ls, dlm_member* memb, const wrcom* rc, uint32_t status, int* error) noexcept nogil:
    cdef int phase = ls.phase
    if phase == PH_PING:
        return True
    if phase == PH_NODES:
        if we_are_low(ls):
            memb.slot = rc.config.our_slot
            memb.generation = rc.config.generation
            return status & RS_NODES != 0
        if not status & RS_NODES_ALL:
            return False
        error[0] = copy_slots(ls, rc)
        return True
    if we_are_low(ls):
        return status & barrier_status(phase) != 0
    return status & (barrier_status(phase) << 1) != 0


cdef void receive_status_reply(dlm_ls* ls, const wrcom* rc) noexcept nogil:
    cdef dlm_member* memb = NULL
    cdef uint32_t status = 0
    cdef int error = 0
    if ls.phase != PH_NAMES:
        memb = awaited(ls, rc)
    if memb == NULL:
        return
    memb.rc_id = 0
    memb.repeats = 0
    if rc.result != -E_SRCH:
        status = <uint32_t>rc.result
        if rc.config.lvblen != ls.lvblen or rc.config.lsflags != ls.lsflags:
            fail(ls, E_PROTO, memb.nodeid)
            return
    if ls.phase != PH_PING and rc.result == -E_SRCH:
        # It does not know the lockspace yet.
        ask_later(ls, memb)
        return
    if is_far_enough(ls, memb, rc, status, &error):
        memb.done = True
    else:
        ask_later(ls, memb)
    if error:
        fail(ls, -error, memb.nodeid)
    else:
        move_on(ls)


cdef void receive_names_reply(dlm_ls* ls, const wrcom* rc) noexcept nogil:
    cdef dlm_member* memb = NULL
    cdef int rv
    if ls.phase == PH_NAMES:
        memb = awaited(ls, rc)
    if memb == NULL:
        return
    memb.rc_id = 0
    memb.repeats = 0
    rv = take_names(ls, memb, rc)
    if rv < 0:
        fail(ls, -rv, memb.nodeid)
    elif rv:
        memb.done = True
        move_on(ls)
    else:
        ask(ls, memb)


cdef void receive_rcom(dlm_ls* ls, const wrcom* rc) noexcept nogil:
    cdef int kind = rc.type
    ls.stats.received += 1
    if kind == RCOM_STATUS:
        send_status(ls, rc)
        return
    if (ls.stopped or find_member(ls, rc.from_nodeid) == NULL or rc.from_nodeid == ls.our_nodeid
            or (kind >= RCOM_STATUS_REPLY and rc.seq_reply != ls.recover_seq)
            or (kind != RCOM_STATUS_REPLY and not ls.status & RS_NODES)
            or (kind in (RCOM_LOOKUP, RCOM_LOOKUP_REPLY, RCOM_LOCK, RCOM_LOCK_REPLY)
                and (ls.running or not ls.status & RS_DIR))):
        ls.stats.refused += 1
        return
    if kind == RCOM_STATUS_REPLY:
        receive_status_reply(ls, rc)
    elif kind == RCOM_NAMES:
        send_names(ls, rc)
    elif kind == RCOM_NAMES_REPLY:
        receive_names_reply(ls, rc)
    elif kind == RCOM_LOOKUP:
        receive_lookup(ls, rc)
    elif kind == RCOM_LOCK:
        receive_lock(ls, rc)
    elif kind == RCOM_LOOKUP_REPLY:
        receive_lookup_reply(ls, rc)
        move_on(ls)
    else:
        receive_lock_reply(ls, rc)
        move_on(ls)
