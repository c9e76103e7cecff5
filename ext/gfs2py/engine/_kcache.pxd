"""What the kernel may keep of an inode under which lock, and how it is taken back. See _kcache.pyx for the rules."""
from libc.stdint cimport int32_t, uint64_t
from gfs2py.engine._incore cimport glock, gls, glx

# A READ is answered for the kernel's page cache (rw is held, in at least SH). False: not under SH, for pages may be
# written there without a word; EX is needed.
cdef bint glock_fill(glock* gl, int32_t mode, int32_t* n_mappers) noexcept nogil
cdef bint glock_filled(const glock* gl) noexcept nogil                  # the kernel may have pages
cdef uint64_t kcache_node(const glx* x) noexcept nogil
cdef bint kcache_pages(gls* gs, glx* x, int32_t target) noexcept nogil  # pages that must go before x does
cdef void kcache_set_out(void* who) noexcept nogil                      # a glx: the kernel is told right now
cdef bint kcache_attrs(gls* gs, glx* x) noexcept nogil
cdef void kcache_inode(gls* gs, uint64_t addr) noexcept nogil           # if nobody here uses it
cdef void kcache_watch(gls* gs) noexcept nogil
# The mount is dead: all that the kernel has is asked back, while the locks still stand. gs.giving_back counts what is
# under way; the caller waits for it. 0 or -ENOMEM.
cdef int kcache_give_all_back(gls* gs) noexcept nogil
