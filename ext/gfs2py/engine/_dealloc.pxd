"""The end of an inode: everything an unlinked one has is freed, then itself."""
from libc.stdint cimport uint32_t, uint64_t
from gfs2py.engine._incore cimport sbd

# Deletes every inode of the list that is still to be deleted (not linked again, not gone already); sorts the list.
cdef void fs_dealloc(sbd* sd, uint64_t* addrs, uint32_t n) noexcept nogil
