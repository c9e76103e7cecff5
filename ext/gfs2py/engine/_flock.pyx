"""flock(2) among nodes. See _flock.pxd.

Who may have a flock on this node is decided by a table of this node's flocks alone; that no other node has one
against it, by the glock of type 6 on the inode's number: SH for shared ones, EX for exclusive ones. It is pinned as
long as a flock is there, and stays cached afterwards until another node wants it. Kernel nodes have the same locks.

LOCK_NB cannot tell a glock that another node only caches from one behind a flock: the refused request has told that
node, which lets go at once of what it does not need, so it is repeated a few times before the caller is told. As in
the kernel, the answer may be wrong where that takes longer. Source: fs/gfs2/file.c (do_flock), kernel 6.1.
"""
from libc.errno cimport EAGAIN, EINTR, EINVAL, ENOLCK, ENOMEM
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from gfs2py.engine._glock cimport (GL_PARKTRY, GL_TRY, glock_enter, glock_free, glock_idle, glock_init, glock_leave,
                                   glock_pin_at, glock_settled, glock_unpin, glx)
from gfs2py.engine._incore cimport (LM_ST_EXCLUSIVE, LM_ST_SHARED, LM_ST_UNLOCKED, LM_TYPE_FLOCK, glock, opctx, sbd)
from gfs2py.engine._sync cimport (pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_t,
                                  pthread_mutex_unlock)
from gfs2py.fuse._locks cimport (LOCK_WAIT, locktab, locktab_cancel, locktab_drop_fh, locktab_flocks, locktab_free,
                                 locktab_limit, locktab_new, locktab_set)
from gfs2py.fuse._ops cimport OP_PARK, fs_lock, fs_req, unpark_fn

cdef extern from "<fcntl.h>" nogil:
    int F_RDLCK, F_UNLCK, F_WRLCK
cdef extern from "<unistd.h>" nogil:
    int usleep(unsigned int us)

cdef enum:
    BUCKETS = 1024
    FLOCKS_MAX = 65536              # of one inode on this node
    TRIES = 8                       # of LOCK_NB
    NAP_US = 1000                   # before the second one; then twice as long each time: 127 ms in all

cdef struct flk:
    glock gl
    flk* hnext
    uint32_t users                  # threads that use it without the mutex
    int32_t pinned                  # LM_ST_UNLOCKED: no flock is here

cdef struct flocks:
    pthread_mutex_t lock
    locktab* tab
    unpark_fn unpark
    void* unpark_arg
    flk* table[BUCKETS]


cdef void _wake(void* arg, uint64_t unique) noexcept nogil:
    cdef flocks* t = <flocks*>arg
    if t.unpark != NULL:
        t.unpark(t.unpark_arg, unique)


cdef inline flk** _slot(flocks* t, uint64_t addr) noexcept nogil:
    return &t.table[(addr * <uint64_t>0x9E3779B97F4A7C15 >> 40) & (BUCKETS - 1)]


cdef flk* _find(flocks* t, uint64_t addr) noexcept nogil:
    cdef flk* f = _slot(t, addr)[0]
    while f != NULL and f.gl.number != addr:
        f = f.hnext
    return f


cdef flk* _make(sbd* sd, flocks* t, uint64_t addr) noexcept nogil:
    cdef flk* f = <flk*>calloc(1, sizeof(flk))
    if f == NULL or glock_init(sd, &f.gl, LM_TYPE_FLOCK, addr, f):
        free(f)
        return NULL
    f.hnext = _slot(t, addr)[0]
    _slot(t, addr)[0] = f
    return f


cdef void _drop_if_idle(flocks* t, flk* f) noexcept nogil:
    """Frees it when nothing is left of it (the mutex is held)."""
    cdef flk** at
    if f.users or f.pinned != LM_ST_UNLOCKED or not glock_idle(&f.gl):
        return
    at = _slot(t, f.gl.number)
    while at[0] != f:
        at = &at[0].hnext
    at[0] = f.hnext
    glock_free(&f.gl)
    free(f)


cdef void _pin(flocks* t, flk* f) noexcept nogil:
    """As strong as the flocks that are here (the mutex is held)."""
    cdef uint32_t own = 0
    cdef uint32_t most = 0
    cdef int32_t mode = LM_ST_UNLOCKED
    locktab_flocks(t.tab, f.gl.number, 0, F_RDLCK, &own, &most)
    if most != <uint32_t>F_UNLCK:
        mode = LM_ST_EXCLUSIVE if most == <uint32_t>F_WRLCK else LM_ST_SHARED
    if mode == f.pinned:
        return
    f.pinned = mode
    if mode == LM_ST_UNLOCKED:
        glock_unpin(&f.gl)
    else:
        glock_pin_at(&f.gl, mode)


cdef int flocks_init(sbd* sd) noexcept nogil:
    cdef flocks* t = <flocks*>calloc(1, sizeof(flocks))
    if t == NULL:
        return -ENOMEM
    t.tab = locktab_new(_wake, t)
    if t.tab == NULL:
        free(t)
        return -ENOMEM
    locktab_limit(t.tab, FLOCKS_MAX, FLOCKS_MAX)
    pthread_mutex_init(&t.lock, NULL)
    sd.gls.flocks = t
    return 0


cdef void flocks_destroy(sbd* sd) noexcept nogil:
    cdef flocks* t = <flocks*>sd.gls.flocks
    cdef flk* f
    cdef uint32_t i
    if t == NULL:
        return
    for i in range(<uint32_t>BUCKETS):
        while t.table[i] != NULL:
            f = t.table[i]
            t.table[i] = f.hnext
            glock_free(&f.gl)
            free(f)
    locktab_free(t.tab)
    pthread_mutex_destroy(&t.lock)
    free(t)
    sd.gls.flocks = NULL


cdef void flock_attach(sbd* sd, unpark_fn unpark, void* arg) noexcept nogil:
    cdef flocks* t = <flocks*>sd.gls.flocks
    pthread_mutex_lock(&t.lock)
    t.unpark = unpark
    t.unpark_arg = arg
    pthread_mutex_unlock(&t.lock)


cdef int _unlock(flocks* t, uint64_t addr, uint64_t fh, uint64_t owner, const fs_lock* lk) noexcept nogil:
    cdef flk* f
    pthread_mutex_lock(&t.lock)
    f = _find(t, addr)
    if f != NULL:
        locktab_set(t.tab, 0, addr, fh, owner, lk, True, False)
        _pin(t, f)
        _drop_if_idle(t, f)
    pthread_mutex_unlock(&t.lock)
    return 0


cdef void flock_drop_fh(sbd* sd, uint64_t addr, uint64_t fh) noexcept nogil:
    cdef flocks* t = <flocks*>sd.gls.flocks
    cdef flk* f
    pthread_mutex_lock(&t.lock)
    f = _find(t, addr)
    if f != NULL:
        locktab_drop_fh(t.tab, addr, fh)
        _pin(t, f)
        _drop_if_idle(t, f)
    pthread_mutex_unlock(&t.lock)


cdef bint _here(flocks* t, flk* f, fs_req* rq, uint64_t fh, uint64_t owner, const fs_lock* lk, bint sleep,
                int* err) noexcept nogil:
    """What this node's flocks say (the mutex is held); True: that is the answer."""
    cdef fs_lock gone
    cdef uint32_t own = 0
    cdef uint32_t most = 0
    cdef bint blocked = locktab_flocks(t.tab, f.gl.number, owner, lk.type, &own, &most)
    err[0] = 0
    if own == lk.type:
        return True
    if blocked:
        err[0] = locktab_set(t.tab, rq.unique, f.gl.number, fh, owner, lk, True, sleep)
    elif own != <uint32_t>F_UNLCK:
        # flock(2): the old one is given up first, and may be lost to somebody else.
        gone = lk[0]
        gone.type = F_UNLCK
        locktab_set(t.tab, 0, f.gl.number, fh, owner, &gone, True, False)
    _pin(t, f)
    return blocked


cdef int _entered(opctx* cx, flocks* t, flk* f, fs_req* rq, int32_t mode, bint sleep) noexcept nogil:
    """The glock in this mode, its rw held: 0, OP_PARK, -errno."""
    cdef uint32_t attempt = rq.runs
    cdef int err
    if sleep:
        return glock_enter(cx, &f.gl, mode, 0)
    while True:
        err = glock_enter(cx, &f.gl, mode, GL_TRY | GL_PARKTRY)
        if err != -EAGAIN or attempt >= TRIES - 1:
            return err
        usleep(<unsigned int>NAP_US << attempt)
        attempt += 1


cdef int flock_set(opctx* cx, fs_req* rq, uint64_t addr, uint64_t fh, uint64_t owner, const fs_lock* lk,
                   bint sleep) noexcept nogil:
    cdef flocks* t = <flocks*>cx.sd.gls.flocks
    cdef int32_t mode = LM_ST_EXCLUSIVE if lk.type == <uint32_t>F_WRLCK else LM_ST_SHARED
    cdef flk* f
    cdef int err = 0
    cdef bint answered
    if lk.type == <uint32_t>F_UNLCK:
        return _unlock(t, addr, fh, owner, lk)
    if lk.type != <uint32_t>F_RDLCK and lk.type != <uint32_t>F_WRLCK:
        return -EINVAL
    pthread_mutex_lock(&t.lock)
    f = _find(t, addr)
    if f == NULL:
        f = _make(cx.sd, t, addr)
    if f == NULL:
        pthread_mutex_unlock(&t.lock)
        return -ENOLCK
    f.users += 1
    answered = _here(t, f, rq, fh, owner, lk, sleep, &err)
    if not answered:
        pthread_mutex_unlock(&t.lock)
        err = _entered(cx, t, f, rq, mode, sleep)
        pthread_mutex_lock(&t.lock)
        if err == 0:
            # Others of this node may have been faster.
            err = locktab_set(t.tab, rq.unique, addr, fh, owner, lk, True, sleep)
            _pin(t, f)
            pthread_mutex_unlock(&t.lock)
            glock_leave(cx, &f.gl)
            pthread_mutex_lock(&t.lock)
    if err == LOCK_WAIT:
        err = OP_PARK
        if rq.interrupted:
            err = -EINTR
    if err != OP_PARK:
        locktab_cancel(t.tab, rq.unique)
    f.users -= 1
    _drop_if_idle(t, f)
    pthread_mutex_unlock(&t.lock)
    return err


cdef void flock_let_go(glx* x) noexcept nogil:
    cdef flocks* t = <flocks*>x.sd.gls.flocks
    pthread_mutex_lock(&t.lock)
    glock_settled(x)
    _drop_if_idle(t, <flk*>x.gl.owner)
    pthread_mutex_unlock(&t.lock)
