"""Extended attribute records in one EA block: pure functions on bytes. Source: fs/gfs2/xattr.c.

Records follow each other from the meta header to the end of the block; the last one carries a flag. A record holds the
name and then either the value ("stuffed") or pointers to ED blocks with the value. The first record may be unused.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from gfs2py.ondisk._ondisk cimport be32toh, gfs2_ea_header, SIZEOF_EA_HEADER

cdef struct ea_bad:                 # what is wrong with a record, in the words of sd_corrupt
    const char* field
    uint64_t wanted, found

cdef struct ea_key:                 # a name without its prefix
    uint8_t type                    # GFS2_EATYPE_*
    const char* name
    uint32_t namelen

cdef inline uint32_t ea_size(uint32_t namelen, uint32_t payload) noexcept nogil:
    """Bytes of a record with this much value, or with pointers of so many bytes."""
    return (SIZEOF_EA_HEADER + namelen + payload + 7) & ~<uint32_t>7

cdef inline uint32_t ea_used(const gfs2_ea_header* ea) noexcept nogil:
    return ea_size(ea.ea_name_len, <uint32_t>8 * ea.ea_num_ptrs if ea.ea_num_ptrs else be32toh(ea.ea_data_len))

# Where pointers stand, and where a value does, from the start of the record.
cdef inline uint32_t ea_ptrs_at(uint32_t namelen) noexcept nogil:
    return SIZEOF_EA_HEADER + ((namelen + 7) & ~<uint32_t>7)

cdef inline uint32_t ea_value_at(uint32_t namelen) noexcept nogil:
    return SIZEOF_EA_HEADER + namelen

# The record at `off`: its length, or -EIO with *bad filled in.
cdef int ea_check(const uint8_t* blk, uint32_t off, uint32_t bsize, uint32_t max_type, ea_bad* bad) noexcept nogil
cdef int ea_check_all(const uint8_t* blk, uint32_t bsize, uint32_t max_type, ea_bad* bad) noexcept nogil
# The block was checked. 1 found (*prev: the record before, 0 for the first), else 0.
cdef bint ea_find(const uint8_t* blk, uint32_t bsize, const ea_key* key, uint32_t* off, uint32_t* prev) noexcept nogil
# The block was checked. 1 and *off = the first record that has `size` bytes of room, else 0.
cdef bint ea_room(const uint8_t* blk, uint32_t bsize, uint32_t size, uint32_t* off) noexcept nogil
# Starts a record in the room that ea_room found, with name, no value yet; returns its offset.
cdef uint32_t ea_put(uint8_t* blk, uint32_t off, const ea_key* key, uint32_t data_len, uint32_t num_ptrs) noexcept nogil
cdef void ea_take(uint8_t* blk, uint32_t off, uint32_t prev) noexcept nogil
# One unused record over the whole block.
cdef void ea_init(uint8_t* blk, uint32_t bsize) noexcept nogil
