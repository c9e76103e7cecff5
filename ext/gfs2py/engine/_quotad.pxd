"""The periodic work of a mount: statfs and quota folding, reclaiming what a crash left unlinked."""
from gfs2py.engine._fs cimport gfs2_fs
from gfs2py.engine._incore cimport opctx, rgrpd
from gfs2py.engine._sync cimport pthread_cond_t, pthread_mutex_t, pthread_t
from libc.stdint cimport uint32_t

cdef struct quotad:
    gfs2_fs* fs
    pthread_mutex_t lock
    pthread_cond_t cond
    pthread_t thread
    bint thread_on, stop
    bint scan_unlinked              # once, at the start
    uint32_t statfs_s, quota_s      # seconds between syncs

cdef int quotad_start(quotad* q, gfs2_fs* fs) noexcept nogil
cdef void quotad_stop(quotad* q) noexcept nogil
# No group is locked, no transaction open; the caller may hold the glock of an inode that is in use.
cdef void quotad_reclaim(quotad* q, opctx* cx, rgrpd* rgd) noexcept nogil
