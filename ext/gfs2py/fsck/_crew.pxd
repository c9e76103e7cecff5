"""Pass 1 shared by threads: each works on a copy of the state, and the copies are merged.

A crew is optimistic. Blocks are claimed in the one map; what is found wrong is kept per thread and sorted into the
order of the groups when all are done, so that the result is that of one thread. Only a block with two owners (or that
the map does not give to its owner) is another matter: who came first would be chance. Then everything is undone, and
the caller does the pass again alone.
"""
from libc.stdint cimport uint32_t, uint64_t
from gfs2py.fsck._state cimport K_COUNT, fsck

cdef struct before:             # what a state was when a crew began
    uint32_t n_fnd
    uint64_t kind_total[K_COUNT]
    uint32_t kind_stored[K_COUNT]

cdef int crew_member(fsck* fs, const fsck* captain) noexcept nogil
cdef void crew_begin(fsck* fs, before* was) noexcept nogil
cdef int crew_merge(fsck* fs, const before* was, fsck** members, uint32_t n) noexcept nogil
cdef int crew_undo(fsck* fs, const before* was) noexcept nogil
