"""Idle processors are kept from halting while requests flow: a PM QoS request, held by the sentinel alone."""
from libc.stdint cimport uint64_t

from gfs2py.fuse._state cimport session

# One look of the sentinel: this many requests were taken since the last one.
cdef void idle_poll_tick(session* se, uint64_t served) noexcept nogil
# Give the request back, if it is held.
cdef void idle_poll_release(session* se) noexcept nogil
