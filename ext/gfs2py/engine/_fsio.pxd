"""The operations on open files; the table is filled from here."""
from libc.stdint cimport uint32_t, uint64_t
from gfs2py.fuse._ops cimport fs_ops, fs_req

cdef void fsio_fill(fs_ops* t) noexcept nogil
# For tables that do more at these places
cdef int do_flush(void* p, fs_req* rq, uint64_t nodeid, uint64_t fh, uint64_t lock_owner) noexcept nogil
cdef int do_release(void* p, fs_req* rq, uint64_t nodeid, uint64_t fh, uint32_t flags, uint64_t lock_owner,
                    bint flock_unlock) noexcept nogil
cdef int do_releasedir(void* p, fs_req* rq, uint64_t nodeid, uint64_t fh) noexcept nogil
