"""A device that fails on purpose: the k-th I/O, a seeded share of them, torn writes, slow I/O, bits that rot.

Everything is drawn from the seed and the number of the I/O, so that a single-threaded run repeats exactly.
"""
from libc.errno cimport EIO, ENOMEM
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from gfs2py.block._device cimport BlockDevice, blkdev, blkdev_ops, dev_count, dev_readv_loop, dev_writev_loop

cdef extern from *:
    """
    static inline uint64_t gfs2py_next(uint64_t *p) { return __atomic_add_fetch(p, 1, __ATOMIC_RELAXED); }
    static inline uint64_t gfs2py_load(uint64_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
    """
    uint64_t next_number "gfs2py_next" (uint64_t* p) noexcept nogil
    uint64_t load_number "gfs2py_load" (uint64_t* p) noexcept nogil

cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int nanosleep(const timespec* want, timespec* left)

cdef enum:
    IO_READ = 1
    IO_WRITE = 2
    IO_FLUSH = 4
    IO_DISCARD = 8

KINDS = {"read": IO_READ, "write": IO_WRITE, "flush": IO_FLUSH, "discard": IO_DISCARD}

cdef struct fault_impl:
    blkdev* base
    uint32_t kinds              # IO_* that the plan is about
    uint64_t fail_at            # 1-based number among those; 0: none
    bint sticky                 # and every one after it
    bint torn                   # a failing write leaves a part of itself
    uint64_t error_share        # of 2^64: chance of each
    uint64_t rot_share          # of 2^64: chance that one bit of a read is wrong
    uint64_t latency_ns
    uint64_t bad_off, bad_len    # a place where every write fails
    uint64_t seed
    uint64_t count              # I/Os of these kinds since the plan was set
    uint64_t failed


cdef uint64_t mix(uint64_t x) noexcept nogil:
    """splitmix64: an even hash of the seed and the number."""
    x += <uint64_t> 0x9E3779B97F4A7C15
    x = (x ^ (x >> 30)) * <uint64_t> 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * <uint64_t> 0x94D049BB133111EB
    return x ^ (x >> 31)


cdef bint strike(fault_impl* f, uint32_t kind, uint64_t* draw) noexcept nogil:
    """Count one I/O, wait its latency, and say whether it is to fail."""
    cdef uint64_t number
    cdef timespec ts
    cdef bint hit
    draw[0] = 0
    if not f.kinds & kind:
        return False
    number = next_number(&f.count)
    if f.latency_ns:
        ts.tv_sec = <long> (f.latency_ns // 1000000000)
        ts.tv_nsec = <long> (f.latency_ns % 1000000000)
        nanosleep(&ts, NULL)
    draw[0] = mix(f.seed * <uint64_t> 0x100000001B3 + number)
    hit = f.fail_at != 0 and (number == f.fail_at or (f.sticky and number > f.fail_at))
    if not hit and f.error_share:
        hit = draw[0] < f.error_share
    if hit:
        next_number(&f.failed)
    return hit


cdef int faulty_read(blkdev* d, uint64_t off, void* buf, uint64_t length) noexcept nogil:
    cdef fault_impl* f = <fault_impl*> d.impl
    cdef uint64_t draw, bit
    cdef int err
    dev_count(&d.n_reads, 1)
    dev_count(&d.bytes_read, length)
    if strike(f, IO_READ, &draw):
        return -EIO
    err = f.base.ops.read(f.base, off, buf, length)
    if not err and f.rot_share and length and mix(draw ^ f.seed) < f.rot_share:
        bit = mix(draw + 1) % (length * 8)
        (<uint8_t*> buf)[bit // 8] ^= <uint8_t> (1 << (bit % 8))
    return err


cdef int faulty_write(blkdev* d, uint64_t off, const void* buf, uint64_t length, int flags) noexcept nogil:
    cdef fault_impl* f = <fault_impl*> d.impl
    cdef uint64_t draw, units
    dev_count(&d.n_writes, 1)
    dev_count(&d.bytes_written, length)
    if f.bad_len and off < f.bad_off + f.bad_len and f.bad_off < off + length:
        next_number(&f.failed)
        return -EIO
    if strike(f, IO_WRITE, &draw):
        units = length // d.align
        if f.torn and units > 1:
            units = 1 + mix(draw + 2) % (units - 1)
            f.base.ops.write(f.base, off, buf, units * d.align, 0)
        return -EIO
    return f.base.ops.write(f.base, off, buf, length, flags)


cdef int faulty_flush(blkdev* d) noexcept nogil:
    cdef fault_impl* f = <fault_impl*> d.impl
    cdef uint64_t draw
    dev_count(&d.n_flushes, 1)
    if strike(f, IO_FLUSH, &draw):
        return -EIO
    return f.base.ops.flush(f.base)


cdef int faulty_discard(blkdev* d, uint64_t off, uint64_t length) noexcept nogil:
    cdef fault_impl* f = <fault_impl*> d.impl
    cdef uint64_t draw
    if strike(f, IO_DISCARD, &draw):
        return -EIO
    return f.base.ops.discard(f.base, off, length)


cdef void faulty_close(blkdev* d) noexcept nogil:
    pass


cdef blkdev_ops faulty_ops
faulty_ops.read = faulty_read
faulty_ops.write = faulty_write
faulty_ops.readv = dev_readv_loop
faulty_ops.writev = dev_writev_loop
faulty_ops.flush = faulty_flush
faulty_ops.discard = faulty_discard
faulty_ops.close = faulty_close


cdef uint64_t share(value, str what) except? 0:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{what} {value} is not between 0 and 1")
    return min(int(value * 2.0**64), 2**64 - 1)


cdef class FaultyDevice(BlockDevice):
    """Passes everything to `base` except what the plan fails; see arm() for the plan. A batch counts its pieces."""
    cdef readonly BlockDevice base
    cdef fault_impl f

    def __cinit__(self, *args, **kwargs):
        memset(&self.f, 0, sizeof(self.f))

    def __init__(self, BlockDevice base not None, **plan):
        if self.dev.ops != NULL:
            raise RuntimeError("a device is initialised once")
        base.check_open()
        self.base = base
        self.f.base = &base.dev
        self.dev.impl = &self.f
        self.dev.size_bytes = base.dev.size_bytes
        self.dev.align = base.dev.align
        self.dev.flags = base.dev.flags
        self.set_name(base.name)
        self.arm(**plan)
        self.dev.ops = &faulty_ops

    def arm(self, *, fail_at=0, kinds=("read", "write", "flush"), bint sticky=False, bint torn=False,
            error_rate=0.0, rot_rate=0.0, latency_s=0.0, bad=(0, 0), seed=0):
        """Set a new plan and count from 0 again.

        fail_at: the k-th I/O (1-based) of the `kinds` gives EIO; sticky: so do all after it. error_rate, rot_rate:
        chance per I/O of EIO, and of one wrong bit per read. torn: a failing write leaves its first blocks on the
        base. latency_s: seconds each I/O takes longer. bad: (byte offset, length) where every write fails, as on a bad
        sector. Not while another thread is using the device.
        Raises ValueError.
        """
        cdef uint32_t mask = 0
        for kind in kinds:
            if kind not in KINDS:
                raise ValueError(f"no I/O is called {kind!r}: {', '.join(KINDS)}")
            mask |= <uint32_t> KINDS[kind]
        if fail_at < 0 or latency_s < 0:
            raise ValueError(f"fail_at {fail_at}, latency_s {latency_s}: not negative")
        self.f.error_share = share(error_rate, "error_rate")
        self.f.rot_share = share(rot_rate, "rot_rate")
        self.f.kinds = mask
        self.f.fail_at = fail_at
        self.f.sticky = sticky
        self.f.torn = torn
        self.f.latency_ns = int(latency_s * 1e9)
        self.f.bad_off, self.f.bad_len = bad
        self.f.seed = seed & (2**64 - 1)
        self.f.count = 0
        self.f.failed = 0

    def disarm(self):
        """Let every I/O through again; counts of the plan start at 0."""
        self.arm()

    @property
    def count(self):
        """I/Os of the plan's kinds since it was set."""
        return load_number(&self.f.count)

    @property
    def failed(self):
        """How many of them failed on purpose."""
        return load_number(&self.f.failed)
