"""Buffered file data: dirty blocks of ordinary files, their write-back and their cancelling.

Dirty data is a B_DATA|B_DDIRTY buffer on its inode's list. In ordered mode the inode is on the running transaction's
ordered list, so a commit writes the data first. All functions below want the inode's glock EX unless they say
otherwise.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from gfs2py.block._device cimport bio_seg
from gfs2py.engine._incore cimport buf, dwrange, inode, opctx, sbd

# A whole new content for block dblk (file block lblk): `length` bytes, the rest zeros. In a transaction or not; is_new:
# the block was allocated for it, so that a commit must not come before it.
cdef int data_put_block(opctx* cx, inode* ip, uint64_t lblk, uint64_t dblk, const uint8_t* content, uint32_t length,
                        bint is_new) noexcept nogil
# Part of an existing block changes; reads the block if it is not cached.
cdef int data_patch_block(opctx* cx, inode* ip, uint64_t lblk, uint64_t dblk, uint32_t at, const uint8_t* src,
                          uint32_t length) noexcept nogil
# Zeroes file bytes [off, off+length) where blocks are allocated (holes stay): partial blocks at the edges, or a tail.
# Ordinary files through data buffers; jdata ones need an open transaction with one block reserved per block touched.
cdef int data_zero_range(opctx* cx, inode* ip, uint64_t off, uint64_t length) noexcept nogil
# The file is about to reach to `end`: what its blocks hold between its size and that becomes zero. It is not after a
# crash that came between the write of appended data and the commit of the size. No transaction is open; the one that
# changes the size must have the inode on its ordered list.
cdef int data_zero_gap(opctx* cx, inode* ip, uint64_t end) noexcept nogil
# Writes the inode's dirty data in place and waits, also for direct writes under way. No glock needed. An error is
# noted by data_failed and returned. Where it would make a commit show blocks that were never written, it withdraws.
cdef int data_writeback(sbd* sd, inode* ip) noexcept nogil
# The same for many inodes, as many blocks at a time as a batch takes, the first batch together with `more` (at most
# MORE_MAX pieces of the log): 0 or the error of one of those; an inode's error is noted by data_failed. One thread at a
# time, under log.commit_lock.
cdef enum:
    MORE_MAX = 64
cdef int data_write_many(sbd* sd, inode** ips, uint32_t n_ips, const bio_seg* more, uint32_t n_more) noexcept nogil
# Notes that data could not be written: fsync and syncfs will say so, the log says so now. dlock is held.
cdef void data_failed(inode* ip, int err) noexcept nogil
# Throws dirty data of file blocks [lblk, lblk+n) away: these blocks are being freed.
cdef void data_cancel(sbd* sd, inode* ip, uint64_t lblk, uint64_t n) noexcept nogil
# A direct write of file blocks [lblk, end) begins (glock EX) / has ended (no glock needed). It may go on without the
# glock: commits wait for it, and so does whoever wants these blocks (dw_wait; the glock keeps new ones from beginning).
cdef void dw_begin(inode* ip, dwrange* r, uint64_t lblk, uint64_t end) noexcept nogil
cdef void dw_end(inode* ip, dwrange* r, int err) noexcept nogil
cdef void dw_wait(inode* ip, uint64_t lblk, uint64_t end) noexcept nogil
cdef void data_throttle(sbd* sd, inode* ip) noexcept nogil     # after a write, no transaction open
