"""Freeing blocks, what a commit releases, and discards. See _rgrp.pxd."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from gfs2py.engine._incore cimport inode, opctx, rgrpd, sbd

# Within a transaction, group locked: frees `n` blocks from `blk` (all in rgd) of ip (may be NULL: nobody is credited).
# meta: they held metadata or jdata, so they are revoked. Statfs and quota follow.
cdef int rgrp_free(opctx* cx, rgrpd* rgd, inode* ip, uint64_t blk, uint32_t n, bint meta) noexcept nogil
cdef int rgrp_unlink_di(opctx* cx, rgrpd* rgd, uint64_t blk) noexcept nogil     # DINODE -> UNLINKED
cdef int rgrp_relink_di(opctx* cx, rgrpd* rgd, uint64_t blk) noexcept nogil     # UNLINKED -> DINODE (O_TMPFILE)
cdef int rgrp_free_di(opctx* cx, rgrpd* rgd, inode* ip) noexcept nogil          # UNLINKED -> FREE, revoke, accounts
cdef void rgrps_at_switch(sbd* sd) noexcept nogil
cdef void rgrps_after_commit(sbd* sd) noexcept nogil
# Discards free blocks of [start, end) in runs of at least minlen (all in blocks); *trimmed counts blocks.
cdef int rgrp_fitrim(opctx* cx, uint64_t start, uint64_t end, uint64_t minlen, uint64_t* trimmed) noexcept nogil
