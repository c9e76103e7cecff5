"""File data: reading, buffered and direct writing, write-back, fallocate, copying."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from gfs2py.engine._incore cimport inode, opctx, sbd

# The caller holds the glock (SH) / (EX) and no transaction. Short only at the end of the file.
cdef int file_read(opctx* cx, inode* ip, uint64_t off, uint64_t size, uint8_t* out, uint64_t* got) noexcept nogil
cdef int file_write(opctx* cx, inode* ip, uint64_t off, uint64_t size, const uint8_t* src,
                    uint64_t* done) noexcept nogil
cdef int file_fsync(opctx* cx, inode* ip, bint datasync) noexcept nogil         # takes what locks it needs
# Maps [lblk, lblk+n) and fills new blocks with zeros on disk; for fallocate and system files that grow.
cdef int file_alloc_range(opctx* cx, inode* ip, uint64_t lblk, uint64_t n) noexcept nogil
cdef int file_fallocate(opctx* cx, inode* ip, uint32_t mode, uint64_t off, uint64_t length) noexcept nogil
cdef int file_copy_range(opctx* cx, inode* src, uint64_t off_in, inode* dst, uint64_t off_out, uint64_t length,
                         uint64_t* copied) noexcept nogil
# System files and symlinks: plain data through journaled or stuffed blocks, within the caller's transaction where said.
cdef int internal_read(opctx* cx, inode* ip, uint64_t off, void* out, uint32_t size) noexcept nogil
# Bytes of an already allocated range of a jdata system file (statfs_change, quota ...) change in the open transaction.
cdef int internal_write_tr(opctx* cx, inode* ip, uint64_t off, const void* src, uint32_t size) noexcept nogil
