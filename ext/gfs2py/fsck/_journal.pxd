"""Journals: where the head is, and whether the log is clean."""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from gfs2py.fsck._state cimport fsck

cdef struct journal_info:
    uint64_t n_blocks
    uint64_t n_headers          # valid ones seen (all of them after a full scan)
    uint64_t n_bad              # header blocks whose sum or position is wrong
    uint64_t n_drops            # places where the sequence goes down
    uint64_t head               # block of the journal, from 0
    uint64_t head_block         # block of the file system
    uint64_t sequence
    uint32_t flags
    uint32_t tail
    int64_t local_total, local_free, local_dinodes
    int found
    int broken                  # holes, unreadable: no replay is possible

cdef int scan_journal(fsck* fs, uint64_t addr, int full, journal_info* out) noexcept nogil
