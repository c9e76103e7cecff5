"""Names: create, link, unlink, rename - every operation that changes a directory.

Source of behaviour: fs/gfs2/inode.c.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from gfs2py.engine._incore cimport inode, opctx, sbd

cdef struct new_inode:              # what to make
    uint32_t mode                   # with type
    uint32_t major, minor           # devices
    const char* target              # symlinks
    uint32_t targetlen
    bint unnamed                    # O_TMPFILE: no entry, nlink 0

# Called while the directory is still locked, so that nobody else can have the inode yet (or take its lock away).
ctypedef void (*made_fn)(void* arg, inode* ip) noexcept nogil

# All functions take the locks they need; inodes come and go with references, unlocked.
# The entry's inode, *out with a reference. -ENOENT. *formal: the inode number that goes with it; another node may have
# deleted that inode before it is locked.
cdef int fs_lookup(opctx* cx, inode* dip, const char* name, uint32_t namelen, inode** out,
                   uint64_t* formal) noexcept nogil
cdef int fs_create(opctx* cx, inode* dip, const char* name, uint32_t namelen, new_inode* want, inode** out,
                   made_fn made, void* arg) noexcept nogil
# *gone: the last link went (0 otherwise: nothing to delete); then its address.
cdef int fs_unlink(opctx* cx, inode* dip, const char* name, uint32_t namelen, bint rmdir, uint64_t* gone) noexcept nogil
cdef int fs_link(opctx* cx, inode* ip, inode* dip, const char* name, uint32_t namelen, made_fn made,
                 void* arg) noexcept nogil
cdef int fs_rename(opctx* cx, inode* odip, const char* oname, uint32_t onamelen, inode* ndip, const char* nname,
                   uint32_t nnamelen, uint32_t flags, uint64_t* gone) noexcept nogil
