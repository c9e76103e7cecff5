"""What has to happen before a glock goes down, type by type: nothing may stay in memory that is true only under it.

inode, to SH: its dirty data in place, what its changes were committed, and their blocks in place.
inode, to UN: as well, no copy of its blocks is left in the live part of our journal (a replay of ours would undo what
another node changes from now on), and everything read from them is forgotten. Buffers are not looked for: they carry
the epoch in which they were read, and buf_read compares it with the epoch of the glock's next grant.
group: committed and in place, none of it live in the journal; reservations are given up; bitmaps and header forgotten.
"""
from libc.stdint cimport int32_t, uint32_t
from gfs2py.engine._data cimport data_writeback
from gfs2py.engine._flock cimport flock_let_go
from gfs2py.engine._glock cimport (GLX_BUSY, GLX_REGISTERING, GLX_UNREG, LM_TRY_1CB, PLANT_KEEP_BUFFERS,
                                   PLANT_KEEP_VALID, PLANT_NO_DATA, PLANT_NO_FLUSH, PLANT_NO_TAIL, glock_settled, gls,
                                   glx)
from gfs2py.engine._glstats cimport gls_asked
from gfs2py.engine._incore cimport (I_NOXATTR, I_UNLINKED, LM_ST_EXCLUSIVE, LM_ST_SHARED, LM_ST_UNLOCKED,
                                    LM_TYPE_INODE, LM_TYPE_FLOCK, LM_TYPE_IOPEN, LM_TYPE_RGRP, inode, opctx, rgrpd,
                                    sbd)
from gfs2py.engine._inode cimport icache_drop, inode_get, inode_let_go, inode_put
from gfs2py.engine._iopen cimport iopen_forgotten, iopen_hold, iopen_let_go
from gfs2py.engine._retire cimport log_retire
from gfs2py.engine._rgrp_alloc cimport rs_drop, rs_drop_all
from gfs2py.engine._rgrp_core cimport rgrp_forget
from gfs2py.engine._sbd cimport ctx_init, sd_assert_failed, sd_dead
from gfs2py.engine._sync cimport dl_del, gl_atomic_store64, pthread_mutex_lock, pthread_mutex_unlock

cdef extern from "<errno.h>" nogil:
    int EIO


cdef int _retire(glx* x, bint forget) noexcept nogil:
    cdef int err
    if x.sd.gls.planted == PLANT_NO_FLUSH:
        return 0
    err = log_retire(x.sd, x.dirty_seq, forget and x.sd.gls.planted != PLANT_NO_TAIL)
    if err == 0 and forget:
        gl_atomic_store64(&x.dirty_seq, 0)
    return err


cdef void _plant_no_data(sbd* sd, inode* ip) noexcept nogil:
    """For a test: the commit does not write its data either."""
    cdef bint was
    pthread_mutex_lock(&sd.log.lock)
    was = ip.ordered_on
    dl_del(&ip.ordered)
    ip.ordered_on = False
    pthread_mutex_unlock(&sd.log.lock)
    if was:
        sd.inode_put(ip)


cdef int _inode_go(glx* x, inode* ip, int32_t target) noexcept nogil:
    cdef sbd* sd = x.sd
    cdef opctx cx
    cdef int err
    # An error of the data is its writer's (fsync tells it); other nodes see what is on the disk.
    if x.gl.state == LM_ST_EXCLUSIVE and sd.gls.planted != PLANT_NO_DATA:
        data_writeback(sd, ip)
    if sd.gls.planted == PLANT_NO_DATA and sd.log != NULL:
        _plant_no_data(sd, ip)
    if sd_dead(sd):
        return -EIO
    err = _retire(x, target == LM_ST_UNLOCKED)
    if err or target != LM_ST_UNLOCKED:
        return err
    rs_drop(sd, ip)
    if ip.ndirty and sd.gls.planted == 0:
        return sd_assert_failed(sd, b"an inode is let go that has dirty data")
    if sd.gls.known(sd, ip.no_addr):
        ctx_init(&cx, sd, 0, 0)
        err = iopen_hold(&cx, ip.no_addr)
        if err == 0 and not sd.gls.known(sd, ip.no_addr):
            iopen_forgotten(sd, ip.no_addr)     # the kernel forgot it at this very moment
        if err:
            return err
    if sd.gls.planted != PLANT_KEEP_VALID:
        icache_drop(sd, ip)
        ip.iflags &= ~<uint32_t>(I_NOXATTR | I_UNLINKED)
    return 0


cdef int _rgrp_go(glx* x, rgrpd* rgd) noexcept nogil:
    cdef sbd* sd = x.sd
    cdef int err
    if sd_dead(sd):
        return -EIO
    err = _retire(x, True)
    if err:
        return err
    if (rgd.n_freed or rgd.n_freed_c) and sd.gls.planted == 0:
        return sd_assert_failed(sd, b"a group is let go whose frees are not committed")
    rs_drop_all(rgd)
    if sd.gls.planted != PLANT_KEEP_BUFFERS:
        rgrp_forget(sd, rgd)
    return 0


cdef int glop_go(glx* x, int32_t target) noexcept nogil:
    if x.gl.owner == NULL:
        return _retire(x, target == LM_ST_UNLOCKED)
    if x.gl.type == LM_TYPE_IOPEN or x.gl.type == LM_TYPE_FLOCK:
        return 0
    if x.gl.type == LM_TYPE_INODE:
        return _inode_go(x, <inode*>x.gl.owner, target)
    if x.gl.type == LM_TYPE_RGRP:
        return _rgrp_go(x, <rgrpd*>x.gl.owner)
    return _retire(x, target == LM_ST_UNLOCKED)


cdef void _ask_once(gls* gs, glx* x) noexcept nogil:
    """For SH if it can be had at once, without waiting for the answer: its holder learns that we are here."""
    pthread_mutex_lock(&gs.lock)
    if (x.gl.state != LM_ST_UNLOCKED or x.req >= 0 or x.demote >= 0 or gs.stop
            or x.flags & (GLX_BUSY | GLX_REGISTERING | GLX_UNREG)):
        pthread_mutex_unlock(&gs.lock)      # it is here, or will be, or is on its way to others
        return
    x.req = LM_ST_SHARED
    x.req_flags = LM_TRY_1CB
    gls_asked(gs, x)
    pthread_mutex_unlock(&gs.lock)
    gs.ops.lock(gs.lm, x, LM_ST_UNLOCKED, LM_ST_SHARED, LM_TRY_1CB)


cdef void glop_poke(glx* x) noexcept nogil:
    cdef inode* ip = NULL
    if inode_get(x.sd, x.gl.number, &ip) == 0:
        _ask_once(x.sd.gls, ip.gl.x)
        inode_put(ip)


cdef void glop_gone(glx* x) noexcept nogil:
    if x.gl.type == LM_TYPE_INODE:
        inode_let_go(<inode*>x.gl.owner)
    elif x.gl.type == LM_TYPE_IOPEN and x.sd.gls.iopens != NULL:
        iopen_let_go(x)
    elif x.gl.type == LM_TYPE_FLOCK and x.sd.gls.flocks != NULL:
        flock_let_go(x)
    else:
        glock_settled(x)
