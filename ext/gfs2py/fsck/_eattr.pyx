"""Blocks of extended attributes. Source of the rules: fs/gfs2/xattr.c, gfs2-utils gfs2/fsck/pass1.c.

A leaf (metatype EA) is a chain of records from byte 24 to the end of the block, the last one flagged. A value
lies in its record, or in blocks of metatype ED the record points to. With GFS2_DIF_EA_INDIRECT di_eattr is an
indirect block of leaf pointers, packed from the front.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from gfs2py.fsck._state cimport *
from gfs2py.fsck._walk cimport *
from gfs2py.ondisk._ondisk cimport *

cdef enum:
    MAX_NAMES = 256             # records of one leaf whose names are compared


cdef finding* _ea(fsck* fs, Kind kind, const item* it, uint64_t inode, uint32_t off, uint64_t wanted,
                  uint64_t found) noexcept nogil:
    cdef finding* f = report(fs, kind, it.block, inode, wanted, found)
    if f != NULL:
        f.aux = off
    return f


cdef void _values(fsck* fs, walker* w, const item* it, uint64_t inode, const char* buf, uint32_t off,
                  const gfs2_ea_header* ea) noexcept nogil:
    """The blocks a record's value lies in."""
    cdef uint32_t at = off + ((SIZEOF_EA_HEADER + ea.ea_name_len + 7) & ~<uint32_t>7)
    cdef uint32_t need = (be32toh(ea.ea_data_len) + fs.jbsize - 1) // fs.jbsize, i
    cdef uint32_t rec = be32toh(ea.ea_rec_len)
    cdef uint64_t ptr
    cdef int rc
    if be32toh(ea.ea_data_len) > GFS2_EA_MAX_DATA_LEN:
        _ea(fs, K_EA_DATA_LEN, it, inode, off, GFS2_EA_MAX_DATA_LEN, be32toh(ea.ea_data_len))
    elif need > ea.ea_num_ptrs:
        _ea(fs, K_EA_PTRS, it, inode, off, need, ea.ea_num_ptrs)
    if at + <uint32_t>ea.ea_num_ptrs * 8 > off + rec:
        _ea(fs, K_EA_PTRS, it, inode, off, (off + rec - at) // 8 if off + rec > at else 0, ea.ea_num_ptrs)
        return
    for i in range(ea.ea_num_ptrs):
        memcpy(&ptr, buf + at + i * 8, 8)
        ptr = be64toh(ptr)
        if ptr == 0 and i >= need:
            continue
        rc = take(fs, w, ptr, inode, HOW_EATTR)
        if rc < 0:
            _ea(fs, K_EA_PTR_RANGE, it, inode, at + i * 8, 0, ptr)
            continue
        w.slots[it.slot].counted += 1
        if rc == 0:
            push(w, ptr, it.block, it.slot, ITEM_EA_DATA, 0)


cdef int _duplicate(const char* buf, const uint32_t* offs, uint32_t n, uint32_t off) noexcept nogil:
    """Is there an earlier record of the same type and name?"""
    cdef const gfs2_ea_header* a = <const gfs2_ea_header*>(buf + off)
    cdef const gfs2_ea_header* b
    cdef uint32_t i
    for i in range(n):
        b = <const gfs2_ea_header*>(buf + offs[i])
        if a.ea_type == b.ea_type and a.ea_name_len == b.ea_name_len \
                and memcmp(buf + off + SIZEOF_EA_HEADER, buf + offs[i] + SIZEOF_EA_HEADER,
                           a.ea_name_len) == 0:
            return 1
    return 0


cdef void _record(fsck* fs, walker* w, const item* it, uint64_t inode, const char* buf,
                  uint32_t off) noexcept nogil:
    """One record whose length is already known to lie inside the block."""
    cdef const gfs2_ea_header* ea = <const gfs2_ea_header*>(buf + off)
    cdef uint32_t rec = be32toh(ea.ea_rec_len), top
    if ea.ea_name_len == 0 or SIZEOF_EA_HEADER + <uint32_t>ea.ea_name_len > rec:
        _ea(fs, K_EA_NAME, it, inode, off, rec - SIZEOF_EA_HEADER, ea.ea_name_len)
        return
    if ea.ea_num_ptrs:
        _values(fs, w, it, inode, buf, off, ea)
        return
    top = rec - SIZEOF_EA_HEADER - ea.ea_name_len
    if be32toh(ea.ea_data_len) > top:
        _ea(fs, K_EA_DATA_LEN, it, inode, off, top, be32toh(ea.ea_data_len))


cdef void ea_leaf(fsck* fs, walker* w, const item* it, const char* buf) noexcept nogil:
    """All records of a leaf."""
    cdef uint64_t inode = w.slots[it.slot].addr
    cdef uint32_t off = SIZEOF_META_HEADER, rec, n_names = 0, top
    cdef uint32_t offs[MAX_NAMES]
    cdef const gfs2_ea_header* ea
    cdef finding* f
    top = GFS2_EATYPE_TRUSTED if fs.fs_format >= 1802 else GFS2_EATYPE_SECURITY
    while True:
        if off + SIZEOF_EA_HEADER > fs.bsize:
            _ea(fs, K_EA_REC_LEN, it, inode, off, 0, fs.bsize - off)
            return
        ea = <const gfs2_ea_header*>(buf + off)
        rec = be32toh(ea.ea_rec_len)
        if rec < SIZEOF_EA_HEADER or rec & 7 or rec > fs.bsize - off:
            _ea(fs, K_EA_REC_LEN, it, inode, off, fs.bsize - off, rec)
            return
        if ea.ea_type > top:
            f = _ea(fs, K_EA_TYPE, it, inode, off, top, ea.ea_type)
            if SIZEOF_EA_HEADER + <uint32_t>ea.ea_name_len <= rec:
                finding_name(f, buf + off + SIZEOF_EA_HEADER, ea.ea_name_len)
        if ea.ea_type != GFS2_EATYPE_UNUSED:
            _record(fs, w, it, inode, buf, off)
            if n_names < MAX_NAMES and SIZEOF_EA_HEADER + <uint32_t>ea.ea_name_len <= rec:
                if _duplicate(buf, offs, n_names, off):
                    f = _ea(fs, K_EA_DUPLICATE, it, inode, off, 0, 0)
                    finding_name(f, buf + off + SIZEOF_EA_HEADER, ea.ea_name_len)
                offs[n_names] = off
                n_names += 1
        if off + rec == fs.bsize:
            if not (ea.ea_flags & GFS2_EAFLAG_LAST):
                _ea(fs, K_EA_LAST, it, inode, off, GFS2_EAFLAG_LAST, ea.ea_flags)
            return
        if ea.ea_flags & GFS2_EAFLAG_LAST:
            _ea(fs, K_EA_LAST, it, inode, off, fs.bsize - off, rec)
            return
        off += rec


cdef void ea_indirect(fsck* fs, walker* w, const item* it, const char* buf) noexcept nogil:
    """The pointers to leaves: a run from the front, then only zeros."""
    cdef uint64_t inode = w.slots[it.slot].addr
    cdef const uint64_t* p = <const uint64_t*>(buf + SIZEOF_META_HEADER)
    cdef uint32_t i
    cdef int rc, ended = 0
    for i in range(fs.inptrs):
        if p[i] == 0:
            ended = 1
            continue
        if ended:
            _ea(fs, K_EA_HOLE, it, inode, SIZEOF_META_HEADER + i * 8, 0, be64toh(p[i]))
            return
        rc = take(fs, w, be64toh(p[i]), inode, HOW_EATTR)
        if rc < 0:
            _ea(fs, K_EA_PTR_RANGE, it, inode, SIZEOF_META_HEADER + i * 8, 0, be64toh(p[i]))
            continue
        w.slots[it.slot].counted += 1
        if rc == 0:
            push(w, be64toh(p[i]), it.block, it.slot, ITEM_EA_LEAF, 0)
