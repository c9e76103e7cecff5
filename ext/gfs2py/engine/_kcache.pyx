"""What the kernel may keep of an inode under which lock, and how it is taken back.

Attributes: until UN. Pages: until UN, and only under EX while somebody here may write to them through a mapping, of
which the kernel tells nobody. Giving back pages blocks on those whose READ or WRITE is not answered, so the gate is
open meanwhile and requests are served under the old lock. It closes in the thread that comes back with them; if a
READ has filled pages since that thread set out, it opens again for another round. Giving back attributes does not
block and comes last, when nobody can be told new ones.

Why nobody waits for ever: while the kernel gives back pages, every READ and WRITE that holds one of them locked is
answered, for what it needs is held. That is EX where somebody may write through a mapping (such READs ask for EX, and
under SH nothing of theirs is in the page cache), else SH. Handles open for writing go around the page cache
(FOPEN_DIRECT_IO): a write(2) that waits for EX would hold its page locked, and there SH would not do.
"""
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from gfs2py.engine._freeze cimport fz_cold
from gfs2py.engine._glock cimport PLANT_KEEP_ATTRS, PLANT_KEEP_INODES, PLANT_KEEP_PAGES
from gfs2py.engine._incore cimport (LM_ST_EXCLUSIVE, LM_ST_UNLOCKED, LM_TYPE_INODE, glock, gls, glx, inode, sbd)
from gfs2py.engine._sbd cimport sd_assert_failed
from gfs2py.engine._sync cimport (dlink, gl_atomic_load32, gl_atomic_look32, gl_atomic_look64, gl_atomic_note32,
                                  gl_atomic_note64, gl_atomic_store64, pthread_mutex_lock, pthread_mutex_unlock,
                                  pthread_rwlock_trywrlock, pthread_rwlock_unlock)

cdef extern from "<errno.h>" nogil:
    int EAGAIN, ENOENT, ENOMEM
cdef extern from "<unistd.h>" nogil:
    int usleep(unsigned int us)

cdef enum:
    TICKS_MAX = 600                 # looks of kcache_watch at pages that do not come back
    QUEUE_US = 2000                 # until the session's queue of notices has room again


cdef bint glock_fill(glock* gl, int32_t mode, int32_t* n_mappers) noexcept nogil:
    if gl.x == NULL:
        return True
    # Whoever opens it to map and write looks the other way round, so one of both sees the other.
    gl_atomic_note64(&gl.x.fills, 1)
    return mode == LM_ST_EXCLUSIVE or gl_atomic_look32(n_mappers) == 0


cdef bint glock_filled(const glock* gl) noexcept nogil:
    return gl.x != NULL and gl_atomic_look64(&gl.x.fills) != gl_atomic_look64(&gl.x.dropped)


cdef uint64_t kcache_node(const glx* x) noexcept nogil:
    return 1 if x.gl.number == x.sd.root_addr else x.gl.number


cdef bint kcache_pages(gls* gs, glx* x, int32_t target) noexcept nogil:
    """That it must not have any more when x goes to `target`."""
    if (x.gl.type != LM_TYPE_INODE or not gl_atomic_load32(&gs.has_kernel) or not glock_filled(x.gl)
            or gs.planted == PLANT_KEEP_PAGES):
        return False
    return target == LM_ST_UNLOCKED or gl_atomic_look32(&(<inode*>x.gl.owner).n_mappers) != 0


cdef void kcache_set_out(void* who) noexcept nogil:
    cdef glx* x = <glx*>who
    gl_atomic_store64(&x.before, gl_atomic_look64(&x.fills))


cdef bint kcache_attrs(gls* gs, glx* x) noexcept nogil:
    """Before UN, with the gate closed and rw held. False: a reply that names the inode is still on its way."""
    cdef sbd* sd = x.sd
    cdef bint root = x.gl.number == sd.root_addr
    if x.gl.type != LM_TYPE_INODE or not gl_atomic_load32(&gs.has_kernel) or gs.planted == PLANT_KEEP_ATTRS:
        return True
    if not root and not gs.known(sd, x.gl.number):
        return True
    return gs.kernel.drop_attrs(gs.kernel.arg, kcache_node(x)) != -ENOENT or root or not gs.known(sd, x.gl.number)


cdef void kcache_inode(gls* gs, uint64_t addr) noexcept nogil:
    if gl_atomic_load32(&gs.has_kernel) and gs.planted != PLANT_KEEP_INODES:
        gs.kernel.drop_unused(gs.kernel.arg, addr)


cdef void kcache_watch(gls* gs) noexcept nogil:
    """At every tick of a demoter (gls.lock held): nobody shall wait for ever.

    Pages that do not come back, a request parked for the same glock and nobody at work under it: they wait for each
    other, which must not be. A withdraw answers all requests, and lets the kernel go on.
    """
    cdef dlink* l = gs.taking.next
    cdef glx* x
    while l != &gs.taking:
        x = <glx*>l.owner
        l = l.next
        # Pages written through a mapping wait for the thaw.
        if x.waiters == NULL or fz_cold(x.sd) or pthread_rwlock_trywrlock(&x.gl.rw) != 0:
            x.ticks = 0
            continue
        pthread_rwlock_unlock(&x.gl.rw)
        x.ticks += 1
        if x.ticks == TICKS_MAX:
            sd_assert_failed(x.sd, b"the kernel does not give back the pages of a file")


cdef void _set_out_all(void* who) noexcept nogil:
    """Nothing to note: the mount is dead, and no READ fills a page any more."""


cdef void _gave_back(void* who, int result) noexcept nogil:
    gl_atomic_note32(&(<gls*>who).giving_back, -1)


cdef int kcache_give_all_back(gls* gs) noexcept nogil:
    cdef sbd* sd = gs.sd
    cdef uint64_t* nodes
    cdef dlink* l
    cdef glx* x
    cdef uint32_t n = 0
    cdef uint32_t i
    cdef int err
    if not gl_atomic_load32(&gs.has_kernel):
        return 0
    pthread_mutex_lock(&gs.lock)
    l = gs.all.next
    while l != &gs.all:
        n += 1
        l = l.next
    nodes = <uint64_t*>malloc((n + 1) * sizeof(uint64_t))
    if nodes == NULL:
        pthread_mutex_unlock(&gs.lock)
        return -ENOMEM
    n = 0
    l = gs.all.next
    while l != &gs.all:
        x = <glx*>l.owner
        l = l.next
        if x.gl.type == LM_TYPE_INODE and (x.gl.state != LM_ST_UNLOCKED or glock_filled(x.gl)):
            nodes[n] = kcache_node(x)
            n += 1
    pthread_mutex_unlock(&gs.lock)
    for i in range(n):
        gl_atomic_note32(&gs.giving_back, 1)
        err = -EAGAIN
        while err == -EAGAIN:
            err = gs.kernel.drop_inode(gs.kernel.arg, nodes[i], _set_out_all, _gave_back, gs)
            if err == -EAGAIN:
                usleep(QUEUE_US)
        if err:                     # the session has ended, and the kernel's caches with it
            gl_atomic_note32(&gs.giving_back, -1)
            break
    free(nodes)
    return 0
