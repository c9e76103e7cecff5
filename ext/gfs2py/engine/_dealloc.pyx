"""The end of an inode: everything an unlinked one has is freed, then itself.

Each step leaves a consistent file system with the dinode still UNLINKED, so a crash in the middle is taken up by the
next mount's scan. Source of behaviour: fs/gfs2/super.c evict_unlinked_inode.
"""
from libc.stdint cimport uint64_t
from gfs2py.engine._data cimport data_cancel
from gfs2py.engine._dir cimport dir_dealloc_leaves
from gfs2py.engine._incore cimport I_DEAD, LM_ST_EXCLUSIVE, inode, opctx, rgrpd, sbd
from gfs2py.engine._inode cimport inode_get, inode_lock, inode_put, inode_unlock
from gfs2py.engine._log cimport trans_begin, trans_end
from gfs2py.engine._rgrp cimport (rgrp_blk_state, rgrp_find, rgrp_free_di, rgrp_lock, rgrp_trans_blocks, rgrp_unlock,
                                  rs_drop)
from gfs2py.engine._sbd cimport ctx_init
from gfs2py.engine._truncate cimport punch_blocks
from gfs2py.engine._xattr cimport xattr_dealloc
from gfs2py.ondisk._ondisk cimport GFS2_BLKST_UNLINKED, GFS2_DIF_EXHASH


cdef int _free_dinode(opctx* cx, inode* ip) noexcept nogil:
    cdef rgrpd* rgd = rgrp_find(cx.sd, ip.no_addr)
    cdef int err = rgrp_lock(cx, rgd)
    if err:
        return err
    err = trans_begin(cx, rgrp_trans_blocks(rgd, 1) + 1, 1)
    if err == 0:
        err = rgrp_free_di(cx, rgd, ip)
        ip.iflags |= I_DEAD
        trans_end(cx)
    rgrp_unlock(cx, rgd)
    return err


cdef int _dealloc_locked(opctx* cx, inode* ip) noexcept nogil:
    cdef int err = 0
    data_cancel(cx.sd, ip, 0, ~<uint64_t>0)
    rs_drop(cx.sd, ip)
    if ip.diskflags & GFS2_DIF_EXHASH:
        err = dir_dealloc_leaves(cx, ip)
    if err == 0 and ip.eattr:
        err = xattr_dealloc(cx, ip)
    if err == 0 and ip.height:
        err = punch_blocks(cx, ip, 0, ~<uint64_t>0)
    if err == 0:
        err = _free_dinode(cx, ip)
    return err


cdef int fs_dealloc(sbd* sd, uint64_t addr) noexcept nogil:
    cdef opctx cx
    cdef inode* ip = NULL
    cdef int err = inode_get(sd, addr, &ip)
    if err:
        return err
    ctx_init(&cx, sd, 0, 0)
    err = inode_lock(&cx, ip, LM_ST_EXCLUSIVE)
    if err == 0:
        if ip.nlink == 0:
            err = rgrp_blk_state(&cx, addr)
            if err == GFS2_BLKST_UNLINKED:
                err = _dealloc_locked(&cx, ip)
        inode_unlock(&cx, ip)
    inode_put(ip)
    return err if err < 0 else 0
