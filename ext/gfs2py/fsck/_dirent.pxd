"""The entries of one directory block."""
from libc.stdint cimport uint32_t, uint64_t
from gfs2py.fsck._dir cimport dir_ctx, dirs
from gfs2py.fsck._state cimport fsck

cdef uint32_t dirents(fsck* fs, dirs* ds, dir_ctx* x, const char* buf, uint64_t block, uint32_t start,
                      uint32_t lo, uint32_t count, int chained) noexcept nogil
cdef uint64_t dir_number(dirs* ds, uint64_t index) noexcept nogil
