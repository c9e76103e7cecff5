"""File locks of a shared mount: what is asked and what is given back, at close and release too."""
from libc.stdint cimport uint32_t, uint64_t
from gfs2py.engine._flock cimport flock_attach, flock_drop_fh, flock_set
from gfs2py.engine._fs cimport fs_ctx, gfs2_fs, node_addr
from gfs2py.engine._fsio cimport do_flush, do_release, do_releasedir
from gfs2py.engine._incore cimport opctx
from gfs2py.engine._plock cimport plock_attach, plock_drop_fh, plock_drop_owner, plock_get, plock_set
from gfs2py.fuse._ops cimport fs_lock, fs_ops, fs_req, unpark_fn


cdef int shared_getlk(void* p, fs_req* rq, uint64_t nodeid, uint64_t fh, uint64_t owner, fs_lock* lk) noexcept nogil:
    cdef gfs2_fs* fs = <gfs2_fs*>p
    return plock_get(fs.plocks, rq, node_addr(fs, nodeid), fh, owner, lk)


cdef int shared_setlk(void* p, fs_req* rq, uint64_t nodeid, uint64_t fh, uint64_t owner, fs_lock* lk, bint flock,
                      bint sleep) noexcept nogil:
    cdef gfs2_fs* fs = <gfs2_fs*>p
    cdef opctx cx
    if not flock:
        return plock_set(fs.plocks, rq, node_addr(fs, nodeid), fh, owner, lk, sleep)
    fs_ctx(&cx, fs, rq)
    return flock_set(&cx, rq, node_addr(fs, nodeid), fh, owner, lk, sleep)


cdef int shared_flush(void* p, fs_req* rq, uint64_t nodeid, uint64_t fh, uint64_t lock_owner) noexcept nogil:
    cdef gfs2_fs* fs = <gfs2_fs*>p
    plock_drop_owner(fs.plocks, node_addr(fs, nodeid), lock_owner)
    return do_flush(p, rq, nodeid, fh, lock_owner)


cdef void _drop(gfs2_fs* fs, uint64_t addr, uint64_t fh) noexcept nogil:
    plock_drop_fh(fs.plocks, addr, fh)
    flock_drop_fh(fs.sd, addr, fh)


cdef int shared_release(void* p, fs_req* rq, uint64_t nodeid, uint64_t fh, uint32_t flags, uint64_t lock_owner,
                        bint flock_unlock) noexcept nogil:
    cdef gfs2_fs* fs = <gfs2_fs*>p
    _drop(fs, node_addr(fs, nodeid), fh)
    return do_release(p, rq, nodeid, fh, flags, lock_owner, flock_unlock)


cdef int shared_releasedir(void* p, fs_req* rq, uint64_t nodeid, uint64_t fh) noexcept nogil:
    cdef gfs2_fs* fs = <gfs2_fs*>p
    _drop(fs, node_addr(fs, nodeid), fh)
    return do_releasedir(p, rq, nodeid, fh)


cdef void filelocks_attach(gfs2_fs* fs, unpark_fn unpark, void* arg) noexcept nogil:
    flock_attach(fs.sd, unpark, arg)
    plock_attach(fs.plocks, unpark, arg)


cdef void filelocks_fill(fs_ops* table) noexcept nogil:
    table.getlk = shared_getlk
    table.setlk = shared_setlk
    table.flush = shared_flush
    table.release = shared_release
    table.releasedir = shared_releasedir
