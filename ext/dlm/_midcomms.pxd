"""The reliable layer as C: what dlm._midcomms gives Python and dlm._pump runs without the interpreter's lock.

Nothing here locks: whoever shares an mc_peer between threads holds a mutex of its own around every call.
"""
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t

cdef enum:
    MC_HEADER_LEN = 16
    MC_OPTS_LEN = 24
    MC_PACKET_MAX = 4096
    MC_STREAM_LEN = 65536
    # The shortest packet that is delivered bounds how many one buffer can hold.
    MC_FOUND_MAX = 1366
    MC_EVENTS_MAX = 64
    # Packets received before an ACK goes out alone: what a peer keeps for us stays small.
    MC_ACK_AFTER = 32

    MC_CLOSED = 1
    MC_ESTABLISHED = 2
    MC_FIN_WAIT1 = 3
    MC_FIN_WAIT2 = 4
    MC_CLOSE_WAIT = 5
    MC_LAST_ACK = 6
    MC_CLOSING = 7

    # What mc_send refuses.
    MC_NOT_A_PACKET = -1
    MC_STUCK = -2
    MC_NO_MEMORY = -3

    EV_VERSION = 1
    EV_RESET = 2
    EV_SENDER = 3
    EV_PACKET_VERSION = 4
    EV_SHORT = 5
    EV_OTHER_VERSION = 6
    EV_COMMAND = 7
    EV_ENVELOPE = 8
    EV_GAP = 9
    EV_BAD_ACK = 10
    EV_AFTER_FIN = 11
    EV_FIN_STATE = 12
    EV_NO_VERSION = 13
    EV_NOT_SENT = 14
    EV_EARLY = 15
    EV_MEMORY = 16

# One packet that waits to be written, to be acknowledged, or both; its bytes follow.
cdef struct mc_packet:
    mc_packet* next_out
    mc_packet* next_unacked
    uint32_t size
    uint32_t seq
    bint in_out
    bint in_unacked

cdef struct mc_event:
    int32_t kind
    uint32_t a
    uint32_t b

# The incoming half of one connection. Read at data + have, then mc_receive, then handle what was found, then mc_shift.
cdef struct mc_stream:
    uint32_t have
    # Of them taken by the last mc_receive.
    uint32_t used
    # What follows cannot be cut into packets: the connection is of no further use.
    bint bad
    uint8_t data[65536]

# A packet to be acted upon, within the stream's data.
cdef struct mc_found:
    uint32_t at
    uint32_t size

cdef struct mc_peer:
    uint32_t our_id
    uint32_t node_id
    uint32_t version
    int32_t state
    uint32_t users
    uint32_t seq_init
    uint32_t seq_send
    uint32_t seq_next
    uint32_t ack_owed
    uint32_t fin_seq
    bint fin_sent
    mc_packet* out_head
    mc_packet* out_tail
    uint32_t out_count
    # Bytes of the first one that have been written.
    uint32_t head_written
    mc_packet* un_head
    mc_packet* un_tail
    uint32_t un_count
    size_t un_bytes
    # A packet could not be queued for lack of memory: the numbers have a hole, only mc_close helps.
    bint broken
    mc_event events[64]
    uint32_t n_events
    size_t retransmitted
    size_t duplicates
    size_t gaps
    size_t refused

cdef inline uint8_t* mc_bytes(mc_packet* p) noexcept nogil:
    return <uint8_t*>p + sizeof(mc_packet)

cdef void mc_init(mc_peer* peer, uint32_t our_id, uint32_t node_id, uint32_t seq_init) noexcept nogil
cdef void mc_free(mc_peer* peer) noexcept nogil
cdef void mc_add_user(mc_peer* peer) noexcept nogil
cdef void mc_remove_user(mc_peer* peer) noexcept nogil
cdef void mc_shutdown(mc_peer* peer) noexcept nogil
cdef void mc_close(mc_peer* peer) noexcept nogil
# 0 or MC_NOT_A_PACKET, MC_STUCK, MC_NO_MEMORY.
cdef int mc_send(mc_peer* peer, const uint8_t* packet, size_t size) noexcept nogil
# Queue the ACK that is owed.
cdef void mc_acknowledge(mc_peer* peer) noexcept nogil
# Whether there is something to write; queues the ACK if it can ride along or is due.
cdef bint mc_output(mc_peer* peer) noexcept nogil
# Bytes of the queue, from head_written of its first packet on, are on their way.
cdef void mc_written(mc_peer* peer, size_t count) noexcept nogil
# What an old connection may have lost goes again over a new one.
cdef void mc_reconnected(mc_peer* peer) noexcept nogil
# How many packets of the stream are to be acted upon, in found[]; they count even when the stream is bad behind them.
cdef int mc_receive(mc_peer* peer, mc_stream* stream, mc_found* found) noexcept nogil
cdef void mc_shift(mc_stream* stream) noexcept nogil
