"""A small io_uring by raw system calls: many transfers at once from one thread.

Source of behaviour: io_uring_setup(2), io_uring_enter(2), linux/io_uring.h.
"""
from libc.stdint cimport int32_t, uint32_t, uint64_t

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void* iov_base
        size_t iov_len

cdef extern from "<linux/io_uring.h>" nogil:
    struct io_uring_sqe:
        pass
    struct io_uring_cqe:
        uint64_t user_data
        int32_t res
        uint32_t flags

cdef struct uring:
    int fd
    uint32_t entries
    void* sq_mem
    void* cq_mem
    io_uring_sqe* sqes
    uint64_t sq_len, cq_len, sqes_len
    uint32_t* sq_tail
    uint32_t* sq_mask
    uint32_t* sq_array
    uint32_t* cq_head
    uint32_t* cq_tail
    uint32_t* cq_mask
    io_uring_cqe* cqes

cdef struct transfer:               # one vectored read or write
    uint64_t off
    iovec* iov
    uint32_t n_iov
    int32_t res                     # out: bytes, or -errno

cdef int uring_open(uring* u, uint32_t entries) noexcept nogil
cdef void uring_close(uring* u) noexcept nogil
# Runs all of them and waits; -errno only if the ring itself failed (every transfer that was begun has ended then).
cdef int uring_run(uring* u, int fd, bint writing, transfer* t, uint32_t n) noexcept nogil
