"""Name hints (see _names.pxd)."""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy
from gfs2py.engine._incore cimport sbd
from gfs2py.engine._sync cimport (pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_t,
                                  pthread_mutex_unlock)

cdef extern from "<errno.h>" nogil:
    int ENOMEM


cdef inline uint32_t _slot(uint64_t addr) noexcept nogil:
    return <uint32_t>(addr * <uint64_t>0x9E3779B97F4A7C15 >> 32) & <uint32_t>(HINTS - 1)


cdef int names_init(sbd* sd) noexcept nogil:
    cdef names* all = <names*>calloc(1, sizeof(names))
    cdef int i
    if all == NULL:
        return -ENOMEM
    for i in range(HINT_LOCKS):
        pthread_mutex_init(&all.locks[i], NULL)
    sd.names = all
    return 0


cdef void names_destroy(sbd* sd) noexcept nogil:
    cdef names* all = <names*>sd.names
    cdef int i
    if all == NULL:
        return
    for i in range(HINT_LOCKS):
        pthread_mutex_destroy(&all.locks[i])
    free(all)
    sd.names = NULL


cdef void names_note(sbd* sd, uint64_t addr, uint64_t parent, const char* name, uint32_t length) noexcept nogil:
    cdef names* all = <names*>sd.names
    cdef uint32_t at
    cdef hint* h
    cdef pthread_mutex_t* lock
    if all == NULL or length > HINT_NAME_MAX:
        return
    at = _slot(addr)
    h = &all.table[at]
    lock = &all.locks[at % <uint32_t>HINT_LOCKS]
    pthread_mutex_lock(lock)
    if h.addr != addr or h.parent != parent or h.length != length or memcmp(h.name, name, length) != 0:
        h.addr = addr
        h.parent = parent
        h.length = length
        memcpy(h.name, name, length)
    pthread_mutex_unlock(lock)


cdef bint names_find(sbd* sd, uint64_t addr, hint* out) noexcept nogil:
    cdef names* all = <names*>sd.names
    cdef uint32_t at
    cdef pthread_mutex_t* lock
    if all == NULL:
        return False
    at = _slot(addr)
    lock = &all.locks[at % <uint32_t>HINT_LOCKS]
    pthread_mutex_lock(lock)
    out[0] = all.table[at]
    pthread_mutex_unlock(lock)
    return out.addr == addr
