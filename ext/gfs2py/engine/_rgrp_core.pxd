"""Reading and locking resource groups; the map from a group's positions to its bitmap blocks. See _rgrp.pxd."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from gfs2py.engine._incore cimport inode, opctx, rgrpd, sbd

# ---- the contract ----
# From sd.rindex (its glock held): fills sd.rgrps, checks it all. Called again after the file system grew it appends.
cdef int rgrps_read(opctx* cx) noexcept nogil
cdef void rgrps_destroy(sbd* sd) noexcept nogil                 # before cache_destroy: bitmaps may be held
cdef rgrpd* rgrp_find(sbd* sd, uint64_t blkno) noexcept nogil   # NULL when blkno is in no group's data
cdef int rgrp_lock(opctx* cx, rgrpd* rgd) noexcept nogil        # EX + loaded, bitmaps held; 0, -errno, OP_PARK
cdef void rgrp_unlock(opctx* cx, rgrpd* rgd) noexcept nogil
cdef int rgrp_trylock(opctx* cx, rgrpd* rgd) noexcept nogil     # -EBUSY when another operation holds it
# Forgets what is in memory of a group (glock held EX by the caller or demoted; nothing uncommitted): it is read again.
cdef void rgrp_forget(sbd* sd, rgrpd* rgd) noexcept nogil
# The block's state (GFS2_BLKST_*), -EINVAL outside of all groups, or another error. Takes and drops the group's glock.
cdef int rgrp_blk_state(opctx* cx, uint64_t blk) noexcept nogil
# Calls fn for every UNLINKED dinode of the group, with no group locked; fn returns nonzero to stop (passed on).
cdef int rgrp_each_unlinked(opctx* cx, rgrpd* rgd, int (*fn)(opctx*, uint64_t, void*) noexcept nogil,
                            void* arg) noexcept nogil
# Log blocks a transaction needs for allocating/freeing in one group: header plus as many bitmap blocks as it may touch.
cdef uint32_t rgrp_trans_blocks(rgrpd* rgd, uint32_t nblocks) noexcept nogil

# ---- among the _rgrp modules (group locked) ----
cdef inline uint32_t rg_first_bits(sbd* sd) noexcept nogil:     # states in the header block
    return (sd.bsize - 128) * 4

cdef inline uint32_t rg_block_bits(sbd* sd) noexcept nogil:     # states in every other bitmap block
    return (sd.bsize - 24) * 4

# The bitmap block of position `pos`: its index; *bit: the place in it; *end: the position after its last one.
cdef uint32_t rg_place(rgrpd* rgd, uint32_t pos, uint32_t* bit, uint32_t* end) noexcept nogil
cdef uint8_t* rg_bitmap(rgrpd* rgd, uint32_t i, bint clone) noexcept nogil
cdef uint32_t rg_state(rgrpd* rgd, uint32_t pos) noexcept nogil
# First position in [pos, end) with the state, or with another one; `end` if there is none. `clone` (mx held): frees of
# uncommitted transactions look used.
cdef uint32_t rg_next(rgrpd* rgd, uint32_t pos, uint32_t end, uint32_t state, bint clone) noexcept nogil
cdef uint32_t rg_run_end(rgrpd* rgd, uint32_t pos, uint32_t end, uint32_t state, bint clone) noexcept nogil
# The first run in [pos, end) of 32 free positions that are one word of a bitmap block, else `end` (mx held).
cdef uint32_t rg_next_word(rgrpd* rgd, uint32_t pos, uint32_t end) noexcept nogil
# Within a transaction: [pos, pos+n) gets the state; on clones too if wanted (takes mx).
cdef void rg_set(opctx* cx, rgrpd* rgd, uint32_t pos, uint32_t n, uint32_t state, bint clone) noexcept nogil
# Within a transaction: the header as rgd has it goes into the transaction.
cdef void rg_header_out(opctx* cx, rgrpd* rgd) noexcept nogil
