"""Who answers a mount's glocks: the table of operations and what they are called with."""
from gfs2py.engine._glock cimport gls, lm_ops

cdef class LockManager:
    # Set by the subclass; both stay valid as long as the object.
    cdef const lm_ops* ops
    cdef void* lm
    cdef gls* gs                    # NULL: not attached
    cdef int attach(self, gls* gs) except -1
    # The mount is about to go: from the return on nothing is told to its glocks, whatever still comes.
    cdef void silence(self)
    # It is gone.
    cdef void detach(self)
