"""From file block to disk block: lookup, allocation at any height, unstuffing, SEEK_DATA and SEEK_HOLE.

Freeing is in _truncate. Source of behaviour: fs/gfs2/bmap.c.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from gfs2py.engine._incore cimport inode, opctx, sbd

# The mapping at lblk: *dblk = 0 for a hole; *n = how far it reaches (at most `maxn`; for holes at least 1, as far as is
# cheap to know). The caller holds the glock. Not for stuffed inodes (-EINVAL).
cdef int bmap_lookup(opctx* cx, inode* ip, uint64_t lblk, uint64_t maxn, uint64_t* dblk, uint64_t* n) noexcept nogil
# Worst case of allocating `n` file blocks from lblk, by however many calls of bmap_alloc: *data_blocks of file data
# (one more if the inode must be unstuffed first), *meta_blocks indirect blocks that are allocated or changed. The
# space to reserve is their sum; the log needs meta_blocks + 1 (the dinode) + the resource group's (+ data_blocks for
# jdata).
cdef void bmap_alloc_need(sbd* sd, inode* ip, uint64_t lblk, uint64_t n, uint32_t* data_blocks,
                          uint32_t* meta_blocks) noexcept nogil
# Within a transaction with cx.rgd reserved: maps lblk, allocating what is missing (data and indirect blocks, height; a
# stuffed inode is unstuffed first). Returns an extent of at most maxn blocks; *is_new says that all of it was allocated
# now (and must be filled or zeroed). Updates ip.blocks and the dinode (inode_dirty). -EFBIG beyond 2^63 - 1 bytes.
cdef int bmap_alloc(opctx* cx, inode* ip, uint64_t lblk, uint64_t maxn, uint64_t* dblk, uint64_t* n,
                    bint* is_new) noexcept nogil
# Data moves from the dinode to a block of its own (within a transaction, one data block reserved if size > 0): a
# directory's hash table under a JD header, journaled data into the log, ordinary data to the inode's dirty list.
cdef int unstuff_dinode(opctx* cx, inode* ip) noexcept nogil
# SEEK_DATA / SEEK_HOLE; -ENXIO
cdef int bmap_seek(opctx* cx, inode* ip, uint64_t off, bint hole, uint64_t* out) noexcept nogil
# The mapping remembered in the inode is no longer true.
cdef void bmap_forget(inode* ip) noexcept nogil

# File blocks below one pointer of a block at `level`: pointers of level 1 lead to data.
cdef inline uint64_t tree_span(const sbd* sd, uint32_t level) noexcept nogil:
    cdef uint64_t span = 1
    while level > 1:
        if span > ~<uint64_t>0 // sd.inptrs:
            return ~<uint64_t>0
        span *= sd.inptrs
        level -= 1
    return span

# File blocks that a tree of this height can map; height 0 maps none.
cdef inline uint64_t tree_capacity(const sbd* sd, uint32_t height) noexcept nogil:
    cdef uint64_t span
    if height == 0:
        return 0
    span = tree_span(sd, height)
    if span > ~<uint64_t>0 // sd.diptrs:
        return ~<uint64_t>0
    return span * sd.diptrs

# First file block that no file can have: sizes end at 2^63 - 1.
cdef inline uint64_t tree_limit(const sbd* sd) noexcept nogil:
    return ((<uint64_t>1 << 63) - 1 + sd.bsize - 1) >> sd.bsize_shift

# The least height, not below `height`, at which the tree has a place for lblk.
cdef inline uint32_t tree_height_for(const sbd* sd, uint32_t height, uint64_t lblk) noexcept nogil:
    if height == 0:
        height = 1
    while lblk >= tree_capacity(sd, height):
        height += 1
    return height
