"""File data: reading, buffered and direct writing, write-back, fallocate, copying."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from gfs2py.block._device cimport bio_seg
from gfs2py.engine._incore cimport dwrange, inode, opctx, sbd

cdef enum:
    MAX_SEGS = 64

cdef struct direct_io:              # direct reads or writes, collected
    bio_seg segs[MAX_SEGS]
    uint32_t n
    bint fresh                      # some go to blocks that were allocated for them

# The direct part of a write, left to be carried out when the glock is released: readers and writers of other ranges
# need not wait for the device. Between file_write and file_write_late no transaction may begin.
cdef struct late_write:
    direct_io io
    dwrange range
    bint on

# The caller holds the glock (SH) / (EX) and no transaction. Short only at the end of the file.
cdef int file_read(opctx* cx, inode* ip, uint64_t off, uint64_t size, uint8_t* out, uint64_t* got) noexcept nogil
# late: NULL, or what the caller finishes by file_write_late, whatever file_write returned.
cdef int file_write(opctx* cx, inode* ip, uint64_t off, uint64_t size, const uint8_t* src, uint64_t* done,
                    late_write* late) noexcept nogil
cdef int file_write_late(sbd* sd, inode* ip, late_write* late) noexcept nogil
# Takes what locks it needs. A failed write of data is told to each opener once: `seen` is his wb_seen, or NULL.
cdef int file_fsync(opctx* cx, inode* ip, bint datasync, uint32_t* seen) noexcept nogil
# Maps [lblk, lblk+n) and fills new blocks with zeros on disk; for fallocate and system files that grow.
cdef int file_alloc_range(opctx* cx, inode* ip, uint64_t lblk, uint64_t n) noexcept nogil
cdef int file_fallocate(opctx* cx, inode* ip, uint32_t mode, uint64_t off, uint64_t length) noexcept nogil
cdef int file_copy_range(opctx* cx, inode* src, uint64_t off_in, inode* dst, uint64_t off_out, uint64_t length,
                         uint64_t* copied) noexcept nogil
# System files and symlinks: plain data through journaled or stuffed blocks, within the caller's transaction where said.
cdef int internal_read(opctx* cx, inode* ip, uint64_t off, void* out, uint32_t size) noexcept nogil
# Bytes of an already allocated range of a jdata system file (statfs_change, quota ...) change in the open transaction.
cdef int internal_write_tr(opctx* cx, inode* ip, uint64_t off, const void* src, uint32_t size) noexcept nogil
