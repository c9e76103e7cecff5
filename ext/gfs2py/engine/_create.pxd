"""Making inodes: allocation, inheritance, the first image of the dinode."""
from gfs2py.engine._incore cimport inode, opctx, sbd
from gfs2py.engine._namei cimport new_inode
from libc.stdint cimport uint32_t

# dip locked EX. Makes and enters (unless unnamed) a new inode; *out is referenced, unlocked.
cdef int make_inode(opctx* cx, inode* dip, const char* name, uint32_t namelen, new_inode* want,
                    inode** out) noexcept nogil
# Enters an inode without a name (nlink 0, UNLINKED) or one more name of it; both locked EX.
cdef int link_inode(opctx* cx, inode* dip, const char* name, uint32_t namelen, inode* ip) noexcept nogil
