"""Freeing blocks, and the wait until freed blocks may be used again.

A block freed by a transaction must keep its content until that transaction is durable: after a crash before that, the
file still owns it. So a free changes the bitmap at once but allocation looks at a *clone*, a copy of the bitmap block
made just before the first free in it, in which uncommitted frees still look used. Frees are remembered as ranges:

    freed  --rgrps_at_switch-->  freed_c  --rgrps_after_commit-->  cleared in the clone, discarded, allocatable

By the time a commit is durable the next transaction has freed more; only freed_c is released, the clones stay until
both lists are empty. Allocation changes bitmap and clone alike.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy
from gfs2py.block._device cimport DEV_HAS_DISCARD
from gfs2py.engine._bitmap cimport bm_set_run
from gfs2py.engine._incore cimport SDF_DISCARD, SDF_RDONLY, blkrange, inode, opctx, rgrpd, sbd
from gfs2py.engine._log cimport trans_begin, trans_end, trans_free_meta
from gfs2py.engine._rgrp_core cimport (rg_bitmap, rg_header_out, rg_next, rg_place, rg_run_end, rg_set, rg_state,
                                       rgrp_lock, rgrp_unlock)
from gfs2py.engine._sbd cimport LOG_WARN_, sd_assert_failed, sd_corrupt, sd_io_error, sd_message
from gfs2py.engine._sync cimport (dl_add_tail, dl_del, dl_empty, pthread_mutex_lock, pthread_mutex_unlock)
from gfs2py.ondisk._ondisk cimport (GFS2_BLKST_DINODE, GFS2_BLKST_FREE, GFS2_BLKST_UNLINKED, GFS2_BLKST_USED,
                                    GFS2_DIF_SYSTEM, GFS2_RGF_TRIMMED)

cdef extern from "<errno.h>" nogil:
    int EINVAL, ENOMEM, EOPNOTSUPP, EROFS

cdef enum:
    KEEP_RANGES = 1024              # a list longer than this is given back after the commit


# ---- remembering frees ----------------------------------------------------------------------------------------------

cdef int _remember(rgrpd* rgd, uint32_t pos, uint32_t n) noexcept nogil:
    """Adds a range to rgd.freed (mx held), joining the last one where they touch."""
    cdef blkrange* last
    cdef blkrange* more
    if rgd.n_freed:
        last = &rgd.freed[rgd.n_freed - 1]
        if last.start + last.len == pos:
            last.len += n
            return 0
        if pos + n == last.start:
            last.start = pos
            last.len += n
            return 0
    if rgd.n_freed == rgd.cap_freed:
        more = <blkrange*>realloc(rgd.freed, (2 * <uint64_t>rgd.cap_freed + 16) * sizeof(blkrange))
        if more == NULL:
            return -ENOMEM
        rgd.freed = more
        rgd.cap_freed = 2 * rgd.cap_freed + 16
    rgd.freed[rgd.n_freed].start = pos
    rgd.freed[rgd.n_freed].len = n
    rgd.n_freed += 1
    return 0


cdef int _clone(rgrpd* rgd, uint32_t pos, uint32_t n) noexcept nogil:
    """Makes the clones of every bitmap block that [pos, pos+n) touches (mx held)."""
    cdef uint32_t i, bit, stop
    cdef uint32_t end = pos + n
    cdef uint8_t* copy
    while pos < end:
        i = rg_place(rgd, pos, &bit, &stop)
        if rgd.clones[i] == NULL:
            copy = <uint8_t*>malloc(rgd.sd.bsize)
            if copy == NULL:
                return -ENOMEM
            memcpy(copy, rgd.bits[i].data, rgd.sd.bsize)
            rgd.clones[i] = copy
        pos = stop
    return 0


cdef int _free_range(opctx* cx, rgrpd* rgd, uint32_t pos, uint32_t n) noexcept nogil:
    """Sets a checked range free in the bitmap and keeps it from allocation until the commit."""
    cdef int err
    cdef bint first
    pthread_mutex_lock(&rgd.mx)
    first = rgd.n_freed == 0
    err = _clone(rgd, pos, n)
    if err == 0:
        err = _remember(rgd, pos, n)
    pthread_mutex_unlock(&rgd.mx)
    if err:
        return sd_io_error(cx.sd, b"remembering freed blocks", rgd.addr, err)
    if first:
        pthread_mutex_lock(&cx.sd.rg_lock)
        dl_add_tail(&cx.sd.clone_list, &rgd.clone_link)
        pthread_mutex_unlock(&cx.sd.rg_lock)
    rg_set(cx, rgd, pos, n, GFS2_BLKST_FREE, 0)
    rgd.free += n
    rgd.flags &= ~<uint32_t>GFS2_RGF_TRIMMED
    return 0


cdef int _check_held(opctx* cx, rgrpd* rgd, uint64_t blk, uint32_t n) noexcept nogil:
    if rgd.owner != cx or not cx.tr_on:
        return sd_assert_failed(cx.sd, b"a resource group is changed without its lock or a transaction")
    if blk < rgd.data0 or n > rgd.data or blk - rgd.data0 > rgd.data - n:
        return sd_corrupt(cx.sd, rgd.addr, b"rgrp", b"a block beyond its data", rgd.data0, blk)
    return 0


cdef void _account(opctx* cx, inode* ip, int64_t n, int64_t dinodes) noexcept nogil:
    cdef sbd* sd = cx.sd
    pthread_mutex_lock(&sd.st_lock)
    sd.sl_free += n
    sd.sl_dinodes += dinodes
    sd.sl_dirty = 1
    pthread_mutex_unlock(&sd.st_lock)
    if ip != NULL and sd.quota_change != NULL and not ip.diskflags & GFS2_DIF_SYSTEM:
        sd.quota_change(cx, -n, ip.uid, ip.gid)


cdef int rgrp_free(opctx* cx, rgrpd* rgd, inode* ip, uint64_t blk, uint32_t n, bint meta) noexcept nogil:
    cdef uint32_t pos, at
    cdef int err = _check_held(cx, rgd, blk, n)
    if err or n == 0:
        return err
    pos = <uint32_t>(blk - rgd.data0)
    at = rg_run_end(rgd, pos, pos + n, GFS2_BLKST_USED, 0)
    if at != pos + n:
        return sd_corrupt(cx.sd, rgd.data0 + at, b"rgrp", b"state of a block being freed", GFS2_BLKST_USED,
                          rg_state(rgd, at))
    err = _free_range(cx, rgd, pos, n)
    if err:
        return err
    rg_header_out(cx, rgd)
    if meta:
        trans_free_meta(cx, blk, n)
    _account(cx, ip, n, 0)
    return 0


cdef int _dinode_state(opctx* cx, rgrpd* rgd, uint64_t blk, uint32_t wanted, uint32_t* pos) noexcept nogil:
    """The checked position of a dinode's block that must be in state `wanted`."""
    cdef int err = _check_held(cx, rgd, blk, 1)
    if err:
        return err
    pos[0] = <uint32_t>(blk - rgd.data0)
    if rg_state(rgd, pos[0]) != wanted:
        return sd_corrupt(cx.sd, blk, b"rgrp", b"state of a dinode's block", wanted, rg_state(rgd, pos[0]))
    return 0


cdef int rgrp_unlink_di(opctx* cx, rgrpd* rgd, uint64_t blk) noexcept nogil:
    cdef uint32_t pos
    cdef int err = _dinode_state(cx, rgd, blk, GFS2_BLKST_DINODE, &pos)
    if err:
        return err
    rg_set(cx, rgd, pos, 1, GFS2_BLKST_UNLINKED, 1)
    rgd.unlinked += 1
    rg_header_out(cx, rgd)
    return 0


cdef int rgrp_relink_di(opctx* cx, rgrpd* rgd, uint64_t blk) noexcept nogil:
    cdef uint32_t pos
    cdef int err = _dinode_state(cx, rgd, blk, GFS2_BLKST_UNLINKED, &pos)
    if err:
        return err
    rg_set(cx, rgd, pos, 1, GFS2_BLKST_DINODE, 1)
    rgd.unlinked -= 1
    rg_header_out(cx, rgd)
    return 0


cdef int rgrp_free_di(opctx* cx, rgrpd* rgd, inode* ip) noexcept nogil:
    cdef uint32_t pos
    cdef int err = _dinode_state(cx, rgd, ip.no_addr, GFS2_BLKST_UNLINKED, &pos)
    if err:
        return err
    if rgd.dinodes == 0:
        return sd_corrupt(cx.sd, rgd.addr, b"rgrp", b"rg_dinodes", 1, 0)
    err = _free_range(cx, rgd, pos, 1)
    if err:
        return err
    rgd.dinodes -= 1
    rgd.unlinked -= 1
    rg_header_out(cx, rgd)
    trans_free_meta(cx, ip.no_addr, 1)
    _account(cx, ip, 1, -1)
    return 0


# ---- what a commit releases -----------------------------------------------------------------------------------------

cdef void rgrps_at_switch(sbd* sd) noexcept nogil:
    """The running transaction's frees become the committing one's; no transaction is open, so none is added now."""
    cdef rgrpd* rgd
    cdef blkrange* spare
    cdef uint32_t cap
    if sd.rgrps == NULL:
        return
    pthread_mutex_lock(&sd.rg_lock)
    while not dl_empty(&sd.clone_list):
        rgd = <rgrpd*>sd.clone_list.next.owner
        dl_del(&rgd.clone_link)
        if rgd.n_freed_c:
            sd_assert_failed(sd, b"two commits at once release blocks")
            break
        pthread_mutex_lock(&rgd.mx)
        spare = rgd.freed_c
        cap = rgd.cap_freed_c
        rgd.freed_c = rgd.freed
        rgd.cap_freed_c = rgd.cap_freed
        rgd.n_freed_c = rgd.n_freed
        rgd.freed = spare
        rgd.cap_freed = cap
        rgd.n_freed = 0
        pthread_mutex_unlock(&rgd.mx)
        dl_add_tail(&sd.clone_committing, &rgd.commit_link)
    pthread_mutex_unlock(&sd.rg_lock)


cdef int _discard(sbd* sd, uint64_t blk, uint64_t n) noexcept nogil:
    """A device that refuses is not asked again during this mount."""
    cdef int err
    if sd.dev.ops.discard == NULL or not sd.dev.flags & DEV_HAS_DISCARD:
        err = -EOPNOTSUPP
    else:
        err = sd.dev.ops.discard(sd.dev, blk << sd.bsize_shift, n << sd.bsize_shift)
    if err and sd.flags & SDF_DISCARD:
        sd.flags &= ~<uint32_t>SDF_DISCARD
        sd_message(sd, LOG_WARN_, b"the device failed a discard request, turning discards off")
    return err


cdef void _release(sbd* sd, rgrpd* rgd) noexcept nogil:
    """Everything in freed_c may be allocated from now on."""
    cdef uint32_t k, i, bit, stop, pos, end
    k = 0
    while k < rgd.n_freed_c and sd.flags & SDF_DISCARD:
        _discard(sd, rgd.data0 + rgd.freed_c[k].start, rgd.freed_c[k].len)
        k += 1
    pthread_mutex_lock(&rgd.mx)
    for k in range(rgd.n_freed_c):
        pos = rgd.freed_c[k].start
        end = pos + rgd.freed_c[k].len
        rgd.free_clone += rgd.freed_c[k].len
        while pos < end:
            i = rg_place(rgd, pos, &bit, &stop)
            stop = min(stop, end)
            bm_set_run(rgd.clones[i] + (24 if i else 128), bit, bit + stop - pos, GFS2_BLKST_FREE)
            pos = stop
    rgd.n_freed_c = 0
    rgd.extfail = 0
    if rgd.cap_freed_c > KEEP_RANGES:
        free(rgd.freed_c)
        rgd.freed_c = NULL
        rgd.cap_freed_c = 0
    if rgd.n_freed == 0:
        for i in range(rgd.length):
            if rgd.clones[i] != NULL:
                free(rgd.clones[i])
                rgd.clones[i] = NULL
    pthread_mutex_unlock(&rgd.mx)


cdef void rgrps_after_commit(sbd* sd) noexcept nogil:
    cdef rgrpd* rgd
    if sd.rgrps == NULL:
        return
    while True:
        rgd = NULL
        pthread_mutex_lock(&sd.rg_lock)
        if not dl_empty(&sd.clone_committing):
            rgd = <rgrpd*>sd.clone_committing.next.owner
            dl_del(&rgd.commit_link)
        pthread_mutex_unlock(&sd.rg_lock)
        if rgd == NULL:
            return
        _release(sd, rgd)


# ---- trimming -------------------------------------------------------------------------------------------------------

cdef int _trim_group(opctx* cx, rgrpd* rgd, uint32_t pos, uint32_t end, uint64_t minlen,
                     uint64_t* trimmed) noexcept nogil:
    """Discards the free runs of the locked group's positions [pos, end); uncommitted frees are left alone."""
    cdef uint32_t at, stop
    cdef int err
    while pos < end:
        pthread_mutex_lock(&rgd.mx)
        at = rg_next(rgd, pos, end, GFS2_BLKST_FREE, 1)
        stop = rg_run_end(rgd, at, end, GFS2_BLKST_FREE, 1)
        pthread_mutex_unlock(&rgd.mx)
        if stop > at and stop - at >= minlen:
            err = _discard(cx.sd, rgd.data0 + at, stop - at)
            if err:
                return err
            trimmed[0] += stop - at
        pos = max(stop, at)
    return 0


cdef int _mark_trimmed(opctx* cx, rgrpd* rgd) noexcept nogil:
    cdef int err = trans_begin(cx, 1, 0)
    if err == 0:
        rgd.flags |= <uint32_t>GFS2_RGF_TRIMMED
        rg_header_out(cx, rgd)
        trans_end(cx)
    return err


cdef int rgrp_fitrim(opctx* cx, uint64_t start, uint64_t end, uint64_t minlen, uint64_t* trimmed) noexcept nogil:
    cdef sbd* sd = cx.sd
    cdef rgrpd* rgd
    cdef uint32_t i, lo, hi
    cdef bint whole
    cdef int err = 0
    trimmed[0] = 0
    if sd.flags & SDF_RDONLY:
        return -EROFS
    if sd.dev.ops.discard == NULL or not sd.dev.flags & DEV_HAS_DISCARD:
        return -EOPNOTSUPP
    if end <= start or start >= sd.fs_blocks:
        return -EINVAL
    for i in range(sd.n_rgrps):
        rgd = &sd.rgrps[i]
        if rgd.data0 + rgd.data <= start or rgd.data0 >= end:
            continue
        lo = <uint32_t>(start - rgd.data0) if start > rgd.data0 else 0
        hi = <uint32_t>min(end - rgd.data0, <uint64_t>rgd.data)
        err = rgrp_lock(cx, rgd)
        if err:
            return err
        if not rgd.flags & GFS2_RGF_TRIMMED:
            err = _trim_group(cx, rgd, lo, hi, minlen, trimmed)
            # The mark means that nothing is left to trim, so only a whole pass without exceptions earns it.
            whole = lo == 0 and hi == rgd.data and minlen <= 1 and rgd.free_clone == rgd.free
            if err == 0 and whole:
                err = _mark_trimmed(cx, rgd)
        rgrp_unlock(cx, rgd)
        if err:
            return err
    return 0
