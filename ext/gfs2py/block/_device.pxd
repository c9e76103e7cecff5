"""What the engine asks of a block device: a table of operations, each callable without the GIL.

All offsets and lengths are bytes and multiples of `align`; so are buffer addresses (dev_alloc gives such memory).
Every operation returns 0 or -errno and is thread-safe. A write that returned is *not* durable: only a later
successful flush, or DEV_FUA on the write itself, makes it so.
"""
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

cdef extern from *:
    """
    #include <stdint.h>
    static inline void gfs2py_dev_count(uint64_t *p, uint64_t n) { __atomic_fetch_add(p, n, __ATOMIC_RELAXED); }
    """
    void dev_count "gfs2py_dev_count" (uint64_t* counter, uint64_t n) noexcept nogil

cdef enum:
    DEV_RDONLY = 1          # dev.flags: writes give -EROFS
    DEV_HAS_FLUSH = 2       # the device has a volatile cache: flush means something
    DEV_HAS_FUA = 4         # DEV_FUA writes are cheaper than write + flush
    DEV_HAS_DISCARD = 8
    DEV_FUA = 1             # write flag: durable when the call returns

cdef struct bio_seg:        # one contiguous piece of a batch
    uint64_t off
    void* buf
    uint64_t len
    int32_t res             # out: 0 or -errno of this piece

cdef struct blkdev

cdef struct blkdev_ops:
    int (*read)(blkdev* d, uint64_t off, void* buf, uint64_t length) noexcept nogil
    int (*write)(blkdev* d, uint64_t off, const void* buf, uint64_t length, int flags) noexcept nogil
    # Batches run in parallel where the device can; returns when all are done: 0 or the first piece's error.
    int (*readv)(blkdev* d, bio_seg* segs, uint32_t n) noexcept nogil
    int (*writev)(blkdev* d, bio_seg* segs, uint32_t n) noexcept nogil
    int (*flush)(blkdev* d) noexcept nogil
    int (*discard)(blkdev* d, uint64_t off, uint64_t length) noexcept nogil
    void (*close)(blkdev* d) noexcept nogil

cdef struct blkdev:
    const blkdev_ops* ops
    uint64_t size_bytes
    uint32_t align          # bytes; a power of two
    uint32_t flags          # DEV_HAS_*
    void* impl
    uint64_t n_reads, n_writes, n_flushes, bytes_read, bytes_written   # statistics, relaxed
    char name[256]          # what error messages call it
    void* observer          # of the mount that times its operations (engine), or NULL

# 0 if [off, off + length) lies inside the device, else -EIO; written so that no sum can wrap.
cdef inline int dev_check_range(const blkdev* d, uint64_t off, uint64_t length) noexcept nogil:
    if off > d.size_bytes or length > d.size_bytes - off:
        return -5   # EIO
    return 0

cdef class BlockDevice:
    """Python's handle of a device; engine code takes `&handle.dev` and keeps the handle alive."""
    cdef blkdev dev
    cdef bint closed
    cdef void set_name(self, str name)
    cdef int check_open(self) except -1

# Batches for devices that have no better way: one ops.read / ops.write after another, each res filled in.
cdef int dev_readv_loop(blkdev* d, bio_seg* segs, uint32_t n) noexcept nogil
cdef int dev_writev_loop(blkdev* d, bio_seg* segs, uint32_t n) noexcept nogil

cdef void* dev_alloc(uint64_t length) noexcept nogil      # page aligned; NULL when out of memory
cdef void dev_free(void* p) noexcept nogil
