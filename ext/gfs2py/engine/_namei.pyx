"""Names: create, link, unlink, rename. Source of behaviour: fs/gfs2/inode.c.

Operations on several inodes look the names up first, lock everything in one order (by address), and look again: a name
that meant something else by then makes them start over.
"""
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memset
from gfs2py.engine._create cimport link_inode, make_inode
from gfs2py.engine._dir cimport dir_add, dir_add_need, dir_change, dir_del, dir_found, dir_search
from gfs2py.engine._glock cimport glock_enter, glock_keep, glock_leave
from gfs2py.engine._incore cimport (I_UNLINKED, LM_ST_EXCLUSIVE, LM_ST_SHARED, inode, opctx, rgrpd, sbd)
from gfs2py.engine._inode cimport (inode_dirty, inode_get, inode_lock, inode_put, inode_touch, inode_unlock,
                                   inodes_lock, inodes_unlock)
from gfs2py.engine._log cimport trans_begin, trans_end
from gfs2py.engine._observe cimport ob_mutex
from gfs2py.engine._rgrp cimport (inplace_release, inplace_reserve, rgrp_find, rgrp_lock, rgrp_trans_blocks,
                                  rgrp_unlink_di, rgrp_unlock)
from gfs2py.engine._sbd cimport sd_assert_failed, sd_corrupt
from gfs2py.engine._sync cimport pthread_mutex_unlock
from gfs2py.fuse._ops cimport OP_PARK
from gfs2py.fuse._stat cimport WAIT_RENAME
from gfs2py.ondisk._ondisk cimport GFS2_DIF_APPENDONLY, GFS2_DIF_IMMUTABLE, GFS2_FNAMESIZE

cdef extern from "<errno.h>" nogil:
    int EBUSY, EEXIST, EINVAL, EISDIR, ELOOP, EMLINK, ENAMETOOLONG, ENOENT, ENOTDIR, ENOTEMPTY, EPERM, ESTALE, EIO
cdef extern from "<sys/stat.h>" nogil:
    uint32_t S_IFMT, S_IFDIR
cdef extern from *:
    """
    #define GL_RENAME_NOREPLACE 1
    #define GL_RENAME_EXCHANGE 2
    """
    uint32_t GL_RENAME_NOREPLACE, GL_RENAME_EXCHANGE

cdef enum:
    TRIES = 100                     # a name that changes this often under us: somebody else's loop
    MAX_DEPTH = 100000              # directories between one and the root
    NLINK_MAX = 0x7fffffff
    NEED_SHAPE = 1                  # _try_move: directories change their parents, which one node at a time may do


cdef inline bint is_dir(const inode* ip) noexcept nogil:
    return (ip.mode & S_IFMT) == S_IFDIR


cdef int _check_name(const char* name, uint32_t namelen) noexcept nogil:
    if namelen == 0:
        return -ENOENT
    if namelen > GFS2_FNAMESIZE:
        return -ENAMETOOLONG
    if name[0] == c'.' and (namelen == 1 or (namelen == 2 and name[1] == c'.')):
        return -EINVAL
    return 0


cdef int _may_change_dir(const inode* dip) noexcept nogil:
    """A directory in which entries are to be made."""
    if not is_dir(dip):
        return -ENOTDIR
    if dip.nlink == 0:
        return -ENOENT
    return -EPERM if dip.diskflags & GFS2_DIF_IMMUTABLE else 0


cdef int _may_remove(const inode* dip, const inode* ip) noexcept nogil:
    cdef int err = _may_change_dir(dip)
    if err:
        return err
    if (dip.diskflags | ip.diskflags) & GFS2_DIF_APPENDONLY or ip.diskflags & GFS2_DIF_IMMUTABLE:
        return -EPERM
    return 0


cdef int _find(opctx* cx, inode* dip, const char* name, uint32_t namelen, dir_found* found) noexcept nogil:
    """Looks up under a shared lock that is dropped again."""
    cdef int err = inode_lock(cx, dip, LM_ST_SHARED)
    if err:
        return err
    err = dir_search(cx, dip, name, namelen, found) if is_dir(dip) else -ENOTDIR
    inode_unlock(cx, dip)
    return err


cdef int fs_lookup(opctx* cx, inode* dip, const char* name, uint32_t namelen, inode** out,
                   uint64_t* formal) noexcept nogil:
    cdef dir_found found
    cdef int err
    if namelen > GFS2_FNAMESIZE:
        return -ENAMETOOLONG
    err = _find(cx, dip, name, namelen, &found)
    if err:
        return err
    formal[0] = found.no_formal_ino
    return inode_get(cx.sd, found.no_addr, out)


cdef int fs_create(opctx* cx, inode* dip, const char* name, uint32_t namelen, new_inode* want, inode** out,
                   made_fn made, void* arg) noexcept nogil:
    cdef dir_found found
    cdef int err = 0 if want.unnamed else _check_name(name, namelen)
    out[0] = NULL
    if err:
        return err
    err = inode_lock(cx, dip, LM_ST_EXCLUSIVE)
    if err:
        return err
    err = _may_change_dir(dip)
    if err == 0 and not want.unnamed:
        err = dir_search(cx, dip, name, namelen, &found)
        if err == 0:
            err = -EEXIST
        elif err == -ENOENT:
            err = 0
    if err == 0 and (want.mode & S_IFMT) == S_IFDIR and dip.nlink >= NLINK_MAX:
        err = -EMLINK
    if err == 0:
        err = make_inode(cx, dip, name, namelen, want, out)
    if err == 0:
        made(arg, out[0])
    inode_unlock(cx, dip)
    return err


# ---------------------------------------------------------------------------------------------- unlink

cdef int _drop_link(opctx* cx, inode* ip, bint rmdir, uint64_t* gone) noexcept nogil:
    """Within the transaction: one link less; at the last one the dinode becomes UNLINKED (its group is locked)."""
    cdef int err = 0
    if rmdir:
        ip.nlink = 0
    elif ip.nlink == 0:
        return sd_corrupt(cx.sd, ip.no_addr, b"dinode", b"di_nlink", 1, 0)
    else:
        ip.nlink -= 1
    inode_touch(cx, ip, False, True)
    if ip.nlink == 0:
        err = rgrp_unlink_di(cx, rgrp_find(cx.sd, ip.no_addr), ip.no_addr)
        ip.iflags |= I_UNLINKED
        gone[0] = ip.no_addr
    if err == 0:
        err = inode_dirty(cx, ip)
    return err


cdef int _unlink_locked(opctx* cx, inode* dip, const char* name, uint32_t namelen, inode* ip, bint rmdir,
                        uint64_t* gone) noexcept nogil:
    cdef rgrpd* rgd = rgrp_find(cx.sd, ip.no_addr)
    cdef bint last = rmdir or ip.nlink == 1
    cdef int err = _may_remove(dip, ip)
    if err:
        return err
    if rmdir:
        if not is_dir(ip):
            return -ENOTDIR
        if ip.entries > 2:
            return -ENOTEMPTY
    elif is_dir(ip):
        return -EISDIR
    if rgd == NULL:
        return sd_corrupt(cx.sd, dip.no_addr, b"directory entry", b"de_inum.no_addr", 0, ip.no_addr)
    if last:
        err = rgrp_lock(cx, rgd)
        if err:
            return err
    err = trans_begin(cx, 5 + (rgrp_trans_blocks(rgd, 1) if last else 0), 0)
    if err == 0:
        err = dir_del(cx, dip, name, namelen)
        if err == 0:
            err = _drop_link(cx, ip, rmdir, gone)
        trans_end(cx)
    if last:
        rgrp_unlock(cx, rgd)
    return err


cdef int fs_unlink(opctx* cx, inode* dip, const char* name, uint32_t namelen, bint rmdir,
                   uint64_t* gone) noexcept nogil:
    cdef dir_found found
    cdef dir_found again
    cdef inode* both[2]
    cdef inode* ip = NULL
    cdef int tries
    cdef int err = _check_name(name, namelen)
    gone[0] = 0
    if err:
        return err
    for tries in range(TRIES):
        err = _find(cx, dip, name, namelen, &found)
        if err == 0:
            err = inode_get(cx.sd, found.no_addr, &ip)
        if err:
            return err
        both[0] = dip
        both[1] = ip
        err = inodes_lock(cx, both, 2)
        if err:
            inode_put(ip)
            if err == -ESTALE and tries < TRIES - 1:
                continue
            return err
        err = dir_search(cx, dip, name, namelen, &again)
        if err == 0 and again.no_addr != found.no_addr:
            err = -EBUSY
        if err == 0:
            err = _unlink_locked(cx, dip, name, namelen, ip, rmdir, gone)
            inodes_unlock(cx, both, 2)
            inode_put(ip)
            return err
        inodes_unlock(cx, both, 2)
        inode_put(ip)
        if err != -EBUSY:
            return err
    return -EBUSY


cdef int fs_link(opctx* cx, inode* ip, inode* dip, const char* name, uint32_t namelen, made_fn made,
                 void* arg) noexcept nogil:
    cdef dir_found found
    cdef inode* both[2]
    cdef int err = _check_name(name, namelen)
    if err:
        return err
    both[0] = ip
    both[1] = dip
    err = inodes_lock(cx, both, 2)
    if err:
        return err
    err = _may_change_dir(dip)
    if err == 0 and is_dir(ip):
        err = -EPERM
    if err == 0 and ip.diskflags & (GFS2_DIF_APPENDONLY | GFS2_DIF_IMMUTABLE):
        err = -EPERM
    if err == 0 and ip.nlink >= NLINK_MAX:
        err = -EMLINK
    if err == 0:
        err = dir_search(cx, dip, name, namelen, &found)
        if err == 0:
            err = -EEXIST
        elif err == -ENOENT:
            err = link_inode(cx, dip, name, namelen, ip)
            if err == 0:
                made(arg, ip)
    inodes_unlock(cx, both, 2)
    return err


# ---------------------------------------------------------------------------------------------- rename

cdef struct move:                   # one rename, its inodes referenced
    inode* odip
    inode* ndip
    inode* ip
    inode* nip                      # NULL: the new name is free
    const char* oname
    const char* nname
    uint32_t onamelen, nnamelen, flags
    bint ip_dir, nip_dir            # by their entries' types
    bint shape                      # the cluster's rename lock is held


cdef int _is_below(opctx* cx, inode* dip, uint64_t addr) noexcept nogil:
    """1 when directory dip is addr or lies below it, 0 if not; walks up by '..'. The rename mutex is held."""
    cdef dir_found up
    cdef inode* at = dip
    cdef inode* nxt = NULL
    cdef int depth, err
    for depth in range(MAX_DEPTH):
        if at.no_addr == addr:
            err = 1
            break
        if at.no_addr == cx.sd.root_addr:
            err = 0
            break
        err = _find(cx, at, b"..", 2, &up)
        if err == 0:
            err = inode_get(cx.sd, up.no_addr, &nxt)
        if err:
            break
        if at != dip:
            inode_put(at)
        at = nxt
    else:
        err = -ELOOP
    if at != dip:
        inode_put(at)
    return err


cdef int _move_checks(opctx* cx, move* m) noexcept nogil:
    """Everything that may say no, with all locks held."""
    cdef bint exchange = (m.flags & GL_RENAME_EXCHANGE) != 0
    cdef int err = _may_remove(m.odip, m.ip)
    if err == 0:
        err = _may_change_dir(m.ndip)
    if err == 0 and m.nip != NULL:
        err = _may_remove(m.ndip, m.nip)
        if err == 0 and not exchange:
            if is_dir(m.nip) and not is_dir(m.ip):
                err = -EISDIR
            elif is_dir(m.ip) and not is_dir(m.nip):
                err = -ENOTDIR
            elif is_dir(m.nip) and m.nip.entries > 2:
                err = -ENOTEMPTY
    if err == 0 and m.odip != m.ndip and is_dir(m.ip) and not (m.nip != NULL and is_dir(m.nip)):
        if m.ndip.nlink >= NLINK_MAX:
            err = -EMLINK
    return err


cdef int _new_parent(opctx* cx, inode* ip, inode* old, inode* new) noexcept nogil:
    """A directory changed its parent: '..' says so. Link counts of the parents are the directory code's."""
    if not is_dir(ip) or old == new:
        return 0
    return dir_change(cx, ip, b"..", 2, new.no_addr, new.no_formal_ino, 4)


cdef inline uint16_t _dt(const inode* ip) noexcept nogil:
    return <uint16_t>((ip.mode & S_IFMT) >> 12)


cdef int _apply_exchange(opctx* cx, move* m) noexcept nogil:
    cdef int err = dir_change(cx, m.ndip, m.nname, m.nnamelen, m.ip.no_addr, m.ip.no_formal_ino, _dt(m.ip))
    if err == 0:
        err = dir_change(cx, m.odip, m.oname, m.onamelen, m.nip.no_addr, m.nip.no_formal_ino, _dt(m.nip))
    if err == 0:
        err = _new_parent(cx, m.ip, m.odip, m.ndip)
    if err == 0:
        err = _new_parent(cx, m.nip, m.ndip, m.odip)
    inode_touch(cx, m.ip, False, True)
    inode_touch(cx, m.nip, False, True)
    if err == 0:
        err = inode_dirty(cx, m.ip)
    if err == 0:
        err = inode_dirty(cx, m.nip)
    return err


cdef int _apply_move(opctx* cx, move* m, uint64_t* gone) noexcept nogil:
    cdef int err
    if m.nip != NULL:
        err = dir_change(cx, m.ndip, m.nname, m.nnamelen, m.ip.no_addr, m.ip.no_formal_ino, _dt(m.ip))
        if err == 0:
            err = _drop_link(cx, m.nip, is_dir(m.nip), gone)
    else:
        err = dir_add(cx, m.ndip, m.nname, m.nnamelen, m.ip.no_addr, m.ip.no_formal_ino, _dt(m.ip))
    if err == 0:
        err = dir_del(cx, m.odip, m.oname, m.onamelen)
    if err == 0:
        err = _new_parent(cx, m.ip, m.odip, m.ndip)
    inode_touch(cx, m.ip, False, True)
    if err == 0:
        err = inode_dirty(cx, m.ip)
    return err


cdef int _move_locked(opctx* cx, move* m, uint64_t* gone) noexcept nogil:
    cdef sbd* sd = cx.sd
    cdef bint exchange = (m.flags & GL_RENAME_EXCHANGE) != 0
    cdef bint last = m.nip != NULL and not exchange and (is_dir(m.nip) or m.nip.nlink == 1)
    cdef rgrpd* rgd = NULL
    cdef uint32_t alloc_blocks = 0
    cdef uint32_t log_blocks = 2
    cdef uint32_t got = 0
    cdef int err = _move_checks(cx, m)
    if err == 0 and m.nip == NULL:
        err = dir_add_need(cx, m.ndip, m.nname, m.nnamelen, &alloc_blocks, &log_blocks)
        if err == 0 and alloc_blocks and sd.quota_check != NULL:
            err = sd.quota_check(cx, m.ndip.uid, m.ndip.gid, alloc_blocks)
    if err:
        return err
    if last:
        rgd = rgrp_find(sd, m.nip.no_addr)
        if rgd == NULL:
            return sd_corrupt(sd, m.ndip.no_addr, b"directory entry", b"de_inum.no_addr", 0, m.nip.no_addr)
        err = rgrp_lock(cx, rgd)
        if err:
            return err
    if alloc_blocks:
        err = inplace_reserve(cx, m.ndip, alloc_blocks, alloc_blocks, &got)
    if err == 0:
        err = trans_begin(cx, log_blocks + 10 + (rgrp_trans_blocks(rgd, 1) if last else 0)
                          + (rgrp_trans_blocks(cx.rgd, alloc_blocks) if alloc_blocks else 0), 0)
        if err == 0:
            err = _apply_exchange(cx, m) if exchange else _apply_move(cx, m, gone)
            if err:
                sd_assert_failed(sd, b"a rename failed after its checks")
            trans_end(cx)
        if alloc_blocks:
            inplace_release(cx, m.ndip)
    if last:
        rgrp_unlock(cx, rgd)
    return err


cdef int _same_names(opctx* cx, move* m) noexcept nogil:
    """After locking: 0 when both names still mean what they meant, else -EBUSY."""
    cdef dir_found f
    cdef int err = dir_search(cx, m.odip, m.oname, m.onamelen, &f)
    if err == -ENOENT or (err == 0 and f.no_addr != m.ip.no_addr):
        return -EBUSY
    if err:
        return err
    err = dir_search(cx, m.ndip, m.nname, m.nnamelen, &f)
    if err == -ENOENT:
        return 0 if m.nip == NULL else -EBUSY
    if err:
        return err
    return 0 if m.nip != NULL and f.no_addr == m.nip.no_addr else -EBUSY


cdef int _gather(opctx* cx, move* m) noexcept nogil:
    """Looks both names up and takes references."""
    cdef dir_found f
    cdef int err = _find(cx, m.odip, m.oname, m.onamelen, &f)
    m.ip = NULL
    m.nip = NULL
    if err == 0:
        m.ip_dir = f.dtype == 4
        err = inode_get(cx.sd, f.no_addr, &m.ip)
    if err:
        return err
    m.nip_dir = False
    err = _find(cx, m.ndip, m.nname, m.nnamelen, &f)
    if err == 0:
        if m.flags & GL_RENAME_NOREPLACE:
            return -EEXIST
        m.nip_dir = f.dtype == 4
        err = inode_get(cx.sd, f.no_addr, &m.nip)
    elif err == -ENOENT:
        err = -ENOENT if m.flags & GL_RENAME_EXCHANGE else 0
    return err


cdef int _try_move(opctx* cx, move* m, uint64_t* gone) noexcept nogil:
    """One attempt; -EBUSY: the names changed meanwhile."""
    cdef inode* all4[4]
    cdef int n = 3
    cdef int err = _gather(cx, m)
    if err == 0 and m.ip == m.nip:
        return 0            # two names of one file: POSIX says nothing happens
    if err == 0 and m.odip != m.ndip and (m.ip_dir or m.nip_dir) and cx.sd.gls != NULL and not m.shape:
        return NEED_SHAPE
    if err == 0 and m.odip != m.ndip:
        # Only a directory can end up below itself; the walk takes locks of its own, so it comes before ours.
        err = _is_below(cx, m.ndip, m.ip.no_addr) if m.ip_dir else 0
        if err == 1:
            err = -EINVAL
        if err == 0 and m.nip_dir:
            err = _is_below(cx, m.odip, m.nip.no_addr)
            if err == 1:
                err = -EINVAL if m.flags & GL_RENAME_EXCHANGE else -ENOTEMPTY
    if err:
        return err
    all4[0] = m.odip
    all4[1] = m.ndip
    all4[2] = m.ip
    if m.nip != NULL:
        all4[3] = m.nip
        n = 4
    err = inodes_lock(cx, all4, n)
    if err:
        return -EBUSY if err == -ESTALE else err
    err = _same_names(cx, m)
    if err == 0:
        err = _move_locked(cx, m, gone)
    inodes_unlock(cx, all4, n)
    return err


cdef int fs_rename(opctx* cx, inode* odip, const char* oname, uint32_t onamelen, inode* ndip, const char* nname,
                   uint32_t nnamelen, uint32_t flags, uint64_t* gone) noexcept nogil:
    cdef move m
    cdef int tries
    cdef int err = _check_name(oname, onamelen)
    gone[0] = 0
    if err == 0:
        err = _check_name(nname, nnamelen)
    if err:
        return err
    if flags & ~(GL_RENAME_NOREPLACE | GL_RENAME_EXCHANGE) or flags == GL_RENAME_NOREPLACE | GL_RENAME_EXCHANGE:
        return -EINVAL
    memset(&m, 0, sizeof(move))
    m.odip = odip
    m.ndip = ndip
    m.oname = oname
    m.onamelen = onamelen
    m.nname = nname
    m.nnamelen = nnamelen
    m.flags = flags
    if odip != ndip:
        ob_mutex(&cx.sd.ob, &cx.sd.rename_lock, WAIT_RENAME, 0)
    for tries in range(TRIES):
        err = _try_move(cx, &m, gone)
        inode_put(m.ip)
        inode_put(m.nip)
        if err == NEED_SHAPE:
            err = glock_enter(cx, &cx.sd.rename_gl, LM_ST_EXCLUSIVE, cx.gl_flags)
            if err:
                break
            m.shape = True
        elif err != -EBUSY:
            break
    else:
        err = -EBUSY
    if m.shape:
        if err == OP_PARK:
            glock_keep(cx, &cx.sd.rename_gl)
        glock_leave(cx, &cx.sd.rename_gl)
    if odip != ndip:
        pthread_mutex_unlock(&cx.sd.rename_lock)
    return err
