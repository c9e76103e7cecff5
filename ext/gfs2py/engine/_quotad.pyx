"""The periodic work of a mount: statfs and quota folding, reclaiming what a crash left unlinked."""
from libc.stdint cimport uint32_t, uint64_t
from gfs2py.engine._freeze cimport fz_leave, fz_try, fz_wait
from gfs2py.engine._fs cimport gfs2_fs
from gfs2py.engine._incore cimport SDF_QUOTA_ACCOUNT, inode, opctx, rgrpd, sbd
from gfs2py.engine._inode cimport inode_peek, inode_put
from gfs2py.engine._nodes cimport node_delete_later, node_known, nodes_drain, nodes_retry
from gfs2py.engine._quota cimport quota_sync
from gfs2py.engine._rgrp cimport rgrp_each_unlinked
from gfs2py.engine._sbd cimport ctx_init, sd_dead
from gfs2py.engine._statfs cimport statfs_look, statfs_sync
from gfs2py.engine._sync cimport (CLOCK_REALTIME, clock_gettime, pthread_cond_broadcast, pthread_cond_init,
                                  pthread_cond_timedwait, pthread_create, pthread_join, pthread_mutex_init,
                                  pthread_mutex_lock, pthread_mutex_unlock, timespec)
from gfs2py.fuse._stat cimport wait_adopt

cdef extern from "<errno.h>" nogil:
    int ENOMEM


cdef int _found_unlinked(opctx* cx, uint64_t addr, void* arg) noexcept nogil:
    """Queues what a crash left; not what is open and unlinked, nor an unnamed file that is being made right now.

    In this order: whoever makes an inode holds it until the kernel knows it.
    """
    cdef quotad* q = <quotad*>arg
    cdef inode* ip = inode_peek(cx.sd, addr)
    cdef bint used = False
    if ip != NULL:
        used = ip.refs > 1
        inode_put(ip)
    if not used and not node_known(&q.fs.nd, addr):
        node_delete_later(&q.fs.nd, addr)
    return 0


cdef void _scan(quotad* q) noexcept nogil:
    """Every dinode in state UNLINKED that nobody of this mount knows is a deletion that a crash interrupted.

    Carried through even when the mount is ending: after a clean unmount nobody would look again.
    """
    cdef opctx cx
    cdef uint32_t i
    cdef sbd* sd = q.fs.sd
    for i in range(sd.n_rgrps):
        if sd_dead(sd):
            return
        ctx_init(&cx, sd, 0, 0)
        rgrp_each_unlinked(&cx, &sd.rgrps[i], _found_unlinked, q)


cdef void quotad_reclaim(quotad* q, opctx* cx, rgrpd* rgd) noexcept nogil:
    """Space is short: this group's leftovers are queued, and whatever is queued is waited for."""
    rgrp_each_unlinked(cx, rgd, _found_unlinked, q)
    nodes_drain(&q.fs.nd)


cdef void _sync_due(quotad* q, uint32_t seconds) noexcept nogil:
    cdef opctx cx
    cdef sbd* sd = q.fs.sd
    if not fz_try(sd):
        return
    ctx_init(&cx, sd, 0, 0)
    if q.statfs_s and seconds % q.statfs_s == 0:
        if sd.sl_dirty | (sd.sl_free != 0) | (sd.sl_dinodes != 0):
            statfs_sync(&cx)
        elif sd.gls != NULL:
            statfs_look(&cx)
    if q.quota_s and seconds % q.quota_s == 0 and sd.flags & SDF_QUOTA_ACCOUNT:
        quota_sync(&cx)
    fz_leave(sd)


cdef void _serve_asked(quotad* q) noexcept nogil:
    """What was asked for until now (q.lock held, let go in between)."""
    cdef opctx cx
    cdef sbd* sd = q.fs.sd
    cdef uint64_t until = q.asked
    cdef bint statfs = q.want[QUOTAD_STATFS]
    cdef bint quota = q.want[QUOTAD_QUOTA]
    cdef bint ok
    q.want[QUOTAD_STATFS] = False
    q.want[QUOTAD_QUOTA] = False
    pthread_mutex_unlock(&q.lock)
    ok = fz_wait(sd)
    if statfs and ok and not sd_dead(sd):
        ctx_init(&cx, sd, 0, 0)
        statfs_sync(&cx)
    if quota and ok and not sd_dead(sd) and sd.flags & SDF_QUOTA_ACCOUNT:
        ctx_init(&cx, sd, 0, 0)
        quota_sync(&cx)
    if ok:
        fz_leave(sd)
    pthread_mutex_lock(&q.lock)
    q.served = until


cdef void* _run(void* arg) noexcept nogil:
    cdef quotad* q = <quotad*>arg
    cdef timespec until
    cdef uint32_t seconds = 0
    wait_adopt(&q.fs.sd.ob.quotad)
    if q.scan_unlinked:
        _scan(q)
    clock_gettime(CLOCK_REALTIME, &until)
    pthread_mutex_lock(&q.lock)
    until.tv_sec += 1
    while not q.stop:
        if q.asked > q.served:
            _serve_asked(q)
            continue
        if pthread_cond_timedwait(&q.cond, &q.lock, &until) == 0:
            continue
        seconds += 1
        pthread_mutex_unlock(&q.lock)
        _sync_due(q, seconds)
        nodes_retry(&q.fs.nd)
        clock_gettime(CLOCK_REALTIME, &until)
        until.tv_sec += 1
        pthread_mutex_lock(&q.lock)
    pthread_mutex_unlock(&q.lock)
    return NULL


cdef uint64_t quotad_ask(quotad* q, int what) noexcept nogil:
    cdef uint64_t ticket = 0
    if not q.thread_on:
        return 0
    pthread_mutex_lock(&q.lock)
    if not q.stop:
        q.want[what] = True
        q.asked += 1
        ticket = q.asked
        pthread_cond_broadcast(&q.cond)
    pthread_mutex_unlock(&q.lock)
    return ticket


cdef bint quotad_done(quotad* q, uint64_t ticket) noexcept nogil:
    cdef bint done
    if not q.thread_on:
        return True
    pthread_mutex_lock(&q.lock)
    done = q.stop or q.served >= ticket
    pthread_mutex_unlock(&q.lock)
    return done


cdef int quotad_start(quotad* q, gfs2_fs* fs) noexcept nogil:
    q.fs = fs
    pthread_mutex_init(&q.lock, NULL)
    pthread_cond_init(&q.cond, NULL)
    q.stop = False
    if pthread_create(&q.thread, NULL, _run, q) != 0:
        return -ENOMEM
    q.thread_on = True
    return 0


cdef void quotad_stop(quotad* q) noexcept nogil:
    if not q.thread_on:
        return
    pthread_mutex_lock(&q.lock)
    q.stop = True
    pthread_cond_broadcast(&q.cond)
    pthread_mutex_unlock(&q.lock)
    pthread_join(q.thread, NULL)
    q.thread_on = False
