"""Freezing and thawing of one mount; see _freeze.pxd."""
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from gfs2py.engine._ail cimport ail_write
from gfs2py.engine._incore cimport SDF_QUOTA_ACCOUNT, opctx, sbd
from gfs2py.engine._glock cimport gls_stop
from gfs2py.engine._gls cimport gls_release_all
from gfs2py.engine._log cimport _commit, log_flush, log_stop
from gfs2py.engine._observe cimport ob_mutex, ob_wrlock
from gfs2py.engine._quota cimport quota_sync
from gfs2py.engine._sbd cimport ctx_init, sd_dead
from gfs2py.engine._statfs cimport statfs_sync
from gfs2py.engine._sync cimport (gl_atomic_look32, gl_atomic_note32, gl_atomic_store32, pthread_cond_broadcast,
                                  pthread_cond_destroy, pthread_cond_init, pthread_cond_wait, pthread_mutex_destroy,
                                  pthread_mutex_init, pthread_mutex_lock, pthread_mutex_unlock, pthread_rwlock_unlock)
from gfs2py.fuse._ops cimport OP_PARK
from gfs2py.fuse._stat cimport WAIT_COMMIT, WAIT_SWITCH, stat_now
from gfs2py.ondisk._ondisk cimport GFS2_LFC_FREEZE_GO_SYNC, GFS2_LOG_HEAD_UNMOUNT

cdef extern from "<errno.h>" nogil:
    int EBUSY, EINTR, EIO, ENOMEM

cdef enum:
    PARKED_MAX = 65536              # requests put away here; more than the kernel lets wait
    FOLDS_MAX = 20


cdef void fz_init(sbd* sd) noexcept nogil:
    sd.tell_fd = -1
    pthread_mutex_init(&sd.fz.lock, NULL)
    pthread_cond_init(&sd.fz.cond, NULL)


cdef void fz_destroy(sbd* sd) noexcept nogil:
    free(sd.fz.parked)
    sd.fz.parked = NULL
    pthread_mutex_destroy(&sd.fz.lock)
    pthread_cond_destroy(&sd.fz.cond)


cdef void fz_attach(sbd* sd, void (*unpark)(void* arg, uint64_t unique) noexcept nogil, void* arg) noexcept nogil:
    sd.fz.unpark_arg = arg
    sd.fz.unpark = unpark


# ---- operations -----------------------------------------------------------------------------------------------------

cdef int _put_away(sbd* sd, opctx* cx) noexcept nogil:
    """fz.lock held."""
    cdef uint64_t* grown
    if cx.interrupted != NULL and cx.interrupted[0]:
        return -EINTR
    if sd.fz.n_parked == PARKED_MAX:
        return -ENOMEM
    if sd.fz.n_parked == sd.fz.cap_parked:
        grown = <uint64_t*>realloc(sd.fz.parked, (sd.fz.cap_parked * 2 + 64) * sizeof(uint64_t))
        if grown == NULL:
            return -ENOMEM
        sd.fz.parked = grown
        sd.fz.cap_parked = sd.fz.cap_parked * 2 + 64
    sd.fz.parked[sd.fz.n_parked] = cx.unique
    sd.fz.n_parked += 1
    return OP_PARK


cdef int fz_enter(opctx* cx) noexcept nogil:
    cdef sbd* sd = cx.sd
    cdef int err = 0
    pthread_mutex_lock(&sd.fz.lock)
    while err == 0:
        if sd_dead(sd) or sd.fz.ended:
            err = -EIO
        elif sd.fz.state == FZ_THAWED:
            gl_atomic_note32(&sd.fz.writers, 1)
            break
        elif cx.unique and sd.fz.unpark != NULL:
            err = _put_away(sd, cx)
        else:
            pthread_cond_wait(&sd.fz.cond, &sd.fz.lock)
    pthread_mutex_unlock(&sd.fz.lock)
    return err


cdef void fz_leave(sbd* sd) noexcept nogil:
    gl_atomic_note32(&sd.fz.writers, -1)
    if gl_atomic_look32(&sd.fz.state) == FZ_FREEZING:
        pthread_mutex_lock(&sd.fz.lock)
        pthread_cond_broadcast(&sd.fz.cond)
        pthread_mutex_unlock(&sd.fz.lock)


cdef bint fz_wait(sbd* sd) noexcept nogil:
    """While it is only freezing they are let through: an operation under way may wait for them."""
    cdef bint ok
    pthread_mutex_lock(&sd.fz.lock)
    while sd.fz.state == FZ_FROZEN and not sd_dead(sd) and not sd.fz.ended:
        pthread_cond_wait(&sd.fz.cond, &sd.fz.lock)
    ok = sd.fz.state != FZ_FROZEN and not sd_dead(sd)
    if ok:
        gl_atomic_note32(&sd.fz.writers, 1)
        sd.fz.n_late += 1
    pthread_mutex_unlock(&sd.fz.lock)
    return ok


cdef bint fz_try(sbd* sd) noexcept nogil:
    cdef bint ok
    pthread_mutex_lock(&sd.fz.lock)
    ok = sd.fz.state == FZ_THAWED and not sd_dead(sd)
    if ok:
        gl_atomic_note32(&sd.fz.writers, 1)
    pthread_mutex_unlock(&sd.fz.lock)
    return ok


cdef void fz_forget(sbd* sd, uint64_t unique) noexcept nogil:
    cdef uint32_t i = 0
    if sd.fz.n_parked == 0:
        return
    pthread_mutex_lock(&sd.fz.lock)
    while i < sd.fz.n_parked:
        if sd.fz.parked[i] == unique:
            sd.fz.n_parked -= 1
            sd.fz.parked[i] = sd.fz.parked[sd.fz.n_parked]
        else:
            i += 1
    pthread_mutex_unlock(&sd.fz.lock)


cdef void _all_go_on(sbd* sd) noexcept nogil:
    """fz.lock held, and let go for each that was put away: the session has locks of its own."""
    cdef uint64_t unique
    while sd.fz.n_parked:
        sd.fz.n_parked -= 1
        unique = sd.fz.parked[sd.fz.n_parked]
        pthread_mutex_unlock(&sd.fz.lock)
        sd.fz.unpark(sd.fz.unpark_arg, unique)
        pthread_mutex_lock(&sd.fz.lock)
    pthread_cond_broadcast(&sd.fz.cond)


# ---- who freezes ----------------------------------------------------------------------------------------------------

cdef void _fold(sbd* sd) noexcept nogil:
    """What this node keeps for itself of space and quotas is added to the files of all, as at an unmount."""
    cdef opctx cx
    if sd.log == NULL or not sd.log.live:
        return
    ctx_init(&cx, sd, 0, 0)
    if sd.flags & SDF_QUOTA_ACCOUNT:
        quota_sync(&cx)
    if not sd_dead(sd):
        statfs_sync(&cx)


cdef int _empty_log(sbd* sd) noexcept nogil:
    """Whoever is inside a transaction ends it; nobody begins one (trans_begin looks at the state)."""
    cdef int err
    if sd.log == NULL or not sd.log.live:
        return 0
    ob_wrlock(&sd.ob, &sd.log.flush_lock, WAIT_SWITCH, 0)
    pthread_rwlock_unlock(&sd.log.flush_lock)
    err = log_flush(sd, 0, GFS2_LFC_FREEZE_GO_SYNC)
    if err == 0:
        err = ail_write(sd, 0, ~<uint64_t>0)
    if err == 0:
        ob_mutex(&sd.ob, &sd.log.commit_lock, WAIT_COMMIT, 0)
        err = _commit(sd, GFS2_LFC_FREEZE_GO_SYNC, True, GFS2_LOG_HEAD_UNMOUNT)
        pthread_mutex_unlock(&sd.log.commit_lock)
    return err


cdef bint _goes_on(sbd* sd) noexcept nogil:
    return sd.fz.state == FZ_FREEZING and not sd_dead(sd) and not sd.fz.ended


cdef void _end_writers(sbd* sd) noexcept nogil:
    """fz.lock held, and let go in between. Threads of the engine's own may come in between, and leave something to fold
    again; deletions that others wait for are few."""
    cdef uint64_t before
    cdef int i
    for i in range(FOLDS_MAX):
        while gl_atomic_look32(&sd.fz.writers) and _goes_on(sd):
            pthread_cond_wait(&sd.fz.cond, &sd.fz.lock)
        if not _goes_on(sd):
            return
        before = sd.fz.n_late
        pthread_mutex_unlock(&sd.fz.lock)
        if sd.fz.drain != NULL:
            sd.fz.drain(sd.fz.drain_arg)
        _fold(sd)
        pthread_mutex_lock(&sd.fz.lock)
        if sd.fz.n_late == before and gl_atomic_look32(&sd.fz.writers) == 0:
            return
    while gl_atomic_look32(&sd.fz.writers) and _goes_on(sd):
        pthread_cond_wait(&sd.fz.cond, &sd.fz.lock)


cdef int fz_freeze(sbd* sd) noexcept nogil:
    cdef int err = 0
    pthread_mutex_lock(&sd.fz.lock)
    if sd.fz.state != FZ_THAWED or sd.fz.ended:
        pthread_mutex_unlock(&sd.fz.lock)
        return -EBUSY
    sd.fz.since_ns = stat_now()
    gl_atomic_note32(&sd.fz.state, FZ_FREEZING)
    _end_writers(sd)
    if _goes_on(sd):
        gl_atomic_note32(&sd.fz.state, FZ_FROZEN - FZ_FREEZING)
        sd.fz.emptying = True
    else:
        err = -EIO if sd_dead(sd) else -EINTR
    pthread_mutex_unlock(&sd.fz.lock)
    if err == 0:
        err = _empty_log(sd)
    pthread_mutex_lock(&sd.fz.lock)
    sd.fz.emptying = False
    if err:
        gl_atomic_store32(&sd.fz.state, FZ_THAWED)
        _all_go_on(sd)
    pthread_cond_broadcast(&sd.fz.cond)
    pthread_mutex_unlock(&sd.fz.lock)
    return err


cdef void fz_thaw(sbd* sd) noexcept nogil:
    pthread_mutex_lock(&sd.fz.lock)
    while sd.fz.emptying:
        pthread_cond_wait(&sd.fz.cond, &sd.fz.lock)
    gl_atomic_store32(&sd.fz.state, FZ_THAWED)
    _all_go_on(sd)
    pthread_mutex_unlock(&sd.fz.lock)


cdef void fz_end(sbd* sd) noexcept nogil:
    pthread_mutex_lock(&sd.fz.lock)
    sd.fz.ended = True
    _all_go_on(sd)
    pthread_mutex_unlock(&sd.fz.lock)


cdef bint fz_settle(sbd* sd) noexcept nogil:
    cdef bint frozen
    fz_end(sd)
    pthread_mutex_lock(&sd.fz.lock)
    while sd.fz.emptying:
        pthread_cond_wait(&sd.fz.cond, &sd.fz.lock)
    frozen = sd.fz.state == FZ_FROZEN
    pthread_mutex_unlock(&sd.fz.lock)
    return frozen


cdef void fz_shutdown(sbd* sd) noexcept nogil:
    if sd.gls != NULL:
        gls_stop(sd.gls)
    log_stop(sd)
    sd.log.live = False
    if sd.gls != NULL and not sd_dead(sd):
        gls_release_all(sd.gls)
