"""Directory entries packed in one block: pure functions on bytes, no buffers, no locks, no allocation.

A block of entries is a directory's own dinode (entries from SIZEOF_DINODE) or a leaf (from SIZEOF_LEAF). The records
follow each other without a gap up to the end of the block; each is as long as its own name needs plus the free room
after it. Only the first record may be a sentinel: free as a whole, inode number zero. Source: fs/gfs2/dir.c.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from gfs2py.ondisk._ondisk cimport be16toh, gfs2_dirent, SIZEOF_DIRENT

cdef enum:
    COOKIE_POS_BITS = 10            # entries alike in both hashes are told apart by their place in name order
    COOKIE_SECOND_BITS = 20
    COOKIE_FIRST = 2                # 0 and 1 are '.' and '..'

cdef struct dent_bad:               # what is wrong with a block, in the words of sd_corrupt
    const char* field
    uint64_t wanted, found

cdef inline uint32_t dent_size(uint32_t namelen) noexcept nogil:
    """Bytes of a record that holds a name of this length and nothing more."""
    return (SIZEOF_DIRENT + namelen + 7) & ~<uint32_t>7

cdef inline bint dent_sentinel(const gfs2_dirent* d) noexcept nogil:
    return d.de_inum.no_addr == 0 or d.de_inum.no_formal_ino == 0

# The record at `off` of a block whose entries begin at `start`: its length, or -EIO with *bad filled in.
cdef int dent_check(const uint8_t* blk, uint32_t off, uint32_t start, uint32_t bsize, dent_bad* bad) noexcept nogil
# Walks the whole block; *count = live entries. 0 or -EIO.
cdef int dents_check(const uint8_t* blk, uint32_t start, uint32_t bsize, uint32_t* count, dent_bad* bad) noexcept nogil
# 1 found (*off, and *prev = the record before it, 0 for the first), 0 not there, -EIO.
cdef int dents_find(const uint8_t* blk, uint32_t start, uint32_t bsize, const char* name, uint32_t namelen,
                    uint32_t hash, uint32_t* off, uint32_t* prev, dent_bad* bad) noexcept nogil
# 1 and *off = the first record with room for such a name, 0 no room, -EIO.
cdef int dents_room(const uint8_t* blk, uint32_t start, uint32_t bsize, uint32_t namelen, uint32_t* off,
                    dent_bad* bad) noexcept nogil
# Writes an entry into the room that dents_room found; returns the offset of the new entry.
cdef uint32_t dents_put(uint8_t* blk, uint32_t off, const char* name, uint32_t namelen, uint32_t hash, uint64_t no_addr,
                        uint64_t no_formal_ino, uint16_t dtype) noexcept nogil
# Removes the entry that dents_find found.
cdef void dents_take(uint8_t* blk, uint32_t off, uint32_t prev) noexcept nogil
# A block without entries: one sentinel.
cdef void dents_init(uint8_t* blk, uint32_t start, uint32_t bsize) noexcept nogil
# Moves the entries whose hash is below `divider` from the leaf `old` to the leaf `new`, each at the offset it had: a
# reader of another node that counts places finds them again. Both were checked. Returns how many moved.
cdef uint32_t dents_split(uint8_t* old, uint8_t* new, uint32_t start, uint32_t bsize, uint32_t divider) noexcept nogil
# The entries of a dinode go into an empty leaf (which has more room). `src` was checked.
cdef void dents_to_leaf(const uint8_t* src, uint8_t* leaf, uint32_t bsize) noexcept nogil

# A second hash of the name, independent of the CRC that places it.
cdef uint32_t dent_second_hash(const char* name, uint32_t namelen) noexcept nogil
# The readdir key of an entry, without its place among those alike in both hashes (low COOKIE_POS_BITS are 0).
cdef inline uint64_t dent_key(uint32_t hash, uint32_t second) noexcept nogil:
    return (<uint64_t>hash << (COOKIE_SECOND_BITS + COOKIE_POS_BITS)) | (<uint64_t>second << COOKIE_POS_BITS)
