"""How long requests for glocks take and how often they come: what /run/gfs2/TABLE/glstats shows. gls.lock is held."""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from gfs2py.engine._incore cimport gls, glx
from gfs2py.fuse._stat cimport stat_now

cdef enum:
    TRIES = 3                       # LM_TRY, LM_TRY_1CB


cdef inline void smooth(int64_t* s, int64_t sample) noexcept nogil:
    """Mean and variance of a time, the newest counting an eighth and a quarter. Source: gfs2_update_stats."""
    cdef int64_t delta = sample - s[0]
    s[0] += delta >> 3
    s[1] += ((delta if delta > 0 else -delta) - s[1]) >> 2


cdef inline void gls_asked(gls* gs, glx* x) noexcept nogil:
    """A request upwards begins (gls.lock held)."""
    cdef uint64_t now = stat_now()
    cdef int64_t* all = gs.stats[x.gl.type - 1]
    if x.asked_ns:
        smooth(&x.stats[4], <int64_t>(now - x.asked_ns))
        smooth(&all[4], <int64_t>(now - x.asked_ns))
    x.asked_ns = now
    x.stats[6] += 1
    all[6] += 1
    gs.n_requests += 1


cdef inline void gls_answered(gls* gs, glx* x) noexcept nogil:
    """... and ends."""
    cdef int64_t took = <int64_t>(stat_now() - x.asked_ns)
    cdef int at = 0 if x.req_flags & <uint32_t>TRIES else 2
    smooth(&x.stats[at], took)
    smooth(&gs.stats[x.gl.type - 1][at], took)
