"""Errors of a mount and small helpers that every part of the engine needs."""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from gfs2py.engine._incore cimport opctx, sbd

cdef enum:
    LOG_ERR_ = 3, LOG_WARN_ = 4, LOG_INFO_ = 6, LOG_DEBUG_ = 7

# Damage found: the mount withdraws (every later operation gets -EIO, nothing more is written) and the log says
# block, structure, field, wanted and found. Always returns -EIO.
cdef int sd_corrupt(sbd* sd, uint64_t block, const char* structure, const char* field, uint64_t wanted,
                    uint64_t found) noexcept nogil
# The device failed where we cannot go on (log or metadata write, or anything written with -EBADE: a reservation of
# others keeps this node out, it has been fenced): withdraws. Returns -EIO.
cdef int sd_io_error(sbd* sd, const char* what, uint64_t block, int err) noexcept nogil
# Our own broken invariant: withdraws and says which. Returns -EIO.
cdef int sd_assert_failed(sbd* sd, const char* what) noexcept nogil
cdef void sd_message(sbd* sd, int level, const char* text) noexcept nogil
# Prepares an operation context: who and now (CLOCK_REALTIME unless the caller sets another time afterwards).
cdef void ctx_init(opctx* cx, sbd* sd, uint32_t uid, uint32_t gid) noexcept nogil
cdef int sd_set_geometry(sbd* sd, uint32_t bsize) noexcept nogil
cdef inline bint sd_dead(sbd* sd) noexcept nogil:
    return sd.withdrawn != 0
