"""The machine: one lockspace of one node, for Python and for compiled callers.

Compiled callers take `ls` of a Lockspace that they keep alive, and use dlm_lock and dlm_unlock of dlm.core._lock and
the functions here from any thread, without the GIL.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from dlm.core._engine cimport dlm_event, dlm_ls, dlm_lksb, dlm_packet, dlm_wake_fn

# A packet of `nodeid`. 0, or a BAD_ reason of dlm.core._wire: nothing has happened.
cdef int dlm_receive(dlm_ls* ls, int32_t nodeid, const uint8_t* data, size_t size, int64_t now_ns) noexcept nogil
# All packets queued to a node, in order; each to be freed by dlm_free_packets, its bytes are at dlm_packet_data.
cdef dlm_packet* dlm_take_output(dlm_ls* ls, int32_t nodeid) noexcept nogil
cdef void dlm_free_packets(dlm_packet* first) noexcept nogil
cdef inline uint8_t* dlm_packet_data(dlm_packet* p) noexcept nogil:
    return <uint8_t*>(p + 1)
# Called without the mutex when a queue to a node, or that of events, stops being empty (WAKE_ bits).
cdef void dlm_set_wake(dlm_ls* ls, dlm_wake_fn fn, void* arg) noexcept nogil
# Expires what is due; when it has to be called next (0: not before something else happens).
cdef int64_t dlm_tick(dlm_ls* ls, int64_t now_ns) noexcept nogil

# A lock that Python took.
cdef struct py_lock:
    dlm_lksb lksb
    dlm_ls* ls
    uint64_t cookie
    char value[512]

cdef class Lockspace:
    cdef dlm_ls* ls
    cdef readonly str name
    cdef int wake_fd
    # Locks by id: addresses of py_locks.
    cdef dict _locks

    cdef int _set_value(self, py_lock* p, bytes value) except -1
    cdef py_lock* _find(self, uint32_t lkid) except NULL
    cdef object _event(self, dlm_event* ev)
