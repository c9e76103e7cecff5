"""Resource groups: the index, the headers, the bitmaps; and what is left over in the map at the end."""
from libc.stdint cimport uint64_t
from gfs2py.fsck._state cimport fsck

cdef int load_rindex(fsck* fs) noexcept nogil
cdef int load_bitmaps(fsck* fs, uint64_t first, uint64_t n) noexcept nogil
cdef int number_inodes(fsck* fs) noexcept nogil
cdef void drop_bitmaps(fsck* fs) noexcept nogil
cdef void find_leaks(fsck* fs, uint64_t first, uint64_t n) noexcept nogil
