"""The quota_change files."""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from gfs2py.fsck._state cimport fsck

cdef struct qc_record:
    int64_t change
    uint32_t flags
    uint32_t ident

cdef int64_t scan_quota_changes(fsck* fs, uint64_t addr, const char* name, uint32_t name_len, qc_record* out,
                                uint64_t n_max) noexcept nogil
