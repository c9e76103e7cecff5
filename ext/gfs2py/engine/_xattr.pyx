"""Reading extended attributes, and the rules of names; see _xattr.pxd. Setting and freeing are in _easet."""
from libc.errno cimport EACCES, EEXIST, EINVAL, EIO, ENODATA, ENOENT, EOPNOTSUPP, EPERM, ERANGE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from gfs2py.engine._acl cimport acl_check
from gfs2py.engine._cache cimport buf_put, buf_readahead, meta_read
from gfs2py.engine._ea cimport ea_bad, ea_check_all, ea_find, ea_key, ea_ptrs_at, ea_value_at
from gfs2py.engine._easet cimport ea_free_all, ea_remove, ea_replace
from gfs2py.engine._incore cimport buf, inode, opctx, sbd
from gfs2py.engine._sbd cimport sd_corrupt
from gfs2py.ondisk._ondisk cimport (
    be32toh, be64toh, gfs2_ea_header, GFS2_DIF_APPENDONLY, GFS2_DIF_EA_INDIRECT, GFS2_DIF_IMMUTABLE,
    GFS2_EA_MAX_DATA_LEN, GFS2_EA_MAX_NAME_LEN, GFS2_EATYPE_SECURITY, GFS2_EATYPE_SYS, GFS2_EATYPE_TRUSTED,
    GFS2_EATYPE_UNUSED, GFS2_EATYPE_USR, GFS2_METATYPE_EA, GFS2_METATYPE_ED, GFS2_METATYPE_IN, SIZEOF_EA_HEADER,
    SIZEOF_META_HEADER,
)

cdef enum:
    XATTR_CREATE_ = 1, XATTR_REPLACE_ = 2
    FORMAT_WITH_TRUSTED = 1802
    S_IFMT_ = 0o170000, S_IFDIR_ = 0o040000


# ---- names ---------------------------------------------------------------------------------------------------------

cdef inline bint has_prefix(const char* name, uint32_t namelen, const char* prefix, uint32_t n) noexcept nogil:
    return namelen >= n and memcmp(name, prefix, n) == 0


cdef int split_name(const sbd* sd, const char* name, uint32_t namelen, ea_key* key) noexcept nogil:
    """The type that the prefix stands for, and what comes after it."""
    cdef uint32_t skip
    if has_prefix(name, namelen, b"user.", 5):
        key.type = GFS2_EATYPE_USR
        skip = 5
    elif has_prefix(name, namelen, b"security.", 9):
        key.type = GFS2_EATYPE_SECURITY
        skip = 9
    elif has_prefix(name, namelen, b"trusted.", 8) and sd.fs_format >= FORMAT_WITH_TRUSTED:
        key.type = GFS2_EATYPE_TRUSTED
        skip = 8
    elif has_prefix(name, namelen, b"system.", 7):
        key.type = GFS2_EATYPE_SYS
        skip = 7
    else:
        return -EOPNOTSUPP
    key.name = name + skip
    key.namelen = namelen - skip
    if key.namelen == 0:
        return -EINVAL
    if key.namelen > GFS2_EA_MAX_NAME_LEN:
        return -ERANGE
    if key.type == GFS2_EATYPE_SYS and acl_kind(key) == 0:
        return -EOPNOTSUPP
    return 0


cdef int acl_kind(const ea_key* key) noexcept nogil:
    """1 the access ACL, 2 the default ACL, 0 something else."""
    if key.type != GFS2_EATYPE_SYS:
        return 0
    if key.namelen == 16 and memcmp(key.name, b"posix_acl_access", 16) == 0:
        return 1
    if key.namelen == 17 and memcmp(key.name, b"posix_acl_default", 17) == 0:
        return 2
    return 0


# ---- blocks --------------------------------------------------------------------------------------------------------

cdef uint32_t ea_max_type(const sbd* sd) noexcept nogil:
    return GFS2_EATYPE_TRUSTED if sd.fs_format >= FORMAT_WITH_TRUSTED else GFS2_EATYPE_SECURITY


cdef int ea_block(opctx* cx, inode* ip, uint32_t index, buf** out) noexcept nogil:
    cdef sbd* sd = cx.sd
    cdef buf* ind = NULL
    cdef uint64_t blkno = ip.eattr
    cdef ea_bad bad
    cdef int err
    if blkno == 0:
        return -ENOENT
    if ip.diskflags & GFS2_DIF_EA_INDIRECT:
        if index >= sd.inptrs:
            return -ENOENT
        err = meta_read(sd, &ip.gl, ip.eattr, GFS2_METATYPE_IN, &ind)
        if err:
            return err
        blkno = be64toh((<const uint64_t*>(ind.data + SIZEOF_META_HEADER))[index])
        buf_put(sd, ind)
        if blkno == 0:
            return -ENOENT
    elif index:
        return -ENOENT
    err = meta_read(sd, &ip.gl, blkno, GFS2_METATYPE_EA, out)
    if err:
        return err
    if ea_check_all(out[0].data, sd.bsize, ea_max_type(sd), &bad) < 0:
        buf_put(sd, out[0])
        return sd_corrupt(sd, blkno, b"extended attribute", bad.field, bad.wanted, bad.found)
    return 0


cdef int ea_locate(opctx* cx, inode* ip, const ea_key* key, buf** out, uint32_t* off, uint32_t* prev) noexcept nogil:
    cdef uint32_t index = 0
    cdef int err
    while True:
        err = ea_block(cx, ip, index, out)
        if err:
            return -ENODATA if err == -ENOENT else err
        if ea_find(out[0].data, cx.sd.bsize, key, off, prev):
            return 0
        buf_put(cx.sd, out[0])
        index += 1


# ---- reading -------------------------------------------------------------------------------------------------------

cdef int copy_value(opctx* cx, const inode* ip, const buf* b, uint32_t off, uint8_t* out) noexcept nogil:
    """The value of a checked record; `out` has room for ea_data_len bytes."""
    cdef sbd* sd = cx.sd
    cdef const gfs2_ea_header* ea = <const gfs2_ea_header*>(b.data + off)
    cdef uint32_t left = be32toh(ea.ea_data_len)
    cdef uint64_t blks[255]
    cdef uint32_t n
    cdef uint32_t i
    cdef uint32_t part
    cdef buf* d = NULL
    cdef int err
    if ea.ea_num_ptrs == 0:
        memcpy(out, b.data + off + ea_value_at(ea.ea_name_len), left)
        return 0
    n = (left + sd.jbsize - 1) // sd.jbsize
    for i in range(n):
        blks[i] = be64toh((<const uint64_t*>(b.data + off + ea_ptrs_at(ea.ea_name_len)))[i])
    if n > 1:
        buf_readahead(sd, blks, n)
    for i in range(n):
        if blks[i] == 0:
            return sd_corrupt(sd, b.blkno, b"extended attribute", b"data pointer", 1, 0)
        err = meta_read(sd, &ip.gl, blks[i], GFS2_METATYPE_ED, &d)
        if err:
            return err
        part = min(left, sd.jbsize)
        memcpy(out, d.data + SIZEOF_META_HEADER, part)
        buf_put(sd, d)
        out += part
        left -= part
    return 0


cdef int xattr_get(opctx* cx, inode* ip, const char* name, uint32_t namelen, uint8_t* out, uint32_t size,
                   uint32_t* length) noexcept nogil:
    cdef ea_key key
    cdef buf* b = NULL
    cdef uint32_t off = 0
    cdef uint32_t prev = 0
    cdef uint32_t found
    cdef int err = split_name(cx.sd, name, namelen, &key)
    length[0] = 0
    if err:
        return err
    if ip.eattr == 0:
        return -ENODATA
    err = ea_locate(cx, ip, &key, &b, &off, &prev)
    if err:
        return err
    found = be32toh((<const gfs2_ea_header*>(b.data + off)).ea_data_len)
    if size and found > size:
        err = -ERANGE
    elif size:
        err = copy_value(cx, ip, b, off, out)
    buf_put(cx.sd, b)
    if err == 0:
        length[0] = found
    return err


cdef int list_block(const sbd* sd, const buf* b, uint8_t* out, uint32_t size, uint32_t* length) noexcept nogil:
    cdef uint32_t off = SIZEOF_META_HEADER
    cdef uint32_t n
    cdef const char* prefix
    cdef const gfs2_ea_header* ea
    while off < sd.bsize:
        ea = <const gfs2_ea_header*>(b.data + off)
        if ea.ea_type == GFS2_EATYPE_USR:
            prefix = b"user."
            n = 5
        elif ea.ea_type == GFS2_EATYPE_SYS:
            prefix = b"system."
            n = 7
        elif ea.ea_type == GFS2_EATYPE_SECURITY:
            prefix = b"security."
            n = 9
        else:
            prefix = b"trusted."
            n = 8
        if ea.ea_type != GFS2_EATYPE_UNUSED:
            if size:
                if length[0] + n + ea.ea_name_len + 1 > size:
                    return -ERANGE
                memcpy(out + length[0], prefix, n)
                memcpy(out + length[0] + n, b.data + off + SIZEOF_EA_HEADER, ea.ea_name_len)
                out[length[0] + n + ea.ea_name_len] = 0
            length[0] += n + ea.ea_name_len + 1
        off += be32toh(ea.ea_rec_len)
    return 0


cdef int xattr_list(opctx* cx, inode* ip, uint8_t* out, uint32_t size, uint32_t* length) noexcept nogil:
    cdef uint32_t index = 0
    cdef buf* b = NULL
    cdef int err
    length[0] = 0
    while True:
        err = ea_block(cx, ip, index, &b)
        if err:
            return 0 if err == -ENOENT else err
        err = list_block(cx.sd, b, out, size, length)
        buf_put(cx.sd, b)
        if err:
            return err
        index += 1


# ---- changing ------------------------------------------------------------------------------------------------------

cdef int xattr_set(opctx* cx, inode* ip, const char* name, uint32_t namelen, const uint8_t* value, uint32_t size,
                   uint32_t flags) noexcept nogil:
    cdef ea_key key
    cdef buf* b = NULL
    cdef uint32_t off = 0
    cdef uint32_t prev = 0
    cdef uint32_t count = 0
    cdef int kind
    cdef int err = split_name(cx.sd, name, namelen, &key)
    if err:
        return err
    if ip.diskflags & (GFS2_DIF_IMMUTABLE | GFS2_DIF_APPENDONLY):
        return -EPERM
    if flags & ~<uint32_t>(XATTR_CREATE_ | XATTR_REPLACE_):
        return -EINVAL
    kind = acl_kind(&key)
    if value != NULL and kind:
        err = acl_check(cx.sd, value, size, &count)
        if err:
            return err
        if count == 0:
            value = NULL
        elif kind == 2 and ip.mode & S_IFMT_ != S_IFDIR_:
            return -EACCES
    if size > GFS2_EA_MAX_DATA_LEN:
        return -ERANGE
    err = ea_locate(cx, ip, &key, &b, &off, &prev)
    if err == 0:
        buf_put(cx.sd, b)
    elif err != -ENODATA:
        return err
    if value == NULL:
        if err:
            return 0 if kind else -ENODATA
        return ea_remove(cx, ip, &key)
    if err == 0 and flags & XATTR_CREATE_:
        return -EEXIST
    if err and flags & XATTR_REPLACE_:
        return -ENODATA
    return ea_replace(cx, ip, &key, value, size)


cdef int xattr_dealloc(opctx* cx, inode* ip) noexcept nogil:
    if ip.eattr == 0:
        return 0
    return ea_free_all(cx, ip)
