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
from libc.stdint cimport int32_t, uint64_t
from gfs2py.engine._glock cimport PLANT_KEEP_ATTRS, PLANT_KEEP_INODES, PLANT_KEEP_PAGES
from gfs2py.engine._incore cimport (LM_ST_EXCLUSIVE, LM_ST_UNLOCKED, LM_TYPE_INODE, glock, gls, glx, inode, sbd)
from gfs2py.engine._sbd cimport sd_assert_failed
from gfs2py.engine._sync cimport (dlink, gl_atomic_load32, gl_atomic_look32, gl_atomic_look64, gl_atomic_note64,
                                  gl_atomic_store64, pthread_rwlock_trywrlock, pthread_rwlock_unlock)

cdef extern from "<errno.h>" nogil:
    int ENOENT

cdef enum:
    TICKS_MAX = 600                 # looks of kcache_watch at pages that do not come back


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
        if x.waiters == NULL or pthread_rwlock_trywrlock(&x.gl.rw) != 0:
            x.ticks = 0
            continue
        pthread_rwlock_unlock(&x.gl.rw)
        x.ticks += 1
        if x.ticks == TICKS_MAX:
            sd_assert_failed(x.sd, b"the kernel does not give back the pages of a file")
