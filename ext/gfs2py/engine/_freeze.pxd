"""Freezing: nothing changes on the disk, all of it is in place, and the journal is empty; see docs/design/withdraw.md.

Every operation that may change something counts itself before it takes its first lock, and is put away while the file
system is frozen, with nothing held: so reads go on. Order of a freeze: no new ones -> those under way end -> nobody may
begin a transaction -> commit, write in place, a header that says "clean".
"""
from libc.stdint cimport int32_t, uint32_t, uint64_t
from gfs2py.engine._incore cimport opctx, sbd
from gfs2py.engine._sync cimport gl_atomic_look32, gl_atomic_note32

cdef enum:                          # freezer.state
    FZ_THAWED = 0
    FZ_FREEZING = 1                 # no new operation begins; those under way go on
    FZ_FROZEN = 2

cdef void fz_init(sbd* sd) noexcept nogil
cdef void fz_destroy(sbd* sd) noexcept nogil

# -- operations
cdef void fz_leave(sbd* sd) noexcept nogil
# Before the first lock of an operation that may change something. True: nothing is frozen; then fz_leave at its end.
cdef inline bint fz_quick(sbd* sd) noexcept nogil:
    gl_atomic_note32(&sd.fz.writers, 1)
    if gl_atomic_look32(&sd.fz.state) == FZ_THAWED:
        return True
    fz_leave(sd)
    return False
# After that said no: 0 (then fz_leave), OP_PARK, -EINTR, -EIO.
cdef int fz_enter(opctx* cx) noexcept nogil
# For the engine's own threads. fz_wait: until it is thawed; False: the mount ends or is dead, and nothing may be done.
# fz_try: False while it is frozen.
cdef bint fz_wait(sbd* sd) noexcept nogil
cdef bint fz_try(sbd* sd) noexcept nogil
cdef inline bint fz_cold(sbd* sd) noexcept nogil:
    """Frozen, or about to be: times of reads are not worth waiting for."""
    return sd.fz.state != FZ_THAWED
# A request that was put away will not be run again.
cdef void fz_forget(sbd* sd, uint64_t unique) noexcept nogil
cdef void fz_attach(sbd* sd, void (*unpark)(void* arg, uint64_t unique) noexcept nogil, void* arg) noexcept nogil

# -- who freezes
# Freezes this mount. 0, -EBUSY (frozen already), -EINTR (fz_thaw came first), -EIO. Sleeps for operations under way.
cdef int fz_freeze(sbd* sd) noexcept nogil
cdef void fz_thaw(sbd* sd) noexcept nogil           # whatever the state is
# The mount ends, or is dead: everybody who waits here goes on. No thaw: what is frozen stays as it is on the disk.
cdef void fz_end(sbd* sd) noexcept nogil
# The same, and no freeze is at work any more. True: it is frozen, and nothing may be written.
cdef bint fz_settle(sbd* sd) noexcept nogil
# Unmounts what is frozen: all is in place, and the journal says "clean" already.
cdef void fz_shutdown(sbd* sd) noexcept nogil
