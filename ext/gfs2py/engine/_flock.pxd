"""flock(2) among nodes: the flock glock (type 6, one per inode), held as strong as the strongest flock here."""
from libc.stdint cimport uint64_t
from gfs2py.engine._glock cimport glx
from gfs2py.engine._incore cimport opctx, sbd
from gfs2py.fuse._ops cimport fs_lock, fs_req, unpark_fn

cdef int flocks_init(sbd* sd) noexcept nogil
cdef void flocks_destroy(sbd* sd) noexcept nogil
cdef void flock_attach(sbd* sd, unpark_fn unpark, void* arg) noexcept nogil
# 0, OP_PARK, -EAGAIN, -EINTR, -ENOLCK, -EIO
cdef int flock_set(opctx* cx, fs_req* rq, uint64_t addr, uint64_t fh, uint64_t owner, const fs_lock* lk,
                   bint sleep) noexcept nogil
cdef void flock_drop_fh(sbd* sd, uint64_t addr, uint64_t fh) noexcept nogil     # an open file is gone
cdef void flock_let_go(glx* x) noexcept nogil           # as gls.gone
