"""Who answers a mount's glocks: the part that all lock managers share."""


cdef class LockManager:
    """Give it to Gfs2(locks=...), which uses it until close(). One mount each."""

    cdef int attach(self, gls* gs) except -1:
        if self.gs != NULL:
            raise ValueError("the lock manager belongs to another mount")
        self.gs = gs
        return 0

    cdef void silence(self):
        pass

    cdef void detach(self):
        self.gs = NULL
