"""A table of local flock, fcntl and OFD locks: what the session uses when the file system has none of its own.

A caller that must wait is entered as a waiter under its request's unique number and told LOCK_WAIT; when the lock
may be free, `wake(arg, unique)` is called (with the table's mutex held) and the caller asks again with that number.
"""
from libc.stdint cimport uint32_t, uint64_t

from gfs2py.fuse._ops cimport fs_lock

cdef enum:
    LOCK_WAIT = -100001     # not granted; entered as a waiter

ctypedef void (*lock_wake_fn)(void* arg, uint64_t unique) noexcept nogil
# With the table's mutex held.
ctypedef void (*lock_each_fn)(void* arg, uint64_t nodeid, uint64_t unique, uint64_t fh, uint64_t owner,
                              const fs_lock* lk) noexcept nogil

cdef struct locktab

cdef locktab* locktab_new(lock_wake_fn wake, void* arg) noexcept nogil
cdef void locktab_free(locktab* t) noexcept nogil
# How many locks and waiters one inode may have: beyond that -ENOLCK. Without this call: any number.
cdef void locktab_limit(locktab* t, uint64_t locks, uint64_t waiters) noexcept nogil
# The first lock that conflicts goes to *lk, type F_UNLCK when there is none. 0 or -errno.
cdef int locktab_get(locktab* t, uint64_t nodeid, uint64_t owner, fs_lock* lk) noexcept nogil
# 0, -EAGAIN, -EDEADLK, -ENOLCK, -EINVAL, or LOCK_WAIT when `sleep`
cdef int locktab_set(locktab* t, uint64_t unique, uint64_t nodeid, uint64_t fh, uint64_t owner, const fs_lock* lk,
                     bint flock, bint sleep) noexcept nogil
# Give up the wait of this request, if there is one
cdef void locktab_cancel(locktab* t, uint64_t unique) noexcept nogil
# FLUSH: a process closed a descriptor of the file: its fcntl locks on that inode go
cdef void locktab_drop_owner(locktab* t, uint64_t nodeid, uint64_t owner) noexcept nogil
# RELEASE: the last descriptor of an open file is gone: whatever was taken through it goes
cdef void locktab_drop_fh(locktab* t, uint64_t nodeid, uint64_t fh) noexcept nogil
cdef void locktab_counts(locktab* t, uint64_t* locks, uint64_t* waiters, uint64_t* inodes) noexcept nogil

# For a table of fcntl locks alone whose inodes come and go with all they have:
cdef bint locktab_busy(locktab* t, uint64_t nodeid) noexcept nogil      # has the inode a lock or a waiter?
cdef int locktab_put(locktab* t, uint64_t nodeid, uint64_t fh, uint64_t owner, const fs_lock* lk) noexcept nogil
# The inode leaves the table: `lock` is told each of its locks, `waits` each of its waiters, oldest first
cdef void locktab_take(locktab* t, uint64_t nodeid, lock_each_fn lock, lock_each_fn waits, void* arg) noexcept nogil
cdef void locktab_waiting(locktab* t, lock_each_fn each, void* arg) noexcept nogil      # all waiters
# For a table of flocks alone. Whether others' flocks are in the way of this one; *own: what the owner has (F_UNLCK:
# none), *most: the strongest that anybody has
cdef bint locktab_flocks(locktab* t, uint64_t nodeid, uint64_t owner, uint32_t type, uint32_t* own,
                         uint32_t* most) noexcept nogil
