"""Who of the nodes still has an inode open: the iopen glock (type 5), which a deleter must get EX. See glocks.md.

A node takes it SH not at every open but when it lets the inode's own glock go while its kernel knows the inode: until
then nobody else can have that glock EX, which comes first in a deletion.
"""
from libc.stdint cimport uint64_t
from gfs2py.engine._glock cimport glx
from gfs2py.engine._incore cimport opctx, sbd

cdef int iopens_init(sbd* sd) noexcept nogil
cdef void iopens_destroy(sbd* sd) noexcept nogil
# The inode's glock is about to go to UN: SH for as long as the kernel knows the inode.
cdef int iopen_hold(opctx* cx, uint64_t addr) noexcept nogil
# The kernel has forgotten the inode. True: another node wanted to delete it meanwhile, which is up to us now.
cdef bint iopen_forgotten(sbd* sd, uint64_t addr) noexcept nogil
# For a deletion (the inode's glock is held EX): 0, or -EAGAIN when another node has it open; that one is told.
cdef int iopen_exclusive(opctx* cx, uint64_t addr) noexcept nogil
cdef void iopen_done(opctx* cx, uint64_t addr) noexcept nogil
cdef void iopen_let_go(glx* x) noexcept nogil           # as gls.gone
