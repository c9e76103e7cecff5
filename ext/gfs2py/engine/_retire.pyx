"""A glock is let go: its transactions are committed, in place, and out of the live part of the journal.

The kernel revokes the blocks instead (fs/gfs2/glops.c gfs2_ail_empty_gl). Here the journal's tail is moved past them:
the same two commits, and nothing to remember about blocks that have long been written in place and dropped from memory.
The price is that older transactions of others have to be in place, too.
"""
from libc.stdint cimport uint64_t
from gfs2py.engine._ail cimport ail_write
from gfs2py.engine._incore cimport jlog, sbd
from gfs2py.engine._log cimport _commit, log_flush
from gfs2py.engine._observe cimport ob_mutex
from gfs2py.engine._sbd cimport sd_dead
from gfs2py.engine._sync cimport gl_atomic_load64, pthread_mutex_unlock
from gfs2py.fuse._stat cimport WAIT_COMMIT
from gfs2py.ondisk._ondisk cimport GFS2_LFC_AIL_EMPTY_GL, GFS2_LFC_INODE_GO_SYNC

cdef extern from "<errno.h>" nogil:
    int EIO


cdef int log_retire(sbd* sd, uint64_t seq, bint forget) noexcept nogil:
    cdef jlog* log = sd.log
    cdef int err = 0
    if seq == 0 or log == NULL or not log.live:
        return 0
    if gl_atomic_load64(&log.committed_seq) < seq:
        err = log_flush(sd, seq, GFS2_LFC_INODE_GO_SYNC)
    if err == 0 and gl_atomic_load64(&log.tail_seq) <= seq:
        err = ail_write(sd, 0, seq)
    while err == 0 and forget and gl_atomic_load64(&log.tail_seq) <= seq:
        # The header's tail is behind all that is in place; buffers that others have changed again move on with it.
        ob_mutex(&sd.ob, &log.commit_lock, WAIT_COMMIT, 0)
        if log.tail_seq <= seq:
            err = _commit(sd, GFS2_LFC_AIL_EMPTY_GL, True, 0)
        pthread_mutex_unlock(&log.commit_lock)
        if err == 0 and log.tail_seq <= seq:
            err = ail_write(sd, 0, seq)
    if err == 0 and sd_dead(sd):
        err = -EIO
    return err
