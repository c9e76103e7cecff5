"""Extended attributes."""
from libc.stdint cimport uint64_t
from gfs2py.fsck._state cimport fsck
from gfs2py.fsck._walk cimport item, walker

cdef void ea_leaf(fsck* fs, walker* w, const item* it, const char* buf) noexcept nogil
cdef void ea_indirect(fsck* fs, walker* w, const item* it, const char* buf) noexcept nogil
