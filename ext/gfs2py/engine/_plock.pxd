"""fcntl locks of a shared mount, this node's side; see _plock.pyx."""
from libc.stdint cimport uint32_t, uint64_t
from gfs2py.engine._sync cimport dlink, pthread_mutex_t
from gfs2py.fuse._locks cimport locktab
from gfs2py.fuse._ops cimport fs_lock, fs_req, unpark_fn

cdef struct pfile:                  # a file of which this node knows something
    pfile* hnext
    dlink used                      # owned ones, the one not used for longest first
    uint64_t inode
    uint64_t inflight               # requests that have not come to their place in the cluster's order
    bint owned                      # we decide, once nothing is in flight
    bint asked                      # to be handed over, for somebody has to wait

cdef struct preq:                   # a request of a process that waits
    preq* hnext
    uint64_t unique, inode, owner, fh
    int state                       # PLK_*
    int err
    bint cancelled, sets
    fs_lock lk

cdef struct pmsg:                   # to the cluster's side
    pmsg* next
    uint64_t number, inode, owner, fh
    uint32_t kind                   # MSG_*
    bint wait
    fs_lock lk

cdef struct plocks:
    pthread_mutex_t mutex
    locktab* tab                    # of the owned files
    pfile* files[4096]
    preq* reqs[1024]
    dlink used
    pmsg* head
    pmsg* tail
    uint64_t n_files, n_owned, n_reqs, n_queued, n_local, n_sent
    int event_fd                    # written when the queue is no longer empty
    bint sharing                    # nobody waits in an owned file
    int failed                      # -errno for everything that is not ours to decide
    void* arg
    unpark_fn unpark

cdef int plock_set(plocks* p, fs_req* rq, uint64_t inode, uint64_t fh, uint64_t owner, const fs_lock* lk,
                   bint sleep) noexcept nogil
cdef int plock_get(plocks* p, fs_req* rq, uint64_t inode, uint64_t fh, uint64_t owner, fs_lock* lk) noexcept nogil
# A descriptor was closed / an open file is gone: its locks go. Never waits.
cdef void plock_drop_owner(plocks* p, uint64_t inode, uint64_t owner) noexcept nogil
cdef void plock_drop_fh(plocks* p, uint64_t inode, uint64_t fh) noexcept nogil
cdef void plock_attach(plocks* p, unpark_fn unpark, void* arg) noexcept nogil

cdef class FileLocks:
    cdef plocks* p
    cdef readonly int event_fd
