"""Resource groups: finding, reserving, allocating and freeing blocks. Source of behaviour: fs/gfs2/rgrp.c."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from gfs2py.engine._incore cimport inode, opctx, rgrpd, sbd

cdef int rgrps_read(opctx* cx) noexcept nogil           # from sd.rindex (its glock held): fills sd.rgrps, checks it all
cdef void rgrps_destroy(sbd* sd) noexcept nogil
cdef rgrpd* rgrp_find(sbd* sd, uint64_t blkno) noexcept nogil   # NULL when blkno is in no group's data
cdef int rgrp_lock(opctx* cx, rgrpd* rgd) noexcept nogil        # EX + loaded, bitmaps held
cdef void rgrp_unlock(opctx* cx, rgrpd* rgd) noexcept nogil
# Before a transaction that allocates: chooses and locks a group with room for `target` blocks (cx.rgd), near ip.goal and
# ip's reservation. *got = how many it can give (>= min_target). -ENOSPC; -EDQUOT is quota's.
cdef int inplace_reserve(opctx* cx, inode* ip, uint32_t target, uint32_t min_target, uint32_t* got) noexcept nogil
cdef void inplace_release(opctx* cx, inode* ip) noexcept nogil
# Within a transaction, cx.rgd held: takes up to *n contiguous blocks for ip; *n = how many, *blk = the first.
# dinode: exactly one, state DINODE, and *generation = its no_formal_ino. Accounts statfs and (not for dinode) quota hooks.
cdef int rgrp_alloc(opctx* cx, inode* ip, uint64_t* blk, uint32_t* n, bint dinode, uint64_t* generation) noexcept nogil
# Within a transaction, group locked: frees `n` blocks from `blk` (all in rgd). meta: they held metadata or jdata.
cdef int rgrp_free(opctx* cx, rgrpd* rgd, inode* ip, uint64_t blk, uint32_t n, bint meta) noexcept nogil
cdef int rgrp_unlink_di(opctx* cx, rgrpd* rgd, uint64_t blk) noexcept nogil      # DINODE -> UNLINKED
cdef int rgrp_relink_di(opctx* cx, rgrpd* rgd, uint64_t blk) noexcept nogil      # UNLINKED -> DINODE (linkat of O_TMPFILE)
cdef int rgrp_free_di(opctx* cx, rgrpd* rgd, inode* ip) noexcept nogil           # UNLINKED -> FREE, revoke of the dinode
# The block's state (GFS2_BLKST_*), or -errno. Takes and drops the group's glock.
cdef int rgrp_blk_state(opctx* cx, uint64_t blk) noexcept nogil
# Calls fn for every UNLINKED dinode of the group.
cdef int rgrp_each_unlinked(opctx* cx, rgrpd* rgd, int (*fn)(opctx*, uint64_t, void*) noexcept nogil, void* arg) noexcept nogil
cdef void rs_drop(sbd* sd, inode* ip) noexcept nogil    # gives ip's reservation back
# After a commit: what its transactions freed may be allocated again (called by the log with the list it took).
cdef void rgrps_repolish(sbd* sd) noexcept nogil
# Log blocks a transaction needs for allocating/freeing in one group: header plus as many bitmap blocks as it may touch.
cdef uint32_t rgrp_trans_blocks(rgrpd* rgd, uint32_t nblocks) noexcept nogil
cdef int rgrp_fitrim(opctx* cx, uint64_t start, uint64_t end, uint64_t minlen, uint64_t* trimmed) noexcept nogil
