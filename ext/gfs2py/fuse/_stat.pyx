"""Latency histograms and wait slots as Python sees them, and each thread's own slot (see _stat.pxd)."""
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

cdef extern from *:
    """
    static __thread gfs2py_wait gfs2py_own_slot;
    static __thread gfs2py_wait *gfs2py_slot;
    static inline gfs2py_wait *gfs2py_slot_get(void) { return gfs2py_slot ? gfs2py_slot : &gfs2py_own_slot; }
    static inline void gfs2py_slot_set(gfs2py_wait *w) { gfs2py_slot = w; }
    """
    fs_wait* gfs2py_slot_get() noexcept nogil
    void gfs2py_slot_set(fs_wait* w) noexcept nogil

# In the order of WAIT_*.
_KINDS = ("", "inode lock", "resource group lock", "transaction switch", "commit of another thread", "log space",
          "device read", "device write", "device flush", "device discard", "block in transfer", "data write-back",
          "rename lock")
assert len(_KINDS) == WAIT_KINDS


cdef fs_wait* wait_slot() noexcept nogil:
    return gfs2py_slot_get()


cdef void wait_adopt(fs_wait* slot) noexcept nogil:
    gfs2py_slot_set(slot)


cdef uint64_t _upper(uint32_t i) noexcept nogil:
    """The smallest number of nanoseconds that is too large for bucket i."""
    cdef uint32_t octave = i // 4
    if octave < 2:
        return <uint64_t>2 << octave
    return <uint64_t>(5 + i % 4) << (octave - 2)


cdef dict hist_dict(const hist* h):
    cdef uint32_t i
    buckets = []
    for i in range(<uint32_t>HIST_BUCKETS):
        if h.buckets[i]:
            buckets.append([_upper(i) - 1, h.buckets[i]])
    return {"count": h.count, "ns": h.ns, "max_ns": h.max_ns, "buckets": buckets}


cdef dict wait_dict(fs_wait* w):
    cdef uint32_t kind = w.kind
    cdef uint64_t what = w.what
    cdef uint64_t since = w.since_ns
    if kind == WAIT_NONE or kind >= WAIT_KINDS or w.kind != kind or w.since_ns != since:
        return None
    return {"kind": _KINDS[kind], "what": what, "ns": max(0, <long long>(stat_now() - since))}


def histogram(values):
    """The histogram of these nanoseconds as a dict (for tests and tools)."""
    cdef hist h
    memset(&h, 0, sizeof(h))
    for value in values:
        hist_bump(&h, value)
    return hist_dict(&h)
