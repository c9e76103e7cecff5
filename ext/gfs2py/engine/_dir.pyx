"""Directories: search, insert, remove, change; see _dir.pxd. Reading them in order is in _readdir."""
from libc.errno cimport EFBIG, EIO, EMLINK, ENAMETOOLONG, ENOENT
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from gfs2py.engine._cache cimport buf_put
from gfs2py.engine._dirent cimport dent_bad, dents_find, dents_init, dents_put, dents_room, dents_take
from gfs2py.engine._dirfree cimport exhash_dealloc
from gfs2py.engine._exhash cimport (
    exhash_first, exhash_forget, exhash_leaf, exhash_make_room, exhash_next, exhash_plan, exhash_plan_add,
    exhash_plan_need,
)
from gfs2py.engine._incore cimport buf, inode, opctx, sbd
from gfs2py.engine._inode cimport inode_buf, inode_dirty, inode_touch
from gfs2py.engine._log cimport trans_add_meta
from gfs2py.engine._readdir cimport readdir_run
from gfs2py.engine._sbd cimport sd_assert_failed, sd_corrupt
from gfs2py.ondisk._checksum cimport gfs2_dir_hash
from gfs2py.ondisk._ondisk cimport (
    be16toh, be64toh, gfs2_dirent, gfs2_leaf, GFS2_DIF_EXHASH, GFS2_FNAMESIZE, htobe16, htobe32, htobe64,
    SIZEOF_DINODE, SIZEOF_LEAF,
)

cdef enum:
    DT_DIR_ = 4
    UINT32_MAX_ = 0xffffffff

cdef struct place:                  # an entry found: the buffer is held
    buf* b
    uint32_t off, prev


cdef int bad_block(opctx* cx, const buf* b, const dent_bad* bad) noexcept nogil:
    return sd_corrupt(cx.sd, b.blkno, b"directory entry", bad.field, bad.wanted, bad.found)


cdef inline uint32_t first_entry(const inode* dip) noexcept nogil:
    return SIZEOF_LEAF if dip.diskflags & GFS2_DIF_EXHASH else SIZEOF_DINODE


cdef int stuffed_buf(opctx* cx, inode* dip, buf** out) noexcept nogil:
    if dip.height:
        return sd_corrupt(cx.sd, dip.no_addr, b"dinode", b"di_height (a directory without hash table)", 0, dip.height)
    return inode_buf(cx, dip, out)


cdef int locate(opctx* cx, inode* dip, const char* name, uint32_t namelen, place* at) noexcept nogil:
    """Finds a name: 0 with at.b held, or -ENOENT."""
    cdef uint32_t hash
    cdef uint64_t walked = 0
    cdef dent_bad bad
    cdef buf* b = NULL
    cdef int err
    if namelen == 0 or namelen > GFS2_FNAMESIZE:
        return -ENAMETOOLONG if namelen else -ENOENT
    hash = gfs2_dir_hash(name, namelen)
    if dip.diskflags & GFS2_DIF_EXHASH:
        err = exhash_first(cx, dip, hash, &b)
    else:
        err = stuffed_buf(cx, dip, &b)
    while err == 0 and b != NULL:
        err = dents_find(b.data, first_entry(dip), cx.sd.bsize, name, namelen, hash, &at.off, &at.prev, &bad)
        if err == 1:
            at.b = b
            return 0
        if err < 0:
            err = bad_block(cx, b, &bad)
            buf_put(cx.sd, b)
            return err
        if dip.diskflags & GFS2_DIF_EXHASH:
            err = exhash_next(cx, dip, &b, &walked)
        else:
            buf_put(cx.sd, b)
            b = NULL
    return err if err else -ENOENT


cdef int dir_search(opctx* cx, inode* dip, const char* name, uint32_t namelen, dir_found* out) noexcept nogil:
    cdef place at
    cdef const gfs2_dirent* d
    cdef int err = locate(cx, dip, name, namelen, &at)
    if err:
        return err
    d = <const gfs2_dirent*>(at.b.data + at.off)
    out.no_addr = be64toh(d.de_inum.no_addr)
    out.no_formal_ino = be64toh(d.de_inum.no_formal_ino)
    out.dtype = be16toh(d.de_type)
    buf_put(cx.sd, at.b)
    return 0


cdef int dir_add_need(opctx* cx, inode* dip, const char* name, uint32_t namelen, uint32_t* alloc_blocks,
                      uint32_t* log_blocks) noexcept nogil:
    cdef exhash_plan plan
    cdef int err
    if namelen == 0 or namelen > GFS2_FNAMESIZE:
        return -ENAMETOOLONG
    if dip.entries == UINT32_MAX_:
        return -EFBIG
    if dip.nlink == UINT32_MAX_:
        return -EMLINK
    err = exhash_plan_add(cx, dip, gfs2_dir_hash(name, namelen), namelen, &plan)
    if err == 0:
        exhash_plan_need(cx, dip, &plan, alloc_blocks, log_blocks)
    return err


cdef void stamp_leaf(opctx* cx, inode* dip, buf* b, int change) noexcept nogil:
    """A leaf that gained or lost an entry counts it and notes the time."""
    cdef gfs2_leaf* leaf = <gfs2_leaf*>b.data
    if dip.diskflags & GFS2_DIF_EXHASH:
        leaf.lf_entries = htobe16(<uint16_t>(be16toh(leaf.lf_entries) + change))
        leaf.lf_sec = htobe64(<uint64_t>cx.now_sec)
        leaf.lf_nsec = htobe32(cx.now_nsec)


cdef int changed(opctx* cx, inode* dip) noexcept nogil:
    dip.dir_gen += 1
    inode_touch(cx, dip, True, True)
    return inode_dirty(cx, dip)


cdef int dir_add(opctx* cx, inode* dip, const char* name, uint32_t namelen, uint64_t no_addr, uint64_t no_formal_ino,
                 uint16_t dtype) noexcept nogil:
    cdef uint32_t hash
    cdef exhash_plan plan
    cdef buf* b = NULL
    cdef int err
    if namelen == 0 or namelen > GFS2_FNAMESIZE:
        return -ENAMETOOLONG
    if no_addr == 0 or no_formal_ino == 0:
        return sd_assert_failed(cx.sd, b"directory: an entry for no inode")
    hash = gfs2_dir_hash(name, namelen)
    err = exhash_plan_add(cx, dip, hash, namelen, &plan)
    if err == 0 and not plan.has_room:
        err = exhash_make_room(cx, dip, hash, &plan)
        if err == 0:
            err = exhash_plan_add(cx, dip, hash, namelen, &plan)
        if err == 0 and not plan.has_room:
            err = sd_assert_failed(cx.sd, b"directory: no room after growing as planned")
    if err:
        return err
    if dip.diskflags & GFS2_DIF_EXHASH:
        err = exhash_leaf(cx, dip, plan.leaf, &b)
    else:
        err = inode_buf(cx, dip, &b)
    if err:
        return err
    trans_add_meta(cx, b)
    dents_put(b.data, plan.off, name, namelen, hash, no_addr, no_formal_ino, dtype)
    stamp_leaf(cx, dip, b, 1)
    buf_put(cx.sd, b)
    dip.entries += 1
    if dtype == DT_DIR_:
        dip.nlink += 1
    return changed(cx, dip)


cdef int dir_del(opctx* cx, inode* dip, const char* name, uint32_t namelen) noexcept nogil:
    cdef place at
    cdef uint16_t dtype
    cdef int err = locate(cx, dip, name, namelen, &at)
    if err:
        return err
    dtype = be16toh((<const gfs2_dirent*>(at.b.data + at.off)).de_type)
    if dip.entries == 0:
        err = sd_corrupt(cx.sd, dip.no_addr, b"dinode", b"di_entries", 1, 0)
    elif dip.diskflags & GFS2_DIF_EXHASH and (<gfs2_leaf*>at.b.data).lf_entries == 0:
        err = sd_corrupt(cx.sd, at.b.blkno, b"leaf", b"lf_entries", 1, 0)
    elif dtype == DT_DIR_ and dip.nlink <= 2:
        err = sd_corrupt(cx.sd, dip.no_addr, b"dinode", b"di_nlink (of a directory with subdirectories)", 3, dip.nlink)
    if err:
        buf_put(cx.sd, at.b)
        return err
    trans_add_meta(cx, at.b)
    dents_take(at.b.data, at.off, at.prev)
    stamp_leaf(cx, dip, at.b, -1)
    buf_put(cx.sd, at.b)
    dip.entries -= 1
    if dtype == DT_DIR_:
        dip.nlink -= 1
    return changed(cx, dip)


cdef int dir_change(opctx* cx, inode* dip, const char* name, uint32_t namelen, uint64_t no_addr, uint64_t no_formal_ino,
                    uint16_t dtype) noexcept nogil:
    cdef place at
    cdef gfs2_dirent* d
    cdef uint16_t before
    cdef int err
    if no_addr == 0 or no_formal_ino == 0:
        return sd_assert_failed(cx.sd, b"directory: an entry for no inode")
    err = locate(cx, dip, name, namelen, &at)
    if err:
        return err
    d = <gfs2_dirent*>(at.b.data + at.off)
    before = be16toh(d.de_type)
    trans_add_meta(cx, at.b)
    d.de_inum.no_addr = htobe64(no_addr)
    d.de_inum.no_formal_ino = htobe64(no_formal_ino)
    d.de_type = htobe16(dtype)
    buf_put(cx.sd, at.b)
    if before == DT_DIR_ and dtype != DT_DIR_:
        dip.nlink -= 1
    elif before != DT_DIR_ and dtype == DT_DIR_:
        dip.nlink += 1
    return changed(cx, dip)


cdef void dir_init_stuffed(sbd* sd, uint8_t* block, uint64_t self_addr, uint64_t self_formal, uint64_t parent_addr,
                           uint64_t parent_formal) noexcept nogil:
    cdef uint32_t off = 0
    cdef dent_bad bad
    dents_init(block, SIZEOF_DINODE, sd.bsize)
    dents_put(block, SIZEOF_DINODE, b".", 1, gfs2_dir_hash(b".", 1), self_addr, self_formal, DT_DIR_)
    dents_room(block, SIZEOF_DINODE, sd.bsize, 2, &off, &bad)
    dents_put(block, off, b"..", 2, gfs2_dir_hash(b"..", 2), parent_addr, parent_formal, DT_DIR_)


cdef int dir_read(opctx* cx, inode* dip, uint64_t off, int (*fn)(void* arg, const char* name, uint32_t namelen,
                  uint64_t no_addr, uint64_t no_formal_ino, uint16_t dtype, uint64_t next_off) noexcept nogil,
                  void* arg) noexcept nogil:
    cdef dir_found dot
    cdef int err
    if off == 0:
        err = dir_search(cx, dip, b".", 1, &dot)
        if err == 0 and fn(arg, b".", 1, dot.no_addr, dot.no_formal_ino, dot.dtype, 1):
            return 0
        if err and err != -ENOENT:
            return err
        off = 1
    if off == 1:
        err = dir_search(cx, dip, b"..", 2, &dot)
        if err == 0 and fn(arg, b"..", 2, dot.no_addr, dot.no_formal_ino, dot.dtype, 2):
            return 0
        if err and err != -ENOENT:
            return err
        off = 2
    return readdir_run(cx, dip, off, fn, arg)


cdef int dir_dealloc_leaves(opctx* cx, inode* dip) noexcept nogil:
    if not dip.diskflags & GFS2_DIF_EXHASH:
        return 0
    return exhash_dealloc(cx, dip)


cdef void dir_forget_cache(inode* dip) noexcept nogil:
    exhash_forget(dip)
