"""The records of a quota_change file. Source: fs/gfs2/quota.c gfs2_quota_init.

The file is an array of blocks with a header of metatype QC and 16-byte records; a change of 0 is a free one.
"""
from libc.errno cimport EINVAL, ENOMEM
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from gfs2py.fsck._file cimport MAX_BSIZE, file_ptrs, read_dinode
from gfs2py.fsck._state cimport *
from gfs2py.ondisk._ondisk cimport *

cdef enum:
    MAX_BYTES = 67108864        # far above what mkfs makes


cdef uint64_t _records(fsck* fs, const char* buf, qc_record* out, uint64_t n, uint64_t n_max) noexcept nogil:
    """The records in use of one block, added behind the first `n`; returns how many there are then."""
    cdef uint32_t off = SIZEOF_META_HEADER
    cdef const gfs2_quota_change* q
    while off + sizeof(gfs2_quota_change) <= fs.bsize and n < n_max:
        q = <const gfs2_quota_change*>(buf + off)
        if q.qc_change != 0:
            out[n].change = <int64_t>be64toh(q.qc_change)
            out[n].flags = be32toh(q.qc_flags)
            out[n].ident = be32toh(q.qc_id)
            n += 1
        off += sizeof(gfs2_quota_change)
    return n


cdef int64_t scan_quota_changes(fsck* fs, uint64_t addr, const char* name, uint32_t name_len, qc_record* out,
                                uint64_t n_max) noexcept nogil:
    """Check the blocks of a quota_change file and collect its records. Returns how many, or -errno."""
    cdef char di[MAX_BSIZE]
    cdef const gfs2_meta_header* mh
    cdef uint64_t size, n, i = 0, k, found = 0
    cdef int64_t got
    cdef uint32_t part
    cdef uint64_t* map
    cdef uint32_t mtype
    if read_dinode(fs, addr, di) or be16toh((<gfs2_dinode*>&di[0]).di_height) == 0:
        return -EINVAL
    size = be64toh((<gfs2_dinode*>&di[0]).di_size)
    n = (size if size < MAX_BYTES else MAX_BYTES) // fs.bsize
    map = <uint64_t*>malloc((n + 1) * 8)
    if map == NULL:
        return -ENOMEM
    while i < n:
        got = file_ptrs(fs, di, i, &map[i], n - i)
        if got <= 0:
            n = i
            break
        i += <uint64_t>got
    i = 0
    while i < n:
        part = wave_read(fs, &fs.w_misc, &map[i], 8, <uint32_t>(n - i if n - i < 256 else 256))
        for k in range(part):
            if fs.w_misc.ptr[k] == NULL or map[i + k] == 0:
                continue
            mh = <const gfs2_meta_header*>fs.w_misc.ptr[k]
            mtype = be32toh(mh.mh_type)
            if be32toh(mh.mh_magic) != GFS2_MAGIC or mtype != GFS2_METATYPE_QC:
                finding_name(report(fs, K_QC_HEADER, map[i + k], addr, GFS2_METATYPE_QC, mtype), name,
                             name_len)
                continue
            found = _records(fs, fs.w_misc.ptr[k], out, found, n_max)
        i += part
    free(map)
    return <int64_t>found
