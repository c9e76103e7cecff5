"""The periodic work of a mount: statfs and quota folding, reclaiming what a crash left unlinked."""
from gfs2py.engine._fs cimport gfs2_fs
from gfs2py.engine._incore cimport opctx, rgrpd
from gfs2py.engine._sync cimport pthread_cond_t, pthread_mutex_t, pthread_t
from libc.stdint cimport uint32_t, uint64_t

cdef enum:                          # quotad_ask
    QUOTAD_STATFS = 0, QUOTAD_QUOTA = 1

cdef struct quotad:
    gfs2_fs* fs
    pthread_mutex_t lock
    pthread_cond_t cond
    pthread_t thread
    bint thread_on, stop
    bint scan_unlinked              # once, at the start
    uint32_t statfs_s, quota_s      # seconds between syncs
    uint64_t asked, served          # syncs by request: tickets given, and until which they are done
    bint want[2]                    # QUOTAD_*

cdef int quotad_start(quotad* q, gfs2_fs* fs) noexcept nogil
cdef void quotad_stop(quotad* q) noexcept nogil
# A sync by request: its ticket, 0 where no thread runs. quotad_done: it has been made, or never will be.
cdef uint64_t quotad_ask(quotad* q, int what) noexcept nogil
cdef bint quotad_done(quotad* q, uint64_t ticket) noexcept nogil
# No group is locked, no transaction open; the caller may hold the glock of an inode that is in use.
cdef void quotad_reclaim(quotad* q, opctx* cx, rgrpd* rgd) noexcept nogil
