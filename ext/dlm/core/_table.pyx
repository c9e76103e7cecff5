"""Memory of a lockspace. Everything but ls_create, ls_enter and ls_leave runs under its mutex.

Completion (ast) and blocking (bast) calls: each lock has a short queue of them, and a lock whose queue is not empty is
with exactly one thread (`cb_active`), or delayed until recovery ends. That thread makes the calls without the mutex, in
order, and takes what was added meanwhile too: so they are never made twice, nor by two threads, nor out of order.
"""
from libc.stdint cimport int8_t, int64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset
from dlm.core._base cimport (E_NOBUFS, E_NOMEM, PTHREAD_MUTEX_ADAPTIVE_NP, dl_add_head, dl_add_tail, dl_del, dl_empty,
                             dl_init, dl_splice_tail, pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock,
                             pthread_mutex_unlock, pthread_mutexattr_init, pthread_mutexattr_settype,
                             pthread_mutexattr_t,
        dlink)
from dlm.core._engine cimport (CALLBACKS_MAX, CB_BAST, CB_CAST, LKB_MAX, LKF_HEADQUE, MODE_IV, MODE_PR, PH_STOPPED,
                               RSB_VALNOTVALID, STS_GRANTED, STS_WAITING, WAKE_EVENT, dlm_cb, dlm_lksb, dlm_packet,
                               is_master_copy, modes_compat,
        dlm_parked)

cdef enum:
    BUCKETS_FIRST = 4096
    LKBS_FIRST = 4096
    POOL_MAX = 8192
    TOSS_AFTER_S = 10
    RCOM_TIMEOUT_S = 5


cdef dlm_ls* ls_create(int32_t our_nodeid, uint32_t global_id, uint32_t lvblen, uint32_t lsflags,
                       uint64_t rcom_seq) noexcept nogil:
    cdef dlm_ls* ls = <dlm_ls*>calloc(1, sizeof(dlm_ls))
    cdef pthread_mutexattr_t attr
    if ls == NULL:
        return NULL
    ls.buckets = <dlm_rsb**>calloc(BUCKETS_FIRST, sizeof(dlm_rsb*))
    ls.lkbs = <dlm_lkb**>calloc(LKBS_FIRST, sizeof(dlm_lkb*))
    ls.lkb_next = <uint32_t*>calloc(LKBS_FIRST, sizeof(uint32_t))
    if ls.buckets == NULL or ls.lkbs == NULL or ls.lkb_next == NULL:
        free(ls.buckets); free(ls.lkbs); free(ls.lkb_next); free(ls)
        return NULL
    pthread_mutexattr_init(&attr)
    pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ADAPTIVE_NP)
    pthread_mutex_init(&ls.mutex, &attr)
    ls.bucket_mask = BUCKETS_FIRST - 1
    ls.our_nodeid = our_nodeid
    ls.global_id = global_id
    ls.lvblen = lvblen
    ls.lsflags = lsflags
    ls.rcom_seq = rcom_seq
    ls.toss_after_ns = <int64_t>TOSS_AFTER_S * 1000000000
    ls.rcom_timeout_ns = <int64_t>RCOM_TIMEOUT_S * 1000000000
    ls.phase = PH_STOPPED
    ls.stopped = True
    ls.cb_delay = True
    ls.low_nodeid = our_nodeid
    dl_init(&ls.tossed, NULL)
    dl_init(&ls.waiters, NULL)
    dl_init(&ls.runq, NULL)
    dl_init(&ls.delayed, NULL)
    dl_init(&ls.parked, NULL)
    dl_init(&ls.root, NULL)
    dl_init(&ls.recover_list, NULL)
    free_slots(ls, 1, LKBS_FIRST)
    return ls


cdef void free_slots(dlm_ls* ls, uint32_t first, uint32_t end) noexcept nogil:
    """Puts the ids from `first` on to the end of the free ones; index 0 is no id."""
    cdef uint32_t i
    for i in range(first, end):
        # The slot of a free id holds no lock; lkb_next is the next free index, and in its top byte the generation.
        ls.lkbs[i] = NULL
        ls.lkb_next[i] = i + 1 if i + 1 < end else 0
    if ls.free_head == 0:
        ls.free_head = first
    else:
        ls.lkb_next[ls.free_tail] = (ls.lkb_next[ls.free_tail] & 0xff000000u) | first
    ls.free_tail = end - 1
    ls.lkb_slots = end


cdef void free_list(dlm_packet* p) noexcept nogil:
    cdef dlm_packet* next
    while p != NULL:
        next = p.next
        free(p)
        p = next


cdef void ls_destroy(dlm_ls* ls) noexcept nogil:
    """The caller is the last user; owners of locks are not told."""
    cdef uint32_t i
    cdef dlm_rsb* r
    cdef dlm_rsb* rnext
    cdef dlm_lkb* lkb
    cdef dlm_event* ev
    cdef dlm_parked* op
    for i in range(1, ls.lkb_slots):
        lkb = ls.lkbs[i]
        if lkb != NULL:
            if is_master_copy(lkb):
                free(lkb.lvb)
            free(lkb)
    for i in range(ls.bucket_mask + 1):
        r = ls.buckets[i]
        while r != NULL:
            rnext = r.hnext
            free(r.lvb)
            free(r)
            r = rnext
    while ls.rsb_pool != NULL:
        r = ls.rsb_pool
        ls.rsb_pool = r.hnext
        free(r)
    while ls.lkb_pool != NULL:
        lkb = ls.lkb_pool
        ls.lkb_pool = <dlm_lkb*>lkb.res
        free(lkb)
    for i in range(ls.out_count):
        free_list(ls.out[i].head)
    free_list(ls.rq_head)
    while ls.ev_head != NULL:
        ev = ls.ev_head
        ls.ev_head = ev.next
        free(ev)
    while not dl_empty(&ls.parked):
        op = <dlm_parked*>ls.parked.next.owner
        dl_del(&op.link)
        free(op)
    free(ls.buckets)
    free(ls.lkbs)
    free(ls.lkb_next)
    free(ls.node_array)
    free(ls.rec_rsbs)
    pthread_mutex_destroy(&ls.mutex)
    free(ls)


cdef void ls_break(dlm_ls* ls, int32_t error) noexcept nogil:
    if not ls.broken:
        ls.broken = error


# ---- entering and leaving

cdef void ls_enter(dlm_ls* ls) noexcept nogil:
    pthread_mutex_lock(&ls.mutex)


cdef int take_callbacks(dlm_ls* ls, dlm_lkb* lkb, dlm_cb* out) noexcept nogil:
    """Moves the lock's calls to `out`; leaves out blocking calls that the lock's owner need not heed any more."""
    cdef int i, n = 0
    cdef dlm_cb* cb
    for i in range(lkb.cb_count):
        cb = &lkb.cbs[i]
        if cb.kind == CB_BAST:
            if lkb.had_cast and modes_compat(lkb.last_cast_mode, cb.mode):
                continue
            ls.stats.basts += 1
        else:
            lkb.had_cast = True
            lkb.last_cast_mode = <int8_t>cb.mode
            ls.stats.casts += 1
        out[n] = cb[0]
        n += 1
    lkb.cb_count = 0
    return n


cdef void run_callbacks(dlm_ls* ls, dlink* mine) noexcept nogil:
    """Makes the calls of the locks in `mine`. With the mutex held on entry and on return."""
    cdef dlm_lkb* lkb
    cdef dlm_cb cbs[CALLBACKS_MAX]
    cdef dlm_lksb* lksb
    cdef int i, n
    while not dl_empty(mine):
        lkb = <dlm_lkb*>mine.next.owner
        if ls.cb_delay:
            dl_splice_tail(&ls.delayed, mine)
            return
        n = take_callbacks(ls, lkb, cbs)
        if n:
            pthread_mutex_unlock(&ls.mutex)
            for i in range(n):
                if cbs[i].kind == CB_CAST:
                    lksb = lkb.lksb
                    lksb.sb_status = cbs[i].status
                    lksb.sb_flags = <uint8_t>cbs[i].sbflags
                    lksb.sb_mode = <int8_t>cbs[i].mode
                    lkb.ast(lkb.astarg)
                else:
                    lkb.bast(lkb.astarg, cbs[i].mode)
            pthread_mutex_lock(&ls.mutex)
        if lkb.cb_count == 0:
            dl_del(&lkb.cbq)
            lkb.cb_active = 0
            put_lkb(ls, lkb)


cdef void ls_leave(dlm_ls* ls) noexcept nogil:
    cdef dlink mine
    cdef int what
    dl_init(&mine, NULL)
    dl_splice_tail(&mine, &ls.runq)
    while True:
        what = <int>ls.wake
        ls.wake = 0
        if what and ls.wake_fn != NULL:
            pthread_mutex_unlock(&ls.mutex)
            ls.wake_fn(ls.wake_arg, what)
            if dl_empty(&mine):
                return
            pthread_mutex_lock(&ls.mutex)
        if dl_empty(&mine):
            break
        run_callbacks(ls, &mine)
    pthread_mutex_unlock(&ls.mutex)


# ---- locks

cdef int grow_lkbs(dlm_ls* ls) noexcept nogil:
    cdef uint32_t size = ls.lkb_slots * 2
    cdef void* p
    if ls.lkb_slots > LKB_MAX:
        return -E_NOMEM
    if size > LKB_MAX + 1:
        size = LKB_MAX + 1
    p = realloc(ls.lkbs, size * sizeof(dlm_lkb*))
    if p == NULL:
        return -E_NOMEM
    ls.lkbs = <dlm_lkb**>p
    p = realloc(ls.lkb_next, size * sizeof(uint32_t))
    if p == NULL:
        return -E_NOMEM
    ls.lkb_next = <uint32_t*>p
    free_slots(ls, ls.lkb_slots, size)
    return 0


cdef dlm_lkb* create_lkb(dlm_ls* ls) noexcept nogil:
    cdef dlm_lkb* lkb
    cdef uint32_t at
    if ls.free_head == 0 and (ls.lkb_slots == LKB_MAX + 1 or grow_lkbs(ls)):
        return NULL
    if ls.lkb_pool != NULL:
        lkb = ls.lkb_pool
        ls.lkb_pool = <dlm_lkb*>lkb.res
        ls.lkb_pooled -= 1
    else:
        lkb = <dlm_lkb*>malloc(sizeof(dlm_lkb))
        if lkb == NULL:
            return NULL
    memset(lkb, 0, <char*>&lkb.cbs - <char*>lkb)
    at = ls.free_head
    ls.free_head = ls.lkb_next[at] & LKB_MAX
    if ls.free_head == 0:
        ls.free_tail = 0
    ls.lkbs[at] = lkb
    lkb.id = (ls.lkb_next[at] & 0xff000000u) | at
    ls.lkb_count += 1
    lkb.refs = 1
    lkb.nodeid = -1
    lkb.grmode = MODE_IV
    lkb.rqmode = MODE_IV
    lkb.last_cast_mode = MODE_IV
    dl_init(&lkb.q, lkb)
    dl_init(&lkb.lookup, lkb)
    dl_init(&lkb.wait, lkb)
    dl_init(&lkb.cbq, lkb)
    return lkb


cdef dlm_lkb* find_lkb(dlm_ls* ls, uint32_t lkid) noexcept nogil:
    cdef uint32_t at = lkid & LKB_MAX
    if at >= ls.lkb_slots or ls.lkbs[at] == NULL or ls.lkbs[at].id != lkid:
        return NULL
    return ls.lkbs[at]


cdef void put_lkb(dlm_ls* ls, dlm_lkb* lkb) noexcept nogil:
    cdef uint32_t at = lkb.id & LKB_MAX
    lkb.refs -= 1
    if lkb.refs > 0:
        return
    # The next lock in this slot has another id, so that a late message for this one does not find it.
    ls.lkbs[at] = NULL
    ls.lkb_next[at] = (lkb.id & 0xff000000u) + 0x01000000u
    if ls.free_head == 0:
        ls.free_head = at
    else:
        ls.lkb_next[ls.free_tail] = (ls.lkb_next[ls.free_tail] & 0xff000000u) | at
    ls.free_tail = at
    ls.lkb_count -= 1
    if lkb.res != NULL:
        put_rsb(ls, lkb.res)
    if is_master_copy(lkb):
        free(lkb.lvb)
    if ls.lkb_pooled < POOL_MAX:
        lkb.res = <dlm_rsb*>ls.lkb_pool
        ls.lkb_pool = lkb
        ls.lkb_pooled += 1
    else:
        free(lkb)


cdef int alloc_lvb(dlm_ls* ls, uint8_t** lvb) noexcept nogil:
    if lvb[0] == NULL:
        lvb[0] = <uint8_t*>calloc(1, ls.lvblen if ls.lvblen else 1)
        if lvb[0] == NULL:
            ls_break(ls, E_NOMEM)
            return -E_NOMEM
    return 0


# ---- resources

cdef dlm_rsb* search_rsb(dlm_ls* ls, const void* name, uint32_t length, uint32_t hash) noexcept nogil:
    cdef dlm_rsb* r = ls.buckets[hash & ls.bucket_mask]
    while r != NULL:
        if r.hash == hash and r.len == length and memcmp(r.name, name, length) == 0:
            return r
        r = r.hnext
    return NULL


cdef void grow_buckets(dlm_ls* ls) noexcept nogil:
    """Four times as many; without the memory chains just get longer."""
    cdef uint32_t size = (ls.bucket_mask + 1) * 4
    cdef uint32_t i
    cdef dlm_rsb* r
    cdef dlm_rsb* next
    cdef dlm_rsb** buckets = <dlm_rsb**>calloc(size, sizeof(dlm_rsb*))
    if buckets == NULL:
        return
    for i in range(ls.bucket_mask + 1):
        r = ls.buckets[i]
        while r != NULL:
            next = r.hnext
            r.hnext = buckets[r.hash & (size - 1)]
            buckets[r.hash & (size - 1)] = r
            r = next
    free(ls.buckets)
    ls.buckets = buckets
    ls.bucket_mask = size - 1


cdef dlm_rsb* create_rsb(dlm_ls* ls, const void* name, uint32_t length, uint32_t hash) noexcept nogil:
    cdef dlm_rsb* r
    cdef dlm_rsb** bucket
    if ls.rsb_count > ls.bucket_mask and ls.bucket_mask < 0x00ffffff:
        grow_buckets(ls)
    if ls.rsb_pool != NULL:
        r = ls.rsb_pool
        ls.rsb_pool = r.hnext
        ls.rsb_pooled -= 1
    else:
        r = <dlm_rsb*>malloc(sizeof(dlm_rsb))
        if r == NULL:
            ls_break(ls, E_NOMEM)
            return NULL
    memset(r, 0, sizeof(dlm_rsb))
    r.hash = hash
    r.len = length
    memcpy(r.name, name, length)
    dl_init(&r.toss, r)
    dl_init(&r.lookup, r)
    dl_init(&r.grantq, r)
    dl_init(&r.convertq, r)
    dl_init(&r.waitq, r)
    dl_init(&r.root, r)
    dl_init(&r.recover, r)
    bucket = &ls.buckets[hash & ls.bucket_mask]
    r.hnext = bucket[0]
    bucket[0] = r
    ls.rsb_count += 1
    return r


cdef void free_rsb(dlm_ls* ls, dlm_rsb* r) noexcept nogil:
    cdef dlm_rsb** at = &ls.buckets[r.hash & ls.bucket_mask]
    while at[0] != r:
        at = &at[0].hnext
    at[0] = r.hnext
    if r.tossed:
        untoss_rsb(ls, r)
    free(r.lvb)
    ls.rsb_count -= 1
    if ls.rsb_pooled < POOL_MAX:
        r.hnext = ls.rsb_pool
        ls.rsb_pool = r
        ls.rsb_pooled += 1
    else:
        free(r)


cdef void toss_rsb(dlm_ls* ls, dlm_rsb* r) noexcept nogil:
    r.tossed = True
    r.toss_ns = ls.now_ns
    free(r.lvb)
    r.lvb = NULL
    # No value, so none that could be void.
    r.flags &= ~<uint32_t>RSB_VALNOTVALID
    ls.toss_count += 1
    # A directory entry for another master stays until that one sends REMOVE; it never comes of age.
    if r.dir_nodeid != ls.our_nodeid or r.master_nodeid == ls.our_nodeid or r.master_nodeid == 0:
        dl_add_tail(&ls.tossed, &r.toss)


cdef void untoss_rsb(dlm_ls* ls, dlm_rsb* r) noexcept nogil:
    r.tossed = False
    ls.toss_count -= 1
    dl_del(&r.toss)


cdef void put_rsb(dlm_ls* ls, dlm_rsb* r) noexcept nogil:
    r.refs -= 1
    if r.refs == 0:
        toss_rsb(ls, r)


cdef void attach_lkb(dlm_rsb* r, dlm_lkb* lkb) noexcept nogil:
    r.refs += 1
    lkb.res = r


# ---- queues of a resource

cdef void add_lkb(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb, int status) noexcept nogil:
    cdef dlink* head = &r.waitq
    if status != STS_WAITING:
        head = &r.grantq if status == STS_GRANTED else &r.convertq
    lkb.refs += 1
    lkb.status = <int8_t>status
    lkb.since_ns = ls.now_ns
    if status != STS_GRANTED:
        ls.tickets += 1
        lkb.ticket = ls.tickets
    if status != STS_GRANTED and lkb.exflags & LKF_HEADQUE:
        dl_add_head(head, &lkb.q)
    else:
        dl_add_tail(head, &lkb.q)


cdef void del_lkb(dlm_ls* ls, dlm_lkb* lkb) noexcept nogil:
    lkb.status = 0
    dl_del(&lkb.q)
    put_lkb(ls, lkb)


cdef void move_lkb(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb, int status) noexcept nogil:
    lkb.refs += 1
    del_lkb(ls, lkb)
    add_lkb(ls, r, lkb, status)
    put_lkb(ls, lkb)


# ---- calls and events

cdef void add_callback(dlm_ls* ls, dlm_lkb* lkb, int kind, int mode, int status, uint32_t sbflags) noexcept nogil:
    cdef dlm_cb* cb
    if kind == CB_BAST and lkb.cb_count:
        cb = &lkb.cbs[lkb.cb_count - 1]
        # CW and PR block different modes: neither stands for the other.
        if cb.kind == CB_BAST and (cb.mode == mode or (cb.mode > mode and cb.mode > MODE_PR)):
            return
        if cb.kind == CB_BAST and mode > MODE_PR:
            # PW and EX stand for all below: there are never more than two or three between completions.
            cb.mode = mode
            return
    if lkb.cb_count == CALLBACKS_MAX:
        ls_break(ls, E_NOBUFS)
        return
    cb = &lkb.cbs[lkb.cb_count]
    lkb.cb_count += 1
    cb.kind = kind
    cb.mode = mode
    cb.status = status
    cb.sbflags = sbflags & 0xff
    if not lkb.cb_active:
        lkb.cb_active = 1
        lkb.refs += 1
        dl_add_tail(&ls.delayed if ls.cb_delay else &ls.runq, &lkb.cbq)


cdef void resume_callbacks(dlm_ls* ls) noexcept nogil:
    ls.cb_delay = False
    dl_splice_tail(&ls.runq, &ls.delayed)


cdef dlm_event* add_event(dlm_ls* ls, int kind, uint32_t extra) noexcept nogil:
    cdef dlm_event* ev = <dlm_event*>malloc(sizeof(dlm_event) + extra)
    if ev == NULL:
        ls_break(ls, E_NOMEM)
        return NULL
    memset(ev, 0, sizeof(dlm_event))
    ev.kind = kind
    if ls.ev_head == NULL:
        ls.ev_head = ev
        ls.wake |= WAKE_EVENT
    else:
        ls.ev_tail.next = ev
    ls.ev_tail = ev
    ls.ev_count += 1
    return ev
