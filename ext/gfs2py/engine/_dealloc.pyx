"""The end of an inode: everything an unlinked one has is freed, then itself.

Each step leaves a consistent file system with the dinode still UNLINKED, so a crash in the middle is taken up by the
next mount's scan. Source of behaviour: fs/gfs2/super.c evict_unlinked_inode.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport qsort
from gfs2py.engine._dir cimport dir_dealloc_leaves
from gfs2py.engine._incore cimport I_DEAD, LM_ST_EXCLUSIVE, inode, opctx, rgrpd, sbd
from gfs2py.engine._iopen cimport iopen_done, iopen_exclusive
from gfs2py.engine._inode cimport inode_get, inode_lock, inode_put, inode_unlock
from gfs2py.engine._log cimport trans_begin, trans_end
from gfs2py.engine._rgrp cimport (rgrp_blk_state, rgrp_find, rgrp_free_di, rgrp_lock, rgrp_trans_blocks, rgrp_unlock,
                                  rs_drop)
from gfs2py.engine._rgrp_core cimport rgrp_trylock
from gfs2py.engine._sbd cimport ctx_init
from gfs2py.engine._truncate cimport punch_blocks
from gfs2py.engine._xattr cimport xattr_dealloc
from gfs2py.ondisk._ondisk cimport GFS2_BLKST_UNLINKED, GFS2_DIF_EXHASH


cdef enum:
    GROUP = 64                      # dinodes freed in one transaction
    TRIES = 8                       # groups that other nodes take away again and again


cdef int _strip(opctx* cx, inode* ip) noexcept nogil:
    """Everything but the dinode; many transactions of its own. The glock is held EX."""
    cdef int err = 0
    rs_drop(cx.sd, ip)
    if ip.diskflags & GFS2_DIF_EXHASH:
        err = dir_dealloc_leaves(cx, ip)
    if err == 0 and ip.eattr:
        err = xattr_dealloc(cx, ip)
    if err == 0 and ip.height:
        err = punch_blocks(cx, ip, 0, ~<uint64_t>0)
    return err


cdef bint _nobody_has(opctx* cx, uint64_t addr) noexcept nogil:
    """Among nodes: neither our kernel nor another node uses the inode. If another does, it is told, and deletes the
    inode when it is done with it; asked again later all the same, for it may be done at this very moment."""
    cdef sbd* sd = cx.sd
    if sd.gls == NULL:
        return True
    if sd.gls.known(sd, addr):
        return False
    if iopen_exclusive(cx, addr) == 0:
        return True
    sd.delete_again(sd, addr)
    return False


cdef int _state_now(opctx* cx, uint64_t addr) noexcept nogil:
    """The block's state, without waiting for the group; negative: somebody has it."""
    cdef rgrpd* rgd = rgrp_find(cx.sd, addr)
    cdef int state = rgrp_trylock(cx, rgd)
    if state == 0:
        state = rgrp_blk_state(cx, addr)
        rgrp_unlock(cx, rgd)
    return state


cdef inode* _take(opctx* cx, uint64_t addr) noexcept nogil:
    """The inode, referenced, locked EX and stripped, if it is to be deleted; else NULL.

    An address may be queued twice (by its last forget and by a scan). So the bitmap is asked before the block is read
    as a dinode: by now it may be anything. Only this thread frees dinodes of this node, so UNLINKED stays true until
    we change it; but another node may delete the inode before we have its glock. So the bitmap is asked again under
    that glock, and then only by trying: if the group is with a node that has used the block for a new inode, this node
    must first register that one's glock, which would wait for ours.
    """
    cdef inode* ip = NULL
    cdef int tries
    cdef int state = GFS2_BLKST_UNLINKED
    for tries in range(TRIES if cx.sd.gls != NULL else 1):
        if rgrp_blk_state(cx, addr) != GFS2_BLKST_UNLINKED or inode_get(cx.sd, addr, &ip):
            return NULL
        if inode_lock(cx, ip, LM_ST_EXCLUSIVE) == 0:
            if cx.sd.gls != NULL:
                state = _state_now(cx, addr)
            if state == GFS2_BLKST_UNLINKED and ip.nlink == 0 and _nobody_has(cx, addr):
                if _strip(cx, ip) == 0:
                    return ip
                if cx.sd.gls != NULL:
                    iopen_done(cx, addr)
            inode_unlock(cx, ip)
        inode_put(ip)
        if state >= 0:
            return NULL
    cx.sd.delete_again(cx.sd, addr)
    return NULL


cdef int _free_dinodes(opctx* cx, rgrpd* rgd, inode** ips, uint32_t n) noexcept nogil:
    """Dinodes of one group, in one transaction."""
    cdef uint32_t i
    cdef int err = rgrp_lock(cx, rgd)
    if err:
        return err
    err = trans_begin(cx, rgrp_trans_blocks(rgd, n) + 1, n)
    if err == 0:
        for i in range(n):
            err = rgrp_free_di(cx, rgd, ips[i])
            if err:
                break
            ips[i].iflags |= I_DEAD
        trans_end(cx)
    rgrp_unlock(cx, rgd)
    return err


cdef bint _other_account(opctx* cx, const inode* a, const inode* b) noexcept nogil:
    """A transaction has room for the quota changes of one owner."""
    return cx.sd.quota_change != NULL and (a.uid != b.uid or a.gid != b.gid)


cdef int _by_addr(const void* x, const void* y) noexcept nogil:
    cdef uint64_t a = (<const uint64_t*>x)[0]
    cdef uint64_t b = (<const uint64_t*>y)[0]
    return 0 if a == b else (-1 if a < b else 1)


cdef void fs_dealloc(sbd* sd, uint64_t* addrs, uint32_t n) noexcept nogil:
    cdef opctx cx
    cdef inode* ips[GROUP]
    cdef inode* ip
    cdef rgrpd* rgd = NULL
    cdef rgrpd* its
    cdef uint32_t i, k
    cdef uint32_t m = 0
    ctx_init(&cx, sd, 0, 0)
    qsort(addrs, n, sizeof(uint64_t), _by_addr)
    for i in range(n + 1):
        its = NULL
        ip = NULL
        if i < n and (i == 0 or addrs[i] != addrs[i - 1]):
            # Locks of several inodes are taken by ascending address, as everywhere.
            its = rgrp_find(sd, addrs[i])
            ip = _take(&cx, addrs[i]) if its != NULL else NULL
        if m and (i == n or m == GROUP or (ip != NULL and (its != rgd or _other_account(&cx, ips[0], ip)))):
            _free_dinodes(&cx, rgd, ips, m)
            for k in range(m):
                if sd.gls != NULL:
                    iopen_done(&cx, ips[k].no_addr)
                inode_unlock(&cx, ips[k])
                inode_put(ips[k])
            m = 0
        if ip != NULL:
            rgd = its
            ips[m] = ip
            m += 1
