"""The operations on open files; the table is filled from here."""
from libc.stdint cimport uint32_t, uint64_t
from gfs2py.engine._fs cimport gfs2_fs
from gfs2py.engine._incore cimport inode
from gfs2py.fuse._ops cimport fs_ops, fs_req

cdef void fsio_fill(fs_ops* t) noexcept nogil
cdef uint32_t open_flags_for(const gfs2_fs* fs, uint32_t flags) noexcept nogil  # FOPEN_* of a handle with these O_*
cdef bint may_map(const inode* ip, uint32_t flags) noexcept nogil
cdef void mapper_gone(inode* ip, uint32_t flags) noexcept nogil                 # one that was counted in n_mappers
# For tables that do more at these places
cdef int do_flush(void* p, fs_req* rq, uint64_t nodeid, uint64_t fh, uint64_t lock_owner) noexcept nogil
cdef int do_release(void* p, fs_req* rq, uint64_t nodeid, uint64_t fh, uint32_t flags, uint64_t lock_owner,
                    bint flock_unlock) noexcept nogil
cdef int do_releasedir(void* p, fs_req* rq, uint64_t nodeid, uint64_t fh) noexcept nogil
