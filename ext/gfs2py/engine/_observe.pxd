"""What one mount's threads have waited for: how often, how long, and right now.

Every wait has a kind (WAIT_* of fuse/_stat.pxd) and its histogram in `observer.took`. Locks are tried first: where
nobody waits, nothing is counted and no clock is read. Device operations are counted all, by a table of operations
that stands before the device's own; they are also where a mount that has withdrawn is kept off its disk.
"""
from libc.stdint cimport int32_t, uint32_t, uint64_t
from gfs2py.block._device cimport blkdev, blkdev_ops
from gfs2py.engine._sync cimport (pthread_cond_t, pthread_mutex_t, pthread_mutex_trylock, pthread_rwlock_t,
                                  pthread_rwlock_tryrdlock, pthread_rwlock_trywrlock)
from gfs2py.fuse._stat cimport WAIT_KINDS, fs_wait, hist

cdef struct observer:
    hist took[WAIT_KINDS]
    hist commit                     # whole commits
    uint64_t n_rgrp_scans           # searches of a bitmap, relaxed
    fs_wait logd, quotad, deleter   # the engine's own threads
    const blkdev_ops* below         # the device's operations
    blkdev_ops ops                  # ours before them
    int32_t shut                    # atomic: nothing that changes the device passes any more
    int32_t passing                 # operations that change it and are under way, atomic

cdef struct ob_mark:                # a wait under way, on its thread's stack
    fs_wait* slot
    fs_wait outer                   # what the slot said before
    uint32_t kind
    uint64_t since

cdef void ob_begin(ob_mark* m, uint32_t kind, uint64_t what) noexcept nogil
cdef void ob_end(observer* ob, ob_mark* m) noexcept nogil
cdef void ob_cond_wait(observer* ob, pthread_cond_t* c, pthread_mutex_t* m, uint32_t kind,
                       uint64_t what) noexcept nogil

cdef void ob_slow_rwlock(observer* ob, pthread_rwlock_t* l, bint write, uint32_t kind, uint64_t what) noexcept nogil
cdef void ob_slow_mutex(observer* ob, pthread_mutex_t* l, uint32_t kind, uint64_t what) noexcept nogil

cdef inline void ob_rdlock(observer* ob, pthread_rwlock_t* l, uint32_t kind, uint64_t what) noexcept nogil:
    if pthread_rwlock_tryrdlock(l) != 0:
        ob_slow_rwlock(ob, l, False, kind, what)

cdef inline void ob_wrlock(observer* ob, pthread_rwlock_t* l, uint32_t kind, uint64_t what) noexcept nogil:
    if pthread_rwlock_trywrlock(l) != 0:
        ob_slow_rwlock(ob, l, True, kind, what)

cdef inline void ob_mutex(observer* ob, pthread_mutex_t* l, uint32_t kind, uint64_t what) noexcept nogil:
    if pthread_mutex_trylock(l) != 0:
        ob_slow_mutex(ob, l, kind, what)

# Put our operations before the device's / take them away again. A device is observed by one mount at a time; the
# second goes without.
cdef void ob_attach(observer* ob, blkdev* d) noexcept nogil
cdef void ob_detach(observer* ob, blkdev* d) noexcept nogil
# From here on whoever comes to write, flush or discard gets -EIO. Who is at it already is counted by ob_passing: at 0,
# nothing of this mount reaches the device any more.
cdef void ob_shut(observer* ob) noexcept nogil
cdef int32_t ob_passing(observer* ob) noexcept nogil

cdef dict ob_latencies(observer* ob)
cdef list ob_background(observer* ob)
