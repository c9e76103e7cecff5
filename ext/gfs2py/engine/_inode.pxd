"""The inode cache and the dinode's image in memory."""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from gfs2py.engine._incore cimport buf, inode, opctx, sbd

cdef int icache_init(sbd* sd, uint32_t limit) noexcept nogil
cdef void icache_destroy(sbd* sd) noexcept nogil
cdef int inode_get(sbd* sd, uint64_t addr, inode** out) noexcept nogil         # in-memory reference, nothing read yet
cdef void inode_hold(inode* ip) noexcept nogil
cdef void inode_put(inode* ip) noexcept nogil
# Takes the glock (LM_ST_SHARED / LM_ST_EXCLUSIVE) and reads the dinode if needed. 0, OP_PARK, -EIO, -ESTALE (freed).
cdef int inode_lock(opctx* cx, inode* ip, int mode) noexcept nogil
cdef void inode_unlock(opctx* cx, inode* ip) noexcept nogil
# -EIO: where cx last found no dinode (-ESTALE) one was in use all the while. The mount withdraws.
cdef int inode_damaged(opctx* cx) noexcept nogil
cdef int inode_buf(opctx* cx, inode* ip, buf** out) noexcept nogil             # the dinode's buffer, checked
cdef int dinode_in(inode* ip, buf* b) noexcept nogil                            # checks every field
cdef void dinode_out(inode* ip, buf* b) noexcept nogil
# Within a transaction that reserved 1 block for it: the dinode as ip has it goes into the transaction.
cdef int inode_dirty(opctx* cx, inode* ip) noexcept nogil
cdef void inode_touch(opctx* cx, inode* ip, bint mtime, bint ctime) noexcept nogil     # times := cx.now

# Marks a dinode image in a fresh buffer as a dinode (header, di_num) before the first dinode_out.
cdef void dinode_new(inode* ip, buf* b) noexcept nogil
# with a reference, or NULL when not cached
cdef inode* inode_peek(sbd* sd, uint64_t addr) noexcept nogil
# Its glock has been let go: if it was cut loose, it is freed.
cdef void inode_let_go(inode* ip) noexcept nogil
# The disk was changed behind the cache's back (replay): `only`, or NULL for all, is read again. Nothing is dirty.
cdef void icache_forget(sbd* sd, inode* only) noexcept nogil
cdef void icache_drop(sbd* sd, inode* ip) noexcept nogil                        # its image in memory is no longer true
# A new dinode at addr: an inode in memory that is nobody's yet; what was known of an older one there is cut loose.
cdef int inode_fresh(sbd* sd, uint64_t addr, inode** out) noexcept nogil
# Locks several inodes EX in the one order that cannot deadlock (by address); the same one twice is locked once.
cdef int inodes_lock(opctx* cx, inode** ips, int n) noexcept nogil
cdef void inodes_unlock(opctx* cx, inode** ips, int n) noexcept nogil
