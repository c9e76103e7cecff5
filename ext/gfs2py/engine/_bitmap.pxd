"""Two-bit block states: searching, counting and setting on 64-bit words.

A bitmap is bytes of four states each, the lowest bits first. Positions count states from the start of the buffer;
every function takes positions that lie inside the buffer, which the caller has checked.
Source of the layout: fs/gfs2/rgrp.c (the comment on the four states), include/uapi/linux/gfs2_ondisk.h GFS2_NBBY.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    BM_FREE = 0, BM_USED = 1, BM_UNLINKED = 2, BM_DINODE = 3

cdef inline uint32_t bm_get(const uint8_t* p, uint32_t i) noexcept nogil:
    return (p[i >> 2] >> ((i & 3) << 1)) & 3

cdef inline void bm_set(uint8_t* p, uint32_t i, uint32_t state) noexcept nogil:
    cdef uint32_t sh = (i & 3) << 1
    p[i >> 2] = <uint8_t>((p[i >> 2] & ~(3 << sh)) | (state << sh))

# The first position in [start, end) that has `state` (bm_find) or has another state (bm_run_end); `end` when none has.
cdef uint32_t bm_find(const uint8_t* p, uint32_t start, uint32_t end, uint32_t state) noexcept nogil
cdef uint32_t bm_run_end(const uint8_t* p, uint32_t start, uint32_t end, uint32_t state) noexcept nogil
# The first multiple of 32 at or after start from which on 32 positions are free, all before `end`; else `end`.
cdef uint32_t bm_find_free_word(const uint8_t* p, uint32_t start, uint32_t end) noexcept nogil
# Sets [start, end) to `state`.
cdef void bm_set_run(uint8_t* p, uint32_t start, uint32_t end, uint32_t state) noexcept nogil
# Adds the number of positions of [start, end) in each state to counts[4].
cdef void bm_count(const uint8_t* p, uint32_t start, uint32_t end, uint32_t* counts) noexcept nogil
