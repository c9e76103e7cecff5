"""Notifications to the kernel, written by threads of their own from a bounded queue."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from gfs2py.fuse._ops cimport fs_kernel
from gfs2py.fuse._state cimport notify_done, session

cdef int notify_start(session* se) noexcept nogil
cdef void notify_stop(session* se) noexcept nogil
# All return 0 when queued, -EAGAIN when the queue is full, -ENOTCONN when stopped. done(arg, result) is called by the
# notifier when the kernel has done it: 0 or -errno (-ENOENT: the kernel does not know the inode). done may be NULL.
cdef int session_notify_inval_inode(session* se, uint64_t ino, int64_t off, int64_t length, notify_done done,
                                    void* arg) noexcept nogil
cdef int session_notify_inval_entry(session* se, uint64_t parent, const char* name, uint32_t namelen, bint expire_only,
                                    notify_done done, void* arg) noexcept nogil
cdef int session_notify_delete(session* se, uint64_t parent, uint64_t child, const char* name, uint32_t namelen,
                               notify_done done, void* arg) noexcept nogil
cdef int session_notify_prune(session* se, uint64_t ino, notify_done done, void* arg) noexcept nogil
cdef int session_notify_inc_epoch(session* se, notify_done done, void* arg) noexcept nogil
cdef int session_notify_store(session* se, uint64_t ino, uint64_t off, const uint8_t* data, uint32_t length,
                              notify_done done, void* arg) noexcept nogil
cdef void session_kernel(session* se, fs_kernel* out) noexcept nogil    # how a file system takes back caches
