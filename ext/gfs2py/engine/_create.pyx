"""Making inodes: allocation, inheritance, the first image of the dinode.

A plain create is one transaction: allocation, dinode, entry. When ACLs must be written before anyone may see the name,
the inode is made without one (state UNLINKED, so that a crash leaves it to be reclaimed), gets its ACLs, and is entered
last. Source of behaviour: fs/gfs2/inode.c gfs2_create_inode.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from gfs2py.engine._cache cimport buf_put, meta_new
from gfs2py.engine._dir cimport dir_add, dir_add_need, dir_init_stuffed
from gfs2py.engine._glock cimport glock_leave
from gfs2py.engine._incore cimport (I_NOXATTR, I_UNLINKED, I_VALID, SDF_ACL, SDF_SUIDDIR, LM_ST_EXCLUSIVE, buf, inode,
                                    opctx, sbd)
from gfs2py.engine._inode cimport dinode_new, dinode_out, inode_dirty, inode_fresh, inode_put, inode_touch
from gfs2py.engine._log cimport trans_add_meta, trans_begin, trans_end, trans_seq
from gfs2py.engine._rgrp cimport (inplace_release, inplace_reserve, inplace_reserve_orlov, rgrp_alloc, rgrp_find,
                                  rgrp_lock, rgrp_relink_di, rgrp_trans_blocks, rgrp_unlink_di, rgrp_unlock)
from gfs2py.engine._sbd cimport sd_assert_failed
from gfs2py.engine._sync cimport pthread_rwlock_trywrlock
from gfs2py.engine._xattr cimport acl_inherit, xattr_set
from gfs2py.ondisk._ondisk cimport *

cdef extern from "<errno.h>" nogil:
    int EIO, ENAMETOOLONG
cdef extern from "<sys/stat.h>" nogil:
    uint32_t S_IFMT, S_IFREG, S_IFDIR, S_IFLNK, S_ISGID, S_ISUID

cdef enum:
    ACL_MAX = 4096


cdef struct new_acls:
    uint32_t access_len, dflt_len
    uint8_t access[ACL_MAX]
    uint8_t dflt[ACL_MAX]


cdef int _mode_and_acls(opctx* cx, inode* dip, uint32_t* mode, new_acls* acl) noexcept nogil:
    """Umask or default ACL, group inheritance of setgid directories."""
    acl.access_len = 0
    acl.dflt_len = 0
    if (mode[0] & S_IFMT) != S_IFLNK:
        if cx.sd.flags & SDF_ACL and dip.eattr:
            return acl_inherit(cx, dip, mode[0], cx.umask, mode, acl.access, &acl.access_len, acl.dflt, &acl.dflt_len)
        mode[0] &= ~(cx.umask & <uint32_t>0o777)
    return 0


cdef void _fill(opctx* cx, inode* dip, inode* ip, new_inode* want, uint32_t mode) noexcept nogil:
    """The inode in memory, as it is born."""
    cdef sbd* sd = cx.sd
    cdef uint32_t kind = mode & S_IFMT
    ip.mode = mode
    ip.uid = cx.uid
    ip.gid = cx.gid
    if sd.flags & SDF_SUIDDIR and dip.mode & S_ISUID and dip.uid and kind != S_IFLNK:
        # suiddir: files belong to the directory's owner, and lose what they could harm him with.
        ip.uid = dip.uid
        if kind == S_IFDIR:
            ip.mode |= S_ISUID
        elif dip.uid != cx.uid:
            ip.mode &= ~<uint32_t>0o7111
    if dip.mode & S_ISGID:
        ip.gid = dip.gid
        if kind == S_IFDIR:
            ip.mode |= S_ISGID
    ip.nlink = 0 if want.unnamed else (2 if kind == S_IFDIR else 1)
    ip.size = want.targetlen if kind == S_IFLNK else 0
    ip.blocks = 1
    ip.major = want.major
    ip.minor = want.minor
    ip.goal = ip.no_addr
    ip.atime = cx.now_sec
    ip.atime_nsec = cx.now_nsec
    inode_touch(cx, ip, True, True)
    ip.diskflags = 0
    ip.height = 0
    ip.depth = 0
    ip.entries = 0
    ip.eattr = 0
    if kind == S_IFDIR:
        ip.diskflags = <uint32_t>GFS2_DIF_JDATA | (dip.diskflags & GFS2_DIF_INHERIT_JDATA)
        ip.size = sd.bsize - sizeof(gfs2_dinode)
        ip.entries = 2
    elif kind == S_IFREG and dip.diskflags & GFS2_DIF_INHERIT_JDATA:
        ip.diskflags = GFS2_DIF_JDATA
    ip.iflags |= I_VALID | I_NOXATTR
    if want.unnamed:
        ip.iflags |= I_UNLINKED


cdef int _first_image(opctx* cx, inode* dip, inode* ip, new_inode* want) noexcept nogil:
    """The dinode's block, within the transaction."""
    cdef buf* b = NULL
    cdef int err = meta_new(cx.sd, ip.no_addr, GFS2_METATYPE_DI, GFS2_FORMAT_DI, &b)
    if err:
        return err
    trans_add_meta(cx, b)
    dinode_new(ip, b)
    dinode_out(ip, b)
    if (ip.mode & S_IFMT) == S_IFDIR:
        dir_init_stuffed(cx.sd, b.data, ip.no_addr, ip.no_formal_ino, dip.no_addr, dip.no_formal_ino)
    elif want.targetlen:
        memcpy(b.data + sizeof(gfs2_dinode), want.target, want.targetlen)
    ip.meta_seq = trans_seq(cx)
    ip.data_seq = ip.meta_seq
    buf_put(cx.sd, b)
    return 0


cdef int _born(opctx* cx, inode* dip, const char* name, uint32_t namelen, new_inode* want, uint32_t mode,
               inode** out) noexcept nogil:
    """Within the transaction: dinode block, inode in memory, image, entry."""
    cdef sbd* sd = cx.sd
    cdef uint64_t blk = 0
    cdef uint64_t formal = 0
    cdef uint32_t n = 1
    cdef inode* ip = NULL
    cdef int err = rgrp_alloc(cx, dip, &blk, &n, True, &formal)
    if err:
        return err
    err = inode_fresh(sd, blk, &ip)
    if err:
        return err
    ip.no_formal_ino = formal
    ip.generation = formal
    _fill(cx, dip, ip, want, mode)
    err = _first_image(cx, dip, ip, want)
    if err == 0 and want.unnamed:
        err = rgrp_unlink_di(cx, cx.rgd, blk)
    elif err == 0:
        err = dir_add(cx, dip, name, namelen, blk, formal, <uint16_t>((mode & S_IFMT) >> 12))
    if err == 0 and sd.quota_change != NULL:
        sd.quota_change(cx, 1, ip.uid, ip.gid)
    if err:
        inode_put(ip)
        return err
    out[0] = ip
    return 0


cdef int _make(opctx* cx, inode* dip, const char* name, uint32_t namelen, new_inode* want, uint32_t mode,
               inode** out) noexcept nogil:
    cdef sbd* sd = cx.sd
    cdef uint32_t alloc_blocks = 0
    cdef uint32_t log_blocks = 0
    cdef uint32_t got = 0
    cdef int err = 0
    if not want.unnamed:
        err = dir_add_need(cx, dip, name, namelen, &alloc_blocks, &log_blocks)
        if err:
            return err
    if sd.quota_check != NULL:
        err = sd.quota_check(cx, cx.uid, dip.gid if dip.mode & S_ISGID else cx.gid, 1)
        if err == 0 and alloc_blocks:
            err = sd.quota_check(cx, dip.uid, dip.gid, alloc_blocks)
        if err:
            return err
    if (mode & S_IFMT) == S_IFDIR:
        err = inplace_reserve_orlov(cx, dip, 1 + alloc_blocks, 1 + alloc_blocks, &got)
    else:
        err = inplace_reserve(cx, dip, 1 + alloc_blocks, 1 + alloc_blocks, &got)
    if err:
        return err
    err = trans_begin(cx, log_blocks + 3 + rgrp_trans_blocks(cx.rgd, 2 + alloc_blocks), 0)
    if err == 0:
        err = _born(cx, dip, name, namelen, want, mode, out)
        if err:
            sd_assert_failed(sd, b"a create failed after its space was reserved")
        trans_end(cx)
    inplace_release(cx, dip)
    return err


cdef int make_inode(opctx* cx, inode* dip, const char* name, uint32_t namelen, new_inode* want,
                    inode** out) noexcept nogil:
    cdef new_acls acl
    cdef uint32_t mode = want.mode
    cdef new_inode plan = want[0]
    cdef inode* ip = NULL
    cdef int err
    if want.targetlen > cx.sd.bsize - sizeof(gfs2_dinode):
        return -ENAMETOOLONG
    err = _mode_and_acls(cx, dip, &mode, &acl)
    if err:
        return err
    plan.unnamed = want.unnamed or acl.access_len or acl.dflt_len
    err = _make(cx, dip, name, namelen, &plan, mode, &ip)
    if err:
        return err
    # Nobody else can know the inode yet, so the lock is free.
    if pthread_rwlock_trywrlock(&ip.gl.rw) != 0:
        inode_put(ip)
        return sd_assert_failed(cx.sd, b"a new inode is locked")
    if acl.access_len:
        err = xattr_set(cx, ip, b"system.posix_acl_access", 23, acl.access, acl.access_len, 0)
    if err == 0 and acl.dflt_len:
        err = xattr_set(cx, ip, b"system.posix_acl_default", 24, acl.dflt, acl.dflt_len, 0)
    if err == 0 and plan.unnamed and not want.unnamed:
        err = link_inode(cx, dip, name, namelen, ip)
    glock_leave(cx, &ip.gl)
    # On failure the unnamed inode goes back to the caller all the same: he has it deleted.
    out[0] = ip
    return err


cdef int link_inode(opctx* cx, inode* dip, const char* name, uint32_t namelen, inode* ip) noexcept nogil:
    cdef sbd* sd = cx.sd
    cdef uint32_t alloc_blocks = 0
    cdef uint32_t log_blocks = 0
    cdef uint32_t got = 0
    cdef bint relink = ip.nlink == 0
    cdef bint isdir = (ip.mode & S_IFMT) == S_IFDIR
    cdef int err = dir_add_need(cx, dip, name, namelen, &alloc_blocks, &log_blocks)
    if err:
        return err
    if alloc_blocks and sd.quota_check != NULL:
        err = sd.quota_check(cx, dip.uid, dip.gid, alloc_blocks)
        if err:
            return err
    if relink:
        err = rgrp_lock(cx, rgrp_find(sd, ip.no_addr))
        if err:
            return err
    if alloc_blocks:
        err = inplace_reserve(cx, dip, alloc_blocks, alloc_blocks, &got)
    if err == 0:
        err = trans_begin(cx, log_blocks + 2 + (rgrp_trans_blocks(cx.rgd, alloc_blocks) if alloc_blocks else 0)
                          + (rgrp_trans_blocks(rgrp_find(sd, ip.no_addr), 1) if relink else 0), 0)
        if err == 0:
            err = dir_add(cx, dip, name, namelen, ip.no_addr, ip.no_formal_ino, <uint16_t>((ip.mode & S_IFMT) >> 12))
            if err == 0 and relink:
                err = rgrp_relink_di(cx, rgrp_find(sd, ip.no_addr), ip.no_addr)
                ip.iflags &= ~<uint32_t>I_UNLINKED
                ip.nlink = 1 if isdir else 0
            if err == 0:
                ip.nlink += 1
                inode_touch(cx, ip, False, True)
                err = inode_dirty(cx, ip)
            trans_end(cx)
        if alloc_blocks:
            inplace_release(cx, dip)
    if relink:
        rgrp_unlock(cx, rgrp_find(sd, ip.no_addr))
    return err
