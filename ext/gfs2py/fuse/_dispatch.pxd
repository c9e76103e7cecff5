"""One request from its message to its answer."""
from libc.stdint cimport uint32_t

from gfs2py.fuse._state cimport request

# Check the message in r.h (r.arg_len: bytes after the header) and run it.
# Returns 0 (answer in r.out), -errno, OP_PARK or REQ_NOREPLY.
cdef int dispatch(request* r) noexcept nogil
cdef const char* op_name(uint32_t opcode) noexcept nogil
