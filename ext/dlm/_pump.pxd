"""Lines to the other nodes, as C: any thread sends, one thread per connection receives, none needs the interpreter."""
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from dlm._midcomms cimport mc_peer

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_mutex_init(pthread_mutex_t*, const void*)
    int pthread_mutex_destroy(pthread_mutex_t*)
    int pthread_mutex_lock(pthread_mutex_t*)
    int pthread_mutex_unlock(pthread_mutex_t*)

cdef enum:
    LINES_MAX = 128

# One packet for the lock manager; `done` follows when all packets that one read brought are through.
ctypedef void (*pump_deliver_fn)(void* arg, int32_t node, const uint8_t* packet, size_t size) noexcept nogil
ctypedef void (*pump_done_fn)(void* arg) noexcept nogil
# Before a line is written to, with its mutex: give its machine what waits for this node. NULL: nothing ever does.
ctypedef void (*pump_pull_fn)(void* arg, int32_t node, mc_peer* mc) noexcept nogil

# What is known of one node and the connection that is written to. `mutex` protects all of it; `in_order` is taken
# before it, by readers only, from the numbering of packets to the end of their delivery.
cdef struct pump_line:
    pthread_mutex_t mutex
    pthread_mutex_t in_order
    mc_peer mc
    # -1: none stands.
    int send_fd
    # The socket is full: trio waits until it takes more.
    bint blocked
    # Somebody has to connect.
    bint wanted
    # The machine's state as trio last saw it.
    int32_t state_seen
    int32_t write_errno

cdef struct pump:
    pump_line* lines[128]
    uint32_t n_lines
    # An eventfd: there is something for trio to look after.
    int attention_fd
    pump_deliver_fn deliver
    pump_done_fn done
    pump_pull_fn pull
    void* arg
    int32_t our_id

# 0, or -1 when no such node is known or it takes no more. Queues; pump_flush writes.
cdef int pump_send(pump* p, int32_t node, const uint8_t* packet, size_t size) noexcept nogil
cdef void pump_flush(pump* p, int32_t node) noexcept nogil

cdef class Pump:
    cdef pump* p
    cdef object deliver
    cdef pump_line* line(self, int node) except NULL
