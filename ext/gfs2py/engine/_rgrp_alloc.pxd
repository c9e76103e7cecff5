"""Choosing a group, reserving runs for inodes, allocating. See _rgrp.pxd."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from gfs2py.engine._incore cimport inode, opctx, rgrpd, sbd

# Before a transaction that allocates: chooses and locks a group with room for `target` blocks (cx.rgd), near ip.goal
# and ip's reservation. *got = how many it can give (>= min_target). -ENOSPC after every group was tried, the log was
# flushed and UNLINKED dinodes were reclaimed. No transaction may be open; ip's glock is held EX.
cdef int inplace_reserve(opctx* cx, inode* ip, uint32_t target, uint32_t min_target, uint32_t* got) noexcept nogil
# The same for making a directory in dip: in the root and in GFS2_DIF_TOPDIR directories it goes to an emptier group.
cdef int inplace_reserve_orlov(opctx* cx, inode* dip, uint32_t target, uint32_t min_target,
                               uint32_t* got) noexcept nogil
cdef void inplace_release(opctx* cx, inode* ip) noexcept nogil
# Within a transaction, cx.rgd held: takes up to *n contiguous blocks for ip; *n = how many, *blk = the first; ip.goal
# follows (the caller writes the dinode). Statfs is accounted, and quota but for dinodes.
# dinode: exactly one, state DINODE, and *generation = its no_formal_ino; ip is the directory or the new inode.
cdef int rgrp_alloc(opctx* cx, inode* ip, uint64_t* blk, uint32_t* n, bint dinode, uint64_t* generation) noexcept nogil
# Gives ip's reservation back: at the last release of a file open for writing, and before ip leaves memory.
cdef void rs_drop(sbd* sd, inode* ip) noexcept nogil
# All reservations of a group that is let go.
cdef void rs_drop_all(rgrpd* rgd) noexcept nogil
