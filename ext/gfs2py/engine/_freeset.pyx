"""Freeing scattered metadata blocks in one transaction; see _freeset.pxd."""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport qsort

from gfs2py.engine._incore cimport inode, opctx, rgrpd
from gfs2py.engine._rgrp cimport rgrp_find, rgrp_free, rgrp_lock, rgrp_trans_blocks, rgrp_unlock
from gfs2py.engine._sbd cimport sd_corrupt


cdef void freeset_init(freeset* fs) noexcept nogil:
    fs.n = 0
    fs.n_rgds = 0
    fs.n_locked = 0


cdef int freeset_add(opctx* cx, freeset* fs, uint64_t blk, uint64_t owner, const char* field) noexcept nogil:
    cdef rgrpd* rgd = rgrp_find(cx.sd, blk)
    cdef uint32_t i
    cdef uint32_t at = 0
    if rgd == NULL:
        return sd_corrupt(cx.sd, owner, b"block pointer", field, 0, blk)
    while at < fs.n_rgds and fs.rgds[at].addr < rgd.addr:
        at += 1
    if fs.n == FREESET_BLOCKS:
        return 0
    if at == fs.n_rgds or fs.rgds[at] != rgd:
        if fs.n_rgds == FREESET_GROUPS:
            return 0
        i = fs.n_rgds
        while i > at:
            fs.rgds[i] = fs.rgds[i - 1]
            fs.per_rgd[i] = fs.per_rgd[i - 1]
            i -= 1
        fs.rgds[at] = rgd
        fs.per_rgd[at] = 0
        fs.n_rgds += 1
    fs.blks[fs.n] = blk
    fs.n += 1
    fs.per_rgd[at] += 1
    return 1


cdef int freeset_lock(opctx* cx, freeset* fs) noexcept nogil:
    cdef int err
    fs.n_locked = 0
    while fs.n_locked < fs.n_rgds:
        err = rgrp_lock(cx, fs.rgds[fs.n_locked])
        if err:
            freeset_unlock(cx, fs)
            return err
        fs.n_locked += 1
    return 0


cdef void freeset_unlock(opctx* cx, freeset* fs) noexcept nogil:
    while fs.n_locked:
        fs.n_locked -= 1
        rgrp_unlock(cx, fs.rgds[fs.n_locked])


cdef uint32_t freeset_log_blocks(const freeset* fs) noexcept nogil:
    cdef uint32_t i
    cdef uint32_t total = 0
    for i in range(fs.n_rgds):
        total += rgrp_trans_blocks(fs.rgds[i], fs.per_rgd[i])
    return total


cdef int compare_blocks(const void* a, const void* b) noexcept nogil:
    cdef uint64_t x = (<const uint64_t*>a)[0]
    cdef uint64_t y = (<const uint64_t*>b)[0]
    return (x > y) - (x < y)


cdef int freeset_free(opctx* cx, freeset* fs, inode* ip) noexcept nogil:
    cdef uint32_t i = 0
    cdef uint32_t run
    cdef rgrpd* rgd
    cdef int err
    qsort(fs.blks, fs.n, sizeof(uint64_t), compare_blocks)
    while i < fs.n:
        rgd = rgrp_find(cx.sd, fs.blks[i])
        run = 1
        while i + run < fs.n and fs.blks[i + run] == fs.blks[i] + run and fs.blks[i + run] < rgd.data0 + rgd.data:
            run += 1
        err = rgrp_free(cx, rgd, ip, fs.blks[i], run, True)
        if err:
            return err
        i += run
    if ip.blocks < fs.n + 1:
        return sd_corrupt(cx.sd, ip.no_addr, b"dinode", b"di_blocks", fs.n + 1, ip.blocks)
    ip.blocks -= fs.n
    return 0
