"""Answers: structures of the seam turned into those of the wire."""
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from gfs2py.fuse._ops cimport fs_attr, fs_dirbuf, fs_entry
from gfs2py.fuse._proto cimport fuse_attr_out, fuse_entry_out
from gfs2py.fuse._state cimport request

cdef struct dirent_writer:
    fs_dirbuf buf               # must be first: the seam hands its address back
    uint8_t* out
    uint32_t cap, used

cdef inline void put_valid(uint64_t ns, uint64_t* sec, uint32_t* nsec) noexcept nogil:
    sec[0] = ns // 1000000000U
    nsec[0] = <uint32_t>(ns % 1000000000U)

cdef void put_entry(const fs_entry* e, fuse_entry_out* o) noexcept nogil
cdef void dirent_writer_init(dirent_writer* d, uint8_t* out, uint32_t cap, bint plus) noexcept nogil
# Write the header before r.out and send both in one write(2). 0 or -errno.
cdef int send_reply(request* r, int error) noexcept nogil
cdef int send_error(int fd, uint64_t unique, int error) noexcept nogil
