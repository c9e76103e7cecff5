"""Lockspaces on the lines: packets come and go between dlm.core and dlm._pump without the interpreter."""
from libc.stdint cimport uint32_t

from dlm._pump cimport Pump, pump
from dlm.core._engine cimport dlm_ls

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_rwlock_t:
        pass
    int pthread_rwlock_init(pthread_rwlock_t*, const void*)
    int pthread_rwlock_destroy(pthread_rwlock_t*)
    int pthread_rwlock_rdlock(pthread_rwlock_t*)
    int pthread_rwlock_wrlock(pthread_rwlock_t*)
    int pthread_rwlock_unlock(pthread_rwlock_t*)

cdef enum:
    SPACES_MAX = 64

# One lockspace of this process. The struct lives as long as the bridge: a thread may be about to wake it.
cdef struct bridge_space:
    bridge* owner
    dlm_ls* ls
    uint32_t global_id
    # Written to when the lockspace has events; -1: nobody wants them.
    int event_fd

cdef struct bridge:
    pump* p
    # Taken for writing to change the list, for reading by whoever is on a lockspace of it.
    pthread_rwlock_t lock
    bridge_space* spaces[64]
    uint32_t n_spaces
    void* unknown

# Between True and False what this thread's calls of the lockspace have to say is not written; then all at once.
cdef void bridge_gather(dlm_ls* ls, bint on) noexcept nogil

cdef class Bridge:
    cdef bridge* b
    cdef Pump pump
    cdef dict attached
    cdef object unknown
    cdef list retired
