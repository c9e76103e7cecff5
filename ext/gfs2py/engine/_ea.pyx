"""Packing of extended attributes in a block; see _ea.pxd. Source of behaviour: fs/gfs2/xattr.c."""
from libc.errno cimport EIO
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from gfs2py.ondisk._ondisk cimport (
    be32toh, gfs2_ea_header, GFS2_EA_MAX_DATA_LEN, GFS2_EAFLAG_LAST, GFS2_EATYPE_UNUSED, htobe32, SIZEOF_EA_HEADER,
    SIZEOF_META_HEADER,
)

cdef int bad_field(ea_bad* bad, const char* field, uint64_t wanted, uint64_t found) noexcept nogil:
    bad.field = field
    bad.wanted = wanted
    bad.found = found
    return -EIO


cdef int ea_check(const uint8_t* blk, uint32_t off, uint32_t bsize, uint32_t max_type, ea_bad* bad) noexcept nogil:
    cdef const gfs2_ea_header* ea = <const gfs2_ea_header*>(blk + off)
    cdef uint32_t rec
    cdef uint32_t length
    if off + SIZEOF_EA_HEADER > bsize:
        return bad_field(bad, b"ea_rec_len (the record before leaves too little)", bsize - SIZEOF_EA_HEADER, off)
    rec = be32toh(ea.ea_rec_len)
    if rec < SIZEOF_EA_HEADER or rec & 7:
        return bad_field(bad, b"ea_rec_len", SIZEOF_EA_HEADER, rec)
    if rec > bsize - off:
        return bad_field(bad, b"ea_rec_len (beyond the block)", bsize - off, rec)
    if ((ea.ea_flags & GFS2_EAFLAG_LAST) != 0) != (off + rec == bsize):
        return bad_field(bad, b"ea_flags (LAST)", off + rec == bsize, ea.ea_flags)
    if ea.ea_type > max_type:
        return bad_field(bad, b"ea_type", max_type, ea.ea_type)
    if ea.ea_num_ptrs == 0 and ea.ea_type == GFS2_EATYPE_UNUSED:
        return <int>rec
    length = be32toh(ea.ea_data_len)
    if length > GFS2_EA_MAX_DATA_LEN:
        return bad_field(bad, b"ea_data_len", GFS2_EA_MAX_DATA_LEN, length)
    if ea_used(ea) > rec:
        return bad_field(bad, b"ea_rec_len (less than name and value)", ea_used(ea), rec)
    if ea.ea_num_ptrs and ea.ea_num_ptrs < (length + bsize - SIZEOF_META_HEADER - 1) // (bsize - SIZEOF_META_HEADER):
        return bad_field(bad, b"ea_num_ptrs (too few for ea_data_len)", length, ea.ea_num_ptrs)
    return <int>rec


cdef int ea_check_all(const uint8_t* blk, uint32_t bsize, uint32_t max_type, ea_bad* bad) noexcept nogil:
    cdef uint32_t off = SIZEOF_META_HEADER
    cdef int rec
    while off < bsize:
        rec = ea_check(blk, off, bsize, max_type, bad)
        if rec < 0:
            return rec
        off += <uint32_t>rec
    return 0


cdef bint ea_find(const uint8_t* blk, uint32_t bsize, const ea_key* key, uint32_t* off, uint32_t* prev) noexcept nogil:
    cdef uint32_t at = SIZEOF_META_HEADER
    cdef uint32_t before = 0
    cdef const gfs2_ea_header* ea
    while at < bsize:
        ea = <const gfs2_ea_header*>(blk + at)
        if (ea.ea_type == key.type and ea.ea_name_len == key.namelen
                and memcmp(blk + at + SIZEOF_EA_HEADER, key.name, key.namelen) == 0):
            off[0] = at
            prev[0] = before
            return True
        before = at
        at += be32toh(ea.ea_rec_len)
    return False


cdef bint ea_room(const uint8_t* blk, uint32_t bsize, uint32_t size, uint32_t* off) noexcept nogil:
    cdef uint32_t at = SIZEOF_META_HEADER
    cdef uint32_t used
    cdef uint32_t rec
    cdef const gfs2_ea_header* ea
    while at < bsize:
        ea = <const gfs2_ea_header*>(blk + at)
        rec = be32toh(ea.ea_rec_len)
        # An unused record with pointers is the trace of a crash: its blocks are still to be freed.
        used = 0 if ea.ea_type == GFS2_EATYPE_UNUSED and ea.ea_num_ptrs == 0 else ea_used(ea)
        if used + size <= rec:
            off[0] = at
            return True
        at += rec
    return False


cdef uint32_t ea_put(uint8_t* blk, uint32_t off, const ea_key* key, uint32_t data_len,
                     uint32_t num_ptrs) noexcept nogil:
    cdef gfs2_ea_header* ea = <gfs2_ea_header*>(blk + off)
    cdef uint32_t rec = be32toh(ea.ea_rec_len)
    cdef uint8_t last = ea.ea_flags & GFS2_EAFLAG_LAST
    cdef uint32_t used = 0
    if ea.ea_type != GFS2_EATYPE_UNUSED or ea.ea_num_ptrs:
        used = ea_used(ea)
        ea.ea_rec_len = htobe32(used)
        ea.ea_flags &= ~<uint8_t>GFS2_EAFLAG_LAST
    ea = <gfs2_ea_header*>(blk + off + used)
    memset(ea, 0, ea_size(key.namelen, 8 * num_ptrs if num_ptrs else data_len))
    ea.ea_rec_len = htobe32(rec - used)
    ea.ea_data_len = htobe32(data_len)
    ea.ea_name_len = <uint8_t>key.namelen
    ea.ea_type = key.type
    ea.ea_flags = last
    ea.ea_num_ptrs = <uint8_t>num_ptrs
    memcpy(blk + off + used + SIZEOF_EA_HEADER, key.name, key.namelen)
    return off + used


cdef void ea_take(uint8_t* blk, uint32_t off, uint32_t prev) noexcept nogil:
    cdef gfs2_ea_header* ea = <gfs2_ea_header*>(blk + off)
    cdef gfs2_ea_header* before
    if prev == 0:
        ea.ea_type = GFS2_EATYPE_UNUSED
        ea.ea_num_ptrs = 0
        return
    before = <gfs2_ea_header*>(blk + prev)
    before.ea_rec_len = htobe32(be32toh(before.ea_rec_len) + be32toh(ea.ea_rec_len))
    before.ea_flags |= ea.ea_flags & GFS2_EAFLAG_LAST


cdef void ea_init(uint8_t* blk, uint32_t bsize) noexcept nogil:
    cdef gfs2_ea_header* ea = <gfs2_ea_header*>(blk + SIZEOF_META_HEADER)
    memset(ea, 0, bsize - SIZEOF_META_HEADER)
    ea.ea_rec_len = htobe32(bsize - SIZEOF_META_HEADER)
    ea.ea_type = GFS2_EATYPE_UNUSED
    ea.ea_flags = GFS2_EAFLAG_LAST


# ---- edges for tests -------------------------------------------------------------------------------------------

cdef uint32_t checked(const uint8_t[::1] block, uint32_t max_type) except 0:
    cdef ea_bad bad
    cdef uint32_t bsize
    if block.shape[0] not in (512, 1024, 2048, 4096):
        raise ValueError(f"a block has 512 to 4096 bytes, not {block.shape[0]}")
    bsize = <uint32_t>block.shape[0]
    if ea_check_all(&block[0], bsize, max_type, &bad) < 0:
        raise ValueError(f"{(<bytes>bad.field).decode()}: wanted {bad.wanted}, found {bad.found}")
    return bsize


def py_init(uint8_t[::1] block not None) -> None:
    """Makes the block one unused record."""
    if block.shape[0] not in (512, 1024, 2048, 4096):
        raise ValueError(f"a block has 512 to 4096 bytes, not {block.shape[0]}")
    ea_init(&block[0], <uint32_t>block.shape[0])


def py_records(const uint8_t[::1] block not None, uint32_t max_type = 4) -> list:
    """(offset, type, name, stuffed value or number of pointers) of each record in use; ValueError names damage."""
    cdef uint32_t bsize = checked(block, max_type)
    cdef uint32_t off = SIZEOF_META_HEADER
    cdef uint32_t at
    cdef const gfs2_ea_header* ea
    cdef const char* p
    out = []
    while off < bsize:
        ea = <const gfs2_ea_header*>&block[off]
        if ea.ea_type != GFS2_EATYPE_UNUSED:
            p = <const char*>&block[off]
            name = p[SIZEOF_EA_HEADER:SIZEOF_EA_HEADER + ea.ea_name_len]
            at = ea_value_at(ea.ea_name_len)
            value = ea.ea_num_ptrs or p[at:at + be32toh(ea.ea_data_len)]
            out.append((off, ea.ea_type, name, value))
        off += be32toh(ea.ea_rec_len)
    return out


def py_put(uint8_t[::1] block not None, uint8_t kind, bytes name not None, bytes value not None) -> bool:
    """Adds a stuffed attribute; False when there is no room."""
    cdef uint32_t bsize = checked(block, 4)
    cdef ea_key key
    cdef uint32_t off = 0
    if len(name) > 255 or len(value) > 65536:
        raise ValueError("name or value is too long")
    key.type = kind
    key.name = name
    key.namelen = <uint32_t>len(name)
    if not ea_room(&block[0], bsize, ea_size(key.namelen, <uint32_t>len(value)), &off):
        return False
    off = ea_put(&block[0], off, &key, <uint32_t>len(value), 0)
    memcpy(&block[off] + ea_value_at(key.namelen), <const char*>value, len(value))
    return True


def py_remove(uint8_t[::1] block not None, uint8_t kind, bytes name not None) -> bool:
    """Takes an attribute out of the block; False when it is not there."""
    cdef uint32_t bsize = checked(block, 4)
    cdef ea_key key
    cdef uint32_t off = 0
    cdef uint32_t prev = 0
    key.type = kind
    key.name = name
    key.namelen = <uint32_t>len(name)
    if not ea_find(&block[0], bsize, &key, &off, &prev):
        return False
    ea_take(&block[0], off, prev)
    return True
