"""Two-bit block states: the search kernels behind allocation, checking and trimming.

A word holds 32 states. XOR with the repeated state turns every match into the pair 00; `(x | x >> 1)` then has the low
bit of each pair clear exactly where the state matches, so one word answers 32 questions at once.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

cdef extern from "<endian.h>" nogil:
    uint64_t le64toh(uint64_t v)

cdef extern from *:
    """
    static inline unsigned bm_ctz64(unsigned long long v) { return (unsigned)__builtin_ctzll(v); }
    static inline unsigned bm_popcount64(unsigned long long v) { return (unsigned)__builtin_popcountll(v); }
    """
    uint32_t ctz64 "bm_ctz64" (uint64_t v) noexcept nogil
    uint32_t popcount64 "bm_popcount64" (uint64_t v) noexcept nogil

cdef enum:
    PER_WORD = 32           # states in 64 bits


cdef inline uint64_t spread(uint32_t state) noexcept nogil:
    return state * <uint64_t>0x5555555555555555


cdef inline uint64_t word_at(const uint8_t* p, uint32_t word, uint32_t end) noexcept nogil:
    """The 32 states of word `word`; nothing is read beyond the byte of position `end` - 1."""
    cdef uint64_t w = 0
    cdef uint32_t first = word * PER_WORD
    cdef uint32_t nbytes = 8
    if end - first < PER_WORD:
        nbytes = (end - first + 3) >> 2
    memcpy(&w, p + <uint64_t>word * 8, nbytes)
    return le64toh(w)


cdef inline uint64_t in_range(uint32_t word, uint32_t start, uint32_t end) noexcept nogil:
    """Low bits of the pairs of this word that lie in [start, end)."""
    cdef uint64_t mask = 0x5555555555555555
    cdef uint32_t first = word * PER_WORD
    if start > first:
        mask = mask << (2 * (start - first))
    if end - first < PER_WORD:
        mask = mask & ((<uint64_t>1 << (2 * (end - first))) - 1)
    return mask


cdef uint32_t bm_find(const uint8_t* p, uint32_t start, uint32_t end, uint32_t state) noexcept nogil:
    cdef uint32_t word, last
    cdef uint64_t x, pat = spread(state)
    if start >= end:
        return end
    last = (end - 1) // PER_WORD
    word = start // PER_WORD
    while word <= last:
        x = word_at(p, word, end) ^ pat
        x = ~(x | (x >> 1)) & in_range(word, start, end)
        if x != 0:
            return word * PER_WORD + ctz64(x) // 2
        word += 1
    return end


cdef uint32_t bm_run_end(const uint8_t* p, uint32_t start, uint32_t end, uint32_t state) noexcept nogil:
    cdef uint32_t word, last
    cdef uint64_t x, pat = spread(state)
    if start >= end:
        return end
    last = (end - 1) // PER_WORD
    word = start // PER_WORD
    while word <= last:
        x = word_at(p, word, end) ^ pat
        x = (x | (x >> 1)) & in_range(word, start, end)
        if x != 0:
            return word * PER_WORD + ctz64(x) // 2
        word += 1
    return end


cdef uint32_t bm_find_free_word(const uint8_t* p, uint32_t start, uint32_t end) noexcept nogil:
    cdef uint32_t word = (start + PER_WORD - 1) // PER_WORD
    cdef uint64_t w
    while (<uint64_t>word + 1) * PER_WORD <= end:
        memcpy(&w, p + <uint64_t>word * 8, 8)
        if w == 0:
            return word * PER_WORD
        word += 1
    return end


cdef void bm_set_run(uint8_t* p, uint32_t start, uint32_t end, uint32_t state) noexcept nogil:
    cdef uint32_t i = start, whole
    while i < end and (i & 3) != 0:
        bm_set(p, i, state)
        i += 1
    if i < end:
        whole = (end - i) >> 2
        memset(p + (i >> 2), <int>(state * 0x55), whole)
        i += whole << 2
    while i < end:
        bm_set(p, i, state)
        i += 1


cdef void bm_count(const uint8_t* p, uint32_t start, uint32_t end, uint32_t* counts) noexcept nogil:
    cdef uint32_t word, last, n, both, high, low
    cdef uint64_t x, mask
    if start >= end:
        return
    last = (end - 1) // PER_WORD
    word = start // PER_WORD
    while word <= last:
        x = word_at(p, word, end)
        mask = in_range(word, start, end)
        n = popcount64(mask)
        low = popcount64(x & mask)
        high = popcount64((x >> 1) & mask)
        both = popcount64(x & (x >> 1) & mask)
        counts[0] += n - low - high + both
        counts[1] += low - both
        counts[2] += high - both
        counts[3] += both
        word += 1


# ---- the edge for Python -------------------------------------------------------------------------------------------

cdef int check(Py_ssize_t nbytes, long long start, long long end, long long state) except -1:
    if start < 0 or start > end or end > nbytes * 4 or end > 0xffffffff:
        raise ValueError(f"positions {start}..{end} do not lie in a bitmap of {nbytes} bytes")
    if state < 0 or state > 3:
        raise ValueError(f"no block state {state}")
    return 0


cdef const uint8_t* base(const uint8_t[::1] bits) noexcept:
    return &bits[0] if bits.shape[0] else NULL


def bitmap_find(const uint8_t[::1] bits not None, long long start, long long end, long long state):
    """The first position in [start, end) with this state, or None. Raises ValueError for positions outside."""
    cdef uint32_t at
    check(bits.shape[0], start, end, state)
    at = bm_find(base(bits), <uint32_t>start, <uint32_t>end, <uint32_t>state)
    return None if at == end else at


def bitmap_find_free_word(const uint8_t[::1] bits not None, long long start, long long end):
    """The first multiple of 32 in [start, end) that begins 32 free positions, or None. Raises ValueError outside."""
    cdef uint32_t at
    check(bits.shape[0], start, end, 0)
    at = bm_find_free_word(base(bits), <uint32_t>start, <uint32_t>end)
    return None if at == end else at


def bitmap_run_end(const uint8_t[::1] bits not None, long long start, long long end, long long state):
    """The first position in [start, end) with another state, or `end`. Raises ValueError for positions outside."""
    check(bits.shape[0], start, end, state)
    return bm_run_end(base(bits), <uint32_t>start, <uint32_t>end, <uint32_t>state)


def bitmap_set_run(uint8_t[::1] bits not None, long long start, long long end, long long state):
    """Sets [start, end) to `state`. Raises ValueError for positions outside."""
    check(bits.shape[0], start, end, state)
    if start < end:
        bm_set_run(&bits[0], <uint32_t>start, <uint32_t>end, <uint32_t>state)


def bitmap_count(const uint8_t[::1] bits not None, long long start, long long end):
    """How many positions of [start, end) are free, used, unlinked, dinode. Raises ValueError for positions outside."""
    cdef uint32_t counts[4]
    memset(counts, 0, sizeof(counts))
    check(bits.shape[0], start, end, 0)
    bm_count(base(bits), <uint32_t>start, <uint32_t>end, counts)
    return counts[0], counts[1], counts[2], counts[3]


def bitmap_get(const uint8_t[::1] bits not None, long long at):
    """The state at a position. Raises ValueError outside."""
    check(bits.shape[0], at, at + 1, 0)
    return bm_get(&bits[0], <uint32_t>at)
