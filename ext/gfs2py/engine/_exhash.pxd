"""Extendible hashing of directories: the hash table, its leaves, growth. Source of behaviour: fs/gfs2/dir.c.

The table has 2^depth pointers; the top `depth` bits of a name's hash choose one. Several neighbouring pointers may lead
to one leaf, whose lf_depth says how many hash bits its entries share. The table begins in the dinode, with as many
pointers as half a block holds, and moves to blocks of its own (24 bytes of header each) when it doubles.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from gfs2py.engine._incore cimport buf, inode, opctx, sbd

cdef struct exhash_plan:            # what inserting one name takes
    bint has_room
    uint64_t leaf                   # where there is room: a leaf ...
    uint32_t off                    # ... and the record in it, as dents_room gives it
    bint make                       # the directory leaves its dinode first
    uint32_t splits                 # leaf splits in a row
    uint32_t span                   # pointers to the leaf that is split first
    uint32_t depth                  # of the table afterwards
    bint chain                      # a leaf is added to the end of the chain

# The hash table, big-endian, 1 << dip.depth entries; read once, then cached under the glock.
cdef int exhash_table(opctx* cx, inode* dip, uint64_t** out) noexcept nogil
# Within a transaction: entries [first, first + count) of the cached table, which the caller changed, go to disk.
cdef int exhash_store(opctx* cx, inode* dip, uint32_t first, uint32_t count) noexcept nogil
# The leaf at a block number, checked.
cdef int exhash_leaf(opctx* cx, inode* dip, uint64_t blkno, buf** out) noexcept nogil
# The first leaf for a hash value.
cdef int exhash_first(opctx* cx, inode* dip, uint32_t hash, buf** out) noexcept nogil
# Puts *leaf and goes to the next of the chain: *leaf = NULL at its end. `walked` counts, to end a chain that is a ring.
cdef int exhash_next(opctx* cx, inode* dip, buf** leaf, uint64_t* walked) noexcept nogil
# What an insert would do; reads only. Works for stuffed directories too.
cdef int exhash_plan_add(opctx* cx, inode* dip, uint32_t hash, uint32_t namelen, exhash_plan* plan) noexcept nogil
# Blocks that carrying out the plan allocates, and log blocks (without those of resource groups).
cdef void exhash_plan_need(opctx* cx, inode* dip, const exhash_plan* plan, uint32_t* alloc_blocks,
                           uint32_t* log_blocks) noexcept nogil
# Within a transaction: carries out the plan up to the point where a leaf has room. Dirties the dinode.
cdef int exhash_make_room(opctx* cx, inode* dip, uint32_t hash, const exhash_plan* plan) noexcept nogil
cdef void exhash_forget(inode* dip) noexcept nogil
