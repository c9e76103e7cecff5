"""Space and dinode counts without asking every resource group.

The master file `statfs` holds the numbers of the whole file system as of the last folding; each node's own
`statfs_change` holds what it changed since. Both are three numbers in a stuffed dinode. In memory the difference is
counted under st_lock; it reaches the statfs_change block once per commit, in the exclusive moment, so that block and
log header always tell what the transactions before them did.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from posix.time cimport nanosleep, timespec
from gfs2py.engine._cache cimport buf_put
from gfs2py.engine._glock cimport GL_TRY
from gfs2py.engine._incore cimport LM_ST_EXCLUSIVE, LM_ST_SHARED, buf, inode, opctx, sbd
from gfs2py.engine._inode cimport inode_buf, inode_lock, inode_unlock
from gfs2py.engine._log cimport trans_add_meta, trans_begin, trans_end
from gfs2py.engine._rgrp_core cimport rgrp_lock, rgrp_unlock
from gfs2py.engine._sbd cimport sd_corrupt
from gfs2py.engine._sync cimport pthread_mutex_lock, pthread_mutex_unlock
from gfs2py.ondisk._ondisk cimport SIZEOF_DINODE, be64toh, gfs2_statfs_change, htobe64


cdef extern from "<errno.h>" nogil:
    int EAGAIN

cdef enum:
    TRY_NS = 5000000                # between two tries for the master file


cdef inline gfs2_statfs_change* _numbers(buf* b) noexcept nogil:
    return <gfs2_statfs_change*>(b.data + <int>SIZEOF_DINODE)


cdef int _open(opctx* cx, inode* ip, int mode, buf** b) noexcept nogil:
    """Locks the file and holds its dinode, which must carry the three numbers."""
    cdef int err = inode_lock(cx, ip, mode)
    if err:
        return err
    if ip.height != 0 or ip.size < sizeof(gfs2_statfs_change):
        err = sd_corrupt(cx.sd, ip.no_addr, b"dinode", b"di_size of a statfs file", sizeof(gfs2_statfs_change), ip.size)
    if err == 0:
        err = inode_buf(cx, ip, b)
    if err:
        inode_unlock(cx, ip)
    return err


cdef int _open_master(opctx* cx, int mode, buf** b) noexcept nogil:
    """The same for the file of all nodes, by trying until it can be had.

    The replay of a dead node's journal needs this lock. Somebody who waits for it could be granted it meanwhile, would
    not be told before the replay is done, and the replay would wait for him.
    """
    cdef uint32_t flags = cx.gl_flags
    cdef timespec rest
    cdef int err
    rest.tv_sec = 0
    rest.tv_nsec = TRY_NS
    while True:
        cx.gl_flags = flags | GL_TRY
        err = _open(cx, cx.sd.statfs_ip, mode, b)
        cx.gl_flags = flags
        if err != -EAGAIN:
            return err
        nanosleep(&rest, NULL)


cdef void _master_in(sbd* sd, buf* b) noexcept nogil:
    cdef gfs2_statfs_change* sc = _numbers(b)
    pthread_mutex_lock(&sd.st_lock)
    sd.st_total = <int64_t>be64toh(sc.sc_total)
    sd.st_free = <int64_t>be64toh(sc.sc_free)
    sd.st_dinodes = <int64_t>be64toh(sc.sc_dinodes)
    pthread_mutex_unlock(&sd.st_lock)


cdef int statfs_init(opctx* cx) noexcept nogil:
    cdef sbd* sd = cx.sd
    cdef buf* b = NULL
    cdef gfs2_statfs_change* sc
    cdef int err = _open_master(cx, LM_ST_SHARED, &b)
    if err:
        return err
    _master_in(sd, b)
    buf_put(sd, b)
    inode_unlock(cx, sd.statfs_ip)
    if sd.sc_ip == NULL:
        return 0
    err = _open(cx, sd.sc_ip, LM_ST_SHARED, &b)
    if err:
        return err
    sc = _numbers(b)
    pthread_mutex_lock(&sd.st_lock)
    sd.sl_total = <int64_t>be64toh(sc.sc_total)
    sd.sl_free = <int64_t>be64toh(sc.sc_free)
    sd.sl_dinodes = <int64_t>be64toh(sc.sc_dinodes)
    sd.sl_dirty = 0
    pthread_mutex_unlock(&sd.st_lock)
    sd.sc_buf = b
    inode_unlock(cx, sd.sc_ip)
    return 0


cdef void statfs_destroy(sbd* sd) noexcept nogil:
    if sd.sc_buf != NULL:
        buf_put(sd, sd.sc_buf)
        sd.sc_buf = NULL


cdef void _local_out(sbd* sd, opctx* cx) noexcept nogil:
    """The local difference into its block, within a transaction (st_lock held)."""
    cdef gfs2_statfs_change* sc = _numbers(sd.sc_buf)
    trans_add_meta(cx, sd.sc_buf)
    sc.sc_total = htobe64(<uint64_t>sd.sl_total)
    sc.sc_free = htobe64(<uint64_t>sd.sl_free)
    sc.sc_dinodes = htobe64(<uint64_t>sd.sl_dinodes)
    sd.sl_dirty = 0


cdef void statfs_at_switch(sbd* sd, opctx* cx) noexcept nogil:
    if sd.sc_buf == NULL:
        return
    pthread_mutex_lock(&sd.st_lock)
    if sd.sl_dirty:
        _local_out(sd, cx)
    pthread_mutex_unlock(&sd.st_lock)


cdef int statfs_sync(opctx* cx) noexcept nogil:
    cdef sbd* sd = cx.sd
    cdef buf* b = NULL
    cdef gfs2_statfs_change* sc
    cdef int err
    if sd.sc_buf == NULL:
        return 0
    err = _open_master(cx, LM_ST_EXCLUSIVE, &b)
    if err:
        return err
    # Other nodes fold into the same file: what it says now is what counts.
    _master_in(sd, b)
    if sd.sl_total or sd.sl_free or sd.sl_dinodes:
        err = trans_begin(cx, 2, 0)
        if err == 0:
            trans_add_meta(cx, b)
            pthread_mutex_lock(&sd.st_lock)
            sd.st_total += sd.sl_total
            sd.st_free += sd.sl_free
            sd.st_dinodes += sd.sl_dinodes
            sd.sl_total = 0
            sd.sl_free = 0
            sd.sl_dinodes = 0
            sc = _numbers(b)
            sc.sc_total = htobe64(<uint64_t>sd.st_total)
            sc.sc_free = htobe64(<uint64_t>sd.st_free)
            sc.sc_dinodes = htobe64(<uint64_t>sd.st_dinodes)
            _local_out(sd, cx)
            pthread_mutex_unlock(&sd.st_lock)
            trans_end(cx)
    buf_put(sd, b)
    inode_unlock(cx, sd.statfs_ip)
    return err


cdef int statfs_look(opctx* cx) noexcept nogil:
    cdef sbd* sd = cx.sd
    cdef buf* b = NULL
    cdef int err = _open_master(cx, LM_ST_SHARED, &b)
    if err == 0:
        _master_in(sd, b)
        buf_put(sd, b)
        inode_unlock(cx, sd.statfs_ip)
    return err


cdef void statfs_get(sbd* sd, uint64_t* total, uint64_t* free_blocks, uint64_t* dinodes) noexcept nogil:
    cdef int64_t t, f, d
    pthread_mutex_lock(&sd.st_lock)
    t = sd.st_total + sd.sl_total
    f = sd.st_free + sd.sl_free
    d = sd.st_dinodes + sd.sl_dinodes
    pthread_mutex_unlock(&sd.st_lock)
    total[0] = <uint64_t>max(t, <int64_t>0)
    free_blocks[0] = min(<uint64_t>max(f, <int64_t>0), total[0])
    dinodes[0] = <uint64_t>max(d, <int64_t>0)


cdef int statfs_slow(opctx* cx, uint64_t* total, uint64_t* free_blocks, uint64_t* dinodes) noexcept nogil:
    cdef sbd* sd = cx.sd
    cdef uint32_t i
    cdef int err
    total[0] = 0
    free_blocks[0] = 0
    dinodes[0] = 0
    for i in range(sd.n_rgrps):
        err = rgrp_lock(cx, &sd.rgrps[i])
        if err:
            return err
        total[0] += sd.rgrps[i].data
        free_blocks[0] += sd.rgrps[i].free
        dinodes[0] += sd.rgrps[i].dinodes
        rgrp_unlock(cx, &sd.rgrps[i])
    return 0
