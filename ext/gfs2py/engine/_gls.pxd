"""The set of a mount's cluster locks: made, and given back at the end."""
from gfs2py.engine._incore cimport gls, lm_ops, sbd

cdef int gls_init(gls* gs, sbd* sd, const lm_ops* ops, void* lm) noexcept nogil
# Gives every lock back, with its lock value block: at a clean unmount, when everything is on the disk.
cdef void gls_release_all(gls* gs) noexcept nogil
