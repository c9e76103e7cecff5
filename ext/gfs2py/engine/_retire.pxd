"""A glock is let go: what the journal holds of its blocks."""
from libc.stdint cimport uint64_t
from gfs2py.engine._incore cimport sbd

# Everything up to `seq` is committed and in place (0: nothing to do). forget: and no replay of this journal would write
# any of it again. For blocks whose lock is let go, which nobody changes meanwhile.
cdef int log_retire(sbd* sd, uint64_t seq, bint forget) noexcept nogil
