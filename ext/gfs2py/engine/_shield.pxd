"""Parts of files that are being changed under pages which the kernel holds: what it writes back leaves them alone.

FUSE_FALLOCATE and FUSE_COPY_FILE_RANGE: the kernel writes the pages back, sends the request, and afterwards puts its
pages right. Between the first and the last a neighbour may store to the same page through a mapping, and the whole
page, with what was there before, may be written back behind the change (fs/fuse/file.c: nothing blocks faults there;
seen with Linux 6.18). So the part is shielded from the change on, under the inode's lock; then the kernel is told to
drop the pages, which writes back the neighbours' stores; then the request is answered.

Without a cluster only. Where other nodes can want the file, its lock would have to be pinned meanwhile.
"""
from libc.stdint cimport int32_t, uint64_t
from gfs2py.engine._sync cimport dlink, pthread_mutex_t
from gfs2py.fuse._ops cimport fs_req

cdef enum:
    SHIELD_NONE = 1

cdef struct shields:
    pthread_mutex_t mutex
    dlink all
    int32_t n                       # of them; looked at without the mutex, under the inode's lock

cdef void shields_init(shields* s) noexcept nogil
cdef void shields_destroy(shields* s) noexcept nogil
# For request `unique`, with the inode's lock held EX: [start, end) of a file, and what the request will be answered.
cdef int shield_raise(shields* s, uint64_t unique, uint64_t no_addr, uint64_t start, uint64_t end,
                      uint64_t answer) noexcept nogil
# The request has been answered: a shield that it still has goes.
cdef void shield_forget(shields* s, uint64_t unique) noexcept nogil
# A request that is run again, with *answer set unless it is SHIELD_NONE: it has made no change yet. 0: the kernel has
# dropped the pages, and the shield is lowered. OP_WRITE_BACK: a signal woke it, the kernel has to be told once more.
cdef int shield_lower(shields* s, const fs_req* rq, uint64_t* answer) noexcept nogil
# With the inode's lock held EX: the first part of [off, end) that is shielded, start >= end when there is none.
cdef void shield_in(shields* s, uint64_t no_addr, uint64_t off, uint64_t end, uint64_t* start,
                    uint64_t* stop) noexcept nogil
