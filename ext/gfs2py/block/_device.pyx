"""The Python handle of a block device, memory for I/O, and batches for devices without better ones."""
from libc.errno cimport EINVAL, EIO, EROFS
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

import os

cdef extern from "<stdlib.h>" nogil:
    int posix_memalign(void** out, size_t alignment, size_t size)

cdef enum:
    PAGE_BYTES = 4096


cdef void* dev_alloc(uint64_t length) noexcept nogil:
    cdef void* p = NULL
    if length == 0:
        length = 1
    if length > <uint64_t> 1 << 46 or posix_memalign(&p, PAGE_BYTES, <size_t> length) != 0:
        return NULL
    return p


cdef void dev_free(void* p) noexcept nogil:
    free(p)


cdef int dev_readv_loop(blkdev* d, bio_seg* segs, uint32_t n) noexcept nogil:
    cdef uint32_t i
    cdef int first = 0
    for i in range(n):
        segs[i].res = d.ops.read(d, segs[i].off, segs[i].buf, segs[i].len)
        if segs[i].res and not first:
            first = segs[i].res
    return first


cdef int dev_writev_loop(blkdev* d, bio_seg* segs, uint32_t n) noexcept nogil:
    cdef uint32_t i
    cdef int first = 0
    for i in range(n):
        segs[i].res = d.ops.write(d, segs[i].off, segs[i].buf, segs[i].len, 0)
        if segs[i].res and not first:
            first = segs[i].res
    return first


cdef class BlockDevice:
    """A block device as Python sees it; offsets and lengths in bytes, unaligned ones are bounced.

    Closing a device while another thread is inside one of its operations is the caller's mistake.
    Raises OSError with the device's name on every I/O error; EIO past the end.
    """

    def __cinit__(self, *args, **kwargs):
        memset(&self.dev, 0, sizeof(self.dev))
        self.closed = False

    def __dealloc__(self):
        if not self.closed and self.dev.ops != NULL:
            self.closed = True
            self.dev.ops.close(&self.dev)

    cdef void set_name(self, str name):
        cdef bytes raw = os.fsencode(name)[:sizeof(self.dev.name) - 1]
        memset(self.dev.name, 0, sizeof(self.dev.name))
        memcpy(self.dev.name, <const char*> raw, len(raw))

    cdef int check_open(self) except -1:
        if self.closed or self.dev.ops == NULL:
            raise ValueError(f"{self.name or 'device'}: the device is closed")
        return 0

    def _fail(self, int err, str what):
        raise OSError(-err, f"{what}: {os.strerror(-err)}", self.name)

    @property
    def name(self):
        """What error messages call this device."""
        return os.fsdecode(self.dev.name)

    @property
    def size_bytes(self):
        """Usable size, bytes (a multiple of `align`)."""
        return self.dev.size_bytes

    @property
    def align(self):
        """Unit of engine I/O, bytes: the logical block size."""
        return self.dev.align

    @property
    def flags(self):
        """DEV_* bits: 1 read-only, 2 has a flush, 4 has FUA, 8 has discard."""
        return self.dev.flags

    @property
    def readonly(self):
        """True when every write gives EROFS."""
        return bool(self.dev.flags & DEV_RDONLY)

    def read(self, uint64_t off, uint64_t n):
        """Return `n` bytes from byte offset `off`. Raises OSError (EIO past the end)."""
        cdef uint64_t a, lo, hi
        cdef int err
        cdef void* buf
        self.check_open()
        a = self.dev.align
        if dev_check_range(&self.dev, off, n):
            self._fail(-EIO, f"read of {n} bytes at {off} past the end ({self.dev.size_bytes} bytes)")
        if n == 0:
            return b""
        lo = off & ~(a - 1)
        hi = (off + n + a - 1) & ~(a - 1)
        buf = dev_alloc(hi - lo)
        if buf == NULL:
            raise MemoryError(f"{self.name}: no memory for a read of {n} bytes")
        try:
            with nogil:
                err = self.dev.ops.read(&self.dev, lo, buf, hi - lo)
            if err:
                self._fail(err, f"read of {n} bytes at {off}")
            return (<const char*> buf)[off - lo:off - lo + n]
        finally:
            dev_free(buf)

    def write(self, uint64_t off, data, bint fua=False):
        """Write `data` (bytes-like) at byte offset `off`; durable on return only with `fua`. Raises OSError."""
        cdef const uint8_t[::1] view = memoryview(data).cast("B")
        cdef uint64_t n = view.shape[0]
        cdef uint64_t a, lo, hi
        cdef int err = 0
        cdef int flags = DEV_FUA if fua else 0
        cdef uint8_t* buf
        self.check_open()
        a = self.dev.align
        if dev_check_range(&self.dev, off, n):
            self._fail(-EIO, f"write of {n} bytes at {off} past the end ({self.dev.size_bytes} bytes)")
        if self.dev.flags & DEV_RDONLY:
            self._fail(-EROFS, f"write of {n} bytes at {off}")
        if n == 0:
            return
        lo = off & ~(a - 1)
        hi = (off + n + a - 1) & ~(a - 1)
        buf = <uint8_t*> dev_alloc(hi - lo)
        if buf == NULL:
            raise MemoryError(f"{self.name}: no memory for a write of {n} bytes")
        try:
            with nogil:
                # The ends of an unaligned write keep what the device holds there.
                if lo != off:
                    err = self.dev.ops.read(&self.dev, lo, buf, a)
                if not err and hi != off + n and (hi - a != lo or lo == off):
                    err = self.dev.ops.read(&self.dev, hi - a, buf + (hi - a - lo), a)
                if not err:
                    memcpy(buf + (off - lo), &view[0], n)
                    err = self.dev.ops.write(&self.dev, lo, buf, hi - lo, flags)
            if err:
                self._fail(err, f"write of {n} bytes at {off}")
        finally:
            dev_free(buf)

    def readv(self, pieces):
        """Read [(off, n), ...] as one batch, all aligned; returns a list of bytes. Raises OSError, ValueError."""
        cdef uint64_t total = 0, pos = 0
        cdef uint32_t i, count
        cdef int err
        cdef uint8_t* buf
        cdef bio_seg* segs
        self.check_open()
        todo = [(int(off), int(n)) for off, n in pieces]
        if not todo:
            return []
        for off, n in todo:
            if off % self.dev.align or n % self.dev.align or n <= 0:
                raise ValueError(f"{self.name}: batch piece ({off}, {n}) is not a multiple of {self.dev.align}")
            total += n
        count = len(todo)
        buf = <uint8_t*> dev_alloc(total)
        segs = <bio_seg*> dev_alloc(count * sizeof(bio_seg))
        try:
            if buf == NULL or segs == NULL:
                raise MemoryError(f"{self.name}: no memory for a batch of {total} bytes")
            for i in range(count):
                segs[i].off, segs[i].len = todo[i]
                segs[i].buf = buf + pos
                segs[i].res = 0
                pos += segs[i].len
            with nogil:
                err = self.dev.ops.readv(&self.dev, segs, count)
            if err:
                bad = next((i for i in range(count) if segs[i].res), 0)
                self._fail(err, f"read of {segs[bad].len} bytes at {segs[bad].off}")
            return [(<const char*> segs[i].buf)[:segs[i].len] for i in range(count)]
        finally:
            dev_free(buf)
            dev_free(segs)

    def writev(self, pieces):
        """Write [(off, data), ...] as one batch, all aligned and not overlapping. Raises OSError, ValueError."""
        cdef uint64_t total = 0, pos = 0
        cdef uint32_t i, count
        cdef int err
        cdef uint8_t* buf
        cdef bio_seg* segs
        cdef const uint8_t[::1] view
        self.check_open()
        todo = [(int(off), bytes(data)) for off, data in pieces]
        if not todo:
            return
        for off, data in todo:
            if off % self.dev.align or len(data) % self.dev.align or not data:
                raise ValueError(f"{self.name}: batch piece ({off}, {len(data)}) is not a multiple of {self.dev.align}")
            total += len(data)
        count = len(todo)
        buf = <uint8_t*> dev_alloc(total)
        segs = <bio_seg*> dev_alloc(count * sizeof(bio_seg))
        try:
            if buf == NULL or segs == NULL:
                raise MemoryError(f"{self.name}: no memory for a batch of {total} bytes")
            for i in range(count):
                view = todo[i][1]
                segs[i].off = todo[i][0]
                segs[i].len = view.shape[0]
                segs[i].buf = buf + pos
                segs[i].res = 0
                memcpy(buf + pos, &view[0], segs[i].len)
                pos += segs[i].len
            with nogil:
                err = self.dev.ops.writev(&self.dev, segs, count)
            if err:
                bad = next((i for i in range(count) if segs[i].res), 0)
                self._fail(err, f"write of {segs[bad].len} bytes at {segs[bad].off}")
        finally:
            dev_free(buf)
            dev_free(segs)

    def flush(self):
        """Make every completed write durable. Raises OSError."""
        cdef int err
        self.check_open()
        with nogil:
            err = self.dev.ops.flush(&self.dev)
        if err:
            self._fail(err, "flush")

    def discard(self, uint64_t off, uint64_t n):
        """Tell the device that [off, off+n) is not needed; aligned. Raises OSError (EOPNOTSUPP if it cannot)."""
        cdef int err
        self.check_open()
        if off % self.dev.align or n % self.dev.align:
            self._fail(-EINVAL, f"discard of {n} bytes at {off} not aligned to {self.dev.align}")
        with nogil:
            err = self.dev.ops.discard(&self.dev, off, n)
        if err:
            self._fail(err, f"discard of {n} bytes at {off}")

    def stats(self):
        """Counters since opening: reads, writes, flushes, bytes_read, bytes_written."""
        return {
            "reads": self.dev.n_reads, "writes": self.dev.n_writes, "flushes": self.dev.n_flushes,
            "bytes_read": self.dev.bytes_read, "bytes_written": self.dev.bytes_written,
        }

    def close(self):
        """Close the device; idempotent. Does not flush."""
        if self.closed:
            return
        self.closed = True
        if self.dev.ops != NULL:
            with nogil:
                self.dev.ops.close(&self.dev)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def __repr__(self):
        return f"<{type(self).__name__} {self.name!r} {self.dev.size_bytes} bytes>"
