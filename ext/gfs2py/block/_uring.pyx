"""A small io_uring by raw system calls: many transfers at once from one thread."""
from libc.errno cimport EAGAIN, EBUSY, EINTR, EIO, ENOMEM, errno
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset

cdef extern from *:
    """
    #include <linux/io_uring.h>
    #include <sys/mman.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    static inline uint32_t gfs2py_acquire(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
    static inline void gfs2py_release(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
    """
    uint32_t load_acquire "gfs2py_acquire" (const uint32_t* p) noexcept nogil
    void store_release "gfs2py_release" (uint32_t* p, uint32_t v) noexcept nogil

cdef extern from "<linux/io_uring.h>" nogil:
    struct io_sqring_offsets:
        uint32_t head, tail, ring_mask, ring_entries, flags, dropped, array
    struct io_cqring_offsets:
        uint32_t head, tail, ring_mask, ring_entries, overflow, cqes, flags
    struct io_uring_params:
        uint32_t sq_entries, cq_entries, flags, features
        io_sqring_offsets sq_off
        io_cqring_offsets cq_off
    struct sqe_fields "io_uring_sqe":
        uint8_t opcode
        uint8_t flags
        int32_t fd
        uint64_t off
        uint64_t addr
        uint32_t len
        uint64_t user_data
    enum:
        IORING_OP_READV, IORING_OP_WRITEV, IORING_ENTER_GETEVENTS
        IORING_OFF_SQ_RING, IORING_OFF_CQ_RING, IORING_OFF_SQES

cdef extern from "<unistd.h>" nogil:
    long syscall(long number, ...)
    int c_close "close" (int fd)

cdef extern from "<sys/syscall.h>" nogil:
    enum:
        SYS_io_uring_setup
        SYS_io_uring_enter

cdef extern from "<sys/mman.h>" nogil:
    void* mmap(void* addr, size_t length, int prot, int flags, int fd, long off)
    int munmap(void* addr, size_t length)
    enum:
        PROT_READ, PROT_WRITE, MAP_SHARED, MAP_POPULATE
    void* MAP_FAILED


cdef void* map_ring(int fd, uint64_t length, long off) noexcept nogil:
    cdef void* p = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, off)
    return NULL if p == MAP_FAILED else p


cdef int uring_open(uring* u, uint32_t entries) noexcept nogil:
    cdef io_uring_params p
    cdef uint8_t* sq
    cdef uint8_t* cq
    memset(u, 0, sizeof(uring))
    memset(&p, 0, sizeof(p))
    u.fd = <int> syscall(SYS_io_uring_setup, entries, &p)
    if u.fd < 0:
        return -errno
    u.entries = p.sq_entries
    u.sq_len = p.sq_off.array + <uint64_t> p.sq_entries * 4
    u.cq_len = p.cq_off.cqes + <uint64_t> p.cq_entries * sizeof(io_uring_cqe)
    u.sqes_len = <uint64_t> p.sq_entries * sizeof(io_uring_sqe)
    u.sq_mem = map_ring(u.fd, u.sq_len, IORING_OFF_SQ_RING)
    u.cq_mem = map_ring(u.fd, u.cq_len, IORING_OFF_CQ_RING)
    u.sqes = <io_uring_sqe*> map_ring(u.fd, u.sqes_len, IORING_OFF_SQES)
    if u.sq_mem == NULL or u.cq_mem == NULL or u.sqes == NULL:
        uring_close(u)
        return -ENOMEM
    sq = <uint8_t*> u.sq_mem
    cq = <uint8_t*> u.cq_mem
    u.sq_tail = <uint32_t*> (sq + p.sq_off.tail)
    u.sq_mask = <uint32_t*> (sq + p.sq_off.ring_mask)
    u.sq_array = <uint32_t*> (sq + p.sq_off.array)
    u.cq_head = <uint32_t*> (cq + p.cq_off.head)
    u.cq_tail = <uint32_t*> (cq + p.cq_off.tail)
    u.cq_mask = <uint32_t*> (cq + p.cq_off.ring_mask)
    u.cqes = <io_uring_cqe*> (cq + p.cq_off.cqes)
    return 0


cdef void uring_close(uring* u) noexcept nogil:
    if u.sq_mem != NULL:
        munmap(u.sq_mem, u.sq_len)
    if u.cq_mem != NULL:
        munmap(u.cq_mem, u.cq_len)
    if u.sqes != NULL:
        munmap(u.sqes, u.sqes_len)
    if u.fd >= 0:
        c_close(u.fd)
    memset(u, 0, sizeof(uring))
    u.fd = -1


cdef void queue(uring* u, int fd, bint writing, transfer* t, uint32_t nth) noexcept nogil:
    """Put one transfer on the submission ring; there is room."""
    cdef uint32_t tail = u.sq_tail[0]       # only this thread moves it
    cdef uint32_t at = tail & u.sq_mask[0]
    cdef sqe_fields* e = <sqe_fields*> &u.sqes[at]
    memset(e, 0, sizeof(io_uring_sqe))
    e.opcode = <uint8_t> (IORING_OP_WRITEV if writing else IORING_OP_READV)
    e.fd = fd
    e.off = t.off
    e.addr = <uint64_t> <size_t> t.iov
    e.len = t.n_iov
    e.user_data = nth
    u.sq_array[at] = at
    store_release(u.sq_tail, tail + 1)


cdef uint32_t reap(uring* u, transfer* t, uint32_t n) noexcept nogil:
    """Take what has completed; returns how many."""
    cdef uint32_t head = u.cq_head[0]
    cdef uint32_t tail = load_acquire(u.cq_tail)
    cdef uint32_t taken = tail - head
    cdef io_uring_cqe* c
    while head != tail:
        c = &u.cqes[head & u.cq_mask[0]]
        if c.user_data < n:
            t[c.user_data].res = c.res
        head += 1
    store_release(u.cq_head, head)
    return taken


cdef int uring_run(uring* u, int fd, bint writing, transfer* t, uint32_t n) noexcept nogil:
    cdef uint32_t queued = 0
    cdef uint32_t begun = 0
    cdef uint32_t ended = 0
    cdef uint32_t want
    cdef long rc
    cdef int err = 0
    while ended < (begun if err else n):
        while not err and queued < n and queued - ended < u.entries:
            t[queued].res = -EIO
            queue(u, fd, writing, &t[queued], queued)
            queued += 1
        # Wait for all that is under way when nothing is left to queue, else for half of it.
        want = queued - ended if queued == n else (queued - ended + 1) // 2
        rc = syscall(SYS_io_uring_enter, u.fd, 0 if err else queued - begun, want if not err else 1,
                     IORING_ENTER_GETEVENTS, NULL, 0)
        if rc < 0:
            if errno != EINTR and errno != EAGAIN and errno != EBUSY and not err:
                err = -errno        # wait for what was begun, then give up; the ring is not used again
                if begun == ended:
                    break
        elif not err:
            begun += <uint32_t> rc
        ended += reap(u, t, n)
    return err
