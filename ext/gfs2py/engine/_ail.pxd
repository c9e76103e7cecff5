"""The active item list: committed buffers that are not in place yet."""
from libc.stdint cimport uint32_t, uint64_t
from gfs2py.engine._incore cimport buf, sbd

# Writes committed buffers in place, oldest transaction first and none newer than `upto`, until at most `leave` are left
# or the rest is pinned.
cdef int ail_write(sbd* sd, uint32_t leave, uint64_t upto) noexcept nogil
# A freed block's buffer: waits for a write under way, then forgets content and AIL (the caller still holds it).
cdef void ail_forget(sbd* sd, buf* b) noexcept nogil
