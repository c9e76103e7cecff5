"""Under which names inodes were last looked up on this node: hints for people, so that a wait can say what it is about.

A table of fixed size; a newer name takes the place of an older one. Nothing is ever decided by it.
"""
from libc.stdint cimport uint32_t, uint64_t
from gfs2py.engine._incore cimport sbd
from gfs2py.engine._sync cimport pthread_mutex_t

cdef enum:
    HINTS = 4096                    # a power of two
    HINT_NAME_MAX = 107             # longer names are not kept
    HINT_LOCKS = 16

cdef struct hint:
    uint64_t addr, parent
    uint32_t length
    char name[HINT_NAME_MAX + 1]

cdef struct names:
    pthread_mutex_t locks[HINT_LOCKS]
    hint table[HINTS]

cdef int names_init(sbd* sd) noexcept nogil
cdef void names_destroy(sbd* sd) noexcept nogil
cdef void names_note(sbd* sd, uint64_t addr, uint64_t parent, const char* name, uint32_t length) noexcept nogil
cdef bint names_find(sbd* sd, uint64_t addr, hint* out) noexcept nogil
