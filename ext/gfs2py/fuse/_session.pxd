"""The session class: a connection to the kernel's FUSE and the threads that serve it."""
from libc.stdint cimport uint64_t

from gfs2py.fuse._ops cimport FileSystemHandle
from gfs2py.fuse._state cimport session

cdef class Session:
    cdef session* se
    cdef FileSystemHandle handle
    cdef bint started, closed

    cdef dict opcode_statistics(self)
    cdef uint64_t idle_poll_ns(self)
