"""The end of an inode: everything an unlinked one has is freed, then itself."""
from libc.stdint cimport uint64_t
from gfs2py.engine._incore cimport sbd

# 0 also when the inode was not to be deleted after all (linked again, or already gone).
cdef int fs_dealloc(sbd* sd, uint64_t addr) noexcept nogil
