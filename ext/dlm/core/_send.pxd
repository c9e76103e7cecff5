"""Messages on their way out: queues per node, and the building of each kind of DLM_MSG."""
from libc.stdint cimport int32_t, uint8_t, uint32_t
from dlm.core._engine cimport dlm_lkb, dlm_ls, dlm_packet, dlm_rsb
from dlm.core._wire cimport wmsg, wrcom

# A packet at the end of the queue to a node, its bytes to be filled in; NULL breaks the lockspace.
cdef uint8_t* queue_packet(dlm_ls* ls, int32_t nodeid, uint32_t size) noexcept nogil
cdef inline uint8_t* packet_data(dlm_packet* p) noexcept nogil:
    return <uint8_t*>(p + 1)
# All that is queued to a node, for the caller to free(); NULL if nothing is.
cdef dlm_packet* take_packets(dlm_ls* ls, int32_t nodeid) noexcept nogil
# Forgets what a node that is gone has not been sent.
cdef void drop_packets(dlm_ls* ls, int32_t nodeid) noexcept nogil
cdef bint output_full(dlm_ls* ls) noexcept nogil

cdef void send_request(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb, int type) noexcept nogil
cdef void send_reply(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb, int type, int result) noexcept nogil
# A reply where there is no lock of ours to speak of: it names only the asker's.
cdef void send_refusal(dlm_ls* ls, const wmsg* m, int type, int result) noexcept nogil
cdef void send_grant(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb) noexcept nogil
cdef void send_bast(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb, int mode) noexcept nogil
cdef void send_remove(dlm_ls* ls, dlm_rsb* r) noexcept nogil
cdef void send_lookup_reply(dlm_ls* ls, const wmsg* m, int32_t master_nodeid, int result) noexcept nogil
# The rcom part in front of rc.buf_len bytes of body; the body, or NULL.
cdef uint8_t* send_rcom(dlm_ls* ls, int32_t nodeid, wrcom* rc) noexcept nogil
