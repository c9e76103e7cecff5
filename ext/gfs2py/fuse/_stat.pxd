"""What is counted and watched, on both sides of the seam: latency histograms, and what a thread is waiting for.

A histogram has four buckets to each power of two of nanoseconds, so a percentile read from it is at most a quarter too
high. `hist_bump` is for a histogram that one thread writes, `hist_add` for one that many do; both are relaxed: a reader
may see a count without its nanoseconds.

A wait slot says what its thread waits for right now. It is written only where a thread is about to sleep, so it costs
nothing where none does. Waits nest; the innermost is shown.
"""
from libc.stdint cimport uint32_t, uint64_t

cdef extern from *:
    """
    #include <stdint.h>
    #include <time.h>
    enum { GFS2PY_HIST_BUCKETS = 160 };
    typedef struct { uint64_t count, ns, max_ns, buckets[GFS2PY_HIST_BUCKETS]; } gfs2py_hist;
    typedef struct { uint32_t kind; uint32_t pad; uint64_t what, since_ns; } gfs2py_wait;
    static inline uint32_t gfs2py_hist_index(uint64_t ns)
    {
        int l = 63 - __builtin_clzll(ns | 1);
        uint32_t i = l < 2 ? (uint32_t)l * 4 : (uint32_t)l * 4 + (uint32_t)((ns >> (l - 2)) & 3);
        return i < GFS2PY_HIST_BUCKETS ? i : GFS2PY_HIST_BUCKETS - 1;
    }
    static inline void gfs2py_one(uint64_t *p, uint64_t v)
    { __atomic_store_n(p, __atomic_load_n(p, __ATOMIC_RELAXED) + v, __ATOMIC_RELAXED); }
    static inline void gfs2py_hist_bump(gfs2py_hist *h, uint64_t ns)
    {
        gfs2py_one(&h->count, 1);
        gfs2py_one(&h->ns, ns);
        gfs2py_one(&h->buckets[gfs2py_hist_index(ns)], 1);
        if (ns > __atomic_load_n(&h->max_ns, __ATOMIC_RELAXED))
            __atomic_store_n(&h->max_ns, ns, __ATOMIC_RELAXED);
    }
    static inline void gfs2py_hist_add(gfs2py_hist *h, uint64_t ns)
    {
        uint64_t seen = __atomic_load_n(&h->max_ns, __ATOMIC_RELAXED);
        __atomic_fetch_add(&h->count, 1, __ATOMIC_RELAXED);
        __atomic_fetch_add(&h->ns, ns, __ATOMIC_RELAXED);
        __atomic_fetch_add(&h->buckets[gfs2py_hist_index(ns)], 1, __ATOMIC_RELAXED);
        while (ns > seen && !__atomic_compare_exchange_n(&h->max_ns, &seen, ns, 1, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
            ;
    }
    static inline uint64_t gfs2py_now(void)
    {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
    }
    /* The kind goes first to 0 and last to its value: a reader that sees it twice has seen what belongs to it. */
    static inline void gfs2py_wait_set(gfs2py_wait *w, uint32_t kind, uint64_t what, uint64_t since)
    {
        __atomic_store_n(&w->kind, 0, __ATOMIC_SEQ_CST);
        __atomic_store_n(&w->what, what, __ATOMIC_RELAXED);
        __atomic_store_n(&w->since_ns, since, __ATOMIC_RELAXED);
        __atomic_store_n(&w->kind, kind, __ATOMIC_RELEASE);
    }
    """
    enum:
        HIST_BUCKETS "GFS2PY_HIST_BUCKETS"
    ctypedef struct hist "gfs2py_hist":
        uint64_t count, ns, max_ns
        uint64_t* buckets
    ctypedef struct fs_wait "gfs2py_wait":
        uint32_t kind
        uint64_t what, since_ns
    uint32_t hist_index "gfs2py_hist_index" (uint64_t ns) noexcept nogil
    void hist_bump "gfs2py_hist_bump" (hist* h, uint64_t ns) noexcept nogil
    void hist_add "gfs2py_hist_add" (hist* h, uint64_t ns) noexcept nogil
    uint64_t stat_now "gfs2py_now" () noexcept nogil
    void wait_set "gfs2py_wait_set" (fs_wait* w, uint32_t kind, uint64_t what, uint64_t since_ns) noexcept nogil

cdef enum:                      # fs_wait.kind; the number beside it is `what`
    WAIT_NONE = 0
    WAIT_INODE = 1              # an inode's lock: its number
    WAIT_RGRP = 2               # a resource group's lock: its address
    WAIT_SWITCH = 3             # a commit's moment of switching transactions
    WAIT_COMMIT = 4             # another thread's commit
    WAIT_SPACE = 5              # room in the journal: blocks wanted
    WAIT_READ = 6               # the device, reading: byte offset
    WAIT_WRITE = 7              # the device, writing: byte offset
    WAIT_FLUSH = 8              # the device, flushing
    WAIT_DISCARD = 9            # the device, discarding: byte offset
    WAIT_BUFFER = 10            # a block that another thread reads or writes: its number
    WAIT_DATA = 11              # a file's data on their way to disk by another thread: inode number
    WAIT_RENAME = 12            # the lock of renames between directories
    WAIT_KINDS = 13

# This thread's slot: the one it adopted, else one of its own that nobody looks at.
cdef fs_wait* wait_slot() noexcept nogil
cdef void wait_adopt(fs_wait* slot) noexcept nogil

# For readers with the GIL: {"count", "ns", "max_ns", "buckets": [[upper bound in ns, count], ...]}, empty buckets
# left out; and {"kind", "what", "ns"} of a slot, or None.
cdef dict hist_dict(const hist* h)
cdef dict wait_dict(fs_wait* w)
