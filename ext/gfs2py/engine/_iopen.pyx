"""Who of the nodes still has an inode open: the iopen glock. See _iopen.pxd."""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from gfs2py.engine._glock cimport (GL_NOPARK, GL_TRY, glock_drop, glock_enter, glock_free, glock_idle, glock_init,
                                   glock_leave, glock_pin, glock_settled, glock_unpin, glx)
from gfs2py.engine._incore cimport LM_ST_EXCLUSIVE, LM_ST_SHARED, LM_TYPE_IOPEN, glock, opctx, sbd
from gfs2py.engine._sync cimport (pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_t,
                                  pthread_mutex_unlock)

cdef extern from "<errno.h>" nogil:
    int ENOMEM

cdef enum:
    BUCKETS = 4096

cdef struct iopen:
    glock gl
    iopen* hnext
    uint32_t users                  # threads that use it without the mutex
    bint held                       # SH and pinned: our kernel knows the inode

cdef struct iopens:
    pthread_mutex_t lock
    iopen* table[BUCKETS]


cdef inline iopen** _slot(iopens* t, uint64_t addr) noexcept nogil:
    return &t.table[(addr * <uint64_t>0x9E3779B97F4A7C15 >> 40) & (BUCKETS - 1)]


cdef iopen* _find(iopens* t, uint64_t addr) noexcept nogil:
    cdef iopen* p = _slot(t, addr)[0]
    while p != NULL and p.gl.number != addr:
        p = p.hnext
    return p


cdef iopen* _use(sbd* sd, uint64_t addr, bint make) noexcept nogil:
    """The inode's iopen glock, used until _unuse; NULL: there is none, or no memory."""
    cdef iopens* t = <iopens*>sd.gls.iopens
    cdef iopen* p
    pthread_mutex_lock(&t.lock)
    p = _find(t, addr)
    if p == NULL and make:
        p = <iopen*>calloc(1, sizeof(iopen))
        if p != NULL and glock_init(sd, &p.gl, LM_TYPE_IOPEN, addr, p):
            free(p)
            p = NULL
        if p != NULL:
            p.hnext = _slot(t, addr)[0]
            _slot(t, addr)[0] = p
    if p != NULL:
        p.users += 1
    pthread_mutex_unlock(&t.lock)
    return p


cdef void _drop_if_idle(iopens* t, iopen* p) noexcept nogil:
    """Frees it when nothing is left of it (the mutex is held)."""
    cdef iopen** at
    if p.users or p.held or not glock_idle(&p.gl):
        return
    at = _slot(t, p.gl.number)
    while at[0] != p:
        at = &at[0].hnext
    at[0] = p.hnext
    glock_free(&p.gl)
    free(p)


cdef void _unuse(sbd* sd, iopen* p) noexcept nogil:
    cdef iopens* t = <iopens*>sd.gls.iopens
    pthread_mutex_lock(&t.lock)
    p.users -= 1
    _drop_if_idle(t, p)
    pthread_mutex_unlock(&t.lock)


cdef int iopens_init(sbd* sd) noexcept nogil:
    cdef iopens* t = <iopens*>calloc(1, sizeof(iopens))
    if t == NULL:
        return -ENOMEM
    pthread_mutex_init(&t.lock, NULL)
    sd.gls.iopens = t
    return 0


cdef void iopens_destroy(sbd* sd) noexcept nogil:
    cdef iopens* t = <iopens*>sd.gls.iopens
    cdef iopen* p
    cdef uint32_t i
    if t == NULL:
        return
    for i in range(<uint32_t>BUCKETS):
        while t.table[i] != NULL:
            p = t.table[i]
            t.table[i] = p.hnext
            glock_free(&p.gl)
            free(p)
    pthread_mutex_destroy(&t.lock)
    free(t)
    sd.gls.iopens = NULL


cdef int iopen_hold(opctx* cx, uint64_t addr) noexcept nogil:
    cdef sbd* sd = cx.sd
    cdef iopen* p = _use(sd, addr, True)
    cdef int err = 0
    if p == NULL:
        return -ENOMEM
    if not p.held:
        err = glock_enter(cx, &p.gl, LM_ST_SHARED, GL_NOPARK)
        if err == 0:
            glock_pin(&p.gl)
            p.held = True           # only the demoter of inodes comes here
            glock_leave(cx, &p.gl)
    _unuse(sd, p)
    return err


cdef bint iopen_forgotten(sbd* sd, uint64_t addr) noexcept nogil:
    cdef iopen* p = _use(sd, addr, False)
    cdef bint wanted
    if p == NULL:
        return False
    wanted = p.held and glock_unpin(&p.gl)
    p.held = False
    glock_drop(&p.gl)
    _unuse(sd, p)
    return wanted


cdef int iopen_exclusive(opctx* cx, uint64_t addr) noexcept nogil:
    cdef iopen* p = _use(cx.sd, addr, True)
    cdef int err
    if p == NULL:
        return -ENOMEM
    err = glock_enter(cx, &p.gl, LM_ST_EXCLUSIVE, GL_TRY)
    if err:
        _unuse(cx.sd, p)
    return err


cdef void iopen_done(opctx* cx, uint64_t addr) noexcept nogil:
    cdef iopen* p = _use(cx.sd, addr, False)
    if p == NULL:
        return
    glock_leave(cx, &p.gl)
    glock_drop(&p.gl)
    _unuse(cx.sd, p)                # this call's
    _unuse(cx.sd, p)                # iopen_exclusive's


cdef void iopen_let_go(glx* x) noexcept nogil:
    cdef iopens* t = <iopens*>x.sd.gls.iopens
    cdef iopen* p
    if t == NULL:
        return
    pthread_mutex_lock(&t.lock)
    p = <iopen*>x.gl.owner
    glock_settled(x)
    _drop_if_idle(t, p)
    pthread_mutex_unlock(&t.lock)
