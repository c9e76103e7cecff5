"""From file block to disk block: lookup, allocation at any height, unstuffing, truncating. Source: fs/gfs2/bmap.c."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from gfs2py.engine._incore cimport inode, opctx, sbd

# The mapping at lblk: *dblk = 0 for a hole; *n = how far it reaches (at most `maxn`; for holes at least 1, as far as is
# cheap to know). The caller holds the glock. Not for stuffed inodes.
cdef int bmap_lookup(opctx* cx, inode* ip, uint64_t lblk, uint64_t maxn, uint64_t* dblk, uint64_t* n) noexcept nogil
# Log blocks and data blocks that allocating `n` file blocks may need at worst (indirect blocks, growth of height).
cdef void bmap_alloc_need(sbd* sd, inode* ip, uint64_t lblk, uint64_t n, uint32_t* data_blocks, uint32_t* meta_blocks) noexcept nogil
# Within a transaction with cx.rgd reserved: maps lblk, allocating what is missing (data and indirect blocks, height).
# Returns an extent of at most maxn blocks; *is_new says that all of it was allocated now (and must be filled or zeroed).
# Updates ip.blocks and the dinode (inode_dirty).
cdef int bmap_alloc(opctx* cx, inode* ip, uint64_t lblk, uint64_t maxn, uint64_t* dblk, uint64_t* n, bint* is_new) noexcept nogil
# Data moves from the dinode to a block of its own (within a transaction, one data block reserved if size > 0).
cdef int unstuff_dinode(opctx* cx, inode* ip) noexcept nogil
# Frees the file blocks [lblk, lblk + n) (n = -1: to the end), many transactions of its own; the height stays. EX held.
cdef int punch_blocks(opctx* cx, inode* ip, uint64_t lblk, uint64_t n) noexcept nogil
# Sets the size: grows sparsely or shrinks (TRUNC_IN_PROG, zeroing of the tail, freeing). EX held, no transaction open.
cdef int inode_set_size(opctx* cx, inode* ip, uint64_t size) noexcept nogil
cdef int truncate_resume(opctx* cx, inode* ip) noexcept nogil   # finishes a truncation that a crash interrupted
cdef int bmap_seek(opctx* cx, inode* ip, uint64_t off, bint hole, uint64_t* out) noexcept nogil    # SEEK_DATA / SEEK_HOLE; -ENXIO
