"""Metadata blocks that one transaction is to free, and the resource groups that must be locked for it."""
from libc.stdint cimport uint32_t, uint64_t
from gfs2py.engine._incore cimport inode, opctx, rgrpd

cdef enum:
    FREESET_GROUPS = 256            # resource groups locked at once (a value of an attribute has 255 blocks)
    FREESET_BLOCKS = 512            # blocks freed in one transaction

cdef struct freeset:
    uint32_t n, n_rgds, n_locked
    uint64_t blks[FREESET_BLOCKS]
    rgrpd* rgds[FREESET_GROUPS]     # ascending
    uint32_t per_rgd[FREESET_GROUPS]        # how many of the blocks lie in each

cdef void freeset_init(freeset* fs) noexcept nogil
# 1 added, 0 full (free what is there first), -EIO when the block lies in no resource group (withdraw; `owner` holds the
# pointer called `field`).
cdef int freeset_add(opctx* cx, freeset* fs, uint64_t blk, uint64_t owner, const char* field) noexcept nogil
# Locks the groups in order; no transaction is open, cx.rgd is not held. 0, OP_PARK or an error: then nothing is locked.
cdef int freeset_lock(opctx* cx, freeset* fs) noexcept nogil
cdef void freeset_unlock(opctx* cx, freeset* fs) noexcept nogil
# Log blocks that freeing all of it may need.
cdef uint32_t freeset_log_blocks(const freeset* fs) noexcept nogil
# Within the transaction: frees all of it and takes the blocks off ip.blocks (the caller dirties the dinode).
cdef int freeset_free(opctx* cx, freeset* fs, inode* ip) noexcept nogil
