"""An iSCSI LUN as a device of the engine: the table of operations on top of the initiator in ext/cffi.

The initiator is built by cffi and loaded apart; its own table of functions comes in as an address, so that neither
this module nor anything below the engine is linked to libiscsi.
"""
from libc.errno cimport EINVAL, EROFS
from libc.stdint cimport int32_t, uint32_t, uint64_t, uintptr_t

from gfs2py.block._device cimport (
    DEV_FUA, DEV_RDONLY, BlockDevice, bio_seg, blkdev, blkdev_ops, dev_check_range, dev_count,
)

cdef extern from "cffi/initiator.h" nogil:
    enum:
        GI_TABLE_VERSION
    struct gi_device:
        pass
    struct gi_piece:
        uint64_t off
        void* buf
        uint64_t len
        int32_t res
    struct gi_table:
        uint32_t version, piece_bytes
        int (*transfer)(gi_device* d, int writing, gi_piece* pieces, uint32_t n, int fua) noexcept nogil
        int (*flush)(gi_device* d) noexcept nogil
        int (*discard)(gi_device* d, uint64_t off, uint64_t len) noexcept nogil
        void (*close)(gi_device* d) noexcept nogil

cdef struct iscsi_impl:
    gi_device* gi
    const gi_table* table


cdef int check_io(const blkdev* d, uint64_t off, uint64_t length) noexcept nogil:
    if (off | length) & <uint64_t> (d.align - 1):
        return -EINVAL
    return dev_check_range(d, off, length)


cdef int one(blkdev* d, bint writing, uint64_t off, void* buf, uint64_t length, int flags) noexcept nogil:
    cdef iscsi_impl* i = <iscsi_impl*> d.impl
    cdef gi_piece piece
    cdef int err = check_io(d, off, length)
    if err or length == 0:
        return err
    dev_count(&d.n_writes if writing else &d.n_reads, 1)
    dev_count(&d.bytes_written if writing else &d.bytes_read, length)
    piece.off = off
    piece.buf = buf
    piece.len = length
    return i.table.transfer(i.gi, writing, &piece, 1, flags & DEV_FUA)


cdef int iscsi_read(blkdev* d, uint64_t off, void* buf, uint64_t length) noexcept nogil:
    return one(d, False, off, buf, length, 0)


cdef int iscsi_write(blkdev* d, uint64_t off, const void* buf, uint64_t length, int flags) noexcept nogil:
    if d.flags & DEV_RDONLY:
        return -EROFS
    return one(d, True, off, <void*> buf, length, flags)


cdef int batch(blkdev* d, bint writing, bio_seg* segs, uint32_t n) noexcept nogil:
    cdef iscsi_impl* i = <iscsi_impl*> d.impl
    cdef uint32_t k
    cdef uint64_t total = 0
    cdef int err
    if writing and d.flags & DEV_RDONLY:
        return -EROFS
    for k in range(n):
        segs[k].res = 0
        err = check_io(d, segs[k].off, segs[k].len)
        if not err and segs[k].len == 0:
            err = -EINVAL
        if err:
            segs[k].res = err
            return err
        total += segs[k].len
    dev_count(&d.n_writes if writing else &d.n_reads, n)
    dev_count(&d.bytes_written if writing else &d.bytes_read, total)
    return i.table.transfer(i.gi, writing, <gi_piece*> segs, n, 0)


cdef int iscsi_readv(blkdev* d, bio_seg* segs, uint32_t n) noexcept nogil:
    return batch(d, False, segs, n)


cdef int iscsi_writev(blkdev* d, bio_seg* segs, uint32_t n) noexcept nogil:
    return batch(d, True, segs, n)


cdef int iscsi_flush(blkdev* d) noexcept nogil:
    cdef iscsi_impl* i = <iscsi_impl*> d.impl
    dev_count(&d.n_flushes, 1)
    return 0 if d.flags & DEV_RDONLY else i.table.flush(i.gi)


cdef int iscsi_discard(blkdev* d, uint64_t off, uint64_t length) noexcept nogil:
    cdef iscsi_impl* i = <iscsi_impl*> d.impl
    cdef int err = check_io(d, off, length)
    if d.flags & DEV_RDONLY:
        return -EROFS
    return err if err or length == 0 else i.table.discard(i.gi, off, length)


cdef void iscsi_close(blkdev* d) noexcept nogil:
    cdef iscsi_impl* i = <iscsi_impl*> d.impl
    if i != NULL and i.gi != NULL:
        i.table.close(i.gi)
        i.gi = NULL


cdef blkdev_ops iscsi_ops
iscsi_ops.read = iscsi_read
iscsi_ops.write = iscsi_write
iscsi_ops.readv = iscsi_readv
iscsi_ops.writev = iscsi_writev
iscsi_ops.flush = iscsi_flush
iscsi_ops.discard = iscsi_discard
iscsi_ops.close = iscsi_close


cdef class InitiatorDevice(BlockDevice):
    """A session that somebody opened with gi_new, from now on owned by this; closing it ends the session.

    table, handle: addresses of its gi_table and gi_device. size_bytes, align: of the LUN. flags: DEV_*.
    """
    cdef iscsi_impl i

    def _own(self, uintptr_t table, uintptr_t handle, *, uint64_t size_bytes, uint32_t align, uint32_t flags, name):
        cdef const gi_table* t = <const gi_table*> table
        if self.dev.ops != NULL:
            raise RuntimeError("a device is initialised once")
        if t == NULL or handle == 0 or t.version != GI_TABLE_VERSION or t.piece_bytes != sizeof(bio_seg):
            raise RuntimeError("the initiator and this module were built from different sources: build both again")
        if align < 512 or align & (align - 1) or size_bytes % align:
            raise ValueError(f"{name}: {size_bytes} bytes in blocks of {align}")
        self.i.gi = <gi_device*> handle
        self.i.table = t
        self.dev.impl = &self.i
        self.dev.size_bytes = size_bytes
        self.dev.align = align
        self.dev.flags = flags
        self.set_name(name)
        self.dev.ops = &iscsi_ops

    @property
    def handle(self):
        """The address of the session's gi_device. Raises ValueError when closed."""
        self.check_open()
        return <uintptr_t> self.i.gi
