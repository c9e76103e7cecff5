"""Between the engine's glocks and a lock manager in Python: requests wait in a queue, answers come as calls."""
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from gfs2py.engine._glock cimport glx
from gfs2py.engine._lockmanager cimport LockManager
from gfs2py.engine._sync cimport pthread_mutex_t

cdef struct lqreq:
    uint32_t id                     # of the lock, 1 and up; used again after an unlock
    bint unlock
    uint32_t type
    uint64_t number
    int32_t have, want
    uint32_t flags                  # LM_*
    bint has_lvb                    # given back with an EX lock
    uint8_t lvb[32]

cdef struct lockq:
    pthread_mutex_t lock
    int fd                          # eventfd: readable when requests wait
    lqreq* reqs
    uint32_t n, cap
    glx** table                     # by id
    uint32_t n_ids, cap_ids
    uint32_t* spare                 # ids given back, a ring
    uint32_t spare_at, n_spare

cdef class LockQueue(LockManager):
    cdef lockq q
    cdef glx* _find(self, uint32_t id) noexcept
