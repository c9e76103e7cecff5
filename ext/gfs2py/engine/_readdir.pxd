"""Reading a directory in the order of its cookies.

A cookie is COOKIE_FIRST + (hash << 30 | second hash << 10 | place among those alike in both). Nothing in it depends
on where an entry lies, nor (but for names alike in 52 bits of two hashes) on which other entries exist: however the
directory changes between two calls, every entry that stays is returned exactly once. Splits and doublings do not
matter, since leaves are in hash order. Cookies stay below 2^63.
"""
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from gfs2py.engine._incore cimport inode, opctx

ctypedef int (*readdir_fn)(void* arg, const char* name, uint32_t namelen, uint64_t no_addr, uint64_t no_formal_ino,
                           uint16_t dtype, uint64_t next_off) noexcept nogil

# All entries but '.' and '..' with a cookie of at least `off`, which is COOKIE_FIRST or more. -EOVERFLOW when more than
# 1024 names are alike in both hashes.
cdef int readdir_run(opctx* cx, inode* dip, uint64_t off, readdir_fn fn, void* arg) noexcept nogil
