"""Freeing what a file maps: size changes, punched holes, deallocation. Source of behaviour: fs/gfs2/bmap.c."""
from libc.stdint cimport uint64_t
from gfs2py.engine._incore cimport inode, opctx

# Frees the file blocks [lblk, lblk + n), whole blocks only, and the indirect blocks that map nothing else; many
# transactions of its own, each of which leaves a consistent file system. EX held, no transaction open. n = -1: to the
# end. The height stays, except for (0, -1), which is the deallocation of all data before the dinode is freed: height
# and size become 0. OP_PARK may come after part of the work; running it again goes on.
cdef int punch_blocks(opctx* cx, inode* ip, uint64_t lblk, uint64_t n) noexcept nogil
# Sets the size: grows sparsely or shrinks (TRUNC_IN_PROG, zeroing of the tail, freeing). EX held, no transaction open.
# Touches mtime and ctime. -EFBIG beyond 2^63 - 1.
cdef int inode_set_size(opctx* cx, inode* ip, uint64_t size) noexcept nogil
cdef int truncate_resume(opctx* cx, inode* ip) noexcept nogil   # finishes a truncation that a crash interrupted
