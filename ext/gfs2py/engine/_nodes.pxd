"""What the kernel knows of us: lookup counts by node, and the deletion of inodes nobody knows any more."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from gfs2py.engine._incore cimport sbd
from gfs2py.engine._sync cimport pthread_cond_t, pthread_mutex_t, pthread_t

cdef struct node:
    uint64_t addr                   # 0: free slot
    uint64_t nlookup
    uint8_t unlinked
    uint8_t wanted                  # another node wants to delete it
    uint16_t appenders              # those of the writers with O_APPEND; it stays at its greatest value
    uint32_t writers                # handles open for writing: the kernel may have data that we do not have

cdef struct node_shard:
    pthread_mutex_t lock
    node* table
    uint32_t mask, count

cdef struct again:
    uint64_t addr
    uint32_t tries
    bint waiting                    # not in the queue

cdef struct nodes:
    sbd* sd
    node_shard shards[16]
    # deletion
    pthread_mutex_t lock
    pthread_cond_t cond
    pthread_t thread
    bint thread_on, stop
    uint64_t* queue
    uint32_t n_queue, cap_queue
    bint busy
    uint32_t waiting                # threads in nodes_drain: no more gathering
    void (*dealloc)(sbd* sd, uint64_t* addrs, uint32_t n) noexcept nogil
    # Among nodes: the kernel has forgotten the inode; True: it may have to be deleted. NULL: one node.
    bint (*forgotten)(sbd* sd, uint64_t addr) noexcept nogil
    again list[256]                 # deletions to be tried again (lock)
    uint32_t n_again

cdef int nodes_init(nodes* nd, sbd* sd, void (*dealloc)(sbd*, uint64_t*, uint32_t) noexcept nogil) noexcept nogil
cdef int nodes_start(nodes* nd) noexcept nogil                  # the deletion thread
# waits until the queue is empty and nothing is being deleted
cdef void nodes_drain(nodes* nd) noexcept nogil
cdef void nodes_stop(nodes* nd) noexcept nogil
cdef void nodes_destroy(nodes* nd) noexcept nogil
cdef void node_looked_up(nodes* nd, uint64_t addr, bint unlinked) noexcept nogil
cdef void node_forget(nodes* nd, uint64_t addr, uint64_t n) noexcept nogil
# The last link went: deleted now if nobody knows the inode, else at the last forget.
cdef void node_unlinked(nodes* nd, uint64_t addr) noexcept nogil
cdef void node_relinked(nodes* nd, uint64_t addr) noexcept nogil
cdef void node_delete_later(nodes* nd, uint64_t addr) noexcept nogil
# Another node has it open: queued once more at the next node_retry, a few times.
cdef void node_delete_again(nodes* nd, uint64_t addr) noexcept nogil
cdef void nodes_retry(nodes* nd) noexcept nogil                 # every second or so
cdef bint node_known(nodes* nd, uint64_t addr) noexcept nogil
cdef void node_writers(nodes* nd, uint64_t addr, int change, bint appends) noexcept nogil
cdef bint node_written(nodes* nd, uint64_t addr) noexcept nogil     # is there a handle that is open for writing?
# Another node wants to delete it, which is up to us when our kernel has let go of it.
cdef void node_want(nodes* nd, uint64_t addr) noexcept nogil
cdef bint node_wanted(nodes* nd, uint64_t addr) noexcept nogil
cdef bint node_appended(nodes* nd, uint64_t addr) noexcept nogil    # is there one with O_APPEND?
cdef uint64_t nodes_count(nodes* nd) noexcept nogil
# At unmount: everything unlinked that the kernel still knew is queued for deletion.
cdef void nodes_forget_all(nodes* nd) noexcept nogil
