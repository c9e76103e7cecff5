"""Output. Nothing is sent here: packets are queued per node, and the transport takes whole queues away."""
from libc.stdlib cimport free, malloc
from libc.string cimport memset
from dlm.core._base cimport E_NOBUFS, E_NOMEM
from dlm.core._engine cimport LKF_VALBLK, OUTPUT_HARD_MAX, OUTPUT_SOFT_MAX, WAKE_OUTPUT, dlm_outq
from dlm.core._table cimport ls_break
from dlm.core._wire cimport (FLAGS_SHARED, MSG_BAST, MSG_CONVERT, MSG_CONVERT_REPLY, MSG_GRANT, MSG_LOOKUP,
                             MSG_LOOKUP_REPLY, MSG_REMOVE, MSG_REQUEST, MSG_REQUEST_REPLY, MSG_SIZE, MSG_UNLOCK,
                             PACKET_MAX, RCOM_SIZE, WIRE_VERSION, wire_put_msg, wire_put_rcom)

cdef enum:
    QUEUES_MAX = 160


cdef dlm_outq* find_queue(dlm_ls* ls, int32_t nodeid) noexcept nogil:
    cdef uint32_t i
    for i in range(ls.out_count):
        if ls.out[i].nodeid == nodeid:
            return &ls.out[i]
    return NULL


cdef dlm_outq* find_or_add_queue(dlm_ls* ls, int32_t nodeid) noexcept nogil:
    """Nodes come and go: an empty queue is taken over when there are too many."""
    cdef dlm_outq* q = find_queue(ls, nodeid)
    cdef uint32_t i
    if q != NULL:
        return q
    if ls.out_count < QUEUES_MAX:
        q = &ls.out[ls.out_count]
        ls.out_count += 1
    else:
        for i in range(ls.out_count):
            if ls.out[i].head == NULL:
                q = &ls.out[i]
                break
    if q != NULL:
        memset(q, 0, sizeof(dlm_outq))
        q.nodeid = nodeid
    return q


cdef uint8_t* queue_packet(dlm_ls* ls, int32_t nodeid, uint32_t size) noexcept nogil:
    cdef dlm_outq* q = find_or_add_queue(ls, nodeid)
    cdef dlm_packet* p
    if q == NULL or q.count >= OUTPUT_HARD_MAX or size > PACKET_MAX:
        ls_break(ls, E_NOBUFS)
        return NULL
    p = <dlm_packet*>malloc(sizeof(dlm_packet) + size)
    if p == NULL:
        ls_break(ls, E_NOMEM)
        return NULL
    p.next = NULL
    p.size = size
    p.nodeid = nodeid
    if q.head == NULL:
        q.head = p
        ls.wake |= WAKE_OUTPUT
    else:
        q.tail.next = p
    q.tail = p
    q.count += 1
    q.bytes += size
    ls.stats.sent += 1
    return packet_data(p)


cdef dlm_packet* take_packets(dlm_ls* ls, int32_t nodeid) noexcept nogil:
    cdef dlm_outq* q = find_queue(ls, nodeid)
    cdef dlm_packet* p
    if q == NULL:
        return NULL
    p = q.head
    q.head = NULL
    q.tail = NULL
    q.count = 0
    q.bytes = 0
    return p


cdef void drop_packets(dlm_ls* ls, int32_t nodeid) noexcept nogil:
    cdef dlm_packet* p = take_packets(ls, nodeid)
    cdef dlm_packet* next
    while p != NULL:
        next = p.next
        free(p)
        p = next


cdef bint output_full(dlm_ls* ls) noexcept nogil:
    cdef uint32_t i
    for i in range(ls.out_count):
        if ls.out[i].count >= OUTPUT_SOFT_MAX:
            return True
    return False


cdef void queue_msg(dlm_ls* ls, int32_t nodeid, wmsg* m) noexcept nogil:
    cdef uint8_t* data
    m.version = WIRE_VERSION
    m.lockspace = ls.global_id
    m.from_nodeid = ls.our_nodeid
    data = queue_packet(ls, nodeid, MSG_SIZE + m.extra_len)
    if data != NULL:
        wire_put_msg(data, m)


cdef void put_value(dlm_ls* ls, dlm_lkb* lkb, wmsg* m) noexcept nogil:
    """The lock's value block; its room is there even if it means nothing this time."""
    if lkb.lvb != NULL:
        m.extra_len = ls.lvblen
        if lkb.exflags & LKF_VALBLK:
            m.extra = lkb.lvb


cdef void lkb_msg(dlm_rsb* r, dlm_lkb* lkb, int type, wmsg* m) noexcept nogil:
    memset(m, 0, sizeof(wmsg))
    m.type = type
    m.m_nodeid = lkb.nodeid
    m.pid = lkb.ownpid
    m.lkid = lkb.id
    m.remid = lkb.remid
    m.exflags = lkb.exflags
    m.sbflags = lkb.sbflags
    m.flags = lkb.flags & FLAGS_SHARED
    m.lvbseq = lkb.lvbseq
    m.status = lkb.status
    m.grmode = lkb.grmode
    m.rqmode = lkb.rqmode
    m.hash = r.hash
    m.asts = lkb.asts


cdef void send_request(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb, int type) noexcept nogil:
    """REQUEST, CONVERT, UNLOCK, CANCEL to the master; LOOKUP to the directory node."""
    cdef wmsg m
    lkb_msg(r, lkb, type, &m)
    if type == MSG_REQUEST or type == MSG_LOOKUP:
        m.extra = <const uint8_t*>r.name
        m.extra_len = r.len
    elif type == MSG_CONVERT or type == MSG_UNLOCK:
        put_value(ls, lkb, &m)
    queue_msg(ls, r.dir_nodeid if type == MSG_LOOKUP else r.nodeid, &m)


cdef void send_reply(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb, int type, int result) noexcept nogil:
    cdef wmsg m
    lkb_msg(r, lkb, type, &m)
    m.result = result
    if type == MSG_REQUEST_REPLY or type == MSG_CONVERT_REPLY:
        put_value(ls, lkb, &m)
    queue_msg(ls, lkb.nodeid, &m)


cdef void send_refusal(dlm_ls* ls, const wmsg* m, int type, int result) noexcept nogil:
    cdef wmsg out
    memset(&out, 0, sizeof(wmsg))
    out.type = type
    out.m_nodeid = m.from_nodeid
    out.remid = m.lkid
    out.result = result
    queue_msg(ls, m.from_nodeid, &out)


cdef void send_grant(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb) noexcept nogil:
    cdef wmsg m
    lkb_msg(r, lkb, MSG_GRANT, &m)
    put_value(ls, lkb, &m)
    queue_msg(ls, lkb.nodeid, &m)


cdef void send_bast(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb, int mode) noexcept nogil:
    cdef wmsg m
    lkb_msg(r, lkb, MSG_BAST, &m)
    m.bastmode = mode
    queue_msg(ls, lkb.nodeid, &m)


cdef void send_remove(dlm_ls* ls, dlm_rsb* r) noexcept nogil:
    cdef wmsg m
    memset(&m, 0, sizeof(wmsg))
    m.type = MSG_REMOVE
    m.hash = r.hash
    m.extra = <const uint8_t*>r.name
    m.extra_len = r.len
    ls.stats.removes += 1
    queue_msg(ls, r.dir_nodeid, &m)


cdef void send_lookup_reply(dlm_ls* ls, const wmsg* m, int32_t master_nodeid, int result) noexcept nogil:
    cdef wmsg out
    memset(&out, 0, sizeof(wmsg))
    out.type = MSG_LOOKUP_REPLY
    out.lkid = m.lkid
    out.m_nodeid = master_nodeid
    out.result = result
    queue_msg(ls, m.from_nodeid, &out)


cdef uint8_t* send_rcom(dlm_ls* ls, int32_t nodeid, wrcom* rc) noexcept nogil:
    cdef uint8_t* data
    rc.version = WIRE_VERSION
    rc.lockspace = ls.global_id
    rc.from_nodeid = ls.our_nodeid
    rc.seq = ls.recover_seq
    data = queue_packet(ls, nodeid, RCOM_SIZE + rc.buf_len)
    if data == NULL:
        return NULL
    wire_put_rcom(data, rc)
    return data + RCOM_SIZE
