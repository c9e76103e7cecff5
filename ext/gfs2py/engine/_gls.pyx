"""The set of a mount's cluster locks: made, and given back at the end."""
from libc.stdint cimport uint32_t
from libc.string cimport memset
from gfs2py.engine._glock cimport GLX_KNOWN
from gfs2py.engine._incore cimport LM_ST_UNLOCKED, gls, glx, lm_ops, sbd
from gfs2py.engine._sync cimport (dl_init, dlink, gl_atomic_store32, pthread_cond_init, pthread_mutex_init,
                                  pthread_mutex_lock, pthread_mutex_unlock)


cdef int gls_init(gls* gs, sbd* sd, const lm_ops* ops, void* lm) noexcept nogil:
    cdef int i
    memset(gs, 0, sizeof(gls))
    gs.sd = sd
    gs.ops = ops
    gs.lm = lm
    gs.reg_next = 1
    pthread_mutex_init(&gs.lock, NULL)
    pthread_cond_init(&gs.cond, NULL)
    dl_init(&gs.all, NULL)
    dl_init(&gs.unreg, NULL)
    dl_init(&gs.registering, NULL)
    dl_init(&gs.taking, NULL)
    for i in range(2):
        gs.demoters[i].gs = gs
        dl_init(&gs.demoters[i].work, NULL)
        pthread_cond_init(&gs.demoters[i].cond, NULL)
    return 0


cdef void gls_release_all(gls* gs) noexcept nogil:
    cdef dlink* l
    cdef glx* x
    pthread_mutex_lock(&gs.lock)
    l = gs.all.next
    while l != &gs.all:
        x = <glx*>l.owner
        l = l.next
        if x.flags & GLX_KNOWN and x.req < 0:
            x.flags &= ~<uint32_t>GLX_KNOWN
            pthread_mutex_unlock(&gs.lock)
            # Nobody else uses the list any more: the mount has ended and the demoters are gone.
            gs.ops.unlock(gs.lm, x, x.gl.state)
            pthread_mutex_lock(&gs.lock)
        gl_atomic_store32(&x.gl.avail, LM_ST_UNLOCKED)
        x.gl.state = LM_ST_UNLOCKED
    pthread_mutex_unlock(&gs.lock)
