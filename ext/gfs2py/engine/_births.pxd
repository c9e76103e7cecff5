"""Inodes born here whose locks the lock manager does not know: before others can know them it is told."""
from gfs2py.engine._incore cimport gls, glx

cdef bint births_reveals(const glx* x) noexcept nogil
cdef bint births_register(gls* gs, glx* x) noexcept nogil
# Births that x waits for are still on their way to the lock manager (gls.lock held).
cdef bint births_pending(const gls* gs, const glx* x) noexcept nogil
