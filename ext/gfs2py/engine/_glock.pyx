"""Cluster locks: requests, waiters, demotion. See _glock.pxd for the picture."""
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from gfs2py.engine._births cimport births_pending, births_register, births_reveals
from gfs2py.engine._glstats cimport gls_answered, gls_asked
from gfs2py.engine._incore cimport (KEEP_MAX, LM_ST_EXCLUSIVE, LM_ST_SHARED, LM_ST_UNLOCKED, LM_TYPE_FLOCK,
                                    LM_TYPE_INODE, LM_TYPE_IOPEN, LM_TYPE_RGRP, glock, inode, opctx, sbd)
from gfs2py.engine._kcache cimport kcache_attrs, kcache_node, kcache_pages, kcache_set_out, kcache_watch
from gfs2py.engine._observe cimport ob_begin, ob_end, ob_mark, ob_rdlock, ob_wrlock
from gfs2py.engine._sbd cimport sd_assert_failed, sd_dead
from gfs2py.engine._sync cimport (CLOCK_REALTIME, clock_gettime, dl_add_tail, dl_del, dl_empty, dl_init, dlink,
                                  gl_atomic_add64, gl_atomic_load32, gl_atomic_load64, gl_atomic_store32,
                                  gl_atomic_store64, pthread_cond_broadcast, pthread_cond_destroy, pthread_cond_init,
                                  pthread_cond_timedwait, pthread_cond_wait, pthread_create, pthread_join,
                                  pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_unlock,
                                  pthread_rwlock_destroy, pthread_rwlock_trywrlock, pthread_rwlock_unlock,
                                  rwlock_init, timespec)
from gfs2py.fuse._ops cimport OP_PARK
from gfs2py.fuse._stat cimport WAIT_INODE, WAIT_RGRP, stat_now

cdef extern from "<errno.h>" nogil:
    int EAGAIN, EINTR, EIO, ENOMEM, ENOTCONN
cdef extern from "<unistd.h>" nogil:
    int usleep(unsigned int us)

cdef enum:
    HOLD_MAX_NS = 100000000         # a lock is kept no longer than this after its grant when others want it
    KEEP_NS = 100000000             # how long a woken operation's locks wait for its run
    AGAIN_NS = 500000               # between two looks at a glock that cannot be let go yet
    GIVING_US = 1000                # between two looks at what the kernel still gives back
    IDLE_NS = 50000000              # a demoter looks at its list at least this often
    # One of glx.flags: this node reads what it then changes, so SH would only be a detour. See _plan.
    GLX_MIGRATES = 65536


# ---- setting up -----------------------------------------------------------------------------------------------------

cdef int gls_start(gls* gs) noexcept nogil:
    cdef int i
    for i in range(2):
        if pthread_create(&gs.demoters[i].thread, NULL, _demoter, &gs.demoters[i]) != 0:
            return -ENOMEM
        gs.demoters[i].on = True
    return 0


cdef void gls_stop(gls* gs) noexcept nogil:
    cdef int i
    pthread_mutex_lock(&gs.lock)
    gs.stop = True
    pthread_cond_broadcast(&gs.cond)
    for i in range(2):
        pthread_cond_broadcast(&gs.demoters[i].cond)
    pthread_mutex_unlock(&gs.lock)
    for i in range(2):
        if gs.demoters[i].on:
            pthread_join(gs.demoters[i].thread, NULL)
            gs.demoters[i].on = False
    pthread_mutex_lock(&gs.lock)
    _wake_all(gs)
    while not dl_empty(&gs.taking):
        pthread_cond_wait(&gs.cond, &gs.lock)
    pthread_mutex_unlock(&gs.lock)
    while gl_atomic_load32(&gs.giving_back):
        usleep(GIVING_US)


cdef void gls_destroy(gls* gs) noexcept nogil:
    cdef int i
    cdef gwaiter* w
    gls_stop(gs)
    for i in range(256):
        while gs.parked[i] != NULL:
            w = gs.parked[i]
            gs.parked[i] = w.hnext
            free(w)
    for i in range(2):
        pthread_cond_destroy(&gs.demoters[i].cond)
    pthread_cond_destroy(&gs.cond)
    pthread_mutex_destroy(&gs.lock)


cdef int glock_init(sbd* sd, glock* gl, uint32_t type, uint64_t number, void* owner) noexcept nogil:
    cdef glx* x
    gl.type = type
    gl.number = number
    gl.state = LM_ST_EXCLUSIVE
    gl.avail = LM_ST_EXCLUSIVE
    gl.owner = owner
    gl.x = NULL
    rwlock_init(&gl.rw)
    if sd.gls == NULL:
        return 0
    x = <glx*>calloc(1, sizeof(glx))
    if x == NULL:
        return -ENOMEM
    x.gl = gl
    x.sd = sd
    x.req = -1
    x.demote = -1
    dl_init(&x.all, x)
    dl_init(&x.work, x)
    dl_init(&x.unreg, x)
    gl.state = LM_ST_UNLOCKED
    gl.avail = LM_ST_UNLOCKED
    gl.x = x
    pthread_mutex_lock(&sd.gls.lock)
    dl_add_tail(&sd.gls.all, &x.all)
    pthread_mutex_unlock(&sd.gls.lock)
    return 0


cdef void glock_free(glock* gl) noexcept nogil:
    cdef glx* x = gl.x
    cdef gls* gs
    if x != NULL:
        gs = x.sd.gls
        pthread_mutex_lock(&gs.lock)
        dl_del(&x.all)
        dl_del(&x.work)
        dl_del(&x.unreg)
        pthread_mutex_unlock(&gs.lock)
        # A dead mount's locks stand until its journal has been replayed.
        if x.flags & GLX_KNOWN and not sd_dead(x.sd):
            gs.ops.unlock(gs.lm, x, gl.state)
        free(x)
        gl.x = NULL
    pthread_rwlock_destroy(&gl.rw)


cdef void glock_born(glock* gl) noexcept nogil:
    cdef glx* x = gl.x
    cdef gls* gs
    if x == NULL:
        return
    gs = x.sd.gls
    pthread_mutex_lock(&gs.lock)
    x.flags |= GLX_UNREG
    x.reg_no = gs.reg_next
    gs.reg_next += 1
    dl_add_tail(&gs.unreg, &x.unreg)
    gl.since = gl_atomic_add64(<int64_t*>&x.sd.epoch, 1)
    gl.state = LM_ST_EXCLUSIVE
    gl_atomic_store32(&gl.avail, LM_ST_EXCLUSIVE)
    x.granted_ns = stat_now()
    pthread_mutex_unlock(&gs.lock)


# ---- waiters (gls.lock held) ----------------------------------------------------------------------------------------

cdef inline demoter* _demoter_of(gls* gs, const glx* x) noexcept nogil:
    return &gs.demoters[0 if x.gl.type == LM_TYPE_INODE else 1]


cdef void _link(glx* x, gwaiter* w) noexcept nogil:
    cdef gwaiter** at = &x.waiters
    while at[0] != NULL:
        at = &at[0].next
    w.next = NULL
    w.x = x
    w.waiting = True
    at[0] = w


cdef void _unlink(gwaiter* w) noexcept nogil:
    cdef gwaiter** at = &w.x.waiters
    while at[0] != NULL and at[0] != w:
        at = &at[0].next
    if at[0] == w:
        at[0] = w.next
    w.next = NULL
    w.waiting = False


cdef gwaiter* _parked(gls* gs, uint64_t unique) noexcept nogil:
    cdef gwaiter* w = gs.parked[unique >> 1 & 255]
    while w != NULL and w.unique != unique:
        w = w.hnext
    return w


cdef gwaiter* _parked_get(gls* gs, uint64_t unique) noexcept nogil:
    cdef gwaiter* w = _parked(gs, unique)
    if w == NULL:
        w = <gwaiter*>calloc(1, sizeof(gwaiter))
        if w != NULL:
            w.unique = unique
            w.hnext = gs.parked[unique >> 1 & 255]
            gs.parked[unique >> 1 & 255] = w
            gs.n_parked += 1
    return w


cdef void _unkeep(gls* gs, glx* x) noexcept nogil:
    x.n_kept -= 1
    if x.n_kept == 0 and x.demote >= 0:
        pthread_cond_broadcast(&_demoter_of(gs, x).cond)


cdef void _parked_free(gls* gs, gwaiter* w) noexcept nogil:
    cdef gwaiter** at = &gs.parked[w.unique >> 1 & 255]
    if w.waiting:
        _unlink(w)
    while w.n_kept:
        w.n_kept -= 1
        _unkeep(gs, w.kept[w.n_kept])
    while at[0] != w:
        at = &at[0].hnext
    at[0] = w.hnext
    gs.n_parked -= 1
    free(w)


cdef void _keep(gwaiter* w, glx* x) noexcept nogil:
    cdef uint32_t i
    for i in range(w.n_kept):
        if w.kept[i] == x:
            return
    if w.n_kept < KEEP_MAX:
        w.kept[w.n_kept] = x
        w.n_kept += 1
        x.n_kept += 1


cdef inline uint64_t _order(const glx* x) noexcept nogil:
    """In which order operations take glocks: the rename lock, then inodes by address."""
    return x.gl.number if x.gl.type == LM_TYPE_INODE else 0


cdef void _give_up_above(gls* gs, gwaiter* w, const glx* x) noexcept nogil:
    """An operation that is to wait for x keeps only what comes before it: else two would wait for each other."""
    cdef uint32_t i = 0
    while i < w.n_kept:
        if _order(w.kept[i]) < _order(x):
            i += 1
            continue
        w.n_kept -= 1
        _unkeep(gs, w.kept[i])
        w.kept[i] = w.kept[w.n_kept]


cdef void _expire(gls* gs, uint64_t now) noexcept nogil:
    """Parked operations that were woken and have not come: what was kept for them is free."""
    cdef uint32_t i
    cdef gwaiter* w
    cdef gwaiter* after
    if gs.n_parked == 0:
        return
    for i in range(256):
        w = gs.parked[i]
        while w != NULL:
            after = w.hnext
            if not w.waiting and now - w.woken_ns > KEEP_NS:
                _parked_free(gs, w)
            w = after


cdef void _wake(gls* gs, glx* x, gwaiter* w, int32_t err) noexcept nogil:
    _unlink(w)
    w.err = err
    if w.unique == 0:
        if err == 0:
            x.n_kept += 1           # until it holds rw
        pthread_cond_broadcast(&gs.cond)
        return
    w.woken_ns = stat_now()
    if err == 0:
        _keep(w, x)
    gs.unpark(gs.unpark_arg, w.unique)


cdef void _serve(gls* gs, glx* x) noexcept nogil:
    """Wakes whoever is content with what is granted."""
    cdef gwaiter* w = x.waiters
    cdef gwaiter* after
    while w != NULL:
        after = w.next
        if w.mode <= x.gl.state:
            _wake(gs, x, w, 0)
        w = after


cdef void _wake_all(gls* gs) noexcept nogil:
    """The mount is dead: whoever waits gets -EIO."""
    cdef dlink* l
    cdef glx* x
    l = gs.all.next
    while l != &gs.all:
        x = <glx*>l.owner
        l = l.next
        while x.waiters != NULL:
            _wake(gs, x, x.waiters, -EIO)


# ---- the way up -----------------------------------------------------------------------------------------------------

cdef void _work(gls* gs, glx* x, uint64_t due) noexcept nogil:
    """Hands x to its demoter, not to be looked at before `due`."""
    cdef demoter* d = _demoter_of(gs, x)
    x.due_ns = due
    if dl_empty(&x.work):
        dl_add_tail(&d.work, &x.work)
    pthread_cond_broadcast(&d.cond)


cdef inline bint _stays(const glx* x) noexcept nogil:
    """Others want more of it than a pin lets go."""
    return (x.flags & GLX_PINNED) != 0 and x.demote < x.pin


cdef int32_t _plan(gls* gs, glx* x) noexcept nogil:
    """What to ask the lock manager for now (x.req and x.req_flags are set); -1: nothing."""
    cdef gwaiter* w
    cdef int32_t want = LM_ST_UNLOCKED
    cdef bint all_try = True
    cdef bint noexp = False
    if x.req >= 0 or x.flags & (GLX_BUSY | GLX_REGISTERING) or gs.stop:
        return -1
    if x.demote >= x.gl.state:
        x.demote = -1
    if x.demote >= 0 and _stays(x):
        return -1
    if x.demote >= 0:
        _work(gs, x, 0 if x.flags & GLX_DROP or x.gl.type == LM_TYPE_FLOCK
              else x.granted_ns + min((x.wait_ns + x.sync_ns) // 4, <uint64_t>HOLD_MAX_NS))
        return -1
    w = x.waiters
    while w != NULL:
        if w.mode > want:
            want = w.mode
        if w.mode > x.gl.state:
            all_try = all_try and w.flags & GL_TRY
            noexp = noexp or w.flags & GL_NOEXP
        w = w.next
    if want <= x.gl.state:
        return -1
    if x.flags & GLX_MIGRATES and want == LM_ST_SHARED and x.gl.state == LM_ST_UNLOCKED and not (all_try or noexp):
        want = LM_ST_EXCLUSIVE
    x.req_flags = (LM_NOEXP if noexp else 0) | (LM_TRY_1CB if all_try else 0)
    if x.gl.state != LM_ST_UNLOCKED:
        # Two nodes that both convert from SH would wait for each other: at once or not at all, then from below.
        if x.flags & GLX_NOUP:
            x.demote = LM_ST_UNLOCKED
            x.flags |= GLX_DROP
            _work(gs, x, 0)
            return -1
        x.req_flags |= LM_TRY
    elif x.flags & GLX_CONTENDED:
        x.req_flags |= LM_QUECVT
    x.req = want
    gls_asked(gs, x)
    return want


cdef void _ask(gls* gs, glx* x, int32_t want) noexcept nogil:
    """After _plan, without gls.lock."""
    if want >= 0:
        gs.ops.lock(gs.lm, x, x.gl.state, want, x.req_flags)


cdef void _granted(gls* gs, glx* x, int32_t old, int32_t target) noexcept nogil:
    x.gl.state = target
    if x.flags & GLX_UNREG:
        x.flags &= ~<uint32_t>GLX_UNREG     # let go before anybody else could know of it
        dl_del(&x.unreg)
    else:
        x.flags |= GLX_KNOWN
    if target <= old:
        x.flags &= ~<uint32_t>GLX_DROP
        gl_atomic_store32(&x.gl.avail, target)
        _serve(gs, x)
        return
    x.flags &= ~<uint32_t>(GLX_NOUP | GLX_CONTENDED)
    if old == LM_ST_UNLOCKED and gs.planted != PLANT_KEEP_BUFFERS:
        x.gl.since = gl_atomic_add64(<int64_t*>&x.sd.epoch, 1)
    x.granted_ns = stat_now()
    x.wait_ns = x.granted_ns - x.asked_ns
    gs.n_grants += 1
    gl_atomic_store32(&x.gl.avail, target)
    _serve(gs, x)


cdef void _refused(gls* gs, glx* x) noexcept nogil:
    """A try: whoever only tried is told; a conversion from SH goes down first."""
    cdef gwaiter* w = x.waiters
    cdef gwaiter* after
    gs.n_refused += 1
    if x.gl.state != LM_ST_UNLOCKED:
        x.flags |= GLX_NOUP
        if x.gl.type == LM_TYPE_INODE:
            x.flags |= GLX_MIGRATES
    while w != NULL:
        after = w.next
        if w.flags & GL_TRY and w.mode > x.gl.state:
            _wake(gs, x, w, -EAGAIN)
        w = after


cdef void _registered(gls* gs, glx* x) noexcept nogil:
    """A born lock is now known to the lock manager."""
    cdef int i
    x.flags &= ~<uint32_t>(GLX_UNREG | GLX_REGISTERING)
    x.flags |= GLX_KNOWN
    dl_del(&x.unreg)
    gs.n_registered += 1
    if dl_empty(&gs.registering):
        for i in range(2):
            pthread_cond_broadcast(&gs.demoters[i].cond)


cdef void glock_answer(glx* x, int32_t err) noexcept nogil:
    cdef gls* gs = x.sd.gls
    cdef int32_t old, target, want
    cdef bint down
    pthread_mutex_lock(&gs.lock)
    target = x.req
    old = x.gl.state
    if target > old and not x.flags & GLX_REGISTERING:
        gls_answered(gs, x)
    x.req = -1
    down = err == 0 and target <= old and not (x.flags & GLX_REGISTERING)
    if err == 0 and x.flags & GLX_REGISTERING:
        _registered(gs, x)
    elif err == 0:
        _granted(gs, x, old, target)
    elif err == -EAGAIN:
        _refused(gs, x)
    else:
        while x.waiters != NULL:
            _wake(gs, x, x.waiters, err)
        if x.flags & GLX_REGISTERING or target <= old:
            sd_assert_failed(x.sd, b"the lock manager refused what it cannot refuse")
    want = _plan(gs, x)
    down = down and want < 0 and gs.gone != NULL
    if down:
        x.flags |= GLX_GOING
    pthread_mutex_unlock(&gs.lock)
    _ask(gs, x, want)
    if down:
        gs.gone(x)


cdef void glock_wanted(glx* x, int32_t leave) noexcept nogil:
    cdef gls* gs = x.sd.gls
    pthread_mutex_lock(&gs.lock)
    gs.n_basts += 1
    x.flags |= GLX_CONTENDED
    if (x.demote < 0 or leave < x.demote) and (x.req >= 0 or leave < x.gl.state):
        if x.demote < 0:
            x.wanted_ns = stat_now()
        x.demote = leave
        x.flags &= ~<uint32_t>GLX_DROP
        # No request comes of it: what others want goes first.
        _plan(gs, x)
    if x.flags & GLX_PINNED and x.gl.type == LM_TYPE_IOPEN:
        x.flags |= GLX_POKE
        _work(gs, x, 0)
    pthread_mutex_unlock(&gs.lock)


cdef int _acquire(opctx* cx, glock* gl, int32_t mode, uint32_t flags, bint* slept) noexcept nogil:
    """Until the cluster has granted the mode. *slept: it is kept for us until _unkeep."""
    cdef glx* x = gl.x
    cdef gls* gs = x.sd.gls
    cdef gwaiter own
    cdef gwaiter* w
    cdef ob_mark mark
    cdef int32_t want
    slept[0] = False
    pthread_mutex_lock(&gs.lock)
    if gl.avail >= mode or sd_dead(x.sd) or gs.stop:
        want = 0 if gl.avail >= mode else -EIO
        pthread_mutex_unlock(&gs.lock)
        return want
    x.stats[7] += 1
    gs.stats[gl.type - 1][7] += 1
    if flags & GL_LOCAL or flags & GL_TRY and (x.demote >= 0 or x.req >= 0 or x.flags & GLX_BUSY):
        pthread_mutex_unlock(&gs.lock)
        return -EAGAIN
    if cx.unique and gs.unpark != NULL and not flags & GL_NOPARK and (flags & GL_PARKTRY or not flags & GL_TRY):
        w = _parked(gs, cx.unique)
        if flags & GL_TRY and w != NULL and not w.waiting and w.x == x and w.err == -EAGAIN:
            _parked_free(gs, w)     # refused meanwhile
            pthread_mutex_unlock(&gs.lock)
            return -EAGAIN
        w = _parked_get(gs, cx.unique)
        if w == NULL or (cx.interrupted != NULL and cx.interrupted[0]):
            if w != NULL:
                _parked_free(gs, w)
            pthread_mutex_unlock(&gs.lock)
            return -EINTR
        if w.waiting:
            _unlink(w)
        _give_up_above(gs, w, x)
        w.mode = mode
        w.flags = flags
        w.err = 0
        _link(x, w)
        gs.n_parks += 1
        want = _plan(gs, x)
        pthread_mutex_unlock(&gs.lock)
        _ask(gs, x, want)
        return OP_PARK
    memset(&own, 0, sizeof(own))
    own.mode = mode
    own.flags = flags
    _link(x, &own)
    gs.n_sleeps += 1
    want = _plan(gs, x)
    pthread_mutex_unlock(&gs.lock)
    ob_begin(&mark, WAIT_RGRP if gl.type == LM_TYPE_RGRP else WAIT_INODE, gl.number)
    _ask(gs, x, want)
    pthread_mutex_lock(&gs.lock)
    while own.waiting and not sd_dead(x.sd) and not gs.stop:
        pthread_cond_wait(&gs.cond, &gs.lock)
    if own.waiting:
        _unlink(&own)
        own.err = -EIO
    pthread_mutex_unlock(&gs.lock)
    ob_end(&x.sd.ob, &mark)
    slept[0] = own.err == 0
    return own.err


cdef int glock_slow(opctx* cx, glock* gl, int32_t mode, uint32_t flags) noexcept nogil:
    cdef gls* gs = gl.x.sd.gls
    cdef bint slept = False
    cdef bint ok
    cdef int err
    while True:
        err = _acquire(cx, gl, mode, flags, &slept)
        if err:
            return err
        if mode == LM_ST_EXCLUSIVE:
            ob_wrlock(&cx.sd.ob, &gl.rw, WAIT_RGRP if gl.type == LM_TYPE_RGRP else WAIT_INODE, gl.number)
        else:
            ob_rdlock(&cx.sd.ob, &gl.rw, WAIT_RGRP if gl.type == LM_TYPE_RGRP else WAIT_INODE, gl.number)
        ok = gl_atomic_load32(&gl.avail) >= mode
        if slept:
            pthread_mutex_lock(&gs.lock)
            _unkeep(gs, gl.x)
            pthread_mutex_unlock(&gs.lock)
        if ok:
            return 0
        pthread_rwlock_unlock(&gl.rw)


cdef int glock_enter(opctx* cx, glock* gl, int32_t mode, uint32_t flags) noexcept nogil:
    if mode == LM_ST_EXCLUSIVE:
        ob_wrlock(&cx.sd.ob, &gl.rw, WAIT_INODE, gl.number)
    else:
        ob_rdlock(&cx.sd.ob, &gl.rw, WAIT_INODE, gl.number)
    if gl.x == NULL:
        return 0
    if gl_atomic_load32(&gl.avail) < mode:
        pthread_rwlock_unlock(&gl.rw)
        return glock_slow(cx, gl, mode, flags)
    return 0


cdef void glock_changed(opctx* cx, glock* gl) noexcept nogil:
    cdef glx* x = gl.x
    cdef uint64_t seen
    if x == NULL:
        return
    seen = gl_atomic_load64(&x.dirty_seq)
    # Sharers may come here at once, but they change nothing; whoever changes is alone.
    if cx.last_seq > seen and gl.state == LM_ST_EXCLUSIVE:
        gl_atomic_store64(&x.dirty_seq, cx.last_seq)


cdef void glock_leave(opctx* cx, glock* gl) noexcept nogil:
    cdef glx* x = gl.x
    cdef gls* gs
    if x == NULL:
        pthread_rwlock_unlock(&gl.rw)
        return
    gs = x.sd.gls
    glock_changed(cx, gl)
    pthread_rwlock_unlock(&gl.rw)
    if gl_atomic_load32(&x.leaving):
        pthread_mutex_lock(&gs.lock)
        x.due_ns = 0
        pthread_cond_broadcast(&_demoter_of(gs, x).cond)
        pthread_mutex_unlock(&gs.lock)


cdef void glock_done(gls* gs, uint64_t unique) noexcept nogil:
    cdef gwaiter* w
    if gs == NULL or gs.n_parked == 0:
        return
    pthread_mutex_lock(&gs.lock)
    w = _parked(gs, unique)
    if w != NULL:
        _parked_free(gs, w)
    pthread_mutex_unlock(&gs.lock)


cdef void glock_keep(opctx* cx, glock* gl) noexcept nogil:
    cdef gls* gs
    cdef gwaiter* w
    if gl.x == NULL or cx.unique == 0:
        return
    gs = gl.x.sd.gls
    pthread_mutex_lock(&gs.lock)
    w = _parked(gs, cx.unique)
    if w != NULL:
        _keep(w, gl.x)
    pthread_mutex_unlock(&gs.lock)


# ---- the way down ---------------------------------------------------------------------------------------------------

cdef void glock_drop(glock* gl) noexcept nogil:
    cdef glx* x = gl.x
    cdef gls* gs
    if x == NULL:
        return
    gs = x.sd.gls
    pthread_mutex_lock(&gs.lock)
    if x.demote != LM_ST_UNLOCKED and (gl.state != LM_ST_UNLOCKED or x.req > LM_ST_UNLOCKED):
        x.demote = LM_ST_UNLOCKED
        x.flags |= GLX_DROP
        _plan(gs, x)
    pthread_mutex_unlock(&gs.lock)


cdef void glock_pin(glock* gl) noexcept nogil:
    if gl.x != NULL:
        glock_pin_at(gl, gl.state)


cdef void glock_pin_at(glock* gl, int32_t mode) noexcept nogil:
    cdef gls* gs = gl.x.sd.gls
    cdef int32_t want
    pthread_mutex_lock(&gs.lock)
    gl.x.flags |= GLX_PINNED
    gl.x.pin = mode
    want = _plan(gs, gl.x)          # a lower pin may let go what others want
    pthread_mutex_unlock(&gs.lock)
    _ask(gs, gl.x, want)


cdef bint glock_unpin(glock* gl) noexcept nogil:
    cdef gls* gs
    cdef bint wanted
    if gl.x == NULL:
        return False
    gs = gl.x.sd.gls
    pthread_mutex_lock(&gs.lock)
    gl.x.flags &= ~<uint32_t>GLX_PINNED
    wanted = gl.x.demote >= 0
    _plan(gs, gl.x)
    pthread_mutex_unlock(&gs.lock)
    return wanted


cdef void glock_settled(glx* x) noexcept nogil:
    pthread_mutex_lock(&x.sd.gls.lock)
    x.flags &= ~<uint32_t>GLX_GOING
    pthread_mutex_unlock(&x.sd.gls.lock)


cdef bint glock_idle(glock* gl) noexcept nogil:
    cdef glx* x = gl.x
    cdef bint idle
    if x == NULL:
        return True
    pthread_mutex_lock(&x.sd.gls.lock)
    idle = (gl.state == LM_ST_UNLOCKED and x.req < 0 and x.waiters == NULL and x.n_kept == 0
            and not (x.flags & (GLX_BUSY | GLX_REGISTERING | GLX_PINNED | GLX_GOING)))
    pthread_mutex_unlock(&x.sd.gls.lock)
    return idle


# ---- the kernel's caches (what there is to know of them is in _kcache) ----------------------------------------------

cdef void glock_rerun(glock* gl) noexcept nogil:
    cdef glx* x = gl.x
    cdef gwaiter* w
    cdef gwaiter* after
    if x == NULL:
        return
    pthread_mutex_lock(&x.sd.gls.lock)
    w = x.waiters
    while w != NULL:
        after = w.next
        if w.unique:
            _wake(x.sd.gls, x, w, -EAGAIN)
        w = after
    pthread_mutex_unlock(&x.sd.gls.lock)


cdef void _came_back(void* who, int result) noexcept nogil:
    """By the session's thread. Whatever the result: -ENOENT is an inode that the kernel does not have."""
    cdef glx* x = <glx*>who
    cdef gls* gs = x.sd.gls
    pthread_mutex_lock(&gs.lock)
    gs.n_rounds += 1
    x.taking = TAKE_DONE
    dl_del(&x.work)
    if x.demote >= 0:
        gl_atomic_store32(&x.gl.avail, x.demote)
    _work(gs, x, 0)
    pthread_cond_broadcast(&gs.cond)
    pthread_mutex_unlock(&gs.lock)


cdef int _take_pages(gls* gs, glx* x) noexcept nogil:
    """2: x comes back to its demoter by itself. 1: again later."""
    cdef int err
    pthread_mutex_lock(&gs.lock)
    x.taking = TAKE_ASKED
    x.ticks = 0
    dl_add_tail(&gs.taking, &x.work)
    pthread_mutex_unlock(&gs.lock)
    err = gs.kernel.drop_inode(gs.kernel.arg, kcache_node(x), kcache_set_out, _came_back, x)
    if err == 0:
        return 2
    pthread_mutex_lock(&gs.lock)
    dl_del(&x.work)
    x.taking = TAKE_NO
    if err == -ENOTCONN:            # the session has ended, and the kernel's caches with it
        kcache_set_out(x)
        x.taking = TAKE_DONE
    pthread_mutex_unlock(&gs.lock)
    return 1


cdef bint _ready(gls* gs, glx* x) noexcept nogil:
    """Whether x may go down now: nothing under way, nobody was promised it (gls.lock held)."""
    if x.req >= 0 or x.flags & GLX_REGISTERING or _stays(x) or births_pending(gs, x):
        return False
    if x.n_kept:
        _expire(gs, stat_now())
    return x.n_kept == 0


cdef int _reopen(gls* gs, glx* x) noexcept nogil:
    """The kernel has pages again: what came meanwhile is served, and it is told once more (rw is held, and dropped)."""
    gl_atomic_store32(&x.gl.avail, x.gl.state)
    pthread_rwlock_unlock(&x.gl.rw)
    pthread_mutex_lock(&gs.lock)
    _serve(gs, x)
    pthread_mutex_unlock(&gs.lock)
    return _take_pages(gs, x)


cdef int _demote(gls* gs, glx* x) noexcept nogil:
    """One try (GLX_BUSY is ours). 0: the lock manager was told; 1: again later; 2: the kernel was told."""
    cdef int32_t target = x.demote
    cdef int32_t have = x.gl.state
    cdef uint64_t began
    cdef bint known
    cdef int err
    if x.taking == TAKE_NO and kcache_pages(gs, x, target):
        return _take_pages(gs, x)
    gl_atomic_store32(&x.gl.avail, target)
    gl_atomic_store32(&x.leaving, 1)
    if pthread_rwlock_trywrlock(&x.gl.rw) != 0:
        return 1
    gl_atomic_store32(&x.leaving, 0)
    if kcache_pages(gs, x, target):
        if x.taking != TAKE_DONE or (x.before != x.fills and gs.planted != PLANT_ONE_ROUND):
            return _reopen(gs, x)
        gl_atomic_store64(&x.dropped, x.before)
    x.taking = TAKE_NO
    pthread_mutex_lock(&gs.lock)
    if have == LM_ST_EXCLUSIVE and births_reveals(x) and not births_register(gs, x):
        pthread_mutex_unlock(&gs.lock)
        pthread_rwlock_unlock(&x.gl.rw)
        return 1
    x.need_reg = 0
    if have == LM_ST_EXCLUSIVE and x.dirty_seq == 0:
        x.flags &= ~<uint32_t>GLX_MIGRATES      # it was only read this time
    pthread_mutex_unlock(&gs.lock)
    if target == LM_ST_UNLOCKED and not kcache_attrs(gs, x):
        pthread_rwlock_unlock(&x.gl.rw)
        return 1
    began = stat_now()
    err = gs.go(x, target)
    x.sync_ns = stat_now() - began
    if err:
        # The mount withdraws; what it could not write others must replay before they may have this lock.
        pthread_rwlock_unlock(&x.gl.rw)
        return 1
    pthread_mutex_lock(&gs.lock)
    if x.demote == target:
        x.demote = -1
    gs.n_demotes += 1
    x.flags &= ~<uint32_t>GLX_BUSY
    gl_atomic_store32(&x.gl.avail, target)
    known = not (x.flags & GLX_UNREG)
    x.req = target
    x.req_flags = 0
    pthread_mutex_unlock(&gs.lock)
    pthread_rwlock_unlock(&x.gl.rw)
    if known:
        gs.ops.lock(gs.lm, x, have, target, 0)
    else:
        glock_answer(x, 0)
    return 0


cdef glx* _due(demoter* d, uint64_t* next_ns) noexcept nogil:
    """The first glock whose time has come (gls.lock held); *next_ns: when to look again."""
    cdef uint64_t now = stat_now()
    cdef dlink* l = d.work.next
    cdef glx* x
    next_ns[0] = now + IDLE_NS
    while l != &d.work:
        x = <glx*>l.owner
        l = l.next
        if x.flags & GLX_POKE:
            return x
        if x.demote < 0 or x.demote >= x.gl.state:
            dl_del(&x.work)
        elif _stays(x) and x.req < 0:           # pinned since it began to be let go; again when it is unpinned
            dl_del(&x.work)
            gl_atomic_store32(&x.leaving, 0)
            gl_atomic_store32(&x.gl.avail, x.gl.state)
            _serve(d.gs, x)
        elif x.due_ns <= now and _ready(d.gs, x):
            return x
        elif x.due_ns <= now:
            next_ns[0] = min(next_ns[0], now + AGAIN_NS)
        else:
            next_ns[0] = min(next_ns[0], x.due_ns)
    return NULL


cdef void _nap(demoter* d, uint64_t until_ns) noexcept nogil:
    cdef timespec ts
    cdef uint64_t now = stat_now()
    cdef uint64_t rest = until_ns - now if until_ns > now else 1000
    clock_gettime(CLOCK_REALTIME, &ts)
    ts.tv_nsec += <long>(rest % 1000000000)
    ts.tv_sec += <long>(rest // 1000000000)
    if ts.tv_nsec >= 1000000000:
        ts.tv_nsec -= 1000000000
        ts.tv_sec += 1
    pthread_cond_timedwait(&d.cond, &d.gs.lock, &ts)


cdef void* _demoter(void* arg) noexcept nogil:
    cdef demoter* d = <demoter*>arg
    cdef gls* gs = d.gs
    cdef uint64_t next_ns = 0
    cdef uint32_t poke
    cdef uint64_t tick_ns = 0
    cdef glx* x
    cdef int how
    pthread_mutex_lock(&gs.lock)
    while not gs.stop:
        if d == &gs.demoters[1] and stat_now() >= tick_ns:
            tick_ns = stat_now() + IDLE_NS
            kcache_watch(gs)
        x = NULL if sd_dead(gs.sd) else _due(d, &next_ns)
        if x == NULL:
            if sd_dead(gs.sd):
                next_ns = stat_now() + IDLE_NS
                _wake_all(gs)
            _nap(d, next_ns)
            continue
        dl_del(&x.work)
        x.flags |= GLX_BUSY
        poke = x.flags & GLX_POKE
        x.flags &= ~<uint32_t>GLX_POKE
        pthread_mutex_unlock(&gs.lock)
        how = 1
        if poke:
            gs.poke(x)
        else:
            how = _demote(gs, x)
        pthread_mutex_lock(&gs.lock)
        if how != 1:
            continue
        x.flags &= ~<uint32_t>GLX_BUSY
        if x.demote >= 0:
            _work(gs, x, stat_now() + AGAIN_NS)
    pthread_mutex_unlock(&gs.lock)
    return NULL
