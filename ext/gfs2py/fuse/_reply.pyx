"""Answers on the wire: one contiguous buffer, header directly before the payload, one write(2)."""
from libc.errno cimport EINTR
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from gfs2py.fuse._ops cimport fs_attr, fs_dirbuf, fs_entry
from gfs2py.fuse._proto cimport (DIRENT_NAME, NAME_MAX_BYTES, fuse_attr, fuse_dirent, fuse_entry_out, fuse_out_header)
from gfs2py.fuse._state cimport request
from gfs2py.fuse._sys cimport errno, memcpy, memset, write

if sizeof(fs_attr) != sizeof(fuse_attr) or sizeof(fs_attr) != 88 or sizeof(fuse_entry_out) != 128:
    raise ImportError("fs_attr and the kernel's fuse_attr have come apart")


cdef void put_entry(const fs_entry* e, fuse_entry_out* o) noexcept nogil:
    o.nodeid = e.nodeid
    o.generation = e.generation
    o.entry_valid = e.entry_valid_ns // 1000000000U
    o.entry_valid_nsec = <uint32_t>(e.entry_valid_ns % 1000000000U)
    o.attr_valid = e.attr_valid_ns // 1000000000U
    o.attr_valid_nsec = <uint32_t>(e.attr_valid_ns % 1000000000U)
    memcpy(&o.attr, &e.attr, sizeof(fuse_attr))


cdef int add_dirent(fs_dirbuf* b, const char* name, uint32_t namelen, uint64_t ino, uint32_t dtype,
                    uint64_t next_off, fs_entry* entry) noexcept nogil:
    """One record, padded to 8 bytes; with attributes before it when the kernel asked for READDIRPLUS."""
    cdef dirent_writer* d = <dirent_writer*>b
    cdef uint32_t head = <uint32_t>sizeof(fuse_entry_out) if b.plus else 0
    cdef uint32_t need = (head + DIRENT_NAME + namelen + 7) & ~<uint32_t>7
    cdef uint8_t* p = d.out + d.used
    cdef fuse_dirent* de
    if namelen == 0 or namelen > NAME_MAX_BYTES:
        return 0            # the kernel would refuse the whole block for one such record
    if need > d.cap - d.used:
        return 1
    memset(p, 0, need)
    if b.plus and entry != NULL:
        put_entry(entry, <fuse_entry_out*>p)
    de = <fuse_dirent*>(p + head)
    de.ino = ino
    de.off = next_off
    de.namelen = namelen
    de.type = dtype
    memcpy(p + head + DIRENT_NAME, name, namelen)
    d.used += need
    return 0


cdef void dirent_writer_init(dirent_writer* d, uint8_t* out, uint32_t cap, bint plus) noexcept nogil:
    d.buf.priv = d
    d.buf.add = add_dirent
    d.buf.plus = plus
    d.out = out
    d.cap = cap
    d.used = 0


cdef int write_all(int fd, const void* p, size_t n) noexcept nogil:
    cdef ssize_t got
    while True:
        got = write(fd, p, n)
        if got >= 0:
            return 0
        if errno != EINTR:
            return -errno


cdef int send_reply(request* r, int error) noexcept nogil:
    cdef fuse_out_header* o = <fuse_out_header*>(r.out - sizeof(fuse_out_header))
    o.error = error
    o.unique = r.h.unique
    o.len = <uint32_t>sizeof(fuse_out_header)
    if error == 0:
        o.len += r.out_len
    return write_all(r.fd, o, o.len)


cdef int send_error(int fd, uint64_t unique, int error) noexcept nogil:
    cdef fuse_out_header o
    o.len = <uint32_t>sizeof(fuse_out_header)
    o.error = error
    o.unique = unique
    return write_all(fd, &o, sizeof(o))
